"""Flax nnx: an RNN over GRUCell or OptimizedLSTMCell, compiled by XLA."""

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


class Flax:
    """nnx.RNN on the CPU. XLA takes its number of threads from NPROC, once in a process."""

    def missing(self) -> str:
        return not_installed("jax", "flax")

    def build(self, layer: Recurrent) -> Foreign:
        os.environ["NPROC"] = str(torch.get_num_threads())
        os.environ["JAX_PLATFORMS"] = "cpu"
        jax, nnx = import_module("jax"), import_module("flax.nnx")
        graph, weights, rest = nnx.split(nnx.RNN(_cell(layer, nnx), return_carry=True), nnx.Param, ...)
        reverse = slice(None, None, -1)  # theirs is (c, h), ours (h, c)

        def run(weights: Any, x: Any, states: Any) -> Any:
            carry = states[0] if len(states) == 1 else states[reverse]
            last, y = nnx.merge(graph, weights, rest)(x, initial_carry=carry)
            return y, (last,) if len(states) == 1 else tuple(last)[reverse]

        def loss(weights: Any, x: Any, states: Any, cotangents: Any) -> Any:
            results = run(weights, x, states)
            leaves = jax.tree.leaves(results)
            return sum((value * c).sum() for value, c in zip(leaves, cotangents, strict=True)), results

        compiled = jax.jit(run)
        differentiated = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))

        def arrays(*tensors: Tensor) -> tuple[Any, ...]:
            return tuple(jax.numpy.asarray(tensor.numpy()) for tensor in tensors)

        def forward(inputs: Inputs) -> Any:
            (x,), states = arrays(inputs.x), arrays(*inputs.states)
            return lambda: (jax.block_until_ready(compiled(weights, x, states)), None)

        def training(inputs: Inputs, whole: bool) -> Any:
            (x,), states = arrays(inputs.x), arrays(*inputs.states)
            last = inputs.state_cotangents if whole else tuple(map(torch.zeros_like, inputs.state_cotangents))
            cotangents = arrays(inputs.output_cotangent, *last)

            def call() -> Any:
                (_, results), gradients = jax.block_until_ready(differentiated(weights, x, states, cotangents))
                return results, gradients

            return call

        def read(returned: Any) -> Results:
            (y, last), gradients = returned
            named = {}
            if gradients is not None:
                of_weights, of_x, of_states = gradients
                named = {"x": _tensor(of_x), **{f"state {k}": _tensor(s) for k, s in enumerate(of_states)}}
                named |= _parameters(layer, of_weights["cell"])
            return Results(_tensor(y), tuple(map(_tensor, last)), named)

        return Foreign(forward, training, read)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))


def _cell(layer: Recurrent, nnx: Any) -> Any:
    """Their cell with the layer's weights; the order of the gates is the same."""
    rngs, sizes = nnx.Rngs(0), (layer.input_size, layer.hidden_size)
    values = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    if isinstance(layer, GRU):
        cell = nnx.GRUCell(*sizes, rngs=rngs)
        # theirs lacks the bias within the reset gate: it is the last third of this one
        cell.dense_h = nnx.Linear(layer.hidden_size, 3 * layer.hidden_size, rngs=rngs)
        cell.dense_i.bias[...] = values["b"]
        cell.dense_h.bias[...] = np.concatenate([np.zeros(2 * layer.hidden_size, np.float32), values["b_n"]])
    else:
        cell = nnx.OptimizedLSTMCell(*sizes, rngs=rngs)
        cell.dense_h.bias[...] = values["b"]
    cell.dense_i.kernel[...] = values["W"].T
    cell.dense_h.kernel[...] = values["U"].T
    return cell


def _parameters(layer: Recurrent, cell: Any) -> dict[str, Tensor]:
    """The gradients of their parameters as those of ours."""
    dense_i, dense_h = cell["dense_i"], cell["dense_h"]
    named = {"W": _tensor(dense_i["kernel"][...]).T, "U": _tensor(dense_h["kernel"][...]).T}
    if isinstance(layer, GRU):
        b_n = _tensor(dense_h["bias"][...])[2 * layer.hidden_size :]
        return named | {"b": _tensor(dense_i["bias"][...]), "b_n": b_n}
    return named | {"b": _tensor(dense_h["bias"][...])}
