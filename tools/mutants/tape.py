"""Derivative rules with one thing wrong: a row of the table of operations, or the tape that asks the rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

from mutants.tampered import Change, Tampered
from recurra.program import differentiate
from recurra.program.core import Core
from recurra.program.differentiate import OuterGradient, _Tape
from recurra.program.graph import Graph
from recurra.program.operations import TABLE, Operation

DELIVERIES = ("negated", "doubled", "left out")
STEPS = {"sums": "add", "gates put together": "cotangent", "scalars": "_fit"}
"""Rules that are methods of the tape: how cotangents of several readers, and of gates, come together."""


def delivered(graph: Any, how: str, part: int | None) -> int | None:
    """A cotangent that is handed over wrongly."""
    if part is None or how == "left out":
        return None
    return graph.neg(part) if how == "negated" else graph.mul(graph.constant(2.0), part)


def tampered_row(name: str, change: Change, requests: list[Any] | None = None) -> Operation:
    """A row of the table with a wrong rule. `requests` receives what the rule asks for."""
    rule = TABLE[name].derivative
    assert rule is not None

    def wrong(graph: Any, inputs: Sequence[int], result: int, cotangent: int, attribute: Any) -> list[int | None]:
        inputs = [*inputs]
        if change.at == "reads":
            first = inputs[0]
            if change.how == "the result for its first input":
                inputs[0] = result
            elif change.how == "the first input for its result":
                result = first
            else:
                inputs.reverse()
        builder = Tampered(graph, change)
        parts = [*rule(builder, inputs, result, cotangent, attribute)]
        if requests is not None:
            requests[:] = [*builder.requests, len(parts)]
        if change.at == "exchanged":
            parts.reverse()
        if isinstance(change.at, str) and change.at.startswith("part "):
            k = int(change.at.split()[1])
            nothing = change.how == "the cotangent where there is none"
            parts[k] = cotangent if nothing else delivered(graph, change.how, parts[k])
        return parts

    return replace(TABLE[name], derivative=wrong)


class TamperedTape(_Tape):
    """A tape that does one thing wrong whenever it comes to one rule."""

    rule, change = "", Change(-1, "")
    seen: ClassVar[list[Any]] = []
    """What the rule asked for when it was first asked: requests, and the names of deliveries."""

    def __init__(self, core: Core) -> None:
        self._inside = False
        self._builder: Any = None
        self._deliveries = 0
        super().__init__(core)

    @property
    def graph(self) -> Any:
        return self._builder if self._inside else self._graph

    @graph.setter
    def graph(self, value: Graph) -> None:
        self._graph = value

    @contextmanager
    def _within(self, inside: bool) -> Iterator[None]:
        before, self._inside = self._inside, inside
        if inside:
            self._builder = Tampered(self._graph, self.change)
        try:
            yield
        finally:
            self._inside = before

    def propagate(self, number: int, cotangent: int) -> None:
        if self._graph.nodes[number].operation != self.rule:
            return super().propagate(number, cotangent)
        self._deliveries, before = 0, len(self.outers)
        with self._within(True):
            super().propagate(number, cotangent)
        self._tamper_outers(before)
        type(self).seen = [*self._builder.requests, self._deliveries, len(self.outers) - before]
        return None

    def _tamper_outers(self, before: int) -> None:
        if self.change.at != "outer":
            return
        for k in range(before, len(self.outers)):
            outer = self.outers[k]
            if self.change.how == "exchanged":
                self.outers[k] = OuterGradient(outer.parameter, outer.right, outer.left)
            else:
                left = delivered(self._graph, self.change.how, outer.left)
                self.outers[k] = replace(outer, left=left)

    def add(self, number: int, cotangent: int | None) -> None:
        if self._inside and self.rule not in STEPS:
            part = f"part {self._deliveries}"
            self._deliveries += 1
            with self._within(False):
                if self.change.at == part:
                    cotangent = delivered(self._graph, self.change.how, cotangent)
                return super().add(number, cotangent)
        return self._step("add", number, cotangent)

    def _fit(self, cotangent: int, width: Any) -> int:
        return self._step("_fit", cotangent, width)

    def add_gate(self, number: int, index: int, cotangent: int) -> None:
        inside = self._inside
        with self._within(False):
            if inside and self.rule == "gate":
                self._deliveries += 1
                if self.change.how == "of another gate":
                    index = (index + 1) % self._graph.nodes[number].width.count
                elif self.change.at == "part 0":
                    part = delivered(self._graph, self.change.how, cotangent)
                    if part is None:
                        return
                    cotangent = part
            super().add_gate(number, index, cotangent)

    def cotangent(self, number: int) -> int | None:
        return self._step("cotangent", number)

    def _step(self, method: str, *arguments: Any) -> Any:
        own = STEPS.get(self.rule) == method
        with self._within(own):
            found = getattr(super(), method)(*arguments)
        if own and self._builder.requests:
            type(self).seen += self._builder.requests
        return found


@contextmanager
def tape_with(rule: str, change: Change) -> Iterator[type[TamperedTape]]:
    """Within it, programs are differentiated with one rule wrong."""

    class Mutant(TamperedTape):
        pass

    Mutant.rule, Mutant.change, Mutant.seen = rule, change, []
    right, differentiate._Tape = differentiate._Tape, Mutant
    try:
        yield Mutant
    finally:
        differentiate._Tape = right


@contextmanager
def table_with(row: Operation) -> Iterator[None]:
    """Within it, the table has another row."""
    right, TABLE[row.name] = TABLE[row.name], row
    try:
        yield
    finally:
        TABLE[row.name] = right
