"""Complex values in a cell's equations, as pairs of real ones: nothing after tracing knows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from recurra.errors import CellError
from recurra.program.symbols import Symbol, apply
from recurra.program.widths import Width


class ComplexSymbol(Symbol):
    """A complex value: its real and its imaginary part, each a value of the cell.

    It has +, -, * with real and complex values, division by a real one, conj(), .real and .imag, and stands on either
    side of '@'. Every other operation wants one of its parts.
    """

    __slots__ = ("imag", "real")

    def __init__(self, real: Symbol, imag: Symbol) -> None:  # pyright: ignore[reportMissingSuperCall]
        if real.width != imag.width:
            raise CellError(f"a complex value got parts of widths {real.width} and {imag.width}; expected equal widths")
        self._graph = real._graph
        self.real = real
        self.imag = imag

    @property
    def number(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise CellError("a complex value stands where a real one is expected; take its part with .real or .imag")

    @property
    def width(self) -> Width:
        return self.real.width

    def conj(self) -> ComplexSymbol:
        """The complex conjugate."""
        return ComplexSymbol(self.real, -self.imag)

    def __add__(self, other: Any) -> ComplexSymbol:
        if isinstance(other, ComplexSymbol):
            return ComplexSymbol(self.real + other.real, self.imag + other.imag)
        return ComplexSymbol(self.real + other, self.imag)

    __radd__ = __add__

    def __neg__(self) -> ComplexSymbol:
        return ComplexSymbol(-self.real, -self.imag)

    def __sub__(self, other: Any) -> ComplexSymbol:
        return self + -other

    def __rsub__(self, other: Any) -> ComplexSymbol:
        return -self + other

    def __mul__(self, other: Any) -> ComplexSymbol:
        return self._times(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> ComplexSymbol:
        if isinstance(other, ComplexSymbol):
            raise CellError("a complex value was divided by another one; multiply by conj() and divide by a real one")
        return ComplexSymbol(self.real / other, self.imag / other)

    def __matmul__(self, other: Any) -> ComplexSymbol:
        return self._times(other, lambda a, b: a @ b)

    def __rmatmul__(self, other: Any) -> ComplexSymbol:
        return ComplexSymbol(other @ self.real, other @ self.imag)

    def _times(self, other: Any, multiply: Callable[[Any, Any], Symbol]) -> ComplexSymbol:
        if not isinstance(other, ComplexSymbol):
            return ComplexSymbol(multiply(self.real, other), multiply(self.imag, other))
        return ComplexSymbol(
            multiply(self.real, other.real) - multiply(self.imag, other.imag),
            multiply(self.real, other.imag) + multiply(self.imag, other.real),
        )

    def __iter__(self) -> Iterator[ComplexSymbol]:
        return (ComplexSymbol(a, b) for a, b in zip(self.real, self.imag, strict=True))

    def __repr__(self) -> str:
        return f"<complex symbol of width {self.width}>"


def exp_i_of(theta: Any) -> ComplexSymbol:
    """exp(i theta) = cos(theta) + i sin(theta), for a real value."""
    return ComplexSymbol(apply("cos", theta), apply("sin", theta))
