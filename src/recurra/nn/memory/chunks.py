"""What the matrix memories share: a sequence in chunks of time, its padding, its resets and its NaN.

A memory is affine in its own state, so the steps of a chunk are computed at once, as products of matrices, and only
the chunks one after another.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurra.nn import checks
from recurra.nn.plain import Parts, PlainLayer


@dataclass(frozen=True, slots=True)
class Borders:
    """Where the rows of one chunk start afresh; groups of columns (heads) share it, so dimension 1 is 1.

    `starts` (batch, 1, steps) is None when no row does.
    """

    starts: Tensor | None
    segment: Tensor | None
    """(batch, 1, steps): how often the row has started afresh in this chunk."""
    same: Tensor
    """(batch or 1, 1, steps, steps): whether step j is no later than step i, with no start of the row between."""
    carried: Tensor
    """(batch or 1, 1, steps): whether the state before the chunk still counts at a step."""

    @classmethod
    def of(cls, starts: Tensor | None, steps: int, device: torch.device) -> Borders:
        """Of a chunk of so many steps; starts (batch, steps)."""
        earlier = torch.ones(steps, steps, dtype=torch.bool, device=device).tril()[None, None]
        if starts is None:
            return cls(None, None, earlier, earlier[..., :, 0])
        segment = starts[:, None].cumsum(-1)
        same = earlier & (segment[..., :, None] == segment[..., None, :])
        return cls(starts[:, None], segment, same, segment == 0)


class Memory(PlainLayer):
    """A layer that reads by chunks of `chunk_size` steps. Chunks of any size give the same result."""

    still: tuple[float | None, ...]
    """For each value of `_project`, what it is at a step that changes nothing; None where any finite number will do."""

    def __init__(
        self, input_size: int, output_size: int, chunk_size: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        checks.check_count("chunk_size", chunk_size, "It is how many steps are computed at once")
        super().__init__(input_size, output_size, shapes)
        self.chunk_size = chunk_size

    @abstractmethod
    def _project(self, x: Tensor) -> Parts:
        """What the equations need of x (batch, time, input_size) at each step: tensors (batch, groups, time, ...)."""

    @abstractmethod
    def _read_chunk(self, parts: Parts, values: Parts, borders: Borders) -> tuple[Tensor, Parts]:
        """What the memory puts out at each step of a chunk (batch, groups, steps, columns), and its state after it."""

    @abstractmethod
    def _read_step(self, parts: Parts, values: Parts) -> tuple[Tensor, Parts]:
        """The same for one step, by the equations as they stand; values (batch, groups, ...)."""

    @abstractmethod
    def _put_out(self, x: Tensor, read: Tensor) -> Tensor:
        """The output (batch, time, output_size), from the input and what the memory put out (batch, time, groups,
        columns)."""

    def _run(self, x: Tensor, parts: Parts, valid: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Parts]:
        x, parts, spoilt = _set_aside(x, parts, starts)
        values = self._project(x)
        if valid is not None:
            values = tuple(
                value if still is None else torch.where(_widen(valid[:, None], value), value, still)
                for value, still in zip(values, self.still, strict=True)
            )
        reads = []
        # under autocast the projections may be in half precision; the memory adds up, so it may not
        with torch.autocast(x.device.type, enabled=False):
            values = tuple(value.to(parts[0].dtype) for value in values)
            # split, not slices: the gradient of a slice is as long as the whole
            chunks = zip(*(value.split(self.chunk_size, dim=2) for value in values), strict=True)
            pieces = [None] * x.shape[1] if starts is None else starts.split(self.chunk_size, dim=1)
            for chunk, own in zip(chunks, pieces, strict=False):
                borders = Borders.of(own, chunk[0].shape[2], x.device)
                read, parts = self._read_chunk(parts, chunk, borders)
                reads.append(read)
        y = self._put_out(x, torch.cat(reads, dim=2).transpose(1, 2))
        nan = float("nan")
        return (
            torch.where(spoilt[:, 1:, None], nan, y),
            tuple(torch.where(_widen(spoilt[:, -1], part), nan, part) for part in parts),
        )

    def _advance(self, x_t: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        # infinity counts as NaN, as it does in a chunk
        x = torch.where(x_t.isfinite(), x_t, float("nan"))[:, None]
        values = self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            read, parts = self._read_step(parts, tuple(value[:, :, 0].to(parts[0].dtype) for value in values))
        return self._put_out(x, read[:, None])[:, 0], parts


def _widen(condition: Tensor, value: Tensor) -> Tensor:
    """The condition with as many dimensions as the value."""
    return condition.reshape(*condition.shape, *[1] * (value.ndim - condition.ndim))


def _set_aside(x: Tensor, parts: Parts, starts: Tensor | None) -> tuple[Tensor, Parts, Tensor]:
    """The input and the state with zeros where something is not finite, and where that makes results NaN.

    In a chunk, masked numbers are multiplied by zero, which does not mask NaN: it would reach earlier steps, and
    steps after a reset. By the equations it reaches every later result of its row, up to the next reset:
    spoilt (batch, 1 + time), first whether the state before is.
    """
    broken = ~x.isfinite().all(-1)
    before = torch.stack([~part.flatten(1).isfinite().all(1) for part in parts]).any(0)
    x = torch.where(broken[..., None], 0.0, x)
    parts = tuple(torch.where(_widen(before, part), 0.0, part) for part in parts)
    broken = torch.cat((before[:, None], broken), dim=1)
    if starts is None:
        return x, parts, broken.cummax(1).values
    order = torch.arange(1, broken.shape[1] + 1, device=x.device).expand_as(broken)
    fresh = torch.nn.functional.pad(starts, (1, 0))
    return x, parts, (order * broken).cummax(1).values > (order * fresh - 1).clamp(min=0).cummax(1).values


def decays(log_decay: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of log_decay (batch, heads, steps): over the steps after j up to i, (batch, heads, i, j) where j is no
    later than i, and over those from the row's start, or the chunk's, up to i.

    Each sum adds its own terms only. Differences of running sums would lose the digits of a slow decay after a fast
    one.
    """
    ones = torch.ones(log_decay.shape[-1], log_decay.shape[-1], dtype=log_decay.dtype, device=log_decay.device)
    between = ones.tril() @ (log_decay[..., :, None] * ones.tril(-1))
    return between, (same.to(log_decay.dtype) @ log_decay[..., None])[..., 0]
