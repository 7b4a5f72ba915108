"""Dropout on what a layer puts out."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from recurra.cells import check_probability
from recurra.nn import checks
from recurra.nn.layer import Layer, State

_LEVELS = 2**16


@final
class Dropout(Layer):
    """Dropout on the outputs of a layer, never inside its recurrence (Zaremba et al. 2014): ``Stack(Dropout(GRU(8,
    32), 0.2), GRU(32, 32))``.

    `probability` is that of an output to become zero while training; the others are scaled up. It has no state of its
    own and does nothing in evaluation. Every call draws new masks from torch's generator.
    """

    lawless_in_training = "it draws new masks in every call"

    def __init__(self, layer: Layer, probability: float) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        self.layer = layer
        self.probability = check_probability("probability", probability)
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
        return (drop(y, self.probability) if self.training else y), after

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        y_t, after = self.layer.step(x_t, state, elapsed=elapsed)
        return (drop(y_t, self.probability) if self.training else y_t), after


def drop(y: Tensor, probability: float) -> Tensor:
    """Sets elements of y to zero with this probability and scales the others up, with masks from torch's generator.

    On the CPU it draws 16 bits for each element, where torch.nn.functional.dropout draws a float: a third of the time.
    The probability is rounded to a multiple of 2 ** -16, and the scale is that of the rounded one.
    """
    if probability == 0 or y.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(y, probability)
    dropped = min(round(probability * _LEVELS), _LEVELS - 1)
    words = torch.empty((y.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int16)[: y.numel()].view(y.shape)
    return y * (levels >= dropped - _LEVELS // 2).to(y.dtype).mul_(_LEVELS / (_LEVELS - dropped))
