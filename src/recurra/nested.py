"""States as values: named tuples, nested as the layers are, whatever stands in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Nested = TypeVar("Nested", bound=tuple[Any, ...])


def build_like(state: Nested, parts: Iterable[Any]) -> Nested:
    """A state of the same type with other parts."""
    make: Any = getattr(type(state), "_make", tuple)
    return make(parts)


def leaves(state: tuple[Any, ...]) -> list[Any]:
    """Everything in a nested state that is no tuple, in order."""
    return [leaf for part in state for leaf in (leaves(part) if isinstance(part, tuple) else (part,))]


def restart(state: Nested, initial: Nested) -> Nested:
    """What a reset makes of a state: `initial`, but for the fields that it leaves alone, such as the seed and the
    count of random numbers."""
    kept = getattr(type(state), "kept", ())
    names = getattr(state, "_fields", range(len(state)))
    return build_like(
        initial,
        [
            before if name in kept else restart(before, first) if isinstance(before, tuple) else first
            for name, before, first in zip(names, state, initial, strict=True)
        ],
    )
