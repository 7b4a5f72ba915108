"""Which matrices of a program are only ever multiplied by vectors: those can be held with fewer bits."""

from __future__ import annotations

from collections.abc import Iterable

from recurra.program.graph import Graph, Node
from recurra.program.program import Program
from recurra.program.widths import INPUT, ParameterSpec, Width

OUTPUT = Width(1, "output")


def product_parameters(program: Program) -> frozenset[str]:
    """The names of the dense parameters that nothing reads but products, in which they stand as they are."""
    found = _multiplied(program.nodes, program.live, program.results)
    parameters = {program.nodes[i].attribute for i in found if program.nodes[i].operation == "parameter"}
    return frozenset(p.name for k, p in enumerate(program.parameters) if k in parameters and not p.is_sparse)


def product_matrices(program: Program) -> tuple[bool, ...]:
    """Of each core parameter, whether it is a dense matrix that the scan reads in products only, as it is."""
    core = set(program.core_parameters)
    cut = [Node(n.operation, (), n.shape, n.attribute) if i in core else n for i, n in enumerate(program.nodes)]
    found = _multiplied(cut, program.live, program.results)
    return tuple(i in found and not _is_sparse(program, i) for i in program.core_parameters)


def _is_sparse(program: Program, number: int) -> bool:
    node = program.nodes[number]
    return node.operation == "parameter" and program.parameters[node.attribute].is_sparse


def _multiplied(nodes: Iterable[Node], live: Iterable[int], results: Iterable[int]) -> set[int]:
    """The matrices that are read, and by nothing but a product from their left."""
    numbered = dict(enumerate(nodes))
    matrices, others = set[int](), set(results)
    for number in live:
        node = numbered[number]
        if node.operation == "matmul":
            matrices.add(node.inputs[0])
            others.update(node.inputs[1:])
        else:
            others.update(node.inputs)
    return matrices - others


def projection(*, bias: bool) -> Program:
    """y = W x + b as a program without a state: W (output, input), b (output,)."""
    graph = Graph()
    y = graph.matmul(graph.leaf("parameter", (OUTPUT, INPUT), 0), graph.leaf("input", (INPUT,)))
    parameters = [ParameterSpec("W", "matrix", OUTPUT, INPUT, (0.0,))]
    if bias:
        y = graph.add(y, graph.leaf("parameter", (OUTPUT,), 1))
        parameters.append(ParameterSpec("b", "bias", OUTPUT, None, (0.0,)))
    return Program("linear", "y = W x + b", tuple(graph.nodes), (), tuple(parameters), (), y)
