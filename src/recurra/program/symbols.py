"""The values of a cell's equations while they are being traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recurra.errors import CellError
from recurra.program.graph import Graph
from recurra.program.widths import Width


class Symbol:
    """A value of a cell's equations while they are being traced. It has arithmetic, and nothing that needs a number."""

    __slots__ = ("_graph", "number")
    __array_ufunc__ = None

    def __init__(self, graph: Graph, number: int) -> None:
        self._graph = graph
        self.number = number

    @property
    def width(self) -> Width:
        return self._graph.nodes[self.number].width

    def _lift(self, other: Any) -> int:
        if isinstance(other, Symbol):
            if other._graph is not self._graph:
                raise CellError("values of two cells were mixed; use only the arguments of this cell")
            return other.number
        if isinstance(other, int | float) and not isinstance(other, bool):
            return self._graph.constant(other)
        raise CellError(
            f"an equation mixes a value of the cell with {type(other).__name__}; expected a number or another value: "
            "arrays become parameters (Input, Recurrent, Diagonal, Bias)"
        )

    def _new(self, number: int) -> Symbol:
        return Symbol(self._graph, number)

    def __add__(self, other: Any) -> Symbol:
        return self._new(self._graph.add(self.number, self._lift(other)))

    def __radd__(self, other: Any) -> Symbol:
        return self._new(self._graph.add(self._lift(other), self.number))

    def __sub__(self, other: Any) -> Symbol:
        return self._new(self._graph.sub(self.number, self._lift(other)))

    def __rsub__(self, other: Any) -> Symbol:
        return self._new(self._graph.sub(self._lift(other), self.number))

    def __mul__(self, other: Any) -> Symbol:
        return self._new(self._graph.mul(self.number, self._lift(other)))

    def __rmul__(self, other: Any) -> Symbol:
        return self._new(self._graph.mul(self._lift(other), self.number))

    def __truediv__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("div", self.number, self._lift(other)))

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("div", self._lift(other), self.number))

    def __mod__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("mod", self.number, self._lift(other)))

    def __pow__(self, exponent: Any) -> Symbol:
        if not isinstance(exponent, int) or not 1 <= exponent <= 16:
            raise CellError(
                f"'**' got the exponent {exponent!r}; expected a whole number from 1 to 16: write exp(p * "
                f"log(x)) instead"
            )
        power = self
        for _ in range(exponent - 1):
            power = power * self
        return power

    def __neg__(self) -> Symbol:
        return self._new(self._graph.neg(self.number))

    def __abs__(self) -> Symbol:
        return self._new(self._graph.call("abs", self.number))

    def __matmul__(self, other: Any) -> Symbol:
        return self._new(self._graph.matmul(self.number, self._lift(other)))

    def __lt__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("lt", self.number, self._lift(other)))

    def __le__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("le", self.number, self._lift(other)))

    def __gt__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("gt", self.number, self._lift(other)))

    def __ge__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("ge", self.number, self._lift(other)))

    def __eq__(self, other: object) -> bool:
        # without it Python would compare identities, and the equations would be wrong in silence
        raise CellError("values of the cell were compared with '=='; write equal(a, b) instead")

    def __ne__(self, other: object) -> bool:
        raise CellError("values of the cell were compared with '!='; write 1 - equal(a, b) instead")

    __hash__ = object.__hash__

    @property
    def T(self) -> Symbol:  # noqa: N802 - the name that arrays have for it
        """The transpose of a matrix parameter."""
        return self._new(self._graph.transpose(self.number))

    def __iter__(self) -> Iterator[Symbol]:
        node = self._graph.nodes[self.number]
        if len(node.shape) != 1 or node.width.count == 1:
            raise CellError(
                "a value of the cell was iterated over; only a group of gates can be unpacked, as in "
                "'a, b = W @ x' with W=Input(2). The loop over time is not yours to write: a cell is one step"
            )
        return (self._new(self._graph.gate(self.number, k)) for k in range(node.width.count))

    def __getitem__(self, index: Any) -> Symbol:
        raise CellError(
            f"a value of the cell was indexed with [{index!r}]; unpack the gates instead, as in 'a, b = W @ x'. "
            "Time is not indexed: a cell is one step, and what it remembers is a state"
        )

    def __bool__(self) -> bool:
        raise CellError(
            "the cell branches on a value ('if', 'and', 'or', 'not', 'while'); write where(condition, a, b) instead"
        )

    def __float__(self) -> float:
        raise CellError(
            "a value of the cell was made a number (math.*, float, int); use the functions of recurra.cells instead"
        )

    __int__ = __index__ = __float__

    def __repr__(self) -> str:
        return f"<symbol of width {self.width}>"


def apply(operation: str, *values: Any, attribute: Any = None) -> Any:
    """A function of the cell language: one operation on symbols and numbers."""
    first = next((v for v in values if isinstance(v, Symbol)), None)
    if first is None:
        raise CellError(
            f"{operation}() got {', '.join(type(v).__name__ for v in values)}; expected values of a cell being defined"
        )
    graph = first._graph
    return Symbol(graph, graph.call(operation, *(first._lift(v) for v in values), attribute=attribute))


def reduce(operation: str, value: Symbol, other: Symbol | None = None) -> Symbol:
    """A reduction of the cell language over all columns of a value, or of the products of two."""
    if not isinstance(value, Symbol) or not isinstance(other, Symbol | None):
        wrong = other if isinstance(value, Symbol) else value
        raise CellError(f"{operation}() got {type(wrong).__name__}; expected a value of a cell being defined")
    second = None if other is None else value._lift(other)
    return Symbol(value._graph, value._graph.reduce(operation, value.number, second))


def normalise(kind: str, value: Symbol) -> Symbol:
    """A norm of the cell language over all columns of a value."""
    if not isinstance(value, Symbol):
        raise CellError(f"{kind}_norm() got {type(value).__name__}; expected a value of a cell being defined")
    return Symbol(value._graph, value._graph.normalise(value.number, kind))


def about_columns(question: str, value: Symbol) -> Symbol:
    """A leaf of the cell language that the width of a value decides: "unit" or "columns"."""
    if not isinstance(value, Symbol):
        raise CellError(f"{question}() got {type(value).__name__}; expected a value of a cell being defined")
    return Symbol(value._graph, getattr(value._graph, question)(value.width))
