"""The gate before every time: outputs, last states and all gradients, against a peer with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurra.bench.peers import Implementation, States
from recurra.bench.registry import Case
from recurra.nn import Recurrent

TOLERANCE = 1e-4
"""Largest difference allowed in float32, relative to the largest value: each sums many products in its own order."""

STEPS_COMPARED = 20
_SEED = 2014


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest difference from one peer, relative to the largest value of the tensor that it is in."""

    peer: str
    difference: float
    tensor: str

    @property
    def passed(self) -> bool:
        # written so that a NaN does not pass
        return self.difference <= TOLERANCE


class Inputs:
    """What a case runs on: x, the states, and a cotangent for the outputs and each last state."""

    def __init__(self, case: Case, layer: Recurrent) -> None:
        shape = case.shape
        generator = torch.Generator().manual_seed(_SEED)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator)

        one_step = case.direction == "step"
        frames = (shape.batch,) if one_step else (shape.batch, shape.steps)
        state = layer.initial_state(shape.batch)
        self.case = case
        self.x = draw(*frames, shape.input_size)
        self.states: States = tuple(draw(*part.shape) for part in state)
        self.output_cotangent = draw(*frames, layer.output_size)
        self._state_cotangents = tuple(draw(*part.shape) for part in state)

    @cached_property
    def leaves(self) -> tuple[Tensor, States]:
        """x and the states to be differentiated by; training accumulates in their `grad`."""
        return self.x.clone().requires_grad_(), tuple(state.clone().requires_grad_() for state in self.states)

    def clear_gradients(self, parameters: Any) -> None:
        """Forgets every gradient, as an optimiser does between two steps."""
        for tensor in (self.leaves[0], *self.leaves[1], *parameters):
            tensor.grad = None

    def pair_with_cotangents(self, results: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The results, and the cotangent of each, for `torch.autograd.backward`."""
        outputs = [self.output_cotangent] if "y" in results else []
        return list(results.values()), [*outputs, *self._state_cotangents]


def randomise(layer: Recurrent) -> None:
    """Gives every parameter random values: no bias stays zero or the same for all units, where a mistake could hide."""
    generator = torch.Generator().manual_seed(_SEED)
    bound = layer.hidden_size**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


def _results(implementation: Implementation, inputs: Inputs, x: Tensor, states: States) -> dict[str, Tensor]:
    if inputs.case.direction == "step":
        assert implementation.steps is not None
        return _name(implementation.steps(x, states, STEPS_COMPARED))
    assert implementation.scan is not None
    y, last = implementation.scan(x, states)
    return {"y": y, **_name(last)}


def _name(states: States) -> dict[str, Tensor]:
    return {f"last state {k}": state for k, state in enumerate(states)}


def evaluate(implementation: Implementation, inputs: Inputs) -> dict[str, Tensor]:
    """Everything that the gate compares: the results of the timed direction, and the gradients of everything."""
    values: dict[str, Tensor] = {}
    if inputs.case.direction != "training":
        with torch.no_grad():
            values = _results(implementation, inputs, inputs.x, inputs.states)
    x, states = inputs.leaves
    inputs.clear_gradients(implementation.parameters)
    results = _results(implementation, inputs, x, states)
    torch.autograd.backward(*inputs.pair_with_cotangents(results))
    values |= {f"{name} (differentiable)": result.detach() for name, result in results.items()}
    for name, gradient in {"x": x.grad, **{f"state {k}": s.grad for k, s in enumerate(states)}}.items():
        assert gradient is not None
        values[f"gradient of {name}"] = gradient
    values |= {f"gradient of {name}": gradient for name, gradient in implementation.gradients().items()}
    inputs.clear_gradients(implementation.parameters)
    return values


def compare(own: Mapping[str, Tensor], other: Mapping[str, Tensor], peer: str) -> Parity:
    """The largest relative difference. It is infinite where one side lacks a tensor, or has one of another shape."""
    worst = Parity(peer, 0.0, "")
    for name in {**own, **other}:
        a, b = own.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape:
            return Parity(peer, float("inf"), name)
        scale = float(b.abs().max())
        difference = float((a - b).abs().max()) / (scale or 1.0)
        if not difference <= worst.difference:
            worst = Parity(peer, difference, name)
        if difference != difference:
            return worst
    return worst
