"""Dropout on what a layer puts out."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.layer import Layer, State


@final
class Dropout(Layer):
    """Dropout on the outputs of a layer, never inside its recurrence (Zaremba et al. 2014): ``Stack(Dropout(GRU(8,
    32), 0.2), GRU(32, 32))``.

    `probability` is that of an output to become zero while training; the others are scaled up. It has no state of its
    own and does nothing in evaluation. Every call draws new masks from torch's generator.
    """

    def __init__(self, layer: Layer, probability: float) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability < 1:
            raise ArgumentError(
                f"probability is {probability!r}", expected="from 0 to below 1", advice="0.1 to 0.5 are usual"
            )
        self.layer = layer
        self.probability = float(probability)
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.causal = layer.causal
        self.pools = layer.pools
        self.uses_elapsed = layer.uses_elapsed

    def extra_repr(self) -> str:
        return f"probability={self.probability}"

    def initial_state(self, batch: int) -> State:
        return self.layer.initial_state(batch)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        y, after = self.layer(x, state, lengths=lengths, reset=reset, elapsed=elapsed)
        return F.dropout(y, self.probability, self.training), after

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        y_t, after = self.layer.step(x_t, state, elapsed=elapsed)
        return F.dropout(y_t, self.probability, self.training), after
