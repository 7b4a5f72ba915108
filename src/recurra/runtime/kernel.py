"""A program with frozen parameters: on the engine where there is one, else in numpy, with a warning."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurra import engine
from recurra.bfloat16 import ROUNDING, is_bfloat16
from recurra.errors import ArgumentError, RecurraBackendWarning, ShapeError
from recurra.int8 import Int8Matrix
from recurra.program import Program
from recurra.program.compile import compile_plan
from recurra.runtime.interpreter import Interpreter, Matrix, dtype_of, small_core
from recurra.runtime.rows import Rows

_EVERY_ROW = Rows()


class Threads:
    """How many threads the engine may use."""

    count = 1


def _processors() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Threads.count = _processors()


def set_threads(count: int) -> None:
    """So many threads may work on a call. At first as many as there are processors, or as OMP_NUM_THREADS says.

    Results do not depend on it. Raises ArgumentError for a count below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"the number of threads is {count!r}", expected="a whole number from 1")
    Threads.count = count


class Kernel:
    """A program with its parameters, which never change. Thread-safe.

    Args:
        sizes: of every named width.
        parameters: in the program's order, float32 or float64, all alike, of the shapes that the sizes give. Matrices
            that stand in products only may be int8 or bfloat16, the others being float32.
    """

    def __init__(self, program: Program, sizes: Mapping[str, int], parameters: Sequence[Matrix]) -> None:
        self.program = program
        self.columns = tuple(spec.columns(sizes) for spec in program.states)
        self.output_columns = program.output_width.size(sizes)
        self.input_columns = sizes["input"]
        self.dtype = dtype_of(parameters)
        core = small_core(program, parameters, sizes)
        reason = engine.missing()
        self.frozen: Any = None
        if reason:
            _say(reason)
            self._interpreter = Interpreter(program, core, sizes)
        else:
            known = {name: size for name, size in sizes.items() if name in {"input", "hidden"} | program.width_names}
            plan = engine.plan(
                (program.json, "infer", tuple(sorted(known.items()))), lambda: compile_plan(program, known, "infer")
            )
            values = [_bits(p.values if isinstance(p, Int8Matrix) else p) for p in core]
            scales = [p.scales if isinstance(p, Int8Matrix) else None for p in core]
            vectors = any(not isinstance(p, Int8Matrix) and p.dtype == ROUNDING for p in core)
            whole = not any(scale is not None for scale in scales)
            self.frozen = engine.frozen(
                plan, self.dtype.itemsize, values, None if whole else scales, bfloat16_vectors=vectors
            )

    def forward(
        self, x: np.ndarray, states: Sequence[np.ndarray], rows: Rows = _EVERY_ROW
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """x (batch, time, input), each state (batch, columns). Returns y (batch, time, output), zero in padding, and
        the states at each row's true end."""
        if self.frozen is None:
            return self._interpreter.forward(x, states, rows)
        y = np.empty((x.shape[0], x.shape[1], self.output_columns), self.dtype)
        after = [np.empty_like(state) for state in states]
        if x.strides[2] != x.itemsize:
            x = np.ascontiguousarray(x)
        states = [np.ascontiguousarray(state) for state in states]
        lengths, reset, elapsed = rows
        self.frozen.forward(x, y, states, after, lengths, reset, elapsed, Threads.count)
        return y, after

    def step(
        self, x_t: np.ndarray, states: Sequence[np.ndarray], elapsed: np.ndarray | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """One step: x_t (batch, input), elapsed (batch,). Raises ShapeError where the engine finds that an array does
        not fit."""
        if self.frozen is None:
            time = None if elapsed is None else elapsed[:, None]
            y, after = self._interpreter.forward(x_t[:, None], states, Rows(elapsed=time))
            return y[:, 0], after
        y = np.empty((x_t.shape[0], self.output_columns), self.dtype)
        states = [np.ascontiguousarray(state) for state in states]
        after = [np.empty_like(state) for state in states]
        if x_t.strides[1] != x_t.itemsize:
            x_t = np.ascontiguousarray(x_t)
        try:
            self.frozen.step(x_t, y, states, after, elapsed, Threads.count)
        except (ValueError, TypeError) as error:
            raise ShapeError(f"the engine cannot take these arrays: {error}") from None
        return y, after


def _bits(matrix: np.ndarray) -> np.ndarray:
    return matrix.view(np.uint16) if is_bfloat16(matrix) else matrix


def _say(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        message = f"recurra.runtime runs in numpy, which is many times slower, because {reason}"
        warnings.warn(message, RecurraBackendWarning, stacklevel=3)


_said: set[str] = set()
