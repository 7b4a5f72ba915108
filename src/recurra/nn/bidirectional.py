"""A layer that reads forwards beside one that reads backwards."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.sequence import reverse, valid_steps
from recurra.nn.state import state_type


@final
class Bidirectional(Layer):
    """Two layers over the same input, one of them backwards in time (Schuster and Paliwal 1997); their outputs are
    joined.

    y (batch, time, output sizes together), first what the forward layer puts out. The state is (forward, backward).
    The backward layer reads the valid part of each row, from its true end to its beginning, and starts afresh at the
    borders that `reset` draws. It reads at each step the time that passes until the step after, zero where there is
    none. Two pooling layers join their vectors: ``Bidirectional(Last(a), Last(b))`` gives the two final outputs, each
    after a whole reading.

    It needs the future, so it cannot step.
    """

    causal = False

    def __init__(self, forward_layer: Layer, backward_layer: Layer) -> None:
        super().__init__()
        checks.check_layer("forward_layer", forward_layer)
        checks.check_layer("backward_layer", backward_layer)
        if forward_layer.input_size != backward_layer.input_size:
            raise ShapeError(
                f"backward_layer has input_size {backward_layer.input_size}",
                expected=f"{forward_layer.input_size}, as forward_layer",
                advice="Both read the same input",
            )
        if forward_layer.pools != backward_layer.pools:
            raise ArgumentError(
                "one of the two layers pools", expected="both or neither", advice="Wrap both in Last or Mean"
            )
        self.forward_layer = forward_layer
        self.backward_layer = backward_layer
        self.input_size = forward_layer.input_size
        self.output_size = forward_layer.output_size + backward_layer.output_size
        self.pools = forward_layer.pools
        self.uses_elapsed = forward_layer.uses_elapsed or backward_layer.uses_elapsed
        self._state_type = state_type(("forward", "backward"))

    def initial_state(self, batch: int) -> State:
        return self._state_type(self.forward_layer.initial_state(batch), self.backward_layer.initial_state(batch))

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
        if state is not None:
            checks.check_structure(state, self._state_type, 2)
        before = (None, None) if state is None else state
        y, after = _run(self.forward_layer, x, before[0], {"lengths": lengths, "reset": reset, "elapsed": elapsed})
        y_back, after_back = read_backwards(self.backward_layer, x, before[1], lengths, reset, elapsed)
        return torch.cat((y, y_back), dim=-1), self._state_type(after, after_back)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        """Raises ArgumentError always: the backward layer needs the future."""
        raise ArgumentError(
            "Bidirectional cannot step",
            expected="whole sequences",
            advice="Its backward layer starts at the end; to stream, use a layer that reads forwards only",
        )


def read_backwards(
    layer: Layer,
    x: Tensor,
    state: State | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
) -> tuple[Tensor, State]:
    """What a layer puts out that reads the valid part of each row from its end to its beginning, in the order of x."""
    border = None if reset is None else _of_next(reset, lengths)
    gap = None if elapsed is None else _of_next(elapsed, lengths)
    if gap is not None and border is not None:
        gap = torch.where(border, torch.zeros_like(gap), gap)
    backwards = {
        "lengths": lengths,
        "reset": None if border is None else reverse(border, lengths),
        "elapsed": None if gap is None else reverse(gap, lengths),
    }
    y, after = _run(layer, reverse(x, lengths), state, backwards)
    return (y if layer.pools else reverse(y, lengths)), after


def _run(layer: Layer, x: Tensor, state: State | None, rows: dict[str, Tensor | None]) -> tuple[Tensor, State]:
    elapsed = rows["elapsed"] if layer.uses_elapsed else None
    return layer(x, state, lengths=rows["lengths"], reset=rows["reset"], elapsed=elapsed)


def _of_next(value: Tensor, lengths: Tensor | None) -> Tensor:
    """What stood at step t + 1, now at t; zero at the last valid step. Backwards, a border comes after its step."""
    later = torch.cat((value[:, 1:], torch.zeros_like(value[:, :1])), dim=1)
    if lengths is None:
        return later
    # beyond the last valid step stands padding, which may hold anything
    return torch.where(valid_steps(lengths, value.shape[1] + 1)[:, 1:], later, torch.zeros_like(later))
