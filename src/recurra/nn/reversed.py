"""A layer that reads backwards."""

from __future__ import annotations

from typing import final

from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.bidirectional import read_backwards
from recurra.nn.layer import Layer, State


@final
class Reversed(Layer):
    """A layer that reads the valid part of each row from its true end to its beginning, as the backward layer of
    Bidirectional does; its outputs stand at the steps that they belong to. The state is that of the layer.

    ``Reversed(Last(layer))`` is its last output, at the beginning of the row. It needs the future, so it cannot step.
    """

    causal = False

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        self.layer = layer
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.pools = layer.pools
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
        checks.check_elapsed_wanted(elapsed, self.uses_elapsed)
        return read_backwards(self.layer, x, state, lengths, reset, elapsed)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        """Raises ArgumentError always: the layer begins at the end."""
        raise ArgumentError(
            "Reversed cannot step",
            expected="whole sequences",
            advice="It starts at the end; to stream, use the layer inside, which reads forwards",
        )
