"""Draws the values that a cell's declarations name (`recurra.cells.initial` says what each one is)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recurra.errors import CellError
from recurra.program.widths import Draw


def _uniform(gate: Tensor, low: float, high: float) -> None:
    gate.uniform_(low, high)


def _log_uniform(gate: Tensor, low: float, high: float) -> None:
    gate.uniform_(math.log(low), math.log(high)).exp_()


def _scaled_normal(gate: Tensor, scale: float) -> None:
    gate.normal_(0.0, scale / math.sqrt(gate.shape[1] if gate.dim() == 2 else 1))


def _spaced(gate: Tensor, first: float, last: float) -> None:
    gate.copy_(torch.linspace(first, last, gate.numel()))


def _ring_decay(gate: Tensor, smallest: float, largest: float) -> None:
    if not 0 <= smallest <= largest <= 1:
        raise ValueError("expected radii with 0 <= smallest <= largest <= 1")
    # the square of the modulus is uniform where the point is uniform on the ring; never quite 1, whose log is zero
    square = gate.uniform_(*(min(radius**2, 1 - 1e-6) for radius in (smallest, largest)))
    gate.copy_(torch.log(-0.5 * torch.log(square)))


def _ring_phase(gate: Tensor, largest: float) -> None:
    gate.uniform_(1e-4 * largest, largest).log_()


def _ring_scale(gate: Tensor, decay: Tensor) -> None:
    modulus = torch.exp(-torch.exp(decay))
    gate.copy_(0.5 * torch.log1p(-modulus * modulus))


def _gate_decay(gate: Tensor, low: float, high: float, power: float) -> None:
    gate.copy_(torch.logit(gate.uniform_(low, high) ** (1 / power)))


def _module_of(units: int, modules: float) -> Tensor:
    if modules < 1 or modules % 1:
        raise ValueError("expected a whole number of modules from 1")
    return torch.arange(units) * int(modules) // units


def _periods(gate: Tensor, modules: float) -> None:
    gate.copy_(2.0 ** _module_of(gate.numel(), modules))


def _slower_modules(gate: Tensor, modules: float) -> None:
    rows, columns = (_module_of(size, modules) for size in gate.shape)
    gate.copy_(columns >= rows[:, None])


_DRAWS: dict[str, Callable[..., None]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "scaled_normal": _scaled_normal,
    "spaced": _spaced,
    "ring_decay": _ring_decay,
    "ring_phase": _ring_phase,
    "ring_scale": _ring_scale,
    "gate_decay": _gate_decay,
    "periods": _periods,
    "slower_modules": _slower_modules,
}


def draw_(gate: Tensor, draw: Draw, module: nn.Module) -> None:
    """Fills one gate of a parameter of `module`. A name among the arguments is that of another parameter, drawn
    before. Raises CellError for an initialiser that is unknown or whose arguments do not fit."""
    if draw.name not in _DRAWS:
        raise CellError(f"unknown initialiser '{draw.name}'; expected one of {', '.join(sorted(_DRAWS))}")
    arguments: list[Any] = [getattr(module, a, None) if isinstance(a, str) else a for a in draw.arguments]
    if any(a is None for a in arguments):
        raise CellError(f"the initialiser '{draw.name}' reads {draw.arguments}; expected numbers or parameters")
    try:
        _DRAWS[draw.name](gate, *arguments)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise CellError(f"the initialiser '{draw.name}' cannot take {draw.arguments}: {error}") from error
