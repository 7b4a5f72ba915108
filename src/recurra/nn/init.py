"""Initialisation, gate by gate, of every cell in a layer. All of it draws from torch's generator and returns the layer.

By default: Xavier for input matrices and projections, orthogonal for recurrent ones, and for vectors the constants
and draws that their cell declares (1 for the LSTM's forget gate). Fixed parameters are drawn by `default_` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn.draws import draw_
from recurra.program import Program
from recurra.program.widths import Draw, ParameterSpec

Module = TypeVar("Module", bound=nn.Module)


def _cells(layer: nn.Module) -> Iterator[nn.Module]:
    """Every layer inside that holds a cell's parameters."""
    return (module for module in layer.modules() if isinstance(getattr(module, "program", None), Program))


def _gates(layer: nn.Module, *kinds: str) -> Iterator[tuple[ParameterSpec, tuple[Tensor, ...]]]:
    """Every trained parameter of these kinds, split into its gates."""
    for module in _cells(layer):
        program: Any = module.program
        for spec in program.parameters:
            if spec.kind in kinds and not spec.fixed:
                yield spec, getattr(module, spec.name).chunk(spec.gates)


@torch.no_grad()
def default_(layer: Module) -> Module:
    """Draws all parameters of all cells as a new layer draws them."""
    xavier_(layer)
    orthogonal_(layer)
    for module in _cells(layer):
        program: Any = module.program
        for spec in program.parameters:
            for gate, start in zip(getattr(module, spec.name).chunk(spec.gates), spec.initial, strict=True):
                if isinstance(start, Draw):
                    draw_(gate, start, module)
                elif spec.columns is None:
                    gate.fill_(start)
                elif spec.fixed:
                    _draw_fixed(gate, spec)
    return layer


def _draw_fixed(matrix: Tensor, spec: ParameterSpec) -> None:
    if spec.kind == "recurrent":
        _orthogonal(matrix, spec, 1.0)
    else:
        nn.init.xavier_uniform_(matrix)
    if spec.is_sparse:
        # what is left is scaled, so that a product keeps its variance
        matrix.mul_((torch.rand_like(matrix) < spec.density) / spec.density**0.5)


@torch.no_grad()
def xavier_(layer: Module) -> Module:
    """Input matrices and projections: uniform, of variance 2 / (fan in + fan out) (Glorot and Bengio 2010)."""
    for _, gates in _gates(layer, "input", "matrix"):
        for gate in gates:
            nn.init.xavier_uniform_(gate)
    return layer


@torch.no_grad()
def he_(layer: Module) -> Module:
    """Input matrices and projections: normal, of variance 2 / fan in, for rectified units (He et al. 2015)."""
    for _, gates in _gates(layer, "input", "matrix"):
        for gate in gates:
            nn.init.kaiming_normal_(gate, nonlinearity="relu")
    return layer


@torch.no_grad()
def orthogonal_(layer: Module, gain: float = 1.0) -> Module:
    """Recurrent matrices: each gate (and head) a random orthogonal matrix times `gain` (Saxe et al. 2014)."""
    for spec, gates in _gates(layer, "recurrent"):
        for gate in gates:
            _orthogonal(gate, spec, gain)
    return layer


def _orthogonal(gate: Tensor, spec: ParameterSpec, gain: float) -> None:
    for block in gate.chunk(1 if spec.columns is None else spec.columns.parts):
        # half precision has no QR decomposition
        drawn = block if block.dtype in (torch.float32, torch.float64) else torch.empty_like(block, dtype=torch.float32)
        nn.init.orthogonal_(drawn, gain)
        if drawn is not block:
            block.copy_(drawn)


@torch.no_grad()
def forget_bias_(layer: Module, value: float) -> Module:
    """The bias of every gate that keeps the state becomes `value` (Gers et al. 2000; Jozefowicz et al. 2015).

    Where a cell declares a gate that writes and none that keeps, it keeps the complement of what it writes: the bias
    of that gate becomes -value. Raises ArgumentError when no cell of the layer declares such a gate.
    """
    for gates, keeps, writes in _keeping(layer):
        if keeps is not None:
            gates[keeps].fill_(value)
        elif writes is not None:
            gates[writes].fill_(-value)
    return layer


@torch.no_grad()
def chrono_(layer: Module, maximum: float) -> Module:
    """Chrono initialisation (Tallec and Ollivier 2018), for dependencies of up to `maximum` steps.

    The bias of the gate that keeps the state is drawn as log(u), u uniform in [1, maximum - 1]; that of the gate that
    writes is its negative. A cell may have either or both. Raises ArgumentError for a maximum of 2 or less, or when no
    cell declares such a gate.
    """
    if not maximum > 2:
        raise ArgumentError(
            f"maximum is {maximum!r}", expected="more than 2", advice="It is the longest dependency, in steps"
        )
    for gates, keeps, writes in _keeping(layer):
        drawn = torch.empty_like(gates[0]).uniform_(1, maximum - 1).log_()
        if keeps is not None:
            gates[keeps].copy_(drawn)
        if writes is not None:
            gates[writes].copy_(-drawn)
    return layer


def _keeping(layer: nn.Module) -> list[tuple[tuple[Tensor, ...], int | None, int | None]]:
    declared = [(gates, spec.forget, spec.input) for spec, gates in _gates(layer, "bias")]
    found = [one for one in declared if one[1:] != (None, None)]
    if not found:
        names = sorted({str(getattr(module, "program").name) for module in _cells(layer)}) or ["none"]  # noqa: B009 - any module
        raise ArgumentError(
            f"the layer's cells are {', '.join(names)}",
            expected="one with a gate that keeps the state",
            advice="Declare it in the cell: Bias(..., forget=<number of the gate>)",
        )
    return found
