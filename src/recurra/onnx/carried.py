"""Rows of exported files, with the states that they carry from call to call. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from recurra.onnx.file_model import Model

Array = NDArray[Any]


class Carried:
    """Rows of an exported file with the states that they carry, for `recurra.streams`."""

    checks_out = False

    def __init__(self, model: Model, rows: int) -> None:
        self.model, self.rows = model, rows
        self.input_size, self.output_size = model.input_size, model.output_size
        self.dtype = model.dtype
        self.input_dtype = model.input_dtype
        self.pools, self.uses_elapsed = model.pools, model.uses_elapsed
        self._states = model.initial_state(rows)

    def push(self, x: Array, y: Array, elapsed: Array | None) -> None:
        """Steps of the one row."""
        self._check_tokens(x)
        if len(x):
            result, self._states = self.model.run(
                x[None], self._states, elapsed=None if elapsed is None else elapsed[None]
            )
            y[...] = result if self.pools else result[0]
        elif self.pools:
            y[...], _ = self.model.nothing(self._states)

    def tick(self, x: Array, y: Array, rows: Array | None, elapsed: Array | None) -> None:
        """One step of all rows, or of these."""
        self._check_tokens(x)
        if not len(x):
            return
        own = self._states if rows is None else [state[rows] for state in self._states]
        result, after = self.model.run(x[:, None], own, elapsed=None if elapsed is None else elapsed[:, None])
        y[...] = result if self.pools else result[:, 0]
        if rows is None:
            self._states = after
        else:
            self._put(rows, after)

    def _check_tokens(self, x: Array) -> None:
        if self.input_size is None and x.size and not (x.min() >= 0 and x.max() < self.model.tokens):
            raise ArgumentError(f"the tokens are {x.min()} to {x.max()}", expected=f"0 to {self.model.tokens - 1}")

    def _put(self, rows: Array, values: Sequence[Array]) -> None:
        for state, value in zip(self._states, values, strict=True):
            state[rows] = value

    def reset(self, rows: Array | None) -> None:
        """All rows, or these, are as if they had seen nothing."""
        if rows is None:
            self._states = self.model.initial_state(self.rows)
        else:
            self._put(rows, self.model.initial_state(len(rows)))

    def read(self) -> list[Array]:
        """Copies of all states."""
        return [state.copy() for state in self._states]

    def write(self, states: Sequence[Array]) -> None:
        """Puts in what `read` gave."""
        self._states = [np.array(state) for state in states]

    def another(self, rows: int) -> Carried:
        """The same model with rows that have seen nothing."""
        return type(self)(self.model, rows)

    def fingerprint(self) -> bytes:
        """That of the model."""
        return self.model.fingerprint()
