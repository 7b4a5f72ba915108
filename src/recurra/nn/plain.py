"""What layers in plain torch, which are no programs, have in common: the checks, the form of their state, and NaN."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.sequence import valid_steps
from recurra.nn.state import like_of, state_type

Parts = tuple[Tensor, ...]
"""The parts of a state in the shapes that the equations give them, batch first."""


class PlainLayer(Layer):
    """A layer in plain torch. A subclass names the parts of its state with their shapes, and defines `_run` and
    `_advance` on arguments that are checked; in a call, padding is zero and no reset lies in it.

    The state is a named tuple of these parts, each flattened to (batch, columns), zero at the start.
    """

    settings: tuple[str, ...] = ("input_size",)
    """The parameters of the constructor, each of which is an attribute too. A saved model keeps their values."""

    def __init__(self, input_size: int, output_size: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        checks.check_size("input_size", input_size)
        self.input_size = input_size
        self.output_size = output_size
        self._shapes = tuple(shapes.values())
        self._columns = tuple(prod(shape) for shape in shapes.values())
        self._state_type = state_type(tuple(shapes))

    @abstractmethod
    def _run(self, x: Tensor, parts: Parts, valid: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Parts]:
        """A batch of sequences. `valid` and `starts` (batch, time), None when all steps are valid or no row starts
        afresh. Outputs in padding may be anything."""

    @abstractmethod
    def _advance(self, x_t: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        """One step."""

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)

    def initial_state(self, batch: int) -> State:
        checks.check_batch(batch)
        like = like_of(self)
        return self._state_type._make(like.new_zeros(batch, width) for width in self._columns)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        like = like_of(self)
        checks.check_sequence(x, self.input_size, like)
        batch, time = x.shape[:2]
        if state is None:
            state = self.initial_state(batch)
        checks.check_state(state, self._state_type, self._columns, batch, like)
        if lengths is not None:
            checks.check_lengths(lengths, batch, time, x.device)
        if reset is not None:
            checks.check_reset(reset, batch, time, x.device)
        checks.check_elapsed_wanted(elapsed, False)
        if time == 0:
            return x.new_zeros(batch, 0, self.output_size), self._state_type._make(state)
        valid = None if lengths is None else valid_steps(lengths, time)
        if valid is not None:
            x = torch.where(valid[..., None], x, torch.zeros_like(x))
            reset = None if reset is None else reset & valid
        y, parts = self._run(x, self._unflatten(state), valid, reset)
        if valid is not None:
            y = torch.where(valid[..., None], y, torch.zeros_like(y))
        return y, self._flatten(parts)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        like = like_of(self)
        checks.check_frame(x_t, self.input_size, like)
        checks.check_state(state, self._state_type, self._columns, x_t.shape[0], like)
        checks.check_elapsed_wanted(elapsed, False)
        y_t, parts = self._advance(x_t, self._unflatten(state))
        return y_t, self._flatten(parts)

    def _unflatten(self, state: State) -> Parts:
        return tuple(part.reshape(part.shape[0], *shape) for part, shape in zip(state, self._shapes, strict=True))

    def _flatten(self, parts: Parts) -> State:
        return self._state_type._make(
            part.reshape(part.shape[0], n) for part, n in zip(parts, self._columns, strict=True)
        )


def check_heads(size_name: str, size: Any, heads: Any) -> None:
    """The heads share the columns evenly."""
    checks.check_size(size_name, size)
    checks.check_count("heads", heads, "Each head has columns of its own")
    if size % heads:
        fitting = [n for n in range(1, size + 1) if size % n == 0]
        nearest = min(fitting, key=lambda n: (abs(n - heads), n))
        raise ArgumentError(
            f"heads is {heads}, which does not divide {size_name}={size}",
            expected="a divisor of it",
            advice=f"The nearest is {nearest}",
        )


def linear(input_size: int, output_size: int, *, bias: bool = True) -> nn.Linear:
    """A projection that starts as Xavier draws it (Glorot and Bengio 2010), its bias at zero."""
    made = nn.Linear(input_size, output_size, bias=bias)
    nn.init.xavier_uniform_(made.weight)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def by_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, time, heads * columns) as (batch, heads, time, columns)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise ArgumentError(f"{name} is {value!r}", expected=" or ".join(map(repr, choices)), advice="Take one")
