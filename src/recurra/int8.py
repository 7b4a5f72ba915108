"""Matrices of int8 weights, each row with a scale, and what a product with one is. Knows no torch.

A row of a matrix is divided by its scale, its largest magnitude over 127, and rounded to the nearest whole number. So
is a vector that the matrix is multiplied by, each time. The sum of the products is exact, and becomes a float32 again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recurra.errors import ArgumentError, FormatError

LARGEST = 127
MOST_COLUMNS = (2**31 - 1) // LARGEST**2
"""Of more columns the sum of a row might not fit in 32 bits."""
SCALES = "int8_scales"
"""Beside a matrix `part.W` in a file of weights stands `part.int8_scales.W`, the scales of its rows."""


class Int8Matrix(NamedTuple):
    """`values` (rows, columns), int8 from -127 to 127; `scales` (rows,), float32. Row i stands for values[i] *
    scales[i]."""

    values: np.ndarray
    scales: np.ndarray


def rounded(matrix: np.ndarray) -> Int8Matrix:
    """A matrix (rows, columns) of float32 in int8.

    Raises:
        ArgumentError: it holds a number that is not finite, or has too many columns.
    """
    if not np.isfinite(matrix).all():
        raise ArgumentError("a matrix of weights holds NaN or infinity", advice="It cannot be rounded to int8")
    if matrix.shape[1] > MOST_COLUMNS:
        raise ArgumentError(f"a matrix has {matrix.shape[1]} columns", expected=f"at most {MOST_COLUMNS} in int8")
    matrix = matrix.astype(np.float32, copy=False)
    scales = np.abs(matrix).max(axis=1, initial=0.0) / np.float32(LARGEST)
    # a smaller scale would have an infinite inverse
    safe = np.where(scales < np.float32(2.0**-120), np.float32(1), scales)[:, None]
    values = np.clip(np.rint(matrix / safe), -LARGEST, LARGEST).astype(np.int8)
    return Int8Matrix(values, np.where(values.any(axis=1), scales, np.float32(0)))


def check(name: str, values: np.ndarray, scales: np.ndarray | None, shape: tuple[int, ...]) -> Int8Matrix:
    """The int8 matrix of this shape that a file holds under this name. Raises FormatError when it is none."""
    if scales is None or scales.dtype != np.float32 or scales.shape != shape[:1]:
        got = "nothing" if scales is None else f"{scales.dtype} of shape {scales.shape}"
        raise FormatError(f"the scales of the int8 weights {name}", got=got, expected=f"float32 of shape {shape[:1]}")
    if values.dtype != np.int8 or values.shape != shape:
        got = f"{values.dtype} of shape {values.shape}"
        raise FormatError(f"the int8 weights {name}", got=got, expected=f"int8 of shape {shape}")
    if shape[1] > MOST_COLUMNS:
        raise FormatError(f"the int8 weights {name}", got=f"{shape[1]} columns", expected=f"at most {MOST_COLUMNS}")
    if values.size and values.min() < -LARGEST:
        raise FormatError(f"the int8 weights {name}", got=-128, expected=f"numbers from -{LARGEST} to {LARGEST}")
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise FormatError(f"the scales of the int8 weights {name} are not all finite and positive")
    return Int8Matrix(values, scales)


def product(matrix: Int8Matrix, vectors: np.ndarray) -> np.ndarray:
    """vectors (..., columns) of float32 times the matrix: (..., rows), the very bits that the engine computes.

    A vector that holds a number that is not finite gives NaN.
    """
    with np.errstate(all="ignore"):
        largest = np.abs(vectors).max(axis=-1, keepdims=True, initial=0.0)
        something = largest >= np.float32(2.0**-100)
        finite = np.isfinite(largest)
        factor = np.where(finite & something, np.float32(LARGEST) / largest, np.float32(0))
        whole = np.rint(np.where(finite, vectors, np.float32(0)) * factor)
        scale = np.where(something, largest / np.float32(LARGEST), np.float32(0))
        scale = np.where(finite, scale, np.float32(np.nan)).astype(np.float32)
        # float64 holds these whole numbers, and has a fast product
        sums = (whole.astype(np.float64) @ matrix.values.T.astype(np.float64)).astype(np.float32)
        return sums * (scale * matrix.scales)


def product_by_heads(matrix: Int8Matrix, vectors: np.ndarray, gates: int, heads: int) -> np.ndarray:
    """The same where each head's rows of each gate are multiplied by that head's part of the vectors."""
    if heads == 1:
        return product(matrix, vectors)
    columns = matrix.values.shape[1]
    values = matrix.values.reshape(gates, heads, -1, columns)
    scales = matrix.scales.reshape(gates, heads, -1)
    parts = vectors.reshape(*vectors.shape[:-1], heads, columns)
    found = [
        product(Int8Matrix(values[:, h].reshape(-1, columns), scales[:, h].reshape(-1)), parts[..., h, :])
        for h in range(heads)
    ]
    # (heads, ..., gates * rows) becomes (..., gates, heads, rows)
    together = np.stack([one.reshape(*one.shape[:-1], gates, -1) for one in found], axis=-2)
    return together.reshape(*vectors.shape[:-1], -1)
