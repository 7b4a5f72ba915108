"""Runs the engine on CPU tensors: raw addresses go in, so everything about the tensors is checked here first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurra import engine
from recurra.errors import ArgumentError, ShapeError
from recurra.ops import reference
from recurra.program import Program
from recurra.program.compile import compile_plan

DTYPES = {torch.float32: 4, torch.float64: 8}
"""The dtypes that the engine computes in, with the bytes of an element."""

_LEAST_LEASE = 1 << 20


class Call(NamedTuple):
    """The arguments of a scan as the op takes them: the program as JSON, and the values of its core parameters."""

    program: str
    x: Tensor
    states: Sequence[Tensor]
    core: Sequence[Tensor]
    lengths: Tensor | None
    reset: Tensor | None
    elapsed: Tensor | None


class Columns(NamedTuple):
    """The columns of x and of each state, and the shape of each core parameter."""

    x: int
    states: tuple[int, ...]
    core: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def program_of(text: str) -> Program:
    """The program that a JSON text holds, read once."""
    return Program.from_json(text)


def columns_of(x: Tensor, states: Sequence[Tensor], core: Sequence[Tensor]) -> Columns:
    """What a plan is made for."""
    return Columns(x.shape[-1], tuple([s.shape[-1] for s in states]), tuple([p.shape for p in core]))


def plan_of(text: str, direction: str, columns: Columns) -> Any:
    """The engine's plan for these columns. Raises ShapeError when they do not fit the program."""

    def compile() -> engine.Code:
        program = program_of(text)
        return compile_plan(program, fitting_sizes(program, columns), direction)

    return engine.plan((text, direction, columns), compile)


def fitting_sizes(program: Program, columns: Columns) -> dict[str, int]:
    """The size of every named width. Raises ShapeError when the columns contradict the program or one another."""
    expected = [(spec.width,) for spec in program.states] + [program.nodes[i].shape for i in program.core_parameters]
    got = [(count,) for count in columns.states] + [tuple(shape) for shape in columns.core]
    if list(map(len, expected)) == list(map(len, got)) and len(columns.states) == len(program.states):
        sizes = reference.core_sizes(program, columns.x, columns.states, columns.core)
        if [tuple(width.size(sizes) for width in widths) for widths in expected] == got:
            return sizes
    symbolic = ", ".join("(" + ", ".join(map(str, widths)) + ")" for widths in expected)
    raise ShapeError(
        f"states and parameters of '{program.name}' have shapes {got} with {columns.x} input columns", expected=symbolic
    )


def check(call: Call) -> None:
    """Raises ShapeError or ArgumentError unless the engine can read these tensors as one call."""
    program, x = program_of(call.program), call.x
    if (call.elapsed is not None) != program.uses_elapsed:
        raise ArgumentError(f"the cell '{program.name}' {'reads' if program.uses_elapsed else 'does not read'} elapsed")
    if x.dim() != 3:
        raise ShapeError(f"x has shape {tuple(x.shape)}", expected="(batch, time, features)")
    for value in (x, *call.states, *call.core):
        if value.dtype is not x.dtype or value.device != x.device:
            raise ShapeError(f"a tensor is {value.dtype} on {value.device}", expected=f"{x.dtype} on {x.device}, as x")
    batch, time = x.shape[0], x.shape[1]
    for state in call.states:
        if state.dim() != 2 or state.shape[0] != batch:
            raise ShapeError(f"a state has shape {tuple(state.shape)}", expected=f"({batch}, columns)")
    _check_rows("elapsed", call.elapsed, (batch, time), x, x.dtype)
    _check_rows("reset", call.reset, (batch, time), x, torch.bool)
    if call.lengths is not None:
        if call.lengths.is_floating_point():
            raise ShapeError(f"lengths have dtype {call.lengths.dtype}", expected="integers")
        _check_rows("lengths", call.lengths, (batch,), x, call.lengths.dtype)


def _check_rows(name: str, value: Tensor | None, shape: tuple[int, ...], x: Tensor, dtype: torch.dtype) -> None:
    if value is None:
        return
    if value.shape != shape or value.dtype is not dtype or value.device != x.device:
        got = f"{tuple(value.shape)} of {value.dtype} on {value.device}"
        raise ShapeError(f"{name} has shape {got}", expected=f"{shape} of {dtype} on {x.device}")


def _with_unit_columns(value: Tensor) -> Tensor:
    # the engine takes any stride of batch and time, but reads a row's columns one after the other
    return value if value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _readable(call: Call) -> Call:
    """The same call with everything laid out as the engine reads it."""
    return Call(
        call.program,
        _with_unit_columns(call.x),
        [s.contiguous() for s in call.states],
        [p.contiguous() for p in call.core],
        None if call.lengths is None else call.lengths.to(torch.int64).contiguous(),
        None if call.reset is None else call.reset.contiguous(),
        call.elapsed,
    )


def _strided(value: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if value is None else (value.data_ptr(), value.stride(0), value.stride(1))


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _addresses(values: Sequence[Tensor | None]) -> list[int]:
    return [0 if v is None else v.data_ptr() for v in values]


def _new_tape(x: Tensor, count: int) -> Tensor:
    size = count * DTYPES[x.dtype]
    # a small one comes cheaper from torch; and torch is to fill it where it fills uninitialised memory
    if size < _LEAST_LEASE or torch.are_deterministic_algorithms_enabled():
        return x.new_empty((count,))
    return torch.from_numpy(engine.lease(size)).view(x.dtype)


def forward(call: Call, keep_tape: bool) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs, the final states, and the tape that the backward pass reads (empty unless kept)."""
    check(call)
    direction = "train" if keep_tape else "infer"
    plan = plan_of(call.program, direction, columns_of(call.x, call.states, call.core))
    _, x, states, core, lengths, reset, elapsed = _readable(call)
    batch, time = x.shape[0], x.shape[1]
    y = x.new_empty((batch, time, plan.output_columns))
    final = [torch.empty_like(s) for s in states]
    tape = _new_tape(x, batch * time * plan.tape_columns)
    plan.forward(
        DTYPES[x.dtype], batch, time, torch.get_num_threads(),
        *_strided(x), *_strided(y), *_strided(elapsed),
        _address(lengths), _address(reset), tape.data_ptr(),
        _addresses(core), _addresses(states), _addresses(final),
    )  # fmt: skip
    return y, final, tape


def backward(
    call: Call, tape: Tensor, grad_y: Tensor | None, grad_final: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor]:
    """The cotangents of x, elapsed, each state and each core parameter, in this order; empty where not wanted."""
    check(call)
    plan = plan_of(call.program, "backward", columns_of(call.x, call.states, call.core))
    _check_cotangents(plan, call, tape, grad_y, grad_final)
    _, x, states, core, lengths, reset, elapsed = _readable(call)
    batch, time = x.shape[0], x.shape[1]
    if grad_y is None:
        # one row of zeros, read again for every step
        grad_y = x.new_zeros(plan.output_columns)
        strides = (0, 0)
    else:
        grad_y = _with_unit_columns(grad_y)
        strides = grad_y.stride()[:2]
    grad_final = [None if g is None else g.contiguous() for g in grad_final]
    values = (x, elapsed, *states, *core)
    taken = [
        torch.empty(v.shape, dtype=x.dtype) if want and v is not None else None
        for v, want in zip(values, wanted, strict=True)
    ]
    first = 2 + len(states)
    plan.backward(
        DTYPES[x.dtype], batch, time, torch.get_num_threads(),
        *_strided(x), grad_y.data_ptr(), *strides, *_strided(elapsed),
        _address(lengths), _address(reset), tape.data_ptr(),
        _addresses(core), _addresses(states), _addresses(grad_final),
        *_strided(taken[0]), *_strided(taken[1]), _addresses(taken[2:first]), _addresses(taken[first:]),
    )  # fmt: skip
    return [x.new_empty((0,)) if gradient is None else gradient for gradient in taken]


def _check_cotangents(
    plan: Any, call: Call, tape: Tensor, grad_y: Tensor | None, grad_final: Sequence[Tensor | None]
) -> None:
    x, rows = call.x, call.x.shape[0] * call.x.shape[1]
    if tape.numel() != rows * plan.tape_columns or tape.dtype is not x.dtype or not tape.is_contiguous():
        raise ShapeError(
            f"the tape is {tape.dtype} of {tape.numel()} elements", expected=f"{x.dtype}, {rows * plan.tape_columns}"
        )
    _check_rows("the cotangent of y", grad_y, (x.shape[0], x.shape[1], plan.output_columns), x, x.dtype)
    for gradient, state in zip(grad_final, call.states, strict=True):
        _check_rows("the cotangent of a final state", gradient, tuple(state.shape), x, x.dtype)
