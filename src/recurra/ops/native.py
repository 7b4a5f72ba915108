"""Runs the engine on CPU tensors: raw addresses go in, so everything about the tensors is checked here first.

The arguments are those of the op `recurra::scan`: a program as JSON, and the values of its core parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from recurra import engine
from recurra.errors import ShapeError
from recurra.ops import reference
from recurra.program import Program
from recurra.program.compile import compile_plan

DTYPES = {torch.float32: 4, torch.float64: 8}
"""The dtypes that the engine computes in, with the bytes of an element."""


@lru_cache(maxsize=256)
def program_of(text: str) -> Program:
    """The program that a JSON text holds, read once."""
    return Program.from_json(text)


def plan_of(text: str, direction: str, x: Tensor, states: Sequence[Tensor], core: Sequence[Tensor]) -> Any:
    """The engine's plan for the shapes of these tensors. Raises ShapeError when they do not fit the program."""
    state_columns = tuple([s.shape[-1] for s in states])
    core_shapes = tuple([p.shape for p in core])
    key = (text, direction, x.shape[-1], state_columns, core_shapes)

    def compile() -> engine.Code:
        program = program_of(text)
        sizes = fitting_sizes(program, x.shape[-1], state_columns, core_shapes)
        return compile_plan(program, sizes, direction)

    return engine.plan(key, compile)


def fitting_sizes(
    program: Program, input_columns: int, state_columns: Sequence[int], core_shapes: Sequence[Sequence[int]]
) -> dict[str, int]:
    """The size of every named width. Raises ShapeError when the shapes contradict the program or one another."""
    if len(state_columns) != len(program.states) or len(core_shapes) != len(program.core_parameters):
        raise ShapeError(
            f"'{program.name}' got {len(state_columns)} states and {len(core_shapes)} core parameters",
            expected=f"{len(program.states)} and {len(program.core_parameters)}",
        )
    expected = [(spec.width,) for spec in program.states] + [program.nodes[i].shape for i in program.core_parameters]
    got = [(columns,) for columns in state_columns] + [tuple(shape) for shape in core_shapes]
    if all(len(widths) == len(shape) for widths, shape in zip(expected, got, strict=True)):
        sizes = reference.core_sizes(program, int(input_columns), state_columns, core_shapes)
        if [tuple(width.size(sizes) for width in widths) for widths in expected] == got:
            return {name: int(size) for name, size in sizes.items()}
    symbolic = ["(" + ", ".join(map(str, widths)) + ")" for widths in expected]
    raise ShapeError(
        f"the states and parameters of '{program.name}' have shapes {got} with {input_columns} input columns",
        expected=", ".join(symbolic),
    )


def check(
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
) -> None:
    """Raises ShapeError unless the engine can read these tensors as one call."""
    if x.dim() != 3:
        raise ShapeError(f"x has shape {tuple(x.shape)}", expected="(batch, time, features)")
    batch, time = x.shape[0], x.shape[1]
    values = [x, *states, *core] if elapsed is None else [x, *states, *core, elapsed]
    for value in values:
        if value.dtype is not x.dtype or not value.is_cpu:
            raise ShapeError(f"a tensor is {value.dtype} on {value.device}", expected=f"{x.dtype} on the CPU, as x")
    if any(s.dim() != 2 or s.shape[0] != batch for s in states):
        raise ShapeError(f"the states have shapes {[tuple(s.shape) for s in states]}", expected=f"({batch}, columns) each")
    if elapsed is not None and elapsed.shape != (batch, time):
        raise ShapeError(f"elapsed has shape {tuple(elapsed.shape)}", expected=f"({batch}, {time})")
    if reset is not None and (reset.shape != (batch, time) or reset.dtype is not torch.bool or not reset.is_cpu):
        raise ShapeError(f"reset is {reset.dtype} {tuple(reset.shape)}", expected=f"torch.bool ({batch}, {time}) on the CPU")
    if lengths is not None and (lengths.shape != (batch,) or lengths.is_floating_point() or not lengths.is_cpu):
        raise ShapeError(f"lengths are {lengths.dtype} {tuple(lengths.shape)}", expected=f"integers ({batch},) on the CPU")


def _with_unit_columns(value: Tensor) -> Tensor:
    # the engine takes any stride of batch and time, but reads a row's columns one after the other
    return value if value.stride(-1) == 1 or value.shape[-1] == 1 else value.contiguous()


def _strided(value: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if value is None else (value.data_ptr(), value.stride(0), value.stride(1))


def _address(value: Tensor | None) -> int:
    return 0 if value is None else value.data_ptr()


def _whole(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else value.to(dtype).contiguous()


def forward(
    text: str,
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    keep_tape: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs, the final states, and the tape that the backward pass reads (empty unless kept)."""
    check(x, states, core, lengths, reset, elapsed)
    plan = plan_of(text, "train" if keep_tape else "infer", x, states, core)
    batch, time = x.shape[0], x.shape[1]
    x = _with_unit_columns(x)
    states = [s.contiguous() for s in states]
    core = [p.contiguous() for p in core]
    lengths, reset = _whole(lengths, torch.int64), _whole(reset, torch.bool)
    y = x.new_empty((batch, time, plan.output_columns))
    final = [torch.empty_like(s) for s in states]
    tape = x.new_empty((batch * time * plan.tape_columns,))
    plan.forward(
        DTYPES[x.dtype], batch, time, torch.get_num_threads(), *_strided(x), *_strided(y), *_strided(elapsed),
        _address(lengths), _address(reset), tape.data_ptr(),
        [p.data_ptr() for p in core], [s.data_ptr() for s in states], [s.data_ptr() for s in final],
    )  # fmt: skip
    return y, final, tape


def backward(
    text: str,
    grad_y: Tensor | None,
    grad_final: Sequence[Tensor | None],
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    tape: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The cotangents of x, elapsed, each state and each core parameter, in this order; an empty tensor where `wanted` is false."""
    check(x, states, core, lengths, reset, elapsed)
    plan = plan_of(text, "backward", x, states, core)
    batch, time = x.shape[0], x.shape[1]
    _check_cotangents(plan, x, states, grad_y, grad_final, tape)
    x = _with_unit_columns(x)
    states = [s.contiguous() for s in states]
    core = [p.contiguous() for p in core]
    lengths, reset = _whole(lengths, torch.int64), _whole(reset, torch.bool)
    # no cotangent of y: one row of zeros, read again for every step
    grad_y = x.new_zeros(plan.output_columns).expand(1, 1, -1) if grad_y is None else _with_unit_columns(grad_y)
    y_strides = (0, 0) if grad_y.shape[:2] == (1, 1) else grad_y.stride()[:2]
    grad_final = [None if g is None else g.contiguous() for g in grad_final]
    gradients = [
        torch.empty(value.shape if want and value is not None else (0,), dtype=x.dtype)
        for value, want in zip((x, elapsed, *states, *core), wanted, strict=True)
    ]
    taken = [g if want else None for g, want in zip(gradients, wanted, strict=True)]
    first = 2 + len(states)
    plan.backward(
        DTYPES[x.dtype], batch, time, torch.get_num_threads(), *_strided(x), grad_y.data_ptr(), *y_strides, *_strided(elapsed),
        _address(lengths), _address(reset), tape.data_ptr(),
        [p.data_ptr() for p in core], [s.data_ptr() for s in states], [_address(g) for g in grad_final],
        *_strided(taken[0]), *_strided(taken[1]), [_address(g) for g in taken[2:first]], [_address(g) for g in taken[first:]],
    )  # fmt: skip
    return gradients


def _check_cotangents(
    plan: Any, x: Tensor, states: Sequence[Tensor], grad_y: Tensor | None, grad_final: Sequence[Tensor | None], tape: Tensor
) -> None:
    rows = x.shape[0] * x.shape[1]
    if tape.numel() != rows * plan.tape_columns or tape.dtype is not x.dtype:
        raise ShapeError(f"the tape is {tape.dtype} of {tape.numel()} elements", expected=f"{x.dtype}, {rows * plan.tape_columns}")
    shape = (x.shape[0], x.shape[1], plan.output_columns)
    if grad_y is not None and (grad_y.shape != shape or grad_y.dtype is not x.dtype):
        raise ShapeError(f"the cotangent of y is {grad_y.dtype} {tuple(grad_y.shape)}", expected=f"{x.dtype} {shape}")
    for gradient, state in zip(grad_final, states, strict=True):
        if gradient is not None and (gradient.shape != state.shape or gradient.dtype is not x.dtype):
            raise ShapeError(
                f"the cotangent of a final state is {gradient.dtype} {tuple(gradient.shape)}",
                expected=f"{x.dtype} {tuple(state.shape)}",
            )
