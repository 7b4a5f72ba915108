"""States as values: named tuples of arrays, nested as the layers are."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from recurra.errors import FormatError, ShapeError
from recurra.nested import build_like

State = Any
"""A named tuple of arrays (batch, columns), or a tuple of such states."""


@lru_cache(maxsize=256)
def state_type(names: tuple[str, ...], kept: tuple[str, ...] = ()) -> Any:
    """The named tuple with these fields, of which a reset leaves those in `kept` alone."""
    try:
        made: Any = namedtuple("State", names)
    except ValueError as error:
        raise FormatError(f"states cannot be named {', '.join(names)}: {error}") from None
    made.__doc__ = f"The state of a layer: {', '.join(names)}."
    made.kept = kept
    return made


def map_state(function: Callable[..., Any], state: State, *others: State) -> State:
    """The nested state with `function` applied to each of its arrays, and to those of `others` in the same places."""
    parts = [
        map_state(function, *part) if isinstance(part[0], tuple) else function(*part)
        for part in zip(state, *others, strict=True)
    ]
    return build_like(state, parts)


def from_arrays(state: State, arrays: Iterable[np.ndarray]) -> State:
    """A state like this one with other arrays, given in order."""
    found = iter(arrays)
    return map_state(lambda _: next(found), state)


def choose(condition: np.ndarray, first: State, second: State) -> State:
    """Row by row, the one nested state or the other."""
    return map_state(lambda a, b: np.where(condition[:, None], a, b), first, second)


def check_state(state: Any, like: State, name: str = "state") -> None:
    """Raises ShapeError unless the state has the structure, shapes and dtypes of `like`."""
    fields, own_fields = getattr(like, "_fields", None), getattr(state, "_fields", None)
    if not isinstance(state, tuple) or len(state) != len(like) or own_fields not in (None, fields):
        expected = f"({', '.join(fields)})" if fields else f"a tuple of {len(like)}"
        got = f"({', '.join(own_fields)})" if own_fields else type(state).__name__
        raise ShapeError(
            f"{name} is {got}", expected=expected, advice="Pass what initial_state or an earlier call gave"
        )
    for k, (part, wanted) in enumerate(zip(state, like, strict=True)):
        own = f"{name}.{fields[k]}" if fields else f"{name}[{k}]"
        if isinstance(wanted, tuple):
            check_state(part, wanted, own)
        elif not isinstance(part, np.ndarray):
            raise ShapeError(f"{own} is a {type(part).__name__}", expected="a numpy array")
        elif part.shape != wanted.shape or part.dtype != wanted.dtype:
            raise ShapeError(
                f"{own} has shape {part.shape} of {part.dtype}", expected=f"{wanted.shape} of {wanted.dtype}"
            )
