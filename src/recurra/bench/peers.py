"""Who a layer is compared to: each peer computes the same cell with the layer's weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn import GRU, Recurrent, to_torch

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Implementation:
    """A cell with weights, by whatever library.

    scan: x (batch, time, feature) and the states (batch, columns) to the outputs and the last states.
    steps: x (batch, feature), the states and a count to the states after so many steps with this x. The loop stands in
    each implementation, so that nobody pays for a call through this interface.
    Either is None where a peer does not have it.
    parameters: what training differentiates by.
    gradients: what was accumulated for them, under the names and in the layout of the layer's parameters.
    """

    scan: Callable[[Tensor, States], tuple[Tensor, States]] | None
    steps: Callable[[Tensor, States, int], States] | None
    parameters: Sequence[Tensor]
    gradients: Callable[[], dict[str, Tensor]]


class Peer(Protocol):
    """A library, or a way to write the cell in it."""

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        ...

    def build(self, layer: Recurrent) -> Implementation:
        """The layer's cell with copies of the layer's weights."""
        ...


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad


def own(layer: Recurrent) -> Implementation:
    """The layer itself."""
    state_type = type(layer.initial_state(1))

    def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
        return layer(x, state_type(*states))

    def gradients() -> dict[str, Tensor]:
        return {name: _gradient(parameter) for name, parameter in layer.named_parameters()}

    def steps(x: Tensor, states: States, count: int) -> States:
        state = state_type(*states)
        for _ in range(count):
            _, state = layer.step(x, state)
        return state

    return Implementation(scan, steps, list(layer.parameters()), gradients)


class TorchNN:
    """torch.nn.GRU or torch.nn.LSTM, batch first: on a CPU, ATen's loop and oneDNN."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        module = to_torch(layer)
        several = isinstance(module, nn.LSTM)

        def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
            leading = [state[None] for state in states]
            y, last = module(x, tuple(leading) if several else leading[0])
            return y, tuple(state[0] for state in last) if several else (last[0],)

        def gradients() -> dict[str, Tensor]:
            found = {name: _gradient(parameter) for name, parameter in module.named_parameters()}
            return _layer_gradients(layer, *found.values())

        return Implementation(scan, None, list(module.parameters()), gradients)


def _layer_gradients(layer: Recurrent, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> dict[str, Tensor]:
    """torch keeps two biases where the layer has one: both have the same gradient, but for the GRU's candidate."""
    named = {"W": w_ih, "U": w_hh, "b": b_ih}
    if isinstance(layer, GRU):
        named["b_n"] = b_hh[2 * layer.hidden_size :]
    return named


class TorchGRUCell:
    """torch.nn.GRUCell: one step."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        module = cast(nn.GRU, to_torch(layer))
        cell = nn.GRUCell(layer.input_size, layer.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})

        def steps(x: Tensor, states: States, count: int) -> States:
            h = states[0]
            for _ in range(count):
                h = cell(x, h)
            return (h,)

        def gradients() -> dict[str, Tensor]:
            found = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
            return _layer_gradients(layer, *(_gradient(parameter) for parameter in found))

        return Implementation(None, steps, list(cell.parameters()), gradients)


class OwnGRU:
    """recurra.nn.GRU, for a cell that has its equations under another name."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        made = GRU(layer.input_size, layer.hidden_size)
        made.load_state_dict(layer.state_dict())
        return own(made)


def _leaky_gate_loop(
    x: Tensor, h: Tensor, c: Tensor, W: Tensor, U: Tensor, v: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As good as a loop in torch gets: the input product for all steps at once, and one product a step."""
    outputs = []
    transposed = U.t()
    for projected in F.linear(x, W, b).unbind(1):
        f, o, g = torch.addmm(projected, h, transposed).chunk(3, dim=-1)
        f = torch.sigmoid(f + v * c)
        c = torch.lerp(torch.tanh(g), c, f)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


class TorchLoop:
    """The leaky_gate cell as a loop over time in torch, as it is or through torch.compile."""

    def __init__(self, compiled: bool) -> None:
        self._compiled = compiled

    def missing(self) -> str:
        if self._compiled and not shutil.which("g++") and not shutil.which("clang++"):
            return "torch.compile needs a C++ compiler (g++ or clang++) on the PATH"
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        parameters = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
        loop = torch.compile(_leaky_gate_loop, dynamic=False) if self._compiled else _leaky_gate_loop

        def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
            y, *last = loop(x, *states, *(parameters[name] for name in "WUvb"))
            return y, tuple(last)

        def gradients() -> dict[str, Tensor]:
            return {name: _gradient(parameter) for name, parameter in parameters.items()}

        return Implementation(scan, None, list(parameters.values()), gradients)


PEERS: dict[str, Peer] = {
    "torch.nn": TorchNN(),
    "torch.nn.GRUCell": TorchGRUCell(),
    "torch loop": TorchLoop(compiled=False),
    "torch loop, compiled": TorchLoop(compiled=True),
    "recurra.nn.GRU": OwnGRU(),
}
"""Every peer by the name that cases give it."""
