"""Nested states: the names of their values, and the same nest of other things."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from recurra.nn import State


def dotted_names(state: State, prefix: str = "") -> Iterator[str]:
    """A dotted name for each value of a nested state."""
    for name, part in _fields(state):
        if isinstance(part, tuple):
            yield from dotted_names(part, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}"


def nested_as(state: Any, values: Iterator[Any]) -> Any:
    """The same nest with other values, in order."""
    return tuple(nested_as(part, values) if isinstance(part, tuple) else next(values) for part in state)


def flattened(nested: Any) -> list[str]:
    """The values of a nest in order."""
    return [value for part in nested for value in (flattened(part) if isinstance(part, tuple) else (part,))]


def afresh(state: State) -> list[Tensor | None]:
    """What a reset puts in the place of each value, given the initial state; None for those that it leaves alone."""
    kept = getattr(type(state), "kept", ())
    found: list[Tensor | None] = []
    for name, part in _fields(state):
        values = afresh(part) if isinstance(part, tuple) else [part]
        found += [None] * len(values) if name in kept else values
    return found


def _fields(state: State) -> Iterator[tuple[Any, Any]]:
    return zip(getattr(state, "_fields", range(len(state))), state, strict=True)
