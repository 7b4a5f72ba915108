"""Mixed precision: what a recurrence under torch.autocast computes in.

States, activations, gradients and sums are float32 in any case. On the CPU, under autocast to bfloat16, what products
with matrices multiply is rounded to bfloat16 where the processor has instructions for it, which take half the time: the
weights and their vectors, and, backwards, the cotangents of products. Elsewhere, and for matrices whose zeros are left
out, it is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recurra import engine
from recurra.ops.native import missing
from recurra.ops.tracing import constant_while_tracing


class Emulation:
    """Whether `emulated_bfloat16` is in force, for the whole process."""

    on = False


@contextmanager
def emulated_bfloat16() -> Iterator[None]:
    """Within it, autocast to bfloat16 rounds on every processor, as one with AVX512_BF16 does by itself.

    That is slower than float32: to see what a model loses, or to compare with what was computed elsewhere.

    A function compiled by torch.compile and an exported graph keep what held when they were traced. Sums are rounded
    differently, and without the instructions denormal numbers are not taken for zero.
    """
    before, Emulation.on = Emulation.on, True
    try:
        yield
    finally:
        Emulation.on = before


@constant_while_tracing
def float32_reason(device: str, dtype: torch.dtype) -> str:
    """Why products under autocast to this dtype are float32; empty where they are bfloat16."""
    reason = missing(device)
    if reason:
        return reason
    if dtype is not torch.bfloat16:
        return f"the engine multiplies in float32 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if not engine.bfloat16_isa() and not Emulation.on:
        return f"the engine runs without AVX512_BF16, on {engine.isa()}"
    return ""
