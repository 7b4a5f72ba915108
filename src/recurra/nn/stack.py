"""Layers one on another."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import cast, final

from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.nn import checks
from recurra.nn.layer import Layer, State


@final
class Stack(Layer):
    """Layers one on another: ``Stack(GRU(8, 32), GRU(32, 32))``, or a list of them.

    The state is a tuple with the state of each layer. `lengths`, `reset` and `elapsed` hold for all of them. A layer
    that puts out one vector a row (Last, Mean) may stand on top. Raises ShapeError when a layer does not fit on the
    one below.
    """

    def __init__(self, *layers: Layer | Iterable[Layer]) -> None:
        super().__init__()
        alone = len(layers) == 1 and isinstance(layers[0], Iterable)
        listed = cast(list[Layer], list(cast(Iterable[Layer], layers[0]) if alone else layers))
        if not listed:
            raise ArgumentError("the stack has no layers", expected="one or more", advice="Write Stack(layer, layer)")
        for number, layer in enumerate(listed):
            checks.check_layer(f"layer {number}", layer)
            self.add_module(str(number), layer)
        for number, (below, above) in enumerate(itertools.pairwise(listed)):
            if below.pools:
                raise ArgumentError(
                    f"layer {number} is {type(below).__name__}, which puts out one vector a row",
                    expected="a sequence for the layer above",
                    advice="Put it on top",
                )
            if below.output_size != above.input_size:
                raise ShapeError(
                    f"layer {number + 1} has input_size {above.input_size}",
                    expected=f"{below.output_size}, the output_size of the layer below",
                    advice="Build it with that input size",
                )
        self.input_size = listed[0].input_size
        self.output_size = listed[-1].output_size
        self.causal = all(layer.causal for layer in listed)
        self.pools = listed[-1].pools
        self.uses_elapsed = any(layer.uses_elapsed for layer in listed)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, from the input upward."""
        return cast(tuple[Layer, ...], tuple(self._modules.values()))

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, number: int) -> Layer:
        return self.layers[number]

    def initial_state(self, batch: int) -> State:
        return tuple(layer.initial_state(batch) for layer in self.layers)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        layers = self.layers
        checks.check_elapsed_wanted(elapsed, self.uses_elapsed)
        if state is not None:
            self._check(state, len(layers))
        after = []
        for number, layer in enumerate(layers):
            own = elapsed if layer.uses_elapsed else None
            x, s = layer(x, None if state is None else state[number], lengths=lengths, reset=reset, elapsed=own)
            after.append(s)
        return x, tuple(after)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        layers = self.layers
        checks.check_elapsed_wanted(elapsed, self.uses_elapsed)
        self._check(state, len(layers))
        after = []
        for layer, before in zip(layers, state, strict=True):
            x_t, s = layer.step(x_t, before, elapsed=elapsed if layer.uses_elapsed else None)
            after.append(s)
        return x_t, tuple(after)

    def _check(self, state: State, count: int) -> None:
        if type(state) is not tuple or len(state) != count:
            checks.check_structure(state, None, count)
