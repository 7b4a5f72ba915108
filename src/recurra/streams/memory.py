"""States that hold a memory to attend to: those of attention decoders, wherever they stand within a nested state. The
same for tensors and for numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from recurra.nested import build_like

MEMORY = ("keys", "values", "valid")
"""The fields of a decoder's state that are its memory: a reset leaves them alone."""
ATTENDED = ("layer", "attentional", "weights", *MEMORY)
"""The fields of a decoder's state."""


def attended_parts(state: Any) -> Iterator[Any]:
    """The states of decoders within a nested state, in order; none of those within a decoder."""
    if getattr(state, "_fields", ()) == ATTENDED:
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from attended_parts(part)


def with_attended(state: Any, attended: Iterator[Any]) -> Any:
    """The nested state with the next of `attended` in the place of each decoder's."""
    if getattr(state, "_fields", ()) == ATTENDED:
        return next(attended)
    if not isinstance(state, tuple):
        return state
    return build_like(state, [with_attended(part, attended) for part in state])


def begun_again(state: Any, initial: Any, zeros_like: Callable[[Any], Any]) -> Any:
    """`initial`, on the memories that the state holds."""
    if getattr(state, "_fields", ()) == ATTENDED:
        layer = begun_again(state.layer, initial.layer, zeros_like)
        return build_like(state, [layer, *(zeros_like(part) for part in state[1:3]), *state[3:]])
    if not isinstance(state, tuple):
        return initial
    return build_like(initial, [begun_again(*pair, zeros_like) for pair in zip(state, initial, strict=True)])
