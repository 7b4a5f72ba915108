"""One vector a row, out of what a layer puts out a step."""

from __future__ import annotations

import numpy as np

from recurra.runtime.layer import Layer
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, state_type


class _Pool(Layer):
    pools = True
    _fields: tuple[str, ...] = ()

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.dtype = layer.dtype
        self.input_size, self.output_size = layer.input_size, layer.output_size
        self.causal, self.uses_elapsed = layer.causal, layer.uses_elapsed
        self._state_type = state_type(("layer", *self._fields))


class Last(_Pool):
    """The output at the last valid step of each row; the state is (layer, last)."""

    _fields = ("last",)

    def initial_state(self, batch: int) -> State:
        return self._state_type(self.layer.initial_state(batch), np.zeros((batch, self.output_size), self.dtype))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, inner = self.layer.run(x, state[0], rows)
        last = state[1]
        if rows.lengths is None:
            last = y[:, -1].copy() if y.shape[1] else last
        elif y.shape[1]:
            found = y[np.arange(len(y)), np.maximum(rows.lengths - 1, 0)]
            last = np.where(rows.lengths[:, None] > 0, found, last)
        return last.copy(), self._state_type(inner, last)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y_t, inner = self.layer.advance(x_t, state[0], elapsed)
        return y_t.copy(), self._state_type(inner, y_t)


class Mean(_Pool):
    """The mean of the outputs over the valid steps since a row began; the state is (layer, total, count)."""

    _fields = ("total", "count")

    def initial_state(self, batch: int) -> State:
        total = np.zeros((batch, self.output_size), self.dtype)
        return self._state_type(self.layer.initial_state(batch), total, np.zeros((batch, 1), self.dtype))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, inner = self.layer.run(x, state[0], rows)
        return self._result(inner, *self._read(state[1], state[2], y, rows))

    def _read(self, total: np.ndarray, count: np.ndarray, y: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        time = y.shape[1]
        valid, reset = rows.valid(time), rows.valid_reset(time)
        if valid is None and reset is None:
            return total + y.sum(1), count + self.dtype.type(time)
        steps = np.ones(y.shape[:2], dtype=bool) if valid is None else valid
        if reset is not None:
            afresh = reset.any(1, keepdims=True)
            total, count = np.where(afresh, 0, total), np.where(afresh, 0, count)
            steps = steps & (reset.cumsum(1) == reset.sum(1, keepdims=True))
        # outputs before the last reset may be NaN, so they are left out, not multiplied by zero
        seen = np.where(steps[..., None], y, self.dtype.type(0))
        return total + seen.sum(1), count + steps.sum(1, keepdims=True).astype(self.dtype)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y_t, inner = self.layer.advance(x_t, state[0], elapsed)
        return self._result(inner, state[1] + y_t, state[2] + self.dtype.type(1))

    def _result(self, inner: State, total: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, State]:
        return total / np.maximum(count, 1), self._state_type(inner, total.astype(self.dtype), count.astype(self.dtype))
