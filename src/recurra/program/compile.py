"""Compiles a program for concrete sizes into a plan for the engine. docs/plan-format.md says what a plan is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recurra.errors import ArgumentError
from recurra.program.core import Core, core_of
from recurra.program.emit import Emitter
from recurra.program.job import DIRECTIONS, jobs_of
from recurra.program.normalise import normalise
from recurra.program.program import Program
from recurra.program.schedule import SECTIONS, Scheduler

MAGIC, VERSION = 0x72656375, 2


@dataclass(frozen=True, slots=True)
class PlanCode:
    """A plan as the engine reads it, and the number of columns that its tape has."""

    code: np.ndarray
    constants: np.ndarray
    tape_columns: int


@lru_cache(maxsize=256)
def _core(program: Program, sizes: tuple[tuple[str, int], ...]) -> Core:
    return core_of(program, dict(sizes))


def _sparse(program: Program) -> list[bool]:
    """Whether each core parameter is a matrix of which most elements are zero."""
    nodes = [program.nodes[i] for i in program.core_parameters]
    return [n.operation == "parameter" and program.parameters[n.attribute].is_sparse for n in nodes]


def compile_plan(program: Program, sizes: Mapping[str, int], direction: str) -> PlanCode:
    """The plan of a program for concrete sizes.

    `sizes` gives every named width its number of columns ("input", "hidden", ...); `direction` is
    "infer" (forward, nothing kept),
    "train" (forward, keeps a tape) or "backward".
    """
    if direction not in DIRECTIONS:
        raise ArgumentError(f"unknown direction '{direction}'", expected=f"one of {', '.join(DIRECTIONS)}")
    core = _core(program, tuple(sorted(sizes.items())))
    job, layout = jobs_of(core, sizes, direction)
    scheduler = Scheduler(normalise(job))
    emitter = Emitter(scheduler.run(), scheduler, sizes)
    sections = [emitter.section(index) for index in SECTIONS]
    sections.append(emitter.gradients())
    initial = [emitter.constant(state.initial) for state in core.states]
    on_tape = direction != "infer"
    header = [
        MAGIC, VERSION, DIRECTIONS[direction],
        sizes["input"], core.nodes[core.output].width.size(sizes), layout.columns if on_tape else 0,
        emitter.register_count, len(emitter.constants),
    ]  # fmt: skip
    header.append(len(core.parameters))
    for shape, sparse in zip(core.parameters, _sparse(program), strict=True):
        header += [shape[0].size(sizes), shape[1].size(sizes) if len(shape) == 2 else 0, int(sparse)]
    header.append(len(core.states))
    for spec, (offset, columns), first in zip(core.states, layout.states, initial, strict=True):
        header += [columns, offset if on_tape else -1, first, int(spec.kept)]
    fields = list(layout.kept.values()) if on_tape else []
    header += [len(emitter.chunks), *emitter.chunks, len(emitter.temps), *emitter.temps, len(fields)]
    header += [number for field in fields for number in field]
    code = np.array(header + [number for section in sections for number in section], dtype=np.int64)
    return PlanCode(code, np.array(emitter.constants, dtype=np.float64), layout.columns if on_tape else 0)
