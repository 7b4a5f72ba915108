"""What one plan has to compute: given values in memory, results with their destinations, and which way the
recurrence runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from recurra.program.core import Core
from recurra.program.differentiate import Adjoint, OuterGradient, SumGradient, differentiate
from recurra.program.graph import Graph, Node
from recurra.program.keep import kept_nodes
from recurra.program.widths import INPUT, SCALAR, Width


class Kind(IntEnum):
    """Where an operand lies; the numbers are those of docs/plan-format.md."""

    REGISTER = 0
    CONSTANT = 1
    VECTOR = 2
    INPUT = 3
    ELAPSED = 4
    OUTPUT = 5
    CHUNK = 6
    TAPE = 7
    TEMP = 8
    STATE_PREVIOUS = 9
    STATE_NEXT = 10
    GRAD_OUTPUT = 11
    GRAD_NEXT = 12
    GRAD_PREVIOUS = 13
    GRAD_INPUT = 14
    GRAD_ELAPSED = 15
    SCALAR_TEMP = 16
    SCALAR_CHUNK = 17
    SCALAR_TAPE = 18
    UNIT = 19


class Operand(NamedTuple):
    """A place in memory, from a column on."""

    kind: int
    index: int = 0
    offset: int = 0


DIRECTIONS = {"infer": 0, "train": 1, "backward": 2}


@dataclass(frozen=True, slots=True)
class Job:
    """The work of one plan, before it is ordered.

    `bound` says where given values lie. `carried` are the results that the next step of the loop reads, with their
    destinations; `written` the other results; `kept` the values that also go to the tape.
    """

    direction: str
    nodes: tuple[Node, ...]
    bound: Mapping[int, Operand]
    seeds: frozenset[int]
    carried: tuple[tuple[int, Operand], ...]
    written: tuple[tuple[int, Operand], ...]
    kept: Mapping[int, Operand] = field(default_factory=dict)
    outers: tuple[OuterGradient, ...] = ()
    sums: tuple[SumGradient, ...] = ()


@dataclass(frozen=True, slots=True)
class TapeLayout:
    """Where each state and each kept value lies on the tape: (offset, columns) of every field."""

    states: tuple[tuple[int, int], ...]
    kept: Mapping[int, tuple[int, int]]

    @property
    def columns(self) -> int:
        return sum(columns for _, columns in (*self.states, *self.kept.values()))


def tape_layout(core: Core, adjoint: Adjoint, sizes: Mapping[str, int]) -> TapeLayout:
    """The fields of the tape for concrete sizes: the states, then what the adjoint needs besides."""
    offset = 0
    states = []
    for spec in core.states:
        states.append((offset, spec.columns(sizes)))
        offset += spec.columns(sizes)
    kept = {}
    for number in kept_nodes(core, adjoint):
        columns = core.nodes[number].width.size(sizes)
        kept[number] = (offset, columns)
        offset += columns
    return TapeLayout(tuple(states), kept)


def _bind_leaves(nodes: tuple[Node, ...]) -> dict[int, Operand]:
    kinds = {
        "input": Kind.INPUT, "elapsed": Kind.ELAPSED, "state": Kind.STATE_PREVIOUS, "parameter": Kind.VECTOR,
        "grad_output": Kind.GRAD_OUTPUT, "grad_next": Kind.GRAD_NEXT, "unit": Kind.UNIT,
    }  # fmt: skip
    return {
        i: Operand(kinds[node.operation], node.attribute if isinstance(node.attribute, int) else 0)
        for i, node in enumerate(nodes)
        if node.operation in kinds and len(node.shape) == 1
    }


class _Results:
    """Makes every result a node of its own, of the width of its destination, so that each value has one first place."""

    def __init__(self, nodes: tuple[Node, ...], placed: Iterable[int]) -> None:
        self.graph = Graph(nodes)
        self._placed = set(placed)

    def place(self, number: int | None, width: Width, destination: Operand) -> tuple[int, Operand]:
        if number is None:
            number = self.graph.constant(0.0)
        node = self.graph.nodes[number]
        if node.width != width:
            number = self.graph.add_node(Node("broadcast", (number,), (width,), destination))
        elif number in self._placed or node.operation in ("gate", "join", "constant"):
            number = self.graph.add_node(Node("copy", (number,), (width,), destination))
        self._placed.add(number)
        return number, destination


def forward_job(core: Core, layout: TapeLayout | None) -> Job:
    """The forward pass; with a tape layout, the one that keeps what the backward pass needs."""
    bound = _bind_leaves(core.nodes)
    kept = {} if layout is None else {i: Operand(Kind.TAPE, 0, offset) for i, (offset, _) in layout.kept.items()}
    results = _Results(core.nodes, {*bound, *kept})
    carried = [
        results.place(number, spec.width, Operand(Kind.STATE_NEXT, k))
        for k, (number, spec) in enumerate(zip(core.next_states, core.states, strict=True))
    ]
    written = [results.place(core.output, core.nodes[core.output].width, Operand(Kind.OUTPUT))]
    return Job(
        "infer" if layout is None else "train",
        tuple(results.graph.nodes),
        bound,
        frozenset(i for i, n in enumerate(core.nodes) if n.operation == "state"),
        tuple(carried),
        tuple(written),
        kept,
    )


def backward_job(core: Core, adjoint: Adjoint, layout: TapeLayout) -> Job:
    """The backward pass: the adjoint of the step, run backwards in time."""
    bound = _bind_leaves(adjoint.nodes)
    bound |= {i: Operand(Kind.TAPE, 0, offset) for i, (offset, _) in layout.kept.items()}
    for k, number in enumerate(core.next_states):
        bound.setdefault(number, Operand(Kind.STATE_NEXT, k))
    results = _Results(adjoint.nodes, bound)
    carried = [
        results.place(number, spec.width, Operand(Kind.GRAD_PREVIOUS, k))
        for k, (number, spec) in enumerate(zip(adjoint.grad_states, core.states, strict=True))
    ]
    written = [results.place(adjoint.grad_input, INPUT, Operand(Kind.GRAD_INPUT))]
    if any(n.operation == "elapsed" for n in core.nodes):
        written.append(results.place(adjoint.grad_elapsed, SCALAR, Operand(Kind.GRAD_ELAPSED)))
    return Job(
        "backward",
        tuple(results.graph.nodes),
        bound,
        frozenset(i for i, n in enumerate(adjoint.nodes) if n.operation == "grad_next"),
        tuple(carried),
        tuple(written),
        outers=adjoint.outers,
        sums=adjoint.sums,
    )


def jobs_of(core: Core, sizes: Mapping[str, int], direction: str) -> tuple[Job, TapeLayout]:
    """The job of one direction, and the layout of the tape that the forward and the backward pass share."""
    adjoint = differentiate(core)
    layout = tape_layout(core, adjoint, sizes)
    if direction == "backward":
        return backward_job(core, adjoint, layout), layout
    return forward_job(core, layout if direction == "train" else None), layout
