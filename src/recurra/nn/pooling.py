"""One vector a row, out of what a layer puts out a step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.sequence import valid_steps
from recurra.nn.state import like_of, state_type


class _Pool(Layer):
    """What both poolings share. What was read so far is part of the state, so a sequence may come in chunks, or a
    step at a time."""

    pools = True
    _fields: tuple[str, ...]

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        if layer.pools:
            raise ArgumentError(
                f"layer is {type(layer).__name__}, which pools already", expected="a sequence", advice="Pool once"
            )
        self.layer = layer
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.causal = layer.causal
        self.uses_elapsed = layer.uses_elapsed
        self._state_type = state_type(("layer", *self._fields))

    @abstractmethod
    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        """The fields of a row that has read nothing."""

    @abstractmethod
    def _read(
        self, fields: tuple[Tensor, ...], y: Tensor, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The fields after y (batch, time, output_size)."""

    @abstractmethod
    def _result(self, fields: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """What is put out."""

    def _check(self, state: Any) -> None:
        if type(state) is not self._state_type:
            checks.check_structure(state, self._state_type, len(self._fields) + 1)

    def initial_state(self, batch: int) -> State:
        return self._state_type(self.layer.initial_state(batch), *self._start(batch, like_of(self)))

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        if state is not None:
            self._check(state)
        y, inner = self.layer(x, None if state is None else state[0], lengths=lengths, reset=reset, elapsed=elapsed)
        before = self._start(y.shape[0], y) if state is None else state[1:]
        fields = self._read(before, y, lengths, reset)
        return self._result(fields, y.dtype), self._state_type(inner, *fields)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        self._check(state)
        y_t, inner = self.layer.step(x_t, state[0], elapsed=elapsed)
        fields = self._read(state[1:], y_t[:, None], None, None)
        return self._result(fields, y_t.dtype), self._state_type(inner, *fields)


@final
class Last(_Pool):
    """The output of a layer at the last valid step of each row: y (batch, output_size). A row that has read nothing
    gives zeros.

    The state is (layer, last). On a bidirectional layer the last step is the first that the backward layer read; the
    two final outputs are ``Bidirectional(Last(a), Last(b))``.
    """

    _fields = ("last",)

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        return (like.new_zeros(batch, self.output_size),)

    def _read(
        self, fields: tuple[Tensor, ...], y: Tensor, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, ...]:
        if y.shape[1] == 0:
            return fields
        if lengths is None:
            return (y[:, -1],)
        index = (lengths.long() - 1).clamp(min=0)[:, None, None].expand(-1, 1, y.shape[2])
        return (torch.where(lengths[:, None] > 0, y.gather(1, index)[:, 0], fields[0]),)

    def _result(self, fields: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return fields[0]


@final
class Mean(_Pool):
    """The mean of a layer's outputs over the valid steps of each row: y (batch, output_size). A row that has read
    nothing gives zeros.

    A row that starts afresh (`reset`) starts a new mean. The state is (layer, total, count).
    """

    _fields = ("total", "count")

    def _start(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        # half precision cannot count beyond a few hundred steps
        dtype = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros((batch, self.output_size), dtype=dtype), like.new_zeros((batch, 1), dtype=dtype)

    def _read(
        self, fields: tuple[Tensor, ...], y: Tensor, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, ...]:
        total, count = fields
        y = y.to(total.dtype)
        counted = _counted(y, lengths, reset)
        if counted is None:
            return total + y.sum(1), count + y.shape[1]
        steps, afresh = counted
        kept = torch.where(afresh, torch.zeros_like(total), total), torch.where(afresh, torch.zeros_like(count), count)
        # outputs before the last reset may be NaN, so they are left out, not multiplied by zero
        seen = torch.where(steps[..., None], y, torch.zeros_like(y))
        return kept[0] + seen.sum(1), kept[1] + steps.sum(1, keepdim=True)

    def _result(self, fields: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        total, count = fields
        return (total / count.clamp(min=1)).to(dtype)


def _counted(y: Tensor, lengths: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Which steps count (batch, time), and which rows started afresh (batch, 1); None when all steps of all rows do."""
    if lengths is None and reset is None:
        return None
    steps = (
        torch.ones(y.shape[:2], dtype=torch.bool, device=y.device)
        if lengths is None
        else valid_steps(lengths, y.shape[1])
    )
    if reset is None:
        return steps, steps.new_zeros(y.shape[0], 1)
    borders = (reset & steps).cumsum(1)
    total = (reset & steps).sum(1, keepdim=True)
    return steps & (borders == total), total > 0
