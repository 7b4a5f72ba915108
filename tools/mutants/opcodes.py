"""Mutants of the engine: its opcodes, the functions that they call, and its phases. Needs `build.load` before it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

import layers
import problems
import test_engine
import test_mix
import test_operations
import test_ops
from engine_calls import forward
from mutants import build
from mutants.common import Outcome, Test, check_baseline, differ, failures
from plan_emulator import ARITY, Call
from recurra import ops
from recurra.nn import Recurrent
from recurra.program import Program
from recurra.program.operations import TABLE

engine: Any = import_module("recurra._engine")

KIND = "opcodes"
ROWS = 1000
WIDTH = 37
DTYPES = {np.float64: 1e-13, np.float32: 3e-6}
SHAPES = ((50, 20, 9, 33), (2, 3, 5, 40), (25, 40, 3, 5), (2, 50, 5, 40))
"""Of the programs that a phase is judged with: a thousand steps, few, for which nothing is packed, and few rows, for
which zeros are left out."""
PRECISIONS = {torch.float64: 1e-10, torch.float32: 1e-4}


def subjects() -> list[str]:
    return list(dict.fromkeys(place for _, place, _ in _listed()))


def _listed() -> list[tuple[int, str, str]]:
    return [(number, place, change) for number, place, change in json.loads(build.LISTED.read_text(encoding="utf-8"))]


@cache
def _phase_programs() -> dict[str, Program]:
    """Programs that between them have every phase."""
    chosen = "lstm projected headed normalised delayed counting reservoir antisymmetric kinked"
    named = {name: problems.PROGRAMS[name] for name in chosen.split()}
    for name in ("gru, layer norm", "lstm, rms norm", "gru, zoneout"):
        layer = layers.TRANSFORMED[name]()
        assert isinstance(layer, Recurrent)
        named[name] = layer.train().running_program
    return named


class Judge:
    """Tells whether the engine computes something else than plain torch does."""

    def __init__(self) -> None:
        rows = {row.opcode: row for row in reversed(TABLE.values())}
        self.opcodes = [_OpcodeProbe(rows[code].name, code, dtype) for code in sorted(rows) for dtype in DTYPES]
        made = itertools.product(_phase_programs().values(), enumerate(SHAPES), PRECISIONS)
        self.problems = [problems.make(p, shape, d, seed=k, lengths=True, reset=True) for p, (k, shape), d in made]
        self.expected: dict[int, list[Tensor]] = {}
        assert not self.changes()

    def changes(self) -> bool:
        return any(probe.changes() for probe in self.opcodes) or any(
            self._phase_changes(k) for k in range(len(self.problems))
        )

    def _phase_changes(self, k: int) -> bool:
        if k not in self.expected:
            self.expected[k] = list(problems.run_reference(self.problems[k]).values())
        got = list(problems.run(ops.scan, self.problems[k]).values())
        return differ(got, self.expected[k], PRECISIONS[self.problems[k].x.dtype])


class _OpcodeProbe:
    """One opcode on a thousand random arguments, among them kinks, ties, infinities and NaN."""

    def __init__(self, name: str, opcode: int, dtype: type) -> None:
        row = TABLE[name]
        self.dtype, self.rtol = dtype, DTYPES[dtype]
        values = test_operations.arguments(row, ROWS)
        if name != "mix":
            # a part of them of any size
            largest = np.log10(np.finfo(dtype).max) - 2
            powers = np.random.default_rng(opcode).uniform(-1, 1, 300) * np.repeat([5, largest], 150)
            values = [np.concatenate([v[:600], v[600:900] * 10**powers, v[900:]]) for v in values]
        values = [v.astype(dtype) for v in values]
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 100.0, -100.0], dtype)
        for k, value in enumerate(values):
            value[-49:] = np.repeat(special, 7) if k == 0 else np.tile(special, 7)
        extra = test_operations.attribute_of(row)
        with torch.no_grad():
            expected = row.torch(torch)(*(torch.from_numpy(v) for v in values), *extra)
        self.plan = test_engine.opcode_plan(opcode, WIDTH).plan()
        count = -(-ROWS // WIDTH) * WIDTH
        thirds = [np.resize(v, count).reshape(-1, 1, WIDTH) for v in [*values, *[values[0]] * (3 - ARITY[opcode])]]
        self.call = Call(np.concatenate(thirds, axis=-1), [], [])
        self.expected = np.resize(expected.numpy(), count).reshape(-1, 1, WIDTH)
        # where torch and numpy differ, the engine keeps to numpy
        finite = np.isfinite(self.call.x[..., :WIDTH]) & np.isfinite(self.call.x[..., WIDTH : 2 * WIDTH])
        self.compared = finite if name in ("mod", "sign") else np.ones_like(finite)
        # the sum of a product and another number may be far smaller than they are
        self.atol = self.rtol if name in ("fma", "fnma") else 1e-37

    def changes(self) -> bool:
        got = forward(self.plan, self.call, self.dtype)["y"]
        close = np.isclose(got, self.expected, rtol=self.rtol, atol=self.atol, equal_nan=True)
        return not close[self.compared].all()


def _reset(test: Callable[[], None]) -> Callable[[], None]:
    """As the tests' fixture does: memory full of NaN, and the split put back."""

    def run() -> None:
        engine.set_poison(True)
        try:
            with np.errstate(all="ignore"):
                test()
        finally:
            engine.set_split("automatic")

    return run


@cache
def tests() -> list[Test]:
    """The tests of the engine, the quick ones first."""
    found: list[Test] = []
    for dtype in (np.float64, np.float32):
        found += [("test_opcodes", lambda o=o, d=dtype: test_engine.test_opcodes(o, d)) for o in range(38)]
        found += [("test_mix.py", lambda d=dtype: test_mix.engine_has_the_same_bits(d))]
        found += [("test_reductions", lambda o=o, d=dtype: test_engine.test_reductions(o, d)) for o in range(3)]
    found += [("test_random_plans", lambda s=s: test_engine.test_random_plans(s)) for s in range(90)]
    dtypes = (torch.float64, torch.float32)
    found += [
        ("test_equals_the_reference", lambda n=n, d=d: test_ops.test_equals_the_reference(n, d))
        for n in sorted(problems.ODD)
        for d in dtypes
    ]
    shapes = ((20, 33, 17, 4), (7, 130, 5, 40), (3, 300, 2, 3))
    found += [
        ("test_compiled_cells", lambda n=n, s=s: test_engine.test_compiled_cells(n, s))
        for n in ("lstm", "gru", "slstm", "phased_lstm", "lru", "lif", "rglru", "fastgrnn", "nas")
        for s in shapes
    ]
    return [(name, _reset(test)) for name, test in found]


def try_subject(place: str, skip: int = 0, limit: int | None = None) -> Iterator[str | Outcome]:
    """Of each mutant of a place first what it changes, for it may end the process, then what became of it."""
    judge = _judge()
    for number, _, change in [m for m in _listed() if m[1] == place][skip:limit]:
        yield change
        try:
            build.wake(number)
            other = judge.changes()
            by = failures(tests()) if other else ""
        finally:
            build.wake(0)
        yield Outcome(KIND, place, change, "equivalent" if not other else "caught" if by else "survived", by)


@cache
def _judge() -> Judge:
    check_baseline(tests(), "the engine")
    return Judge()
