"""States as values: named tuples of tensors, and one function over all tensors of a nested state."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.utils import _pytree

from recurra.errors import ArgumentError, ShapeError
from recurra.nested import build_like, leaves

State = tuple[Any, ...]
"""A named tuple of tensors (batch, columns), or a tuple of such states, nested as the layers are."""

_TYPES: dict[tuple[tuple[str, ...], tuple[str, ...]], type] = {}
_PREFIX, _KEPT = "State:", "*"

Nested = TypeVar("Nested", bound=State)


def state_type(names: tuple[str, ...], kept: tuple[str, ...] = ()) -> Any:
    """The named tuple type with these fields, of which a reset leaves those in `kept` alone. Equal names give the same
    type, in every process.

    An exported graph (`torch.export`) names its state's type. Before such a file is loaded in a fresh process, this
    function must have been called for the names there, unless they are those of the classic cells. Raises
    ArgumentError when a name is no field name.
    """
    known = _TYPES.get((names, kept))
    if known is not None:
        return known
    try:
        made = cast(Any, namedtuple("State", names, module=__name__))
    except ValueError as error:
        raise ArgumentError(
            f"states cannot be named {', '.join(names)}: {error}", advice="Rename the arguments of the cell"
        ) from error
    made.__doc__ = f"The state of a layer: {', '.join(names)}."
    # pickle looks a class up by its qualified name; `__getattr__` below finds it by that, in a fresh process too
    made.__qualname__ = _PREFIX + ",".join(_KEPT * (name in kept) + name for name in names)
    made.kept = kept
    # torch takes any named tuple apart, but writes only registered ones into an exported file
    _pytree._register_namedtuple(made, serialized_type_name=f"{__name__}.{made.__qualname__}")
    _TYPES[names, kept] = made
    return made


def __getattr__(name: str) -> Any:
    if name.startswith(_PREFIX):
        marked = tuple(filter(None, name.removeprefix(_PREFIX).split(",")))
        kept = tuple(one.removeprefix(_KEPT) for one in marked if one.startswith(_KEPT))
        return state_type(tuple(one.removeprefix(_KEPT) for one in marked), kept)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def map_state(function: Callable[[Tensor], Tensor], state: Nested) -> Nested:
    """The same nested state with `function` applied to each of its tensors.

    ``map_state(torch.Tensor.detach, state)`` cuts the gradient for truncated back-propagation;
    ``map_state(lambda s: s[rows], state)`` picks rows of the batch.

    Raises ShapeError for a state that is no tuple.
    """
    if not isinstance(state, tuple):
        raise ShapeError(
            f"state is a {type(state).__name__}",
            expected="a tuple of tensors, or of such tuples",
            advice="Give what layer.initial_state or a call returned",
        )
    return build_like(
        state, [map_state(function, part) if isinstance(part, tuple) else function(part) for part in state]
    )


def state_tensors(state: State) -> list[Tensor]:
    """All tensors of a nested state, in order."""
    return leaves(state)


for _names in (("h",), ("h", "c"), ("forward", "backward"), ("layer", "last"), ("layer", "total", "count")):
    state_type(_names)


def like_of(module: nn.Module) -> Tensor:
    """A tensor of the dtype and device that a module computes in: its first parameter, or float where weights are
    int8 or bfloat16."""
    return next(t for t in itertools.chain(module.parameters(), module.buffers()) if t.is_floating_point())
