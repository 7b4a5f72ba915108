"""Fitted echo-state networks without torch: a fixed layer under a linear readout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from recurra.errors import FormatError
from recurra.runtime.build import build
from recurra.runtime.layer import Layer
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, state_type
from recurra.runtime.weights import Weights

_LAYER = "layer."


class EchoStateNetwork(Layer):
    """A value at every step: y = W [x, h] + b in float64."""

    def __init__(self, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        weights = Weights({name: array for name, array in arrays.items() if name.startswith(_LAYER)})
        self._layer = layer = build(spec["layer"], weights.of("layer"))
        weights.all_used()
        if not layer.causal or layer.pools:
            raise FormatError("the layer of an echo-state network does not put out a vector a step")
        readout = Weights({name: arrays[name] for name in ("weights", "bias")})
        self._bias = readout.take("bias", np.shape(arrays["bias"])).astype(np.float64)
        self.output_size = len(self._bias)
        features = layer.input_size + layer.output_size
        self._weights = readout.take("weights", (features, self.output_size)).astype(np.float64)
        self.input_size = layer.input_size
        self.input_dtype = layer.dtype
        self.dtype = np.dtype(np.float64)
        self.uses_elapsed = layer.uses_elapsed

    def initial_state(self, batch: int) -> State:
        return self._layer.initial_state(batch)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        h, after = self._layer.run(x, state, rows)
        return rows.masked(self._read_out(rows.masked(x, 0.0), h), 0.0), after

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        h, after = self._layer.advance(x_t, state, elapsed)
        return self._read_out(x_t, h), after

    def _read_out(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        return np.concatenate((x, h), axis=-1).astype(np.float64) @ self._weights + self._bias


class EchoStateClassifier(EchoStateNetwork):
    """A readout of each class for a whole sequence, (batch, classes), near 1 for the class that it has. `classes` has
    their names. The state is (layer, total, last, steps)."""

    pools = True

    def __init__(self, spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(spec, arrays)
        learned, settings = spec["learned"], spec["settings"]
        self.classes = np.array(learned["classes"])
        self._washout = learned["washout"]
        self._pooling = settings["pooling"]
        fits = self.classes.shape == (self.output_size,) and type(self._washout) is int and self._washout >= 0
        if not fits or self._pooling not in ("mean", "last"):
            raise FormatError("what an echo-state classifier has learned does not fit its readout")
        self._state_type = state_type(("layer", "total", "last", "steps"))

    def initial_state(self, batch: int) -> State:
        features = np.zeros((batch, len(self._weights)))
        return self._state_type(self._layer.initial_state(batch), features, features.copy(), np.zeros((batch, 1)))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        h, layer = self._layer.run(x, state.layer, rows)
        z = np.concatenate((rows.masked(x, 0.0), h), axis=-1).astype(np.float64)
        valid, reset = rows.valid(x.shape[1]), rows.valid_reset(x.shape[1])
        _, total, last, steps = (part.copy() if isinstance(part, np.ndarray) else part for part in state)
        for t in range(x.shape[1]):
            if reset is not None:
                total, last, steps = (np.where(reset[:, t, None], 0.0, part) for part in (total, last, steps))
            now = np.ones((len(x), 1), bool) if valid is None else valid[:, t, None]
            total = np.where(now & (steps >= self._washout), total + z[:, t], total)
            last = np.where(now, z[:, t], last)
            steps = steps + now
        return self._pooled(total, last, steps), self._state_type(layer, total, last, steps)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        time = None if elapsed is None else elapsed[:, None]
        return self.run(x_t[:, None], state, Rows(elapsed=time))

    def _pooled(self, total: np.ndarray, last: np.ndarray, steps: np.ndarray) -> np.ndarray:
        pooled = last if self._pooling == "last" else total / np.maximum(steps - self._washout, 1)
        return pooled @ self._weights + self._bias
