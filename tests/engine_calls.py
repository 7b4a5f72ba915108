"""Calls the engine with numpy arrays, and builds plans by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from plan_emulator import Call
from recurra import _engine

Operand = tuple[int, int, int]
PhaseCode = list[int]


@dataclass
class PlanText:
    """A plan in parts, for tests to assemble and to break."""

    direction: int
    input_columns: int
    output_columns: int
    tape_columns: int = 0
    register_count: int = 0
    constants: list[float] = field(default_factory=list)
    parameters: list[tuple[int, int]] = field(default_factory=list)
    sparse: frozenset[int] = frozenset()
    states: list[tuple[int, int, int, int]] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    temps: list[int] = field(default_factory=list)
    fields: list[tuple[int, int]] = field(default_factory=list)
    sections: list[list[PhaseCode]] = field(default_factory=lambda: [[], [], [], []])

    def code(self) -> np.ndarray:
        numbers = [0x72656375, 2, self.direction, self.input_columns, self.output_columns, self.tape_columns]
        numbers += [self.register_count, len(self.constants)]
        parameters = [(*shape, int(i in self.sparse)) for i, shape in enumerate(self.parameters)]
        for rows in (parameters, self.states):
            numbers += [len(rows), *(v for row in rows for v in row)]
        numbers += [len(self.chunks), *self.chunks, len(self.temps), *self.temps]
        numbers += [len(self.fields), *(v for pair in self.fields for v in pair)]
        for section in self.sections:
            numbers += [len(section), *(v for phase in section for v in phase)]
        return np.array(numbers, np.int64)

    def constant_array(self) -> np.ndarray:
        return np.array(self.constants, np.float64)

    def plan(self) -> _engine.Plan:
        return _engine.Plan(self.code(), self.constant_array())


def pointwise(width: int, operands: Sequence[Operand], code: Sequence[Sequence[int]]) -> PhaseCode:
    """`code`: (opcode, destination, sources...)."""
    flat = [v for opcode, to, *sources in code for v in (opcode, to, *sources, *[-1] * (3 - len(sources)))]
    return [0, width, len(operands), *(v for o in operands for v in o), len(code), *flat]


def product(parameter: int, transposed: int, segments: Sequence[tuple], blocks: Sequence[tuple]) -> PhaseCode:
    """`segments`: (operand, length[, begin]), one after the other where no begin is given; `blocks`: (begin, count,
    destination[, init[, first segment, segments]]), of all segments where none are given."""
    code, at = [1, parameter, transposed, len(segments)], 0
    for operand, length, *begin in segments:
        code += [*operand, length, begin[0] if begin else at]
        at += length
    code.append(len(blocks))
    for begin, count, destination, *rest in blocks:
        init = rest[0] if rest else None
        code += [
            begin,
            count,
            *destination,
            int(init is not None),
            *(init or (0, 0, 0)),
            *(rest[1:] or (0, len(segments))),
        ]
    return code


def reduce(operation: int, source: Operand, length: int, destination: Operand, extra: Sequence[int] = ()) -> PhaseCode:
    """`extra`: the second operand of a sum of products, or the constant of an inverse deviation."""
    return [2, operation, *source, length, *extra, *destination]


def normalise(
    centred: int, source: Operand, length: int, scale: Operand, destination: Operand, normal: Operand | None = None
) -> PhaseCode:
    code = [5, centred, length, *source, *scale, *destination]
    return [*code, int(normal is not None), *(normal or (0, 0, 0))]


def outer(parameter: int, a: Sequence[tuple], b: Sequence[tuple]) -> PhaseCode:
    """`a` and `b`: (operand, length, begin)."""
    sides = [[len(side), *(v for operand, length, begin in side for v in (*operand, length, begin))] for side in (a, b)]
    return [3, parameter, *sides[0], *sides[1]]


def rowsum(parameter: int, begin: int, operand: Operand, length: int) -> PhaseCode:
    return [4, parameter, begin, *operand, length]


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


def _strided(array: np.ndarray | None) -> tuple[int, int, int]:
    """Address and strides in elements; the last axis, where there is one, is contiguous."""
    if array is None:
        return 0, 0, 0
    return array.ctypes.data, array.strides[0] // array.itemsize, array.strides[1] // array.itemsize


def _common(call: Call, dtype: type, threads: int) -> tuple:
    batch, time = call.x.shape[:2]
    return np.dtype(dtype).itemsize, batch, time, threads


def _flags(call: Call) -> tuple[np.ndarray | None, np.ndarray | None]:
    lengths = None if call.lengths is None else np.ascontiguousarray(call.lengths, np.int64)
    reset = None if call.reset is None else np.ascontiguousarray(call.reset, np.uint8)
    return lengths, reset


def _cast(arrays: Sequence[np.ndarray], dtype: type) -> list[np.ndarray]:
    return [np.ascontiguousarray(a, dtype) for a in arrays]


def forward(plan: _engine.Plan, call: Call, dtype: type = np.float64, threads: int = 1) -> dict:
    batch, time = call.x.shape[:2]
    x = np.asarray(call.x, dtype)
    elapsed = None if call.elapsed is None else np.asarray(call.elapsed, dtype)
    y = np.full((batch, time, plan.output_columns), np.nan, dtype)
    tape = np.full(batch * time * plan.tape_columns, np.nan, dtype) if plan.tape_columns else None
    parameters, initial = _cast(call.parameters, dtype), _cast(call.initial, dtype)
    final = [np.full_like(state, np.nan) for state in initial]
    lengths, reset = _flags(call)
    plan.forward(
        *_common(call, dtype, threads), *_strided(x), *_strided(y), *_strided(elapsed), _address(lengths),
        _address(reset), _address(tape), [_address(p) for p in parameters], [_address(s) for s in initial],
        [_address(s) for s in final],
    )  # fmt: skip
    return {"y": y, "final": final, "tape": tape}


def backward(
    plan: _engine.Plan, call: Call, dtype: type = np.float64, threads: int = 1, *, unwanted: Sequence[str] = ()
) -> dict:
    """`unwanted`: names of results that are not asked for."""
    assert call.grad_y is not None
    x, grad_y = np.asarray(call.x, dtype), np.asarray(call.grad_y, dtype)
    elapsed = None if call.elapsed is None else np.asarray(call.elapsed, dtype)
    tape = None if call.tape is None else np.ascontiguousarray(call.tape, dtype)
    parameters, initial, grad_final = (_cast(a, dtype) for a in (call.parameters, call.initial, call.grad_final))
    result = {
        "grad_x": np.full(x.shape, np.nan, dtype), "grad_elapsed": np.full(x.shape[:2], np.nan, dtype),
        "grad_initial": [np.full_like(s, np.nan) for s in initial],
        "grad_parameters": [np.full_like(p, np.nan) for p in parameters],
    }  # fmt: skip
    for name in unwanted:
        result[name] = [None] * len(result[name]) if isinstance(result[name], list) else None
    lengths, reset = _flags(call)
    plan.backward(
        *_common(call, dtype, threads), *_strided(x), *_strided(grad_y), *_strided(elapsed), _address(lengths),
        _address(reset), _address(tape), [_address(p) for p in parameters], [_address(s) for s in initial],
        [_address(g) for g in grad_final], *_strided(result["grad_x"]), *_strided(result["grad_elapsed"]),
        [_address(g) for g in result["grad_initial"]], [_address(g) for g in result["grad_parameters"]],
    )  # fmt: skip
    return result
