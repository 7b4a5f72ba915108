"""A model around its layers, as it is exported: what comes before them, and what after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor

from recurra.errors import ShapeError
from recurra.nn import Layer, State


@dataclass(frozen=True)
class Parts:
    """Layers, with an embedding (tokens, features) below them that whole numbers are looked up in, and linear heads
    above them: each a weight (out, in) and a bias (out,) or None, as in ``(head.weight, head.bias)``.

    `about` is kept in the file. Raises ShapeError when they do not fit on one another.
    """

    layers: Layer
    embedding: Tensor | None = None
    heads: tuple[tuple[Tensor, Tensor | None], ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.embedding is not None and self.embedding.shape[1] != self.layers.input_size:
            raise ShapeError(
                f"the embedding gives {self.embedding.shape[1]} features",
                expected=f"{self.layers.input_size}, the input_size of the layers",
            )
        size = self.layers.output_size
        for number, (weight, _) in enumerate(self.heads):
            if weight.ndim != 2 or weight.shape[1] != size:
                raise ShapeError(
                    f"head {number} has a weight of shape {tuple(weight.shape)}",
                    expected=f"(any, {size}): it reads {size} features",
                )
            size = weight.shape[0]

    def call(
        self, x: Tensor, state: State, *, lengths: Tensor | None, elapsed: Tensor | None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """What torch computes: the outputs, and the next state."""
        if self.embedding is not None:
            x = F.embedding(x, self.embedding)
        y, after = self.layers(x, state, lengths=lengths, reset=reset, elapsed=elapsed)
        for weight, bias in self.heads:
            y = F.linear(y, weight, bias)
        return y, after


@runtime_checkable
class HasParts(Protocol):
    """A model that says how it is exported, such as the language model."""

    def onnx_parts(self) -> Parts:
        """The model's parts, with the weights that it has now."""
        ...
