"""Rewriting: a copy of a program in which some values become others, with states and parameters added to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cached_property

from recurra.program.graph import Graph, Node, ancestors
from recurra.program.program import Program, append
from recurra.program.symbols import Symbol
from recurra.program.widths import ParameterSpec, StateSpec

Replace = Callable[[int, Symbol], Symbol]


class Rewrite:
    """A copy of `program` in the making.

    `copy` copies the nodes, and asks for each of them what its readers are to read instead. `next` and `set_next` read
    and change what a state becomes; an output that is one of the next states stays that one. `finish` gives the
    program.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        self.states = list(program.states)
        self.parameters = list(program.parameters)
        self._renamed: dict[int, int] = {}
        self._next: dict[int, int] = {}

    @cached_property
    def readers(self) -> dict[int, list[int]]:
        """Which live nodes of the program read each of its nodes."""
        found: dict[int, list[int]] = defaultdict(list)
        for i in sorted(self.program.live):
            for j in dict.fromkeys(self.program.nodes[i].inputs):
                found[j].append(i)
        return found

    def symbol(self, number: int) -> Symbol:
        """A node of the copy, to write equations with."""
        return Symbol(self.graph, number)

    def constant(self, value: float) -> Symbol:
        return self.symbol(self.graph.constant(value))

    def copied(self, number: int) -> Symbol:
        """What a node of the program has become."""
        return self.symbol(self._renamed[number])

    def copy(self, replace: Replace = lambda _, value: value) -> None:
        """Copies the live nodes. `replace(number, value)` returns what stands for node `number`, whose copy is
        `value`."""
        for i in sorted(self.program.live):
            node = self.program.nodes[i]
            inputs = tuple(self._renamed[j] for j in node.inputs)
            new = append(self.graph, node.operation, inputs, node.attribute, self.states, self.parameters)
            self._renamed[i] = replace(i, self.symbol(new)).number

    def add_state(self, spec: StateSpec) -> Symbol:
        """Adds a state and returns its value before the step.

        It gets another name where one begins like another state's: torch.export replaces names of fields in text.
        """
        names = [s.name for s in self.states]
        number = len(self.states)
        wanted = (spec.name, f"row_{spec.name}", f"kept_{spec.name}")
        name = next((name for name in wanted if _fits(name, names)), f"{spec.name}_{number}")
        self.states.append(StateSpec(name, spec.width, spec.initial, spec.role))
        return self.symbol(self.graph.leaf("state", (spec.width,), number))

    def add_parameter(self, spec: ParameterSpec) -> Symbol:
        """Adds a parameter and returns its value. Its name gets a number where another parameter or state has it."""
        names = [s.name for s in (*self.parameters, *self.states)]
        added = ParameterSpec(_unused(spec.name, names), spec.kind, spec.rows, spec.columns, spec.initial)
        self.parameters.append(added)
        return self.symbol(self.graph.leaf("parameter", added.symbolic_shape, len(self.parameters) - 1))

    def state(self, number: int) -> Symbol:
        """The value of a state before the step."""
        return self.symbol(self.graph.leaf("state", (self.states[number].width,), number))

    def next(self, number: int) -> Symbol:
        """What a state becomes."""
        chosen = self._next.get(number)
        return self.copied(self.program.next_states[number]) if chosen is None else self.symbol(chosen)

    def set_next(self, number: int, value: Symbol) -> None:
        self._next[number] = value.number

    def finish(self, name: str, doc: str) -> Program:
        """The program, without the nodes that nothing reads."""
        program = self.program
        nexts = [self.next(k).number for k in range(len(self.states))]
        output = self.copied(program.output).number
        if program.output in program.next_states:
            output = nexts[program.next_states.index(program.output)]
        kept, renumbered = Graph(), {}
        for i in sorted(ancestors(self.graph.nodes, (*nexts, output))):
            node = self.graph.nodes[i]
            inputs = tuple(renumbered[j] for j in node.inputs)
            renumbered[i] = kept.add_node(Node(node.operation, inputs, node.shape, node.attribute))
        labels = {
            renumbered[self._renamed[i]]: text for i, text in program.labels if self._renamed.get(i) in renumbered
        }
        return Program(
            name,
            doc,
            tuple(kept.nodes),
            tuple(self.states),
            tuple(self.parameters),
            tuple(renumbered[i] for i in nexts),
            renumbered[output],
            tuple(sorted(labels.items())),
        )


def _fits(name: str, taken: list[str]) -> bool:
    return not any(name.startswith(other) or other.startswith(name) for other in taken)


def _unused(name: str, taken: list[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}{number}"
    return found
