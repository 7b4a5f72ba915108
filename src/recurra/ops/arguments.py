"""What a scan or a step is handed, checked at the border: what does not fit is named before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.program import Program
from recurra.program.widths import Shape, Width

# Shapes that fitted, so that the same ones need no second look: a look takes as long as a short scan.
_MOST_FITTING = 4096
_fitting: set[tuple[object, ...]] = set()

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tensors(*values: object) -> None:
    """Raises ShapeError for what is neither a dense tensor nor None."""
    for value in values:
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise ShapeError(
                f"got a {type(value).__name__}", expected="tensors", advice="Convert it with torch.as_tensor(...)"
            )
        if value.layout is not torch.strided:
            raise ShapeError(
                f"got a tensor of layout {value.layout}",
                expected="dense tensors",
                advice="Convert it with .to_dense()",
            )


def check_scan(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
) -> None:
    """Raises ShapeError or ArgumentError unless the arguments of a scan fit its program and one another."""
    if x.dim() != 3:
        advice = "For one sequence use x[None]; for one step use step()" if x.dim() == 2 else ""
        raise ShapeError(f"x has shape {_show(x)}", expected="(batch, time, features)", advice=advice)
    _check_values(program, x, states, parameters)
    batch, time = x.shape[0], x.shape[1]
    if lengths is not None:
        if lengths.dtype not in _INTEGERS:
            raise ShapeError(
                f"lengths have dtype {lengths.dtype}", expected="integers", advice="Convert them with .long()"
            )
        _check_shape("lengths", lengths, (batch,), "(batch,)")
    if reset is not None:
        if reset.dtype != torch.bool:
            raise ShapeError(f"reset has dtype {reset.dtype}", expected="torch.bool", advice="Convert it with .bool()")
        _check_shape("reset", reset, (batch, time), "(batch, time)")
    _check_elapsed(program, x, elapsed, (batch, time), "(batch, time)")


def check_step(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
) -> None:
    """Raises ShapeError or ArgumentError unless the arguments of a step fit its program and one another."""
    if x.dim() != 2:
        raise ShapeError(
            f"x has shape {_show(x)}", expected="(batch, features)", advice="A step takes no time dimension"
        )
    _check_values(program, x, states, parameters)
    _check_elapsed(program, x, elapsed, (x.shape[0],), "(batch,)")


def check_lengths(lengths: Tensor, time: int) -> None:
    """Raises ArgumentError unless every length lies in 0..time. Reads the values."""
    if lengths.numel():
        low, high = (int(v) for v in torch.aminmax(lengths))
        if low < 0 or high > time:
            raise ArgumentError(
                f"lengths range from {low} to {high}", expected=f"0 to {time}, the number of steps of x"
            )


def _check_values(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    for what, got, specs in (("states", states, program.states), ("parameters", parameters, program.parameters)):
        if len(got) != len(specs):
            names = ", ".join(spec.name for spec in specs)
            raise ShapeError(f"the cell '{program.name}' got {len(got)} {what}", expected=f"{len(specs)} ({names})")
    dtype, device = x.dtype, x.device
    if not dtype.is_floating_point:
        raise ShapeError(f"x has dtype {dtype}", expected="a floating-point dtype", advice="Convert it with .float()")
    for value in (*states, *parameters):
        if value.dtype is not dtype or value.device != device:
            _refuse_unlike(program, x, states, parameters)
    key = (program.json, x.shape[0], x.shape[-1], *[s.shape for s in states], *[p.shape for p in parameters])
    if key not in _fitting:
        _check_shapes(program, x, states, parameters)
        if len(_fitting) >= _MOST_FITTING:
            _fitting.clear()
        _fitting.add(key)


def _check_shapes(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    sizes = {"input": x.shape[-1]}
    for spec, state in zip(program.states, states, strict=True):
        if state.dim() != 2 or state.shape[0] != x.shape[0]:
            raise ShapeError(
                f"state '{spec.name}' has shape {_show(state)}",
                expected=f"({x.shape[0]}, {spec.width}), with the batch size of x",
            )
        _fit(f"state '{spec.name}'", state.shape[1:], (spec.width,), sizes)
    for spec, parameter in zip(program.parameters, parameters, strict=True):
        _fit(f"parameter '{spec.name}'", parameter.shape, spec.symbolic_shape, sizes)
    empty = [name for name, size in sizes.items() if size < 1]
    if empty:
        raise ShapeError(f"the width '{empty[0]}' has size 0", expected="1 or more columns")


def _refuse_unlike(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    for spec, state in zip(program.states, states, strict=True):
        _check_like(f"state '{spec.name}'", state, x)
    for spec, parameter in zip(program.parameters, parameters, strict=True):
        _check_like(f"parameter '{spec.name}'", parameter, x)


def _fit(what: str, shape: Sequence[int], widths: Shape, sizes: dict[str, int]) -> None:
    """Reads the sizes of named widths off a shape and checks it against those known already."""
    if len(shape) == len(widths):
        for width, size in zip(widths, shape, strict=True):
            if width.name and width.name not in sizes:
                sizes[width.name] = width.named_size(size)
        if all(_divides(width, sizes) and width.size(sizes) == size for width, size in zip(widths, shape, strict=True)):
            return
    known = {width.name: sizes.get(width.name, "?") for width in widths if width.name}
    described = ", ".join(f"{name} = {size}" for name, size in known.items())
    raise ShapeError(
        f"{what} has columns {tuple(shape)}" if len(widths) == 1 else f"{what} has shape {tuple(shape)}",
        expected=f"({', '.join(map(str, widths))}){f' where {described}' if described else ''}",
        advice="The sizes come from x and the states first",
    )


def _divides(width: Width, sizes: dict[str, int]) -> bool:
    return not width.name or sizes[width.name] % width.parts == 0


def _check_like(what: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.dtype != x.dtype:
        raise ShapeError(
            f"{what} has dtype {tensor.dtype}",
            expected=f"{x.dtype}, the dtype of x",
            advice="Convert one of them with .to(dtype)",
        )
    if tensor.device != x.device:
        raise ShapeError(
            f"{what} is on {tensor.device}",
            expected=f"{x.device}, the device of x",
            advice="Move one of them with .to(device)",
        )


def _check_shape(what: str, tensor: Tensor, shape: tuple[int, ...], description: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ShapeError(f"{what} has shape {_show(tensor)}", expected=f"{shape}, that is {description} of x")


def _check_elapsed(
    program: Program, x: Tensor, elapsed: Tensor | None, shape: tuple[int, ...], description: str
) -> None:
    if elapsed is None:
        if program.uses_elapsed:
            raise ArgumentError(
                f"the cell '{program.name}' needs the time between its steps",
                advice=f"Give elapsed=, of shape {description}",
            )
        return
    if not program.uses_elapsed:
        raise ArgumentError(f"the cell '{program.name}' does not read elapsed", advice="Leave elapsed= out")
    _check_like("elapsed", elapsed, x)
    _check_shape("elapsed", elapsed, shape, description)


def _show(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
