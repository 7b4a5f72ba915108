"""The weights of a model, taken one by one: each has to be there, to fit, and to be used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recurra import bfloat16
from recurra.bfloat16 import BFLOAT16, ROUNDING, nearest, widened
from recurra.errors import FormatError
from recurra.int8 import SCALES, Int8Matrix, check, product


class Weights:
    """Arrays by name, and below a prefix those of a part of the model. All floating-point ones become one dtype."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        if {np.dtype(np.int8), BFLOAT16}.issubset(array.dtype for array in arrays.values()):
            raise FormatError("the weights are int8 and bfloat16", expected="one of the two beside float32")
        bfloat16.rounds_activations(arrays.keys(), "the file")
        floats = [array for array in arrays.values() if array.dtype.kind == "f"]
        double = any(array.dtype == np.float64 for array in floats)
        self.dtype = np.dtype(np.float64 if double else np.float32)
        self._arrays = arrays
        self._prefix = ""
        self._used: set[str] = set()

    def of(self, part: str) -> Weights:
        """Those of a part."""
        other = object.__new__(Weights)
        other.dtype, other._arrays, other._used = self.dtype, self._arrays, self._used
        other._prefix = f"{self._prefix}{part}."
        return other

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array of this name and shape. Raises FormatError where it is missing or differs."""
        full = self._prefix + name
        array = self._arrays.get(full)
        if array is None or array.shape != shape:
            got = "nothing" if array is None else array.shape
            raise FormatError(f"the weights do not fit the model: {full}", got=got, expected=f"shape {shape}")
        if array.dtype == BFLOAT16:
            if f"{self._prefix}{bfloat16.BESIDE}" in self._arrays:
                raise FormatError(f"the bfloat16 weights {full}", expected="float32: products alone do not read them")
            array = widened(array)
        if array.dtype.kind != "f":
            raise FormatError(f"the weights {full} are of {array.dtype}; expected floating-point numbers")
        self._used.add(full)
        return np.ascontiguousarray(array, dtype=self.dtype)

    def matrix(self, name: str, shape: tuple[int, ...]) -> np.ndarray | Int8Matrix:
        """The same for a matrix of products, which may be int8, `BFLOAT16` or `ROUNDING`. Raises FormatError, also for
        bad scales and for numbers of these that are not finite."""
        full = self._prefix + name
        array = self._arrays.get(full)
        if array is not None and array.dtype == np.int8:
            scales = f"{self._prefix}{SCALES}.{name}"
            self._take_small(full, scales)
            return check(full, array, self._arrays.get(scales), shape)
        beside = f"{self._prefix}{bfloat16.BESIDE}"
        if array is None or array.dtype != BFLOAT16 or array.shape != shape or beside not in self._arrays:
            return self.take(name, shape)
        self._take_small(full, beside)
        bfloat16.check(full, array, self._arrays[beside])
        said = f"{self._prefix}{bfloat16.ACTIVATIONS}"
        if said not in self._arrays:
            return array
        if self._arrays[said].dtype != BFLOAT16 or self._arrays[said].shape != (0,):
            raise FormatError(f"{said} beside the bfloat16 weights", expected="bfloat16 of shape (0,)")
        self._used.add(said)
        return array.view(ROUNDING)

    def _take_small(self, full: str, beside: str) -> None:
        if self.dtype != np.float32:
            raise FormatError(f"{full} stands beside weights of {self.dtype}", expected="float32 beside small weights")
        self._used.update((full, beside))

    def all_used(self) -> None:
        """Raises FormatError for weights that nothing has taken."""
        for name in sorted(self._arrays.keys() - self._used):
            if name.startswith(self._prefix):
                raise FormatError(f"the weights do not fit the model: {name}", got=name, expected="no such weight")


class Linear:
    """y = W x + b, in numpy; b may be missing."""

    def __init__(self, weights: Weights, input_size: int, output_size: int, *, bias: bool = True) -> None:
        weight = weights.matrix("weight", (output_size, input_size))
        # numpy multiplies by float32 only
        self.weight = weight if isinstance(weight, Int8Matrix) else widened(weight)
        self._rounds = not isinstance(weight, Int8Matrix) and weight.dtype == ROUNDING
        self.bias = weights.take("bias", (output_size,)) if bias else None

    def scale(self, factor: float) -> None:
        """Multiplies the weight, not the bias, by a factor."""
        if isinstance(self.weight, Int8Matrix):
            self.weight = self.weight._replace(scales=self.weight.scales * np.float32(factor))
        else:
            self.weight = self.weight * self.weight.dtype.type(factor)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if isinstance(self.weight, Int8Matrix):
            y = product(self.weight, x)
        else:
            y = (nearest(x) if self._rounds else x) @ self.weight.T
        return y if self.bias is None else y + self.bias
