"""A layer around which its input passes."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.sequence import valid_steps


@final
class Residual(Layer):
    """Adds the input of a layer to its output (He et al. 2016). The state is that of the layer.

    Raises ShapeError when the layer's output is not as wide as its input.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        if layer.pools:
            raise ArgumentError(
                f"layer is {type(layer).__name__}, which puts out one vector a row",
                expected="a sequence to add the input to",
                advice="Pool the sum: Last(Residual(layer))",
            )
        if layer.input_size != layer.output_size:
            raise ShapeError(
                f"layer has input_size {layer.input_size} and output_size {layer.output_size}",
                expected="equal sizes",
                advice="Bring the input to the layer's output size first",
            )
        self.layer = layer
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.causal = layer.causal
        self.uses_elapsed = layer.uses_elapsed

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
        if lengths is not None:
            x = torch.where(valid_steps(lengths, x.shape[1])[..., None], x, torch.zeros_like(x))
        return x + y, after

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        y_t, after = self.layer.step(x_t, state, elapsed=elapsed)
        return x_t + y_t, after
