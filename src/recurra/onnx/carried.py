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
    """Rows of an exported file with the states that they carry, for `recurra.streams`.

    From the second call of one length on, ONNX Runtime reads and writes arrays that are kept: what is allocated then is
    what it needs between its nodes, and small objects of Python.
    """

    checks_out = True
    refuses_threads = False

    def __init__(self, model: Model, rows: int) -> None:
        self.model, self.rows = model, rows
        self.input_size, self.output_size = model.input_size, model.output_size
        self.dtype = model.dtype
        self.input_dtype = model.input_dtype
        self.pools, self.uses_elapsed = model.pools, model.uses_elapsed
        self._states = model.initial_state(rows)
        self._steps = 0
        self._kept: _Kept | None = None

    def push(self, x: Array, y: Array, elapsed: Array | None) -> None:
        """Steps of the one row."""
        self._check_tokens(x)
        count = len(x)
        _check_fits(y, (1 if self.pools else count, self.output_size), self.dtype, x)
        if count:
            result = self._run(x[None], None if elapsed is None else elapsed[None])
            y[...] = result if self.pools else result[0]
        elif self.pools:
            y[...], _ = self.model.nothing(self._states)

    def tick(self, x: Array, y: Array, rows: Array | None, elapsed: Array | None) -> None:
        """One step of all rows, or of these."""
        self._check_tokens(x)
        if not len(x):
            return
        x, elapsed = x[:, None], None if elapsed is None else elapsed[:, None]
        if rows is None:
            result = self._run(x, elapsed)
        else:
            own = [state[rows] for state in self._states]
            result, after = self.model.run(x, own, elapsed=elapsed)
            self._put(rows, after)
        y[...] = result if self.pools else result[:, 0]

    def _run(self, x: Array, elapsed: Array | None) -> Array:
        """Steps of all rows: x (rows, time, features), or tokens (rows, time)."""
        again, self._steps = x.shape[1] == self._steps, x.shape[1]
        if self._kept is None or self._kept.x.shape != x.shape:
            if not again:
                result, self._states = self.model.run(x, self._states, elapsed=elapsed)
                self._kept = None
                return result
            self._kept = _Kept(self.model, x.shape, self._states)
        result, self._states = self._kept.run(x, elapsed)
        return result

    def _check_tokens(self, x: Array) -> None:
        if self.input_size is None and x.size and not (x.min() >= 0 and x.max() < self.model.tokens):
            raise ArgumentError(f"the tokens are {x.min()} to {x.max()}", expected=f"0 to {self.model.tokens - 1}")

    def _put(self, rows: Array | slice, values: Sequence[Array]) -> None:
        for state, value in zip(self._states, values, strict=True):
            state[rows] = value

    def reset(self, rows: Array | None) -> None:
        """All rows, or these, are as if they had seen nothing but their memory."""
        which = slice(None) if rows is None else rows
        self._put(which, self.model.begun_again([state[which] for state in self._states]))

    def read(self) -> list[Array]:
        """Copies of all states."""
        return [state.copy() for state in self._states]

    def write(self, states: Sequence[Array]) -> None:
        """Puts in what `read` gave."""
        self._states, self._kept = [np.array(state) for state in states], None

    def another(self, rows: int) -> Carried:
        """The same model with rows that have seen nothing."""
        return type(self)(self.model, rows)

    def fingerprint(self) -> bytes:
        """That of the model."""
        return self.model.fingerprint()


class _Kept:
    """Calls of one shape: arrays that the session reads and writes in place, the states to and fro between two sets."""

    def __init__(self, model: Model, shape: tuple[int, ...], states: list[Array]) -> None:
        self.x = np.zeros(shape, model.input_dtype)
        self._elapsed = np.zeros(shape[:2], model.dtype)
        self._y = np.zeros((*shape[: 1 if model.pools else 2], model.output_size), model.dtype)
        self._now, self._next = states, [np.zeros_like(state) for state in states]
        around = (self.x, self._elapsed, self._y)
        self._there = model.binding(*around, self._now, self._next)
        self._back = model.binding(*around, self._next, self._now)

    def run(self, x: Array, elapsed: Array | None) -> tuple[Array, list[Array]]:
        """What the session makes of x, and the states after it; both stand until the next call."""
        self.x[...] = x
        if elapsed is not None:
            self._elapsed[...] = elapsed
        self._there.run()
        # only now: where the session refuses, the states are as they were
        self._there, self._back = self._back, self._there
        self._now, self._next = self._next, self._now
        return self._y, self._now


def _check_fits(y: Any, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    """Raises ValueError where y does not take results of this shape; `Stream` finds better words."""
    fits = (
        type(y) is np.ndarray and y.shape == shape and y.dtype == dtype and y.flags.c_contiguous and y.flags.writeable
    )
    if not fits or np.may_share_memory(x, y):
        raise ValueError("y does not fit")
