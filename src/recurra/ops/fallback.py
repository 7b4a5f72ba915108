"""What runs where the engine cannot: a parallel scan for linear recurrences, and the reference for all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.ops import linear_scan, reference
from recurra.ops.select import Choice
from recurra.program import Program


def scan_core(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    elapsed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As `reference.scan_core`, on any device, in any dtype and differentiable twice."""
    module = linear_scan if _is_parallel(program, x.shape[1]) else reference
    return module.scan_core(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)


def _is_parallel(program: Program, time: int) -> bool:
    if torch.compiler.is_compiling() or Choice.name == "reference":
        return False
    return time > 1 and "linear" in program.classes
