"""Guards: what was checked in full once is compared at the next call, by the guards with which torch.compile compares
tensors: type, dtype, device, layout, requires_grad, shape and strides, and the modes of torch (autocast, torch.func).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

Found = TypeVar("Found")

# The kinds of tensors with one key: other sizes, a state with or without a gradient.
_MOST_KINDS = 16
_MOST_KEYS = 1024


def guard(tensors: Sequence[Tensor], *, any_time: bool = False) -> Callable[..., bool]:
    """What tells whether others are of the same kind; `any_time` leaves the steps of the first one, and with them the
    strides of its batch and time, open. It takes as many tensors as there were."""
    shapes: list[list[int | None]] = [list(t.shape) for t in tensors]
    strides: list[list[int | None]] = [list(t.stride()) for t in tensors]
    if any_time:
        shapes[0][1] = strides[0][0] = strides[0][1] = None
    guards: Any = TensorGuards
    return guards(*tensors, dynamic_dims_sizes=shapes, dynamic_dims_strides=strides).check


class Known(Generic[Found]):
    """What was found out for kinds of tensors, by a key that tells their number and the batch, too."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, list[tuple[Callable[..., bool], Found]]] = {}

    def find(self, key: Hashable, tensors: Sequence[Tensor]) -> Found | None:
        """What was remembered for tensors of this kind, x of any number of steps."""
        for same, found in self._kinds.get(key, ()):
            if same(*tensors):
                return found
        return None

    def remember(self, key: Hashable, tensors: Sequence[Tensor], found: Found) -> None:
        """The first tensor is x (batch, time, columns)."""
        if len(self._kinds) >= _MOST_KEYS:
            self._kinds.clear()
        kinds = self._kinds.setdefault(key, [])
        if len(kinds) >= _MOST_KINDS:
            kinds.clear()
        kinds.append((guard(tensors, any_time=True), found))
