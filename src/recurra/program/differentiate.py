"""Reverse-mode differentiation: the adjoint of a step is a graph too, over the same nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from recurra.errors import CellError
from recurra.program.core import Core
from recurra.program.graph import FIXED, Graph, Node
from recurra.program.operations import TABLE
from recurra.program.widths import Width


@dataclass(frozen=True, slots=True)
class OuterGradient:
    """The gradient of a matrix: the sum over rows of `left` times `right` transposed."""

    parameter: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class SumGradient:
    """The gradient of a vector: the sum over rows of a cotangent."""

    parameter: int
    value: int


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A step and its adjoint in one graph. The first `forward_count` nodes are those of the step.

    The leaves ``grad_output`` and ``grad_next`` are the cotangents of the output and of each next state. The
    gradient of a value is None
    where nothing depends on it.
    """

    nodes: tuple[Node, ...]
    forward_count: int
    grad_states: tuple[int | None, ...]
    grad_input: int | None
    grad_elapsed: int | None
    outers: tuple[OuterGradient, ...]
    sums: tuple[SumGradient, ...]


class _Tape:
    """Collects the cotangents while the nodes are visited from last to first."""

    def __init__(self, core: Core) -> None:
        self.graph = Graph(core.nodes)
        self.whole: dict[int, int] = {}
        self.gates: dict[int, dict[int, int]] = defaultdict(dict)
        self.outers: list[OuterGradient] = []

    def add(self, number: int, cotangent: int | None) -> None:
        node = self.graph.nodes[number]
        if cotangent is None or node.operation in FIXED - {"parameter"} or self.graph.is_constant(cotangent, 0.0):
            return
        cotangent = self._fit(cotangent, node.width)
        earlier = self.whole.get(number)
        self.whole[number] = cotangent if earlier is None else self.graph.add(earlier, cotangent)

    def _fit(self, cotangent: int, width: Width) -> int:
        got = self.graph.nodes[cotangent].width
        if got == width:
            return cotangent
        if width.is_scalar:
            return self.graph.reduce("sum", cotangent)
        return self.graph.add_node(Node("broadcast", (cotangent,), (width,)))

    def add_gate(self, number: int, index: int, cotangent: int) -> None:
        parts = self.gates[number]
        parts[index] = cotangent if index not in parts else self.graph.add(parts[index], cotangent)

    def cotangent(self, number: int) -> int | None:
        """The whole cotangent of a node, its gates put together."""
        parts = self.gates.get(number)
        if not parts:
            return self.whole.get(number)
        width = self.graph.nodes[number].width
        zero = self.graph.add_node(Node("broadcast", (self.graph.constant(0.0),), (width.unit,)))
        gates = [parts.get(k, zero) for k in range(width.count)]
        whole = self.whole.get(number)
        if whole is not None:
            gates = [self.graph.add(self.graph.gate(whole, k), part) for k, part in enumerate(gates)]
        return self.graph.join(gates, width)

    def propagate(self, number: int, cotangent: int) -> None:
        graph, node = self.graph, self.graph.nodes[number]
        inputs = node.inputs
        if node.operation == "gate":
            self.add_gate(inputs[0], node.attribute, cotangent)
        elif node.operation == "matmul":
            self.add(inputs[1], graph.matmul_transposed(inputs[0], cotangent))
            self.outers.append(OuterGradient(self._parameter(inputs[0]), cotangent, inputs[1]))
        elif node.operation == "matmul_transposed":
            self.add(inputs[1], graph.matmul(inputs[0], cotangent))
            self.outers.append(OuterGradient(self._parameter(inputs[0]), inputs[1], cotangent))
        elif node.operation == "sum":
            self.add(inputs[0], cotangent)
        elif node.operation == "normalise":
            # through the scale, too
            parts = (cotangent, number, inputs[1])
            self.add(inputs[0], graph.add_node(Node("normalise_gradient", parts, node.shape, node.attribute)))
        elif node.operation == "dot":
            self.add(inputs[0], graph.mul(cotangent, inputs[1]))
            self.add(inputs[1], graph.mul(cotangent, inputs[0]))
        elif node.operation in ("max", "min"):
            chosen = graph.call("eq", inputs[0], number)
            self.add(inputs[0], graph.mul(chosen, graph.call("div", cotangent, graph.reduce("sum", chosen))))
        elif node.operation in TABLE:
            self._propagate_pointwise(number, node, cotangent)
        else:
            raise CellError(f"'{node.operation}' has no derivative")

    def _propagate_pointwise(self, number: int, node: Node, cotangent: int) -> None:
        derivative = TABLE[node.operation].derivative
        if derivative is None:
            return
        parts: Sequence[int | None] = derivative(self.graph, node.inputs, number, cotangent, node.attribute)
        for i, part in zip(node.inputs, parts, strict=True):
            self.add(i, part)

    def _parameter(self, number: int) -> int:
        return self.graph.nodes[number].attribute


def differentiate(core: Core) -> Adjoint:
    """The adjoint of a step."""
    tape = _Tape(core)
    graph = tape.graph
    output = core.nodes[core.output]
    if output.operation not in FIXED - {"parameter"}:
        tape.add(core.output, graph.leaf("grad_output", output.shape))
    for k, number in enumerate(core.next_states):
        tape.add(number, graph.leaf("grad_next", (core.states[k].width,), k))
    leaves: dict[tuple[str, int | None], int] = {}
    sums: list[SumGradient] = []
    for number in reversed(range(len(core.nodes))):
        cotangent = tape.cotangent(number)
        if cotangent is None:
            continue
        node = core.nodes[number]
        if node.operation == "parameter":
            sums.append(SumGradient(node.attribute, cotangent))
        elif node.operation in ("input", "elapsed", "state"):
            leaves[node.operation, node.attribute] = cotangent
        else:
            tape.propagate(number, cotangent)
    return Adjoint(
        tuple(graph.nodes),
        len(core.nodes),
        tuple(leaves.get(("state", k)) for k in range(len(core.states))),
        leaves.get(("input", None)),
        leaves.get(("elapsed", None)),
        tuple(tape.outers),
        tuple(sums),
    )
