"""Layers that are no programs, step by step in numpy. `recurra.nn` has their equations and sources."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod

import numpy as np

from recurra.runtime.layer import Layer
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, state_type

Parts = tuple[np.ndarray, ...]


class Plain(Layer):
    """A layer whose state has parts of these shapes, each flattened to (batch, columns) and zero at the start."""

    def __init__(self, sizes: tuple[int, int], dtype: np.dtype, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.input_size, self.output_size = sizes
        self.dtype = dtype
        self._shapes = tuple(shapes.values())
        self._columns = tuple(prod(shape) for shape in shapes.values())
        self._state_type = state_type(tuple(shapes))

    @abstractmethod
    def project(self, x: np.ndarray) -> Parts:
        """What the equations need of x (batch, time, input_size) at each step, (batch, time, ...)."""

    @abstractmethod
    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        """What one step gives (batch, ...), and the parts after it; values (batch, ...)."""

    @abstractmethod
    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        """The outputs (batch, time, output_size), from the inputs and what each step gave."""

    def initial_state(self, batch: int) -> State:
        return self._state_type._make(np.zeros((batch, width), self.dtype) for width in self._columns)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        batch, time = x.shape[:2]
        if time == 0:
            return np.zeros((batch, 0, self.output_size), self.dtype), map_copy(state, self._state_type)
        valid, reset = rows.valid(time), rows.valid_reset(time)
        elapsed = None if rows.elapsed is None else rows.masked(rows.elapsed, 0.0)
        x = rows.masked(x, 0.0)
        parts = self._unflatten(state)
        reads = []
        with np.errstate(all="ignore"):
            values = self.project(x)
            for t in range(time):
                if reset is not None:
                    parts = tuple(np.where(_widen(reset[:, t], p), p.dtype.type(0), p) for p in parts)
                now = None if elapsed is None else elapsed[:, t]
                read, after = self.read_step(parts, tuple(v[:, t] for v in values), now)
                if valid is not None:
                    after = tuple(
                        np.where(_widen(valid[:, t], old), new, old) for old, new in zip(parts, after, strict=True)
                    )
                parts = after
                reads.append(read)
            y = self.put_out(x, np.stack(reads, axis=1))
        return rows.masked(np.asarray(y, self.dtype), 0.0), self._flatten(parts)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        x = x_t[:, None]
        with np.errstate(all="ignore"):
            values = self.project(x)
            read, parts = self.read_step(self._unflatten(state), tuple(v[:, 0] for v in values), elapsed)
            y = self.put_out(x, read[:, None])
        return np.asarray(y[:, 0], self.dtype), self._flatten(parts)

    def _unflatten(self, state: State) -> Parts:
        return tuple(part.reshape(len(part), *shape) for part, shape in zip(state, self._shapes, strict=True))

    def _flatten(self, parts: Parts) -> State:
        return self._state_type._make(
            np.ascontiguousarray(part.reshape(len(part), n), self.dtype)
            for part, n in zip(parts, self._columns, strict=True)
        )


def map_copy(state: State, kind: type) -> State:
    """The same state in arrays of its own."""
    return kind._make(part.copy() for part in state)  # type: ignore[attr-defined]


def _widen(condition: np.ndarray, value: np.ndarray) -> np.ndarray:
    return condition.reshape(*condition.shape, *[1] * (value.ndim - condition.ndim))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def silu(x: np.ndarray) -> np.ndarray:
    """x times its sigmoid."""
    return x * sigmoid(x)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(x, x.dtype.type(0))


def by_heads(x: np.ndarray, heads: int) -> np.ndarray:
    """(..., heads * columns) as (..., heads, columns)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def masked_softmax(scores: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension where the mask is true, and zero elsewhere, also where it is true nowhere."""
    if scores.shape[-1] == 0:
        return scores
    scores = np.where(mask, scores, -np.inf)
    highest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isneginf(highest), 0, highest))
    total = weights.sum(-1, keepdims=True)
    return np.where(mask, weights / np.where(total == 0, 1, total), 0)
