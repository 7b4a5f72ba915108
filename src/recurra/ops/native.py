"""Runs the engine on CPU tensors: raw addresses go in, so everything about the tensors is checked here first."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recurra import engine
from recurra.errors import ArgumentError, ShapeError
from recurra.ops import reference
from recurra.ops.guards import Known
from recurra.program import Program
from recurra.program.compile import compile_plan

DTYPES = {torch.float32: 4, torch.float64: 8}
"""The dtypes that the engine computes in, with the bytes of an element."""

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_LEAST_LEASE = 1 << 20
# Bfloat16Use of csrc/arguments.hpp
_NONE, _WEIGHTS, _BOTH, _PRODUCTS = range(4)

# plans, for tensors that were checked, and that the engine can read as they are
_prepared: Known[Any] = Known()


class Call(NamedTuple):
    """The arguments of a scan as the op takes them: the program as JSON, and the values of its core parameters.

    `scales` are those of the rows of the core parameters that are int8, and None for the others: of these, matrices may
    then be bfloat16. With `bfloat16`, parameters are float32, and what is multiplied in products with matrices and in
    those that make their gradients is rounded to bfloat16.
    """

    program: str
    x: Tensor
    states: Sequence[Tensor]
    core: Sequence[Tensor]
    lengths: Tensor | None
    reset: Tensor | None
    elapsed: Tensor | None
    scales: Sequence[Tensor | None] | None = None
    bfloat16: bool = False


class Columns(NamedTuple):
    """The columns of x and of each state, and the shape of each core parameter."""

    x: int
    states: tuple[int, ...]
    core: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=256)
def program_of(text: str) -> Program:
    """The program that a JSON text holds, read once."""
    return Program.from_json(text)


def missing(device: str) -> str:
    """Why the engine cannot run tensors of this device; empty when it can, in the dtypes that it has."""
    return engine.missing() or ("" if device == "cpu" else f"the engine runs on the CPU, not on '{device}'")


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
    x = call.x
    if x.dim() != 3:
        raise ShapeError(f"x has shape {tuple(x.shape)}", expected="(batch, time, features)")
    if call.bfloat16 and x.dtype is not torch.float32:
        raise ShapeError(f"x is {x.dtype} in a scan with products in bfloat16", expected="torch.float32")
    floats = call.core
    if call.scales is not None:
        small = zip(call.core, call.scales, strict=True)
        floats = [p for p, scale in small if scale is None and p.dtype is not torch.bfloat16]
        _check_int8(call.core, call.scales)
        if x.dtype is not torch.float32:
            raise ShapeError(
                f"x is {x.dtype}",
                expected="torch.float32, which small weights come with",
                advice="Convert it: x.float()",
            )
    for value in (x, *call.states, *floats):
        if value.dtype is not x.dtype or value.device != x.device:
            raise ShapeError(f"a tensor is {value.dtype} on {value.device}", expected=f"{x.dtype} on {x.device}, as x")
    batch = x.shape[0]
    for state in call.states:
        if state.dim() != 2 or state.shape[0] != batch:
            raise ShapeError(f"a state has shape {tuple(state.shape)}", expected=f"({batch}, columns)")
    _check_steps(call)


def _check_steps(call: Call) -> None:
    program, x = program_of(call.program), call.x
    if (call.elapsed is not None) != program.uses_elapsed:
        raise ArgumentError(f"the cell '{program.name}' {'reads' if program.uses_elapsed else 'does not read'} elapsed")
    batch, time = x.shape[0], x.shape[1]
    _check_rows("elapsed", call.elapsed, (batch, time), x, x.dtype)
    _check_rows("reset", call.reset, (batch, time), x, torch.bool)
    if call.lengths is not None:
        if call.lengths.is_floating_point():
            raise ShapeError(f"lengths have dtype {call.lengths.dtype}", expected="integers")
        _check_rows("lengths", call.lengths, (batch,), x, call.lengths.dtype)


def _check_int8(core: Sequence[Tensor], scales: Sequence[Tensor | None]) -> None:
    for matrix, scale in zip(core, scales, strict=True):
        if scale is None:
            continue
        fits = matrix.dtype is torch.int8 and matrix.dim() == 2 and scale.dtype is torch.float32
        if not fits or scale.shape != matrix.shape[:1] or not scale.is_contiguous():
            got = f"{matrix.dtype} {tuple(matrix.shape)} with scales {scale.dtype} {tuple(scale.shape)}"
            raise ShapeError(f"an int8 matrix is {got}", expected="torch.int8 (rows, columns), torch.float32 (rows,)")


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
        call.scales,
        call.bfloat16,
    )


def _strided(value: Tensor | None) -> tuple[int, ...]:
    # all strides at once come in half the time of each by itself
    return (0, 0, 0) if value is None else (value.data_ptr(), *value.stride()[:2])


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def bfloat16_flags(core: Sequence[Tensor], vectors: bool) -> bytes:
    """Of each core parameter, whether it is bfloat16, and then whether its vectors are, as the engine takes it."""
    use = _BOTH if vectors else _WEIGHTS
    return bytes(use if p.dtype is torch.bfloat16 else _NONE for p in core)


def _rounded_flags(call: Call) -> bytes | None:
    """The same of a call with `bfloat16`."""
    return bytes([_PRODUCTS if p.dim() == 2 else _NONE for p in call.core]) if call.bfloat16 else None


def _addresses(values: Sequence[Tensor | None]) -> list[int]:
    return [0 if v is None else v.data_ptr() for v in values]


def room(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor like x, not initialised; a large one is leased from the engine, whose pages were used before: fresh ones
    cost time. Its storage cannot be resized."""
    size = prod(shape) * DTYPES[x.dtype]
    # a small one comes cheaper from torch; and torch is to fill it where it fills uninitialised memory
    if size < _LEAST_LEASE or torch.are_deterministic_algorithms_enabled():
        return x.new_empty(shape)
    # shaped before torch sees it: a view of a tensor could not be changed in place
    return torch.from_numpy(engine.lease(size).view(_NUMPY[x.dtype]).reshape(shape))


def room_like(value: Tensor) -> Tensor:
    """`room` of the shape and dtype of a tensor."""
    # torch.empty_like takes half the time of new_empty, but keeps strides
    small = value.nbytes < _LEAST_LEASE and value.is_contiguous()
    return torch.empty_like(value) if small else room(value, value.shape)


def forward(plan: Any, call: Call) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs, the final states, and the tape that a train plan keeps, of a call that `prepare` returned."""
    y, final = new_results(plan, call)
    tape = room(call.x, (y.shape[0] * y.shape[1] * plan.tape_columns,))
    run_forward(plan, call, y, final, tape)
    return y, final, tape


def backward(
    plan: Any,
    call: Call,
    tape: Tensor,
    grad_y: Tensor | None,
    grad_final: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The cotangents of x, elapsed, each state and each core parameter, in this order; None where not wanted."""
    tape_size = call.x.shape[0] * call.x.shape[1] * plan.tape_columns
    grad_y = check_cotangents(plan, call, (tape, tape_size), grad_y, grad_final)
    gradients = Gradients.new(call, wanted)
    run_backward(plan, call, tape, grad_y, grad_final, gradients)
    return gradients.flat()


def prepare(call: Call, direction: str) -> tuple[Any, Call]:
    """The plan of a call, and the call laid out as the engine reads it. Raises as `check` does."""
    values = (call.x, *call.states, *call.core)
    key = call.program, direction, len(call.states), len(values), call.x.shape[0] if call.x.dim() else 0
    plan = _prepared.find(key, values) if call.scales is None else None
    if plan is not None:
        if call.lengths is None and call.reset is None and call.elapsed is None and not plan.uses_elapsed:
            return plan, call
        _check_steps(call)
        return plan, _readable(call)
    check(call)
    plan = plan_of(call.program, direction, columns_of(call.x, call.states, call.core))
    readable = _readable(call)
    if call.scales is None and all(map(operator.is_, values, (readable.x, *readable.states, *readable.core))):
        _prepared.remember(key, values, plan)
    return plan, readable


def new_results(plan: Any, call: Call) -> tuple[Tensor, list[Tensor]]:
    """Room for the outputs and the final states."""
    y = room(call.x, (call.x.shape[0], call.x.shape[1], plan.output_columns))
    return y, [torch.empty_like(s) for s in call.states]


class Gradients(NamedTuple):
    """Where cotangents are written; None for what is not wanted."""

    x: Tensor | None
    elapsed: Tensor | None
    states: Sequence[Tensor | None]
    core: Sequence[Tensor | None]

    @classmethod
    def new(cls, call: Call, wanted: Sequence[bool]) -> Gradients:
        """Room for the wanted ones, in the order x, elapsed, states, core parameters."""
        x, elapsed, *rest = [
            room_like(v) if want and v is not None else None
            for v, want in zip((call.x, call.elapsed, *call.states, *call.core), wanted, strict=True)
        ]
        return cls(x, elapsed, rest[: len(call.states)], rest[len(call.states) :])

    def flat(self) -> list[Tensor | None]:
        """All of them in that order."""
        return [self.x, self.elapsed, *self.states, *self.core]


def run_forward(
    plan: Any, call: Call, y: Tensor, final: Sequence[Tensor], tape: Tensor, *, bfloat16_vectors: bool = False
) -> None:
    """Runs an infer or a train plan over a call that `prepare` returned, or over a part of its steps.

    With `bfloat16_vectors`, what bfloat16 matrices multiply is rounded to bfloat16, too.
    """
    plan.forward(
        DTYPES[call.x.dtype], call.x.shape[0], call.x.shape[1], torch.get_num_threads(),
        *_strided(call.x), *_strided(y), *_strided(call.elapsed),
        _address(call.lengths), _address(call.reset), tape.data_ptr(),
        _addresses(call.core), _addresses(call.states), _addresses(final),
        None if call.scales is None else _addresses(call.scales),
        _rounded_flags(call) if call.scales is None else bfloat16_flags(call.core, bfloat16_vectors),
    )  # fmt: skip


def run_backward(
    plan: Any,
    call: Call,
    tape: Tensor,
    grad_y: Tensor,
    grad_final: Sequence[Tensor | None],
    gradients: Gradients,
    accumulate: bool = False,
) -> None:
    """Runs a backward plan; `accumulate` adds to the gradients of core parameters instead of setting them."""
    grad_final = [None if g is None else g.contiguous() for g in grad_final]
    plan.backward(
        DTYPES[call.x.dtype], call.x.shape[0], call.x.shape[1], torch.get_num_threads(),
        *_strided(call.x), *_strided(grad_y), *_strided(call.elapsed),
        _address(call.lengths), _address(call.reset), tape.data_ptr(),
        _addresses(call.core), _addresses(call.states), _addresses(grad_final),
        *_strided(gradients.x), *_strided(gradients.elapsed), _addresses(gradients.states), _addresses(gradients.core),
        accumulate, _rounded_flags(call),
    )  # fmt: skip


def check_cotangents(
    plan: Any,
    call: Call,
    tape_and_size: tuple[Tensor, int],
    grad_y: Tensor | None,
    grad_final: Sequence[Tensor | None],
) -> Tensor:
    """The cotangent of y as the engine reads it. Raises ShapeError unless the tape and the cotangents fit the call."""
    x, (tape, size) = call.x, tape_and_size
    if tape.numel() != size or tape.dtype is not x.dtype or not tape.is_contiguous():
        raise ShapeError(f"the tape is {tape.dtype} of {tape.numel()} elements", expected=f"{x.dtype}, {size}")
    shape = (x.shape[0], x.shape[1], plan.output_columns)
    _check_rows("the cotangent of y", grad_y, shape, x, x.dtype)
    for gradient, state in zip(grad_final, call.states, strict=True):
        if gradient is not None:
            _check_rows("the cotangent of a final state", gradient, tuple(state.shape), x, x.dtype)
    if grad_y is None:
        # one row of zeros, read again for every step
        return x.new_zeros(plan.output_columns).expand(shape)
    return _with_unit_columns(grad_y)
