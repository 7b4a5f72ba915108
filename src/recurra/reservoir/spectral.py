"""The spectral radius of a large sparse matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, ShapeError

Vector = NDArray[np.float64]

# Up to this size all eigenvalues take about a second at most.
EXACT_UP_TO = 500

_TOLERANCE = 1e-8
_FIRST_CHECK = 60
# The outermost eigenvalues of a random matrix lie close together: the largest counts as found when these have settled.
_SETTLED = 4


def spectral_radius(matrix: NDArray[np.floating], *, exact_up_to: int = EXACT_UP_TO) -> float:
    """The largest modulus of all eigenvalues.

    Args:
        matrix: square, finite, of any size from 1.
        exact_up_to: up to this size all eigenvalues are computed; beyond it the outermost ones alone, by Arnoldi's
            method (Saad 2011, algorithm 6.2) on the elements that are not zero. Unlike power iteration it converges
            where the outermost eigenvalues are a complex pair, or several of nearly one modulus.

    Raises:
        ShapeError: not a square matrix.
        ArgumentError: it holds NaN or infinity.
    """
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
        raise ShapeError(f"the matrix has shape {values.shape}", expected="a square one, (units, units)")
    if not np.isfinite(values).all():
        raise ArgumentError("the matrix holds NaN or infinity", expected="finite numbers")
    if len(values) <= exact_up_to:
        return float(np.abs(np.linalg.eigvals(values)).max())
    rows, columns = np.nonzero(values)
    elements = values[rows, columns]

    def apply(vector: Vector) -> Vector:
        return np.bincount(rows, weights=elements * vector[columns], minlength=len(values)).astype(np.float64)

    return _outermost(apply, len(values))


def _outermost(apply: Callable[[Vector], Vector], size: int) -> float:
    """Arnoldi's method without restarts, until the outermost Ritz values are eigenvalues to within the tolerance."""
    vector = np.random.default_rng(0).standard_normal(size)
    basis = np.empty((min(size, 2 * _FIRST_CHECK), size))
    projected = np.zeros((len(basis) + 1, len(basis)))
    basis[0] = vector / np.linalg.norm(vector)
    check, radius = _FIRST_CHECK, 0.0
    for count in range(1, size + 1):
        if count == len(basis) < size:
            basis, projected = _enlarged(basis, projected, size)
        vector = apply(basis[count - 1])
        length = np.linalg.norm(vector)
        # twice, because one pass loses orthogonality to rounding
        for _ in range(2):
            components = basis[:count] @ vector
            vector -= components @ basis[:count]
            projected[:count, count - 1] += components
        rest = np.linalg.norm(vector)
        ended = count == size or rest <= np.finfo(float).eps * size * length
        if ended or count == check:
            radius, error = _ritz(projected[:count, :count], 0.0 if ended else float(rest))
            if ended or error <= _TOLERANCE * radius:
                return radius
            check = count + count // 3
        projected[count, count - 1] = rest
        basis[count] = vector / rest
    return radius


def _enlarged(basis: Vector, projected: Vector, size: int) -> tuple[Vector, Vector]:
    count = len(basis)
    more = min(size, 2 * count)
    larger = np.zeros((more + 1, more))
    larger[: count + 1, :count] = projected
    return np.concatenate([basis, np.empty((more - count, size))]), larger


def _ritz(projected: Vector, rest: float) -> tuple[float, float]:
    """The largest modulus of a Ritz value, and the worst residual among the outermost ones."""
    values, vectors = np.linalg.eig(projected)
    outermost = np.argsort(-np.abs(values))[:_SETTLED]
    return float(np.abs(values[outermost[0]])), float(rest * np.abs(vectors[-1, outermost]).max())
