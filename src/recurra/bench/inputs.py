"""What a case runs on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurra.bench.cases import POSITIVE_STATES, Case
from recurra.nn import Recurrent

States = tuple[Tensor, ...]

SEED = 2014


class Inputs:
    """What a case runs on: x, the states, and a cotangent for the outputs and each last state, in the layer's dtype.

    The same numbers in float64 as in float32.
    """

    def __init__(self, case: Case, layer: Recurrent) -> None:
        shape = case.shape
        generator = torch.Generator().manual_seed(SEED)

        state = layer.initial_state(shape.batch)
        dtype = next(iter(state)).dtype

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator).to(dtype)

        one_step = case.direction == "step"
        frames = (shape.batch,) if one_step else (shape.batch, shape.steps)
        self.case = case
        self.x = draw(*frames, shape.input_size)
        states = tuple(draw(*part.shape) for part in state)
        self.states: States = tuple(s.abs() for s in states) if case.cell in POSITIVE_STATES else states
        self.output_cotangent = draw(*frames, layer.output_size)
        self.state_cotangents: States = tuple(draw(*part.shape) for part in state)

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
        return list(results.values()), [*outputs, *self.state_cotangents]
