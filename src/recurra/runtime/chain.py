"""Rows of layers around layers: each layer carries its own states, and what lies between them is used again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recurra.runtime.layer import Layer
from recurra.streams import Stateful


class _Around:
    """What is the same of all layers around layers."""

    checks_out = False
    refuses_threads = False

    def __init__(self, layer: Layer, inner: Sequence[Stateful]) -> None:
        self.layer = layer
        self.inner = list(inner)
        self.rows = inner[0].rows
        self.input_size = inner[0].input_size
        self.input_dtype = inner[0].input_dtype
        self.output_size = layer.output_size
        self.dtype = layer.dtype
        self.pools = layer.pools
        self.uses_elapsed = layer.uses_elapsed

    def reset(self, rows: np.ndarray | None) -> None:
        """All rows, or these, are as if they had seen nothing."""
        for one in self.inner:
            one.reset(rows)

    def read(self) -> list[np.ndarray]:
        """Copies of all states."""
        return [state for one in self.inner for state in one.read()]

    def write(self, states: Sequence[np.ndarray]) -> None:
        """Puts in what `read` gave."""
        left = list(states)
        for one in self.inner:
            count = len(one.read())
            one.write(left[:count])
            del left[:count]

    def another(self, rows: int) -> Stateful:
        """The same model with rows that have seen nothing."""
        return self.layer.stateful(rows)

    def fingerprint(self) -> bytes:
        """That of the model."""
        return self.layer.identity()


class Chain(_Around):
    """A stack: what one layer puts out is what the next one reads."""

    def __init__(self, layer: Layer, inner: Sequence[Stateful]) -> None:
        super().__init__(layer, inner)
        self._count = -1
        self._between: list[np.ndarray] = []

    def _buffers(self, count: int) -> list[np.ndarray]:
        if count != self._count:
            if self._between and count <= len(self._between[0]):
                return [buffer[:count] for buffer in self._between]
            self._between = [np.empty((count, one.output_size), self.dtype) for one in self.inner[:-1]]
            self._count = count
        return self._between

    def push(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        """Steps of the one row."""
        for one, out in zip(self.inner, (*self._buffers(len(x)), y), strict=True):
            one.push(x, out, elapsed if one.uses_elapsed else None)
            x = out

    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these."""
        for one, out in zip(self.inner, (*self._buffers(len(x)), y), strict=True):
            one.tick(x, out, rows, elapsed if one.uses_elapsed else None)
            x = out


class Through(_Around):
    """A layer whose input may be added to its output."""

    def __init__(self, layer: Layer, inner: Stateful, *, adds_input: bool) -> None:
        super().__init__(layer, [inner])
        self._adds_input = adds_input

    def push(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        """Steps of the one row."""
        self.inner[0].push(x, y, elapsed)
        if self._adds_input:
            np.add(y, x, out=y)

    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these."""
        self.inner[0].tick(x, y, rows, elapsed)
        if self._adds_input:
            np.add(y, x, out=y)
