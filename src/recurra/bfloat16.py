"""Matrices of bfloat16 weights: of each float32 the upper half. Knows no torch; numpy has no such type of its own."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from recurra.errors import ArgumentError, FormatError

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""The bits of a number."""
BESIDE = "computes_in"
"""Beside the matrices `part.W` that are held as bfloat16 a file of weights has `part.computes_in`, float32 of no
elements. It tells them from a model that is bfloat16 throughout."""
ROUNDING = np.dtype([("bfloat16_both", "<u2")])
"""The same bits, of a matrix in whose products the vectors are rounded to bfloat16, too."""
ACTIVATIONS = "activations"
"""Where vectors are rounded, each part has `part.activations` as well, bfloat16 of no elements."""
_INFINITE = np.uint16(0x7F80)


def rounded(matrix: np.ndarray) -> np.ndarray:
    """Numbers of float32 as bfloat16, each the nearest one; of two, the even one.

    Raises:
        ArgumentError: one is not finite, or so large that it would become infinite.
    """
    upper = _nearest(np.ascontiguousarray(matrix, np.float32)).view(BFLOAT16)
    if not (np.isfinite(matrix).all() and _is_finite(upper)):
        raise ArgumentError("a matrix of weights holds NaN or infinity", advice="It cannot be rounded to bfloat16")
    return upper


def _nearest(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    # half of what is cut off, less a bit where the result is even: a sum beyond the finite numbers is infinity
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Numbers of float32, each the nearest one of bfloat16 (of two, the even one), as float32 again.

    NaN stays NaN; what is beyond the largest number of bfloat16 becomes infinite.
    """
    whole = np.ascontiguousarray(vectors, np.float32)
    near = _nearest(whole).view(BFLOAT16)
    return np.where(np.isnan(whole), whole, widened(near)).reshape(vectors.shape)


def is_bfloat16(values: np.ndarray) -> bool:
    """Whether they are bits of bfloat16."""
    return values.dtype in (BFLOAT16, ROUNDING)


def widened(values: np.ndarray) -> np.ndarray:
    """Numbers of bfloat16 as float32, which has all of them; others as they are."""
    if not is_bfloat16(values):
        return values
    return (values.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounds_activations(names: Collection[str], source: str) -> bool:
    """Whether the products of a model round their vectors, by the names of all that its file holds.

    Raises FormatError where only some parts do.
    """
    parts = [name.removesuffix(BESIDE) for name in names if f".{name}".endswith(f".{BESIDE}")]
    found = [part for part in parts if f"{part}{ACTIVATIONS}" in names]
    if found and len(found) != len(parts):
        raise FormatError(
            f"of the bfloat16 weights in {source} only some round their vectors",
            got=f"'{ACTIVATIONS}' in {len(found)} parts",
            expected=f"in all {len(parts)}, or in none",
        )
    return bool(found)


def check(name: str, values: np.ndarray, beside: np.ndarray | None) -> None:
    """Raises FormatError unless a file may hold these under this name, with what stands beside them."""
    if beside is None or beside.dtype != np.float32 or beside.shape != (0,):
        got = "nothing" if beside is None else f"{beside.dtype} of shape {beside.shape}"
        raise FormatError(f"what stands beside the bfloat16 weights {name}", got=got, expected="float32 of shape (0,)")
    if not _is_finite(values):
        raise FormatError(f"the bfloat16 weights {name} hold NaN or infinity")


def _is_finite(values: np.ndarray) -> bool:
    return not ((values.view(np.uint16) & _INFINITE) == _INFINITE).any()
