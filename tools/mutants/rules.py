"""Mutants of the differentiation rules: those of the table of operations, and those of the tape that uses them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache

import torch

import layers
import problems
import test_compile
import test_operations
import test_ops
from mutants.adjoint import Gradients, by_adjoint, by_autograd, cotangents
from mutants.common import Outcome, Test, check_baseline, differ, failures
from mutants.tampered import Change, ways
from mutants.tape import DELIVERIES, STEPS, table_with, tampered_row, tape_with
from recurra import ops
from recurra.errors import CellError
from recurra.nn import Recurrent
from recurra.program import Program
from recurra.program.core import core_of
from recurra.program.differentiate import differentiate
from recurra.program.graph import Graph
from recurra.program.operations import TABLE
from recurra.program.widths import HIDDEN, ParameterSpec, StateSpec

KIND = "rules"
ROWS = 1000
SAME = 1e-11
PROGRAMS_OF_A_RULE = 3
RIGHT = Change(-1, "")

_serial = itertools.count()


@dataclass(frozen=True)
class Probe:
    """One step of a program with a thousand random rows, its right gradients, and which of them are compared."""

    problem: problems.Problem
    expected: Gradients

    def gradients(self) -> Gradients:
        core, sizes, seeds = _parts(self.problem)
        return by_adjoint(self.problem, core, differentiate(core), seeds, sizes)

    def changes(self) -> bool:
        """Whether the rules as they are now give other gradients than torch does."""
        try:
            return differ(self.gradients(), self.expected, SAME)
        except RuntimeError:
            # gradients of another shape
            return True


def _parts(problem: problems.Problem):
    states = {spec.width.name: s.shape[-1] for spec, s in zip(problem.program.states, problem.states, strict=True)}
    sizes = problems.sizes(problem.program, problem.x.shape[-1], states.get("hidden", 4))
    core = core_of(problem.program, sizes)
    return core, sizes, cotangents(problem, core, sizes)


def _probe(problem: problems.Problem) -> Probe:
    core, sizes, seeds = _parts(problem)
    right = by_adjoint(problem, core, differentiate(core), seeds, sizes)
    expected = by_autograd(problem, seeds)
    assert not differ(right, expected, SAME), problem.program.name
    return Probe(problem, expected)


def probe_of_operation(name: str) -> Probe:
    """An operation of the table on states, at kinks and ties too."""
    row, graph = TABLE[name], Graph()
    leaves = [graph.leaf("state", (HIDDEN,), k) for k in range(row.arity)]
    extra = test_operations.attribute_of(row)
    inputs = [leaves[0], graph.constant(-1.0), graph.constant(1.5)] if name == "clip" else leaves
    result = graph.call(name, *inputs, attribute=extra[0] if extra else None)
    states = tuple(StateSpec(f"s{k}") for k in range(row.arity))
    parameter = ParameterSpec("W", "input", HIDDEN, None, (0.0,))
    program = Program(f"of {name}", "", tuple(graph.nodes), states, (parameter,), tuple(leaves), result)
    values = [torch.from_numpy(v)[:, None] for v in test_operations.arguments(row, ROWS)]
    x = torch.zeros(ROWS, 1, 1, dtype=torch.float64)
    return _probe(problems.Problem(program, x, tuple(values), (x[0, 0],)))


@cache
def programs() -> list[Program]:
    """Every program that the tests know, the smallest first."""
    made = [build() for build in layers.TRANSFORMED.values()]
    transformed = [layer.program for layer in made if isinstance(layer, Recurrent)]
    every = [*problems.PROGRAMS.values(), *(c.program for c in test_compile.ODD), *transformed]
    return sorted(every, key=lambda program: len(program.nodes))


def uses(program: Program, rule: str) -> bool:
    nodes = [program.nodes[i] for i in program.live]
    if rule in STEPS:
        return True
    return any(node.operation == rule for node in nodes)


def programs_of(rule: str) -> list[Program]:
    """The smallest programs that need a rule; for how cotangents come together, odd ones that need all of it."""
    if rule in STEPS:
        return [problems.PROGRAMS[name] for name in ("counting", "normalised", "gru", "projecting_out")]
    return [program for program in programs() if uses(program, rule)][:PROGRAMS_OF_A_RULE]


def _without_heads(program: Program) -> bool:
    return all(width.parts == 1 for node in program.nodes for width in node.shape)


def probes_of(rule: str) -> list[Probe]:
    if rule in TABLE:
        return [probe_of_operation(rule)]
    found = [problems.make(p, (ROWS, 1, 3, 4)) for p in programs_of(rule) if _without_heads(p)]
    # extremes of numbers on a grid are often reached by several columns
    if rule in ("max", "min"):
        found += [problems.on_a_grid(problem) for problem in found]
    return [_probe(problem) for problem in found]


def tests_of(rule: str, change: Change) -> list[Test]:
    """The rule against torch's derivative, and the engine, which runs what the rules give, against the reference."""
    found: list[Test] = []
    if rule in TABLE:
        row = tampered_row(rule, change)
        found.append(("test_operations.py", lambda: test_operations.test_derivative_equals_that_of_torch(row)))
    return found + [("test_ops.py", lambda program=program: _engine_test(program)) for program in programs_of(rule)]


def _engine_test(program: Program) -> None:
    # under a name of its own: the engine keeps what it compiled
    mutant = replace(program, name=f"{program.name}, rule {next(_serial)}")
    for seed, shape in enumerate(((2, 4, 3, 5), (3, 3, 2, 9))):
        problem = problems.make(mutant, shape, torch.float64, seed, lengths=True, reset=True)
        problems.check_close(problems.run(ops.scan, problem), problems.run_reference(problem))
    if program in (problems.PROGRAMS["normalised"], problems.PROGRAMS["kinked"]):
        test_ops.columns_that_tie_share_a_gradient(mutant)


def changes_of(rule: str) -> Iterator[tuple[str, Change]]:
    """What can go wrong with a rule."""
    if rule in TABLE:
        yield from _changes_of_row(rule)
        return
    with tape_with(rule, RIGHT) as tape:
        for program in programs_of(rule):
            differentiate(core_of(program, problems.sizes(program, 3, 4)))
        seen = [*tape.seen]
    requests = [r for r in seen if isinstance(r, tuple)]
    if rule in STEPS:
        for name, arguments in {r[0]: r[1] for r in requests}.items():
            for how in ways(name, arguments):
                yield f"{name}: {how}", Change(name, how)
        return
    deliveries, outers = (r for r in seen if not isinstance(r, tuple))
    yield from _changes_of_requests(requests)
    for k in range(deliveries):
        for how in DELIVERIES:
            yield f"the cotangent of input {k + 1} {how}", Change(f"part {k}", how)
    if rule == "gate":
        yield "the cotangent of another gate", Change("part 0", "of another gate")
    for how in ("exchanged", "negated", "doubled") if outers else ():
        yield f"the outer product of a matrix's gradient {how}", Change("outer", how)


def _changes_of_row(name: str) -> Iterator[tuple[str, Change]]:
    requests: list = []
    graph = Graph()
    leaves = [graph.leaf("state", (HIDDEN,), k) for k in range(TABLE[name].arity)]
    extra = test_operations.attribute_of(TABLE[name])
    rule = tampered_row(name, RIGHT, requests).derivative
    assert rule is not None
    result, cotangent = graph.leaf("state", (HIDDEN,), 8), graph.leaf("grad_output", (HIDDEN,))
    parts = rule(graph, leaves, result, cotangent, extra[0] if extra else None)
    yield from _changes_of_requests(requests[:-1])
    for k, part in enumerate(parts):
        for how in DELIVERIES if part is not None else ("the cotangent where there is none",):
            yield f"the cotangent of input {k + 1}: {how}", Change(f"part {k}", how)
    if len(parts) > 1:
        yield "the cotangents of the inputs exchanged", Change("exchanged", "")
        yield "the inputs read in the other order", Change("reads", "in the other order")
    for how in ("the result for its first input", "the first input for its result"):
        yield f"reads {how}", Change("reads", how)


def _changes_of_requests(requests: list) -> Iterator[tuple[str, Change]]:
    for at, (name, arguments) in enumerate(requests):
        for how in ways(name, arguments):
            yield f"step {at + 1} of the rule: {how}", Change(at, how)


def subjects() -> list[str]:
    rows = [name for name, row in TABLE.items() if row.derivative is not None]
    return [*rows, "gate", "matmul", "matmul_transposed", "sum", "dot", "max", "min", "normalise", *STEPS]


def broken(rule: str, change: Change) -> AbstractContextManager:
    return table_with(tampered_row(rule, change)) if rule in TABLE else tape_with(rule, change)


def try_subject(rule: str, skip: int = 0, limit: int | None = None) -> Iterator[str | Outcome]:
    """Of each mutant of a rule first what it changes, then what became of it. One that no program can be differentiated
    with is no mutant."""
    probes = probes_of(rule)
    with broken(rule, RIGHT):
        check_baseline(tests_of(rule, RIGHT), rule)
    for what, change in itertools.islice(changes_of(rule), skip, limit):
        yield what
        tests = tests_of(rule, change)
        with broken(rule, change):
            try:
                other = any(probe.changes() for probe in probes)
            except CellError:
                yield Outcome(KIND, rule, what, "impossible")
                continue
            by = failures(tests, every=True) if other else ""
        yield Outcome(KIND, rule, what, "equivalent" if not other else "caught" if by else "survived", by)
