"""Layers around layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recurra.runtime.chain import Chain, Through
from recurra.runtime.layer import Layer
from recurra.runtime.rows import Rows, reverse
from recurra.runtime.state import State, state_type
from recurra.streams import Stateful


class Stack(Layer):
    """Layers one above the other; the state is a tuple with that of each."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.dtype = layers[0].dtype
        self.input_size = layers[0].input_size
        self.output_size = layers[-1].output_size
        self.causal = all(layer.causal for layer in layers)
        self.pools = layers[-1].pools
        self.uses_elapsed = any(layer.uses_elapsed for layer in layers)

    def initial_state(self, batch: int) -> State:
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, s = layer.run(x, before, rows if layer.uses_elapsed else rows.without_elapsed())
            after.append(s)
        return x, tuple(after)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x_t, s = layer.advance(x_t, before, elapsed if layer.uses_elapsed else None)
            after.append(s)
        return x_t, tuple(after)

    def stateful(self, rows: int) -> Stateful:
        return Chain(self, [layer.stateful(rows) for layer in self.layers])


class Bidirectional(Layer):
    """A layer that reads forwards beside one that reads backwards; the state is (forward, backward)."""

    causal = False

    def __init__(self, forward_layer: Layer, backward_layer: Layer) -> None:
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.dtype = forward_layer.dtype
        self.input_size = forward_layer.input_size
        self.output_size = forward_layer.output_size + backward_layer.output_size
        self.pools = forward_layer.pools
        self.uses_elapsed = forward_layer.uses_elapsed or backward_layer.uses_elapsed
        self._state_type = state_type(("forward", "backward"))

    def initial_state(self, batch: int) -> State:
        return self._state_type(self.forward_layer.initial_state(batch), self.backward_layer.initial_state(batch))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, after = _run(self.forward_layer, x, state[0], rows)
        y_back, after_back = _read_backwards(self.backward_layer, x, state[1], rows)
        return np.concatenate((y, y_back), axis=-1), self._state_type(after, after_back)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        # the first step of a stack that steps would meet it here
        self._check_causal("step")
        return self.forward_layer.advance(x_t, state[0], elapsed)


class Reversed(Layer):
    """A layer that reads backwards. The state is that of the layer."""

    causal = False

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.dtype = layer.dtype
        self.input_size, self.output_size = layer.input_size, layer.output_size
        self.pools, self.uses_elapsed = layer.pools, layer.uses_elapsed

    def initial_state(self, batch: int) -> State:
        return self.layer.initial_state(batch)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        return _read_backwards(self.layer, x, state, rows)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        # the first step of a stack that steps would meet it here
        self._check_causal("step")
        return self.layer.advance(x_t, state, elapsed)


def _read_backwards(layer: Layer, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
    """What a layer puts out that reads each row from its true end, in the order of x."""
    border = None if rows.reset is None else _of_next(rows.reset, rows)
    gap = None if rows.elapsed is None else _of_next(rows.elapsed, rows)
    if gap is not None and border is not None:
        gap = np.where(border, gap.dtype.type(0), gap)
    backwards = Rows(
        rows.lengths,
        None if border is None else reverse(border, rows.lengths),
        None if gap is None else reverse(gap, rows.lengths),
    )
    y, after = _run(layer, reverse(x, rows.lengths), state, backwards)
    return (y if layer.pools else reverse(y, rows.lengths)), after


def _run(layer: Layer, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
    return layer.run(x, state, rows if layer.uses_elapsed else rows.without_elapsed())


def _of_next(value: np.ndarray, rows: Rows) -> np.ndarray:
    """What stood at step t + 1, now at t; zero at the last valid step."""
    later = np.concatenate((value[:, 1:], np.zeros_like(value[:, :1])), axis=1)
    if rows.lengths is None:
        return later
    following = np.arange(1, value.shape[1] + 1) < rows.lengths[:, None]
    return np.where(following, later, np.zeros_like(later))


class Residual(Layer):
    """Adds the input of a layer to its output. The state is that of the layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.dtype = layer.dtype
        self.input_size = self.output_size = layer.output_size
        self.causal = layer.causal
        self.uses_elapsed = layer.uses_elapsed

    def initial_state(self, batch: int) -> State:
        return self.layer.initial_state(batch)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, after = self.layer.run(x, state, rows)
        return rows.masked(x, 0.0) + y, after

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y_t, after = self.layer.advance(x_t, state, elapsed)
        return x_t + y_t, after

    def stateful(self, rows: int) -> Stateful:
        return Through(self, self.layer.stateful(rows), adds_input=True)


class Kept(Layer):
    """A layer within a wrapper that has a state of its own and does nothing in evaluation, such as the seed of dropped
    weights: the state is (layer, seed), and the seed is handed on."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.dtype = layer.dtype
        self.input_size, self.output_size = layer.input_size, layer.output_size
        self.causal, self.pools, self.uses_elapsed = layer.causal, layer.pools, layer.uses_elapsed
        self._state_type = state_type(("layer", "seed"), ("seed",))

    def initial_state(self, batch: int) -> State:
        return self._state_type(self.layer.initial_state(batch), np.zeros((batch, 1), self.dtype))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, after = self.layer.run(x, state[0], rows)
        return y, self._state_type(after, state[1].copy())

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y_t, after = self.layer.advance(x_t, state[0], elapsed)
        return y_t, self._state_type(after, state[1].copy())


class BatchNorm(Layer):
    """Batch normalisation by the running statistics. It has no state."""

    def __init__(self, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
        self.input_size = self.output_size = len(scale)
        self.dtype = scale.dtype
        self._mean, self._scale, self._shift = mean, scale, shift

    def initial_state(self, batch: int) -> State:
        return ()

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y = (rows.masked(x, 0.0) - self._mean) * self._scale + self._shift
        return rows.masked(y, 0.0), ()

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        return (x_t - self._mean) * self._scale + self._shift, ()
