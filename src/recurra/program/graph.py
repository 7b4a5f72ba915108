"""The graph of a program: nodes in order of evaluation, each made once (equal nodes are one node)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recurra.errors import CellError
from recurra.program.operations import INVERSE_DEVIATIONS, REDUCTIONS, TABLE
from recurra.program.widths import SCALAR, Shape, Width

SIZES = frozenset({"unit", "columns"})
"""Leaves that only the sizes of the widths decide: the number of each column, and how many there are of a width."""

FIXED = SIZES | {"parameter", "constant"}
"""Leaves that are the same at every step of a sequence."""

LEAVES = FIXED | {"input", "elapsed", "state", "grad_output", "grad_next"}
"""Operations that read something given. Their attribute says which one."""

PRODUCTS = frozenset({"matmul", "matmul_transposed"})

NORMS = frozenset({"normalise", "normalise_gradient"})
"""Operations that read a whole vector for each of its columns."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value: an operation, the numbers of its input nodes, its shape, and a constant that belongs to the
    operation."""

    operation: str
    inputs: tuple[int, ...]
    shape: Shape
    attribute: Any = None

    @property
    def width(self) -> Width:
        """The width of a vector."""
        return self.shape[0]


class Graph:
    """A growing list of nodes. Each method adds one operation and returns its node number.

    Equal nodes are shared, arithmetic with 0 and 1 disappears, constants are folded, and taking a gate of a
    pointwise value becomes the
    same operation on the gates of its inputs, so that a strip of columns is computed in one pass.
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes: list[Node] = list(nodes)
        self._numbers = {node: number for number, node in enumerate(self.nodes)}

    def add_node(self, node: Node) -> int:
        number = self._numbers.get(node)
        if number is None:
            number = len(self.nodes)
            self.nodes.append(node)
            self._numbers[node] = number
        return number

    def leaf(self, operation: str, shape: Shape, attribute: Any = None) -> int:
        return self.add_node(Node(operation, (), shape, attribute))

    def constant(self, value: float) -> int:
        return self.leaf("constant", (SCALAR,), float(value))

    def is_constant(self, number: int, value: float) -> bool:
        node = self.nodes[number]
        return node.operation == "constant" and node.attribute == value

    def call(self, operation: str, *inputs: int, attribute: Any = None) -> int:
        """A pointwise operation of the table."""
        if all(self.nodes[i].operation == "constant" for i in inputs):
            values = [self.nodes[i].attribute for i in inputs]
            extra = [] if attribute is None else [attribute]
            return self.constant(float(TABLE[operation].numpy(*values, *extra)))
        return self.add_node(Node(operation, inputs, self._common_shape(operation, inputs), attribute))

    def _common_shape(self, operation: str, inputs: Sequence[int]) -> Shape:
        shape: Shape = (SCALAR,)
        for i in inputs:
            other = self.nodes[i].shape
            if len(other) == 1 and other[0].is_scalar:
                continue
            if len(shape) == 1 and shape[0].is_scalar:
                shape = other
            elif shape != other:
                raise CellError(
                    f"'{operation}' got values of widths {_describe(shape)} and {_describe(other)}; expected "
                    f"equal widths "
                    "(or a scalar): check the number of gates of each parameter"
                )
        return shape

    def add(self, a: int, b: int) -> int:
        if self.is_constant(a, 0.0):
            return b
        if self.is_constant(b, 0.0):
            return a
        for one, other in ((b, a), (a, b)):
            if self.nodes[one].operation == "neg":
                return self.sub(other, self.nodes[one].inputs[0])
        return self.call("add", a, b)

    def sub(self, a: int, b: int) -> int:
        if self.is_constant(b, 0.0):
            return a
        if self.is_constant(a, 1.0):
            return self.one_minus(b)
        if self.is_constant(a, 0.0):
            return self.neg(b)
        return self.call("sub", a, b)

    def mul(self, a: int, b: int) -> int:
        for one, other in ((a, b), (b, a)):
            if self.is_constant(one, 1.0):
                return other
            if self.is_constant(one, -1.0):
                return self.neg(other)
        return self.call("mul", a, b)

    def neg(self, a: int) -> int:
        node = self.nodes[a]
        return node.inputs[0] if node.operation == "neg" else self.call("neg", a)

    def one_minus(self, a: int) -> int:
        return self.call("one_minus", a)

    def gate(self, a: int, index: int) -> int:
        """Gate `index` of a group of gates."""
        node = self.nodes[a]
        if node.width.count == 1:
            return a
        if node.operation == "join":
            return node.inputs[index]
        if node.operation in TABLE:
            return self.call(node.operation, *(self.gate(i, index) for i in node.inputs), attribute=node.attribute)
        return self.add_node(Node("gate", (a,), (node.width.unit,), index))

    def join(self, parts: Sequence[int], width: Width) -> int:
        """The inverse of taking gates: one group from its gates."""
        first = self.nodes[parts[0]]
        if first.operation == "gate" and all(
            self.nodes[p] == Node("gate", first.inputs, first.shape, k) for k, p in enumerate(parts)
        ):
            source = self.nodes[first.inputs[0]]
            if source.width == width:
                return first.inputs[0]
        return self.add_node(Node("join", tuple(parts), (width,)))

    def matmul(self, matrix: int, vector: int) -> int:
        rows, columns = self._matrix_shape(matrix, vector)
        self._check_operand(vector, columns.whole)
        return self.add_node(Node("matmul", (matrix, vector), (rows,)))

    def matmul_transposed(self, matrix: int, vector: int) -> int:
        rows, columns = self._matrix_shape(matrix, vector)
        self._check_operand(vector, rows)
        return self.add_node(Node("matmul_transposed", (matrix, vector), (columns.whole,)))

    def _matrix_shape(self, matrix: int, vector: int) -> Shape:
        shape = self.nodes[matrix].shape
        if len(shape) != 2:
            raise CellError(
                f"'@' got {_describe(shape)} on its left; expected a matrix parameter (Input or Recurrent) there: "
                "multiply vectors with '*'"
            )
        if len(self.nodes[vector].shape) != 1:
            raise CellError(
                "'@' got a matrix on its right; expected a vector: a chain of products is written from the right, "
                "A @ (B @ x)"
            )
        return shape

    def _check_operand(self, vector: int, expected: Width) -> None:
        got = self.nodes[vector].width
        if got != expected:
            raise CellError(
                f"'@' got an operand of width {got}; the matrix expects width {expected}: use Input for x, "
                f"Recurrent for "
                "a hidden state, or give the parameter other columns"
            )

    def unit(self, width: Width) -> int:
        """The number of each column of a width: 0, 1, 2 and so on."""
        return self.constant(0.0) if width.is_scalar else self.leaf("unit", (width,), str(width))

    def columns(self, width: Width) -> int:
        """How many columns a width has: a scalar that is known when the program is compiled."""
        return self.leaf("columns", (SCALAR,), str(width)) if width.name else self.constant(width.count)

    def reduce(self, operation: str, a: int, b: int | None = None) -> int:
        """A reduction over all columns of a vector; "dot" takes two of one width."""
        if operation not in REDUCTIONS:
            raise CellError(f"unknown reduction '{operation}'; expected one of {', '.join(REDUCTIONS)}")
        if len(self.nodes[a].shape) != 1:
            raise CellError("a reduction needs a vector; matrix values in a step are not supported yet")
        if (b is None) == (operation == "dot"):
            raise CellError(f"the reduction '{operation}' takes {2 if operation == 'dot' else 1} values")
        if b is not None and self.nodes[b].shape != self.nodes[a].shape:
            raise CellError(
                f"'{operation}' got values of widths {_describe(self.nodes[a].shape)} and "
                f"{_describe(self.nodes[b].shape)}; expected equal widths"
            )
        return self.add_node(Node(operation, (a,) if b is None else (a, b), (SCALAR,)))

    def normalise(self, a: int, kind: str) -> int:
        """A vector divided by the root of its mean square ("rms"), or, with its mean subtracted first, by its standard
        deviation ("layer")."""
        if kind not in INVERSE_DEVIATIONS:
            raise CellError(f"unknown norm '{kind}'; expected one of {', '.join(INVERSE_DEVIATIONS)}")
        if len(self.nodes[a].shape) != 1:
            raise CellError("a norm needs a vector; matrix values in a step are not supported yet")
        return self.add_node(Node("normalise", (a,), self.nodes[a].shape, kind))

    def transpose(self, a: int) -> int:
        shape = self.nodes[a].shape
        if len(shape) != 2:
            raise CellError("'.T' got a vector; expected a matrix parameter")
        if shape[1].parts > 1:
            raise CellError("'.T' got a matrix with heads; expected one without")
        return self.add_node(Node("transpose", (a,), shape[::-1]))


def _describe(shape: Shape) -> str:
    return " x ".join(str(width) for width in shape)


def ancestors(nodes: Sequence[Node], roots: Iterable[int]) -> set[int]:
    """The roots and every node that they depend on."""
    found: set[int] = set()
    pending = list(roots)
    while pending:
        number = pending.pop()
        if number not in found:
            found.add(number)
            pending.extend(nodes[number].inputs)
    return found


def descendants(nodes: Sequence[Node], seeds: Iterable[int]) -> set[int]:
    """The seeds and every node that depends on one of them."""
    found = set(seeds)
    for number, node in enumerate(nodes):
        if any(i in found for i in node.inputs):
            found.add(number)
    return found
