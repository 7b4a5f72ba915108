"""What transforms keep books of in states of their own: the seed of random numbers, the steps, where a sequence began.

Random numbers are counted, not drawn one after the other: each is a hash of the row's seed, of a number of its stream,
of the step and of the unit. So chunks, snapshots, rows alone and the backward pass see the same numbers. A reset leaves
seed and steps alone, and the sequence that begins there gets new numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recurra.cells.language import mix, unit, where
from recurra.errors import ArgumentError
from recurra.program.rewrite import Rewrite
from recurra.program.symbols import Symbol
from recurra.program.widths import SCALAR, StateSpec

LEVELS = 2**24
"""How many values a random number can have."""


def check_probability(name: str, value: Any) -> float:
    """A probability from 0 to below 1. Raises ArgumentError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ArgumentError(f"{name} is {value!r}", expected="from 0 to below 1", advice="0.05 to 0.5 are usual")
    return float(value)


class Books:
    """The book-keeping states of a program that is being rewritten, found where they are there already.

    In a program for evaluation (`running` false) they stand still.
    """

    def __init__(self, rewrite: Rewrite, running: bool) -> None:
        self.rewrite = rewrite
        self.running = running
        self.streams = 1 + max(self._used_streams(), default=-1)
        self.seed = self._state("seed", 0.0, lambda seed: seed)
        self.steps = self._state("steps", 0.0, lambda steps: (steps + 1) % LEVELS)

    def _used_streams(self) -> list[int]:
        program = self.rewrite.program
        nodes = program.nodes
        seeds = [
            i for i, n in enumerate(nodes) if n.operation == "state" and program.states[n.attribute].role == "seed"
        ]
        keys = (n for n in nodes if n.operation == "mix" and n.inputs[0] in seeds)
        return [int(nodes[n.inputs[1]].attribute) for n in keys if nodes[n.inputs[1]].operation == "constant"]

    def _state(self, role: str, initial: float, advance: Callable[[Symbol], Symbol]) -> Symbol:
        return book(self.rewrite, role, initial, advance if self.running else lambda value: value)

    def stream(self) -> Symbol:
        """The key of a stream of random numbers that nothing else in the program draws from."""
        self.streams += 1
        return mix(self.seed, self.streams - 1)

    def at_each_step(self, like: Symbol) -> Symbol:
        """Whole numbers from 0 to LEVELS - 1, new ones for each row, step and unit."""
        return mix(mix(self.stream(), self.steps), unit(like))

    def begin(self) -> Symbol:
        """The step at which the sequence began."""

        def first(begin: Symbol) -> Symbol:
            return where(begin < -0.5, self.steps, begin)

        return first(self._state("begin", -1.0, first))

    def of_the_sequence(self, like: Symbol) -> Symbol:
        """The same, but new ones for each row, sequence and unit."""
        return mix(mix(self.stream(), self.begin()), unit(like))


def book(rewrite: Rewrite, role: str, initial: float, advance: Callable[[Symbol], Symbol]) -> Symbol:
    """The state of a role, added where the program has none yet."""
    for number, spec in enumerate(rewrite.states):
        if spec.role == role:
            return rewrite.state(number)
    value = rewrite.add_state(StateSpec(role, SCALAR, initial, role))
    rewrite.set_next(len(rewrite.states) - 1, advance(value))
    return value


class Starts:
    """The initial values of states that are computed, not constant: ``where(started, h, value)`` for the state h.

    Before `Rewrite.copy`, `set` says what a state is to start from; `replace` is for `copy` and puts it there.
    """

    def __init__(self, rewrite: Rewrite) -> None:
        self.rewrite = rewrite
        self.changes: dict[int, Callable[[Symbol], Symbol]] = {}

    def set(self, state: int, change: Callable[[Symbol], Symbol]) -> None:
        """`change(value)` gives the new initial value, out of the one so far."""
        self.changes[state] = change

    def _chosen(self, number: int) -> int | None:
        """The state whose computed initial value node `number` chooses."""
        program, node = self.rewrite.program, self.rewrite.program.nodes[number]
        if node.operation != "where":
            return None
        condition, state = (program.nodes[i] for i in node.inputs[:2])
        tested = program.nodes[condition.inputs[0]] if condition.operation == "gt" else condition
        is_start = tested.operation == "state" and program.states[tested.attribute].role == "started"
        return state.attribute if is_start and state.operation == "state" else None

    def _leaf(self, state: int) -> int | None:
        leaves = (i for i, n in enumerate(self.rewrite.program.nodes) if n.operation == "state")
        return next((i for i in leaves if self.rewrite.program.nodes[i].attribute == state), None)

    def _choice(self, state: int) -> int | None:
        """The node that chooses a state's initial value already."""
        readers = self.rewrite.readers[self._leaf(state) or 0] if self._leaf(state) is not None else []
        return next((i for i in readers if self._chosen(i) == state), None)

    def replace(self, number: int, value: Symbol) -> Symbol:
        """For `Rewrite.copy`."""
        program, node = self.rewrite.program, self.rewrite.program.nodes[number]
        if node.operation == "state" and node.attribute in self.changes and self._choice(node.attribute) is None:
            constant = self.rewrite.constant(program.states[node.attribute].initial)
            return where(self.started(), value, self.changes[node.attribute](constant))
        chosen = self._chosen(number)
        if chosen in self.changes:
            state, earlier = self.rewrite.copied(node.inputs[1]), self.rewrite.copied(node.inputs[2])
            return where(self.started(), state, self.changes[chosen](earlier))
        return value

    def started(self) -> Symbol:
        """True but at the first step of a sequence."""
        return book(self.rewrite, "started", 0.0, lambda _: self.rewrite.constant(1.0)) > 0.5

    def value(self, state: int) -> Symbol:
        """After `copy`: a state before the step, its initial value computed where it is."""
        choice = self._choice(state)
        return self.rewrite.state(state) if choice is None else self.rewrite.copied(choice)
