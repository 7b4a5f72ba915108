"""Keras on TensorFlow: GRU or LSTM within a tf.function."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.bench.contract import Foreign, Results, not_installed
from recurra.bench.inputs import Inputs
from recurra.nn import GRU, Recurrent


class Keras:
    """A Keras layer as a graph of TensorFlow. TensorFlow takes its number of threads once in a process."""

    def __init__(self) -> None:
        self._modules: tuple[Any, Any] | None = None

    def missing(self) -> str:
        return not_installed("tensorflow", "keras")

    def _load(self) -> tuple[Any, Any]:
        if self._modules is None:
            os.environ["KERAS_BACKEND"] = "tensorflow"
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
            tf = import_module("tensorflow")
            tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
            tf.config.threading.set_inter_op_parallelism_threads(torch.get_num_threads())
            self._modules = tf, import_module("keras")
        return self._modules

    def build(self, layer: Recurrent) -> Foreign:
        tf, keras = self._load()
        module = _module(layer, keras)

        @tf.function
        def run(x: Any, states: Any) -> Any:
            y, *last = module(x, initial_state=list(states))
            return y, tuple(last)

        @tf.function
        def differentiated(x: Any, states: Any, cotangents: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([x, *states])
                y, last = run(x, states)
                loss = tf.add_n([tf.reduce_sum(v * c) for v, c in zip((y, *last), cotangents, strict=True)])
            gradients = tape.gradient(loss, [x, *states, *(v.value for v in module.trainable_variables)])
            return (y, last), gradients

        def arrays(*tensors: Tensor) -> tuple[Any, ...]:
            return tuple(tf.constant(tensor.numpy()) for tensor in tensors)

        def forward(inputs: Inputs) -> Any:
            (x,), states = arrays(inputs.x), arrays(*inputs.states)
            return lambda: (run(x, states), None)

        def training(inputs: Inputs, whole: bool) -> Any:
            (x,), states = arrays(inputs.x), arrays(*inputs.states)
            last = inputs.state_cotangents if whole else tuple(map(torch.zeros_like, inputs.state_cotangents))
            cotangents = arrays(inputs.output_cotangent, *last)
            return lambda: differentiated(x, states, cotangents)

        def read(returned: Any) -> Results:
            (y, last), gradients = returned
            named = {}
            if gradients is not None:
                of_x, *others = (torch.from_numpy(np.array(gradient)) for gradient in gradients)
                of_states, (kernel, recurrent, bias) = others[: len(last)], others[len(last) :]
                named = {"x": of_x, **{f"state {k}": state for k, state in enumerate(of_states)}}
                named |= _parameters(layer, kernel, recurrent, bias)
            return Results(torch.from_numpy(np.array(y)), tuple(torch.from_numpy(np.array(s)) for s in last), named)

        return Foreign(forward, training, read)


def _exchange(layer: Recurrent, value: Any) -> Any:
    """Exchanges the first two gates of a GRU along the last axis: ours are r, z, n, theirs z, r, n."""
    if not isinstance(layer, GRU):
        return value
    size = layer.hidden_size
    order = np.r_[size : 2 * size, :size, 2 * size : 3 * size]
    return value[..., order]


def _module(layer: Recurrent, keras: Any) -> Any:
    kind = keras.layers.GRU if isinstance(layer, GRU) else keras.layers.LSTM
    module = kind(layer.hidden_size, return_sequences=True, return_state=True)
    module.build((None, None, layer.input_size))
    values = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    bias = values["b"]
    if isinstance(layer, GRU):
        inner = np.concatenate([np.zeros(2 * layer.hidden_size, np.float32), values["b_n"]])
        bias = np.stack([bias, inner])
    module.set_weights([_exchange(layer, value) for value in (values["W"].T, values["U"].T, bias)])
    return module


def _parameters(layer: Recurrent, kernel: Tensor, recurrent: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The gradients of their parameters as those of ours."""
    kernel, recurrent, bias = (_exchange(layer, value) for value in (kernel, recurrent, bias))
    named = {"W": kernel.T, "U": recurrent.T}
    if isinstance(layer, GRU):
        return named | {"b": bias[0], "b_n": bias[1, 2 * layer.hidden_size :]}
    return named | {"b": bias}
