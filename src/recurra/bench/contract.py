"""What a contestant of a case has to offer, and the layer itself as one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor

from recurra.bench.inputs import Inputs, States
from recurra.nn import Recurrent


@dataclass(frozen=True)
class Implementation:
    """A cell with weights, in torch, by whatever library.

    scan: x (batch, time, feature) and the states (batch, columns) to the outputs and the last states.
    steps: x (batch, feature), the states and a count to the states after so many steps with this x. The loop stands in
    each implementation, so that nobody pays for a call through this interface.
    Either is None where a peer does not have it.
    parameters: what training differentiates by.
    gradients: what was accumulated for them, under the names and in the layout of the layer's parameters.
    threads: how many it runs with while it is timed; None for as many as everybody.
    """

    scan: Callable[[Tensor, States], tuple[Tensor, States]] | None
    steps: Callable[[Tensor, States, int], States] | None
    parameters: Sequence[Tensor]
    gradients: Callable[[], dict[str, Tensor]]
    threads: int | None = None


@dataclass(frozen=True)
class Results:
    """What a library with arrays of its own computed, as torch tensors in our layout.

    gradients: of x, of each first state ("state 0") and of the parameters, by name; empty after a forward pass.
    """

    y: Tensor
    last: States
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Foreign:
    """A cell with weights, in a library whose arrays are not torch's.

    forward, training: from a case's inputs to a call without arguments, which waits for what it computes. Everything is
    converted before, so that the call is the library's work alone. training is also told whether the last states have
    cotangents (in the gate) or zeros (when it is timed). None where a library cannot do it.
    read: what such a call returned.
    """

    forward: Callable[[Inputs], Callable[[], Any]] | None
    training: Callable[[Inputs, bool], Callable[[], Any]] | None
    read: Callable[[Any], Results]


class Peer(Protocol):
    """A library, or a way to write the cell in it."""

    def missing(self) -> str:
        """Why it cannot run here; empty when it can."""
        ...

    def build(self, layer: Recurrent) -> Implementation | Foreign:
        """The layer's cell with copies of the layer's weights."""
        ...


def not_installed(*modules: str) -> str:
    """Which of these modules are not there, as a reason; empty when all are."""
    absent = [name for name in modules if find_spec(name) is None]
    return f"{', '.join(absent)} not installed (make bench-peers)" if absent else ""


def gradient_of(parameter: Tensor) -> Tensor:
    """What was accumulated for a parameter; zeros when nothing was."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def under_autocast(
    scan: Callable[[Tensor, States], tuple[Tensor, States]],
) -> Callable[[Tensor, States], tuple[Tensor, States]]:
    """The same in mixed precision with bfloat16, and results of float32."""

    def mixed(x: Tensor, states: States) -> tuple[Tensor, States]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, last = scan(x, states)
        return y.float(), tuple(state.float() for state in last)

    return mixed


def own(layer: Recurrent, threads: int | None = None, *, bfloat16: bool = False) -> Implementation:
    """The layer itself, with bfloat16 under autocast."""
    state_type = type(layer.initial_state(1))

    def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
        return layer(x, state_type(*states))

    def gradients() -> dict[str, Tensor]:
        return {name: gradient_of(parameter) for name, parameter in layer.named_parameters()}

    def steps(x: Tensor, states: States, count: int) -> States:
        state = state_type(*states)
        for _ in range(count):
            _, state = layer.step(x, state)
        return state

    return Implementation(
        under_autocast(scan) if bfloat16 else scan, steps, list(layer.parameters()), gradients, threads
    )
