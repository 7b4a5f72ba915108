"""What plain operators read: their inputs, the attributes of the node, and how large a value may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError

Array = NDArray[Any]
Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """The version of the operator set, and the largest array that may be made."""

    opset: int
    most_bytes: int

    def check(self, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Raises ArgumentError for an array that would be too large."""
        if prod(int(size) for size in shape) * dtype.itemsize > self.most_bytes:
            raise ArgumentError(
                f"a value of shape {tuple(map(int, shape))} takes more than {self.most_bytes} bytes",
                expected="less",
                advice="Where the model is yours and meant, pass a larger most_bytes",
            )


Operator = Callable[[Sequence[Array | None], Attributes, Limits], Sequence[Array]]


def whole(value: Array | None, default: Sequence[int] | None = None) -> list[int]:
    """A list of whole numbers, such as axes, out of an input."""
    if value is None and default is not None:
        return list(default)
    if value is None or value.dtype.kind not in "iu" or value.ndim > 1:
        raise FormatError("an input that gives sizes, places or axes", expected="whole numbers")
    return [int(one) for one in np.atleast_1d(value)]


def axes_of(inputs: Sequence[Array | None], attributes: Attributes) -> list[int] | None:
    """Axes from the second input, or, in older versions, from an attribute."""
    if len(inputs) > 1 and inputs[1] is not None:
        return whole(inputs[1])
    return attributes.get("axes")


def present(inputs: Sequence[Array | None]) -> list[Array]:
    """All inputs, none of them left out."""
    given = [one for one in inputs if one is not None]
    if len(given) != len(inputs) or not given:
        raise FormatError(f"{len(given)} of {len(inputs)} inputs", expected="all of them")
    return given
