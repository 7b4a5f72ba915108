"""The core of a program: what is left of it when the values that depend on parameters only are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from recurra.program.graph import FIXED, LEAVES, Graph, Node, ancestors
from recurra.program.operations import TABLE
from recurra.program.program import Program
from recurra.program.widths import SCALAR, Shape, StateSpec, Width

PARAMETER_STAGE, INPUT_STAGE, RECURRENT_STAGE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Core:
    """A step whose leaves are the input, the elapsed time, the states and the core parameters."""

    nodes: tuple[Node, ...]
    states: tuple[StateSpec, ...]
    parameters: tuple[Shape, ...]
    next_states: tuple[int, ...]
    output: int
    labels: tuple[tuple[int, str], ...] = ()


def core_of(program: Program, sizes: Mapping[str, int] | None = None) -> Core:
    """Cuts the parameter stage off a program and puts sums in the order in which their terms become known.

    A sum such as `W @ x + U @ h + b` is associated so that what is known earlier is added first: then the
    products are written on top of it. With the sizes of the widths, numbers of columns become constants.
    """
    graph = Graph()
    cut = {number: index for index, number in enumerate(program.core_parameters)}
    stop = [n if i not in cut else Node(n.operation, (), n.shape, n.attribute) for i, n in enumerate(program.nodes)]
    live = sorted(ancestors(stop, program.results))
    uses = Counter(j for i in live for j in stop[i].inputs) + Counter(program.results)
    renamed: dict[int, int] = {}
    stages: dict[int, int] = {}
    for i in live:
        node = stop[i]
        if i in cut:
            renamed[i] = graph.leaf("parameter", node.shape, cut[i])
        elif node.operation == "add":
            renamed[i] = _ordered_sum(graph, stop, i, uses, renamed, stages)
        elif node.operation == "columns" and sizes is not None:
            renamed[i] = graph.constant(Width.parse(node.attribute).size(sizes))
        elif node.operation == "normalise":
            vector = renamed[node.inputs[0]]
            scale = graph.add_node(Node("inverse_deviation", (vector,), (SCALAR,), node.attribute))
            renamed[i] = graph.add_node(Node("normalise", (vector, scale), node.shape, node.attribute))
        else:
            renamed[i] = _copied(graph, node, tuple(renamed[j] for j in node.inputs))
        stages[i] = _stage(node, [stages[j] for j in node.inputs], i in cut)
    return Core(
        tuple(graph.nodes),
        program.states,
        tuple(program.nodes[i].shape for i in program.core_parameters),
        tuple(renamed[i] for i in program.next_states),
        renamed[program.output],
        tuple((renamed[i], name) for i, name in program.labels if i in renamed),
    )


def _copied(graph: Graph, node: Node, inputs: tuple[int, ...]) -> int:
    if node.operation in TABLE and all(graph.nodes[i].operation == "constant" for i in inputs):
        return graph.call(node.operation, *inputs, attribute=node.attribute)
    return graph.add_node(Node(node.operation, inputs, node.shape, node.attribute))


def _stage(node: Node, inputs: list[int], is_parameter: bool) -> int:
    if is_parameter or node.operation in FIXED:
        return PARAMETER_STAGE
    if node.operation in LEAVES:
        return RECURRENT_STAGE if node.operation == "state" else INPUT_STAGE
    return max(inputs)


def _ordered_sum(
    graph: Graph, nodes: list[Node], root: int, uses: Counter[int], renamed: dict[int, int], stages: dict[int, int]
) -> int:
    terms: list[int] = []

    def collect(number: int) -> None:
        for i in nodes[number].inputs:
            if nodes[i].operation == "add" and uses[i] == 1 and nodes[i].shape == nodes[root].shape:
                collect(i)
            else:
                terms.append(i)

    collect(root)
    first, *rest = sorted(terms, key=lambda i: stages[i])
    total = renamed[first]
    for i in rest:
        total = graph.add(total, renamed[i])
    return total
