"""The core of a program: what is left of it when the values that depend on parameters only are given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recurra.program.graph import LEAVES, Graph, Node, ancestors
from recurra.program.program import Program
from recurra.program.widths import Shape, StateSpec

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


def core_of(program: Program) -> Core:
    """Cuts the parameter stage off a program and puts sums in the order in which their terms become known.

    A sum such as `W @ x + U @ h + b` is associated so that what is known earlier is added first: then the
    products are written on top of it.
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
        else:
            renamed[i] = graph.add_node(
                Node(node.operation, tuple(renamed[j] for j in node.inputs), node.shape, node.attribute)
            )
        stages[i] = _stage(node, [stages[j] for j in node.inputs], i in cut)
    return Core(
        tuple(graph.nodes),
        program.states,
        tuple(program.nodes[i].shape for i in program.core_parameters),
        tuple(renamed[i] for i in program.next_states),
        renamed[program.output],
        tuple((renamed[i], name) for i, name in program.labels if i in renamed),
    )


def _stage(node: Node, inputs: list[int], is_parameter: bool) -> int:
    if is_parameter or node.operation == "constant":
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
