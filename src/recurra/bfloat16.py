"""Matrices of bfloat16 weights: of each float32 the upper half. Knows no torch; numpy has no such type of its own."""

from __future__ import annotations

import numpy as np

from recurra.errors import ArgumentError, FormatError

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The bits of a number."""
BESIDE = "computes_in"
"""Beside the matrices `part.W` that are held as bfloat16 a file of weights has `part.computes_in`, float32 of no
elements. It tells them from a model that is bfloat16 throughout."""
_INFINITE = np.uint16(0x7F80)


def rounded(matrix: np.ndarray) -> np.ndarray:
    """Numbers of float32 as bfloat16, each the nearest one; of two, the even one.

    Raises:
        ArgumentError: one is not finite, or so large that it would become infinite.
    """
    bits = np.ascontiguousarray(matrix, np.float32).view(np.uint32)
    # half of what is cut off, less a bit where the result is even: a sum beyond the finite numbers is infinity
    upper = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16).view(BFLOAT16)
    if not (np.isfinite(matrix).all() and _is_finite(upper)):
        raise ArgumentError("a matrix of weights holds NaN or infinity", advice="It cannot be rounded to bfloat16")
    return upper


def widened(values: np.ndarray) -> np.ndarray:
    """Numbers of bfloat16 as float32, which has all of them; others as they are."""
    if values.dtype != BFLOAT16:
        return values
    return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def check(name: str, values: np.ndarray, beside: np.ndarray | None) -> None:
    """Raises FormatError unless a file may hold these under this name, with what stands beside them."""
    if beside is None or beside.dtype != np.float32 or beside.shape != (0,):
        got = "nothing" if beside is None else f"{beside.dtype} of shape {beside.shape}"
        raise FormatError(f"what stands beside the bfloat16 weights {name}", got=got, expected="float32 of shape (0,)")
    if not _is_finite(values):
        raise FormatError(f"the bfloat16 weights {name} hold NaN or infinity")


def _is_finite(values: np.ndarray) -> bool:
    return not ((values.view(np.uint16) & _INFINITE) == _INFINITE).any()
