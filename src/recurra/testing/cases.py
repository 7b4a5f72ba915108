"""The cases that a law is tried on: sizes, and inputs drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recurra.nn import Layer, State, map_state


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes, dtype and seed; everything else follows from them."""

    batch: int
    time: int
    dtype: torch.dtype
    seed: int

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * self.seed + 1009 * self.batch + self.time)

    def __str__(self) -> str:
        return f"batch {self.batch}, time {self.time}, {str(self.dtype).removeprefix('torch.')}, seed {self.seed}"


@dataclass(frozen=True)
class Inputs:
    """What a layer is called with."""

    x: Tensor
    state: Any
    lengths: Tensor | None = None
    reset: Tensor | None = None
    elapsed: Tensor | None = None

    def call(self, layer: Layer) -> tuple[Tensor, State]:
        return layer(self.x, self.state, lengths=self.lengths, reset=self.reset, elapsed=self.elapsed)

    def with_(self, **changes: Any) -> Inputs:
        return replace(self, **changes)

    def double(self) -> Inputs:
        """The same numbers in double precision."""
        state = None if self.state is None else map_state(_as_double, self.state)
        return self.with_(
            x=_as_double(self.x), state=state, elapsed=None if self.elapsed is None else _as_double(self.elapsed)
        )

    def row(self, b: int, begin: int, end: int) -> Inputs:
        """Steps begin..end of one row, without its lengths and resets."""
        return Inputs(
            self.x[b : b + 1, begin:end],
            None if self.state is None else map_state(lambda s: s[b : b + 1], self.state),
            elapsed=None if self.elapsed is None else self.elapsed[b : b + 1, begin:end],
        )

    def row_length(self, b: int) -> int:
        return self.x.shape[1] if self.lengths is None else int(self.lengths[b])

    @property
    def valid(self) -> Tensor:
        """(batch, time), true where a step is no padding."""
        batch, time = self.x.shape[:2]
        if self.lengths is None:
            return torch.ones(batch, time, dtype=torch.bool, device=self.x.device)
        return torch.arange(time, device=self.x.device) < self.lengths[:, None]


def _as_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def draw(layer: Layer, case: Case, *, lengths: bool = False, reset: bool = False) -> Inputs:
    """Inputs of a case. The state is one that the layer reaches, so that it is a state the layer can be in.

    Raises FloatingPointError where that is not finite: from there, a wrong layer is as much NaN as a right one.
    """
    generator = case.generator()
    device = _device(layer)

    def draw_steps(time: int) -> Inputs:
        x = torch.randn(case.batch, time, layer.input_size, generator=generator, dtype=case.dtype)
        elapsed = torch.rand(case.batch, time, generator=generator, dtype=case.dtype) + 0.1
        return Inputs(x.to(device), None, elapsed=elapsed.to(device) if layer.uses_elapsed else None)

    with torch.no_grad():
        _, state = draw_steps(2).call(layer)
    map_state(_check_finite, state)
    inputs = draw_steps(case.time).with_(state=state)
    if lengths:
        inputs = inputs.with_(lengths=_draw_lengths(case, generator).to(device))
    if reset:
        inputs = inputs.with_(reset=(torch.rand(case.batch, case.time, generator=generator) < 0.3).to(device))
    return inputs


def _check_finite(state: Tensor) -> Tensor:
    if not state.isfinite().all():
        raise FloatingPointError("two steps of finite input lead to a state that is not finite")
    return state


def _draw_lengths(case: Case, generator: torch.Generator) -> Tensor:
    lengths = torch.randint(0, case.time + 1, (case.batch,), generator=generator)
    # a row without any step and a full one are always among them, in any order
    order = torch.randperm(case.batch, generator=generator).tolist()
    for b, length in zip(order, (case.time, 0), strict=False):
        lengths[b] = length
    return lengths


def _device(layer: Layer) -> torch.device:
    return next((p.device for p in layer.parameters()), torch.device("cpu"))
