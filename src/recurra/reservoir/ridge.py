"""Ridge regression out of sums: data are added piece by piece, one eigendecomposition serves all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Moments:
    """What a linear readout needs to know of its data: weight, means, and centred sums of products.

    Memory grows with the square of the features, not with the number of rows. Pieces are centred each by itself and
    then joined (Chan, Golub and LeVeque 1983, eq. 2.1), so that large means cost no digits.
    """

    FIELDS = ("weight", "mean_z", "mean_y", "zz", "zy", "yy")

    def __init__(self, features: int, outputs: int) -> None:
        self.weight = np.zeros(())
        self.mean_z = np.zeros(features)
        self.mean_y = np.zeros(outputs)
        self.zz = np.zeros((features, features))
        self.zy = np.zeros((features, outputs))
        self.yy = np.zeros(outputs)

    def add(self, z: Array, y: Array, forgetting: float = 1.0) -> None:
        """Add rows: z (rows, features), y (rows, outputs). With each row, what came before counts `forgetting` times
        as much."""
        if not len(z):
            return
        weights = forgetting ** np.arange(len(z) - 1, -1, -1.0)
        decay, total = forgetting ** len(z), weights.sum()
        mean_z, mean_y = weights @ z / total, weights @ y / total
        root = np.sqrt(weights)[:, None]
        z, y = (z - mean_z) * root, (y - mean_y) * root
        old = self.weight * decay
        both = old + total
        between = old * total / both
        step_z, step_y = mean_z - self.mean_z, mean_y - self.mean_y
        self.zz = decay * self.zz + z.T @ z + between * np.outer(step_z, step_z)
        self.zy = decay * self.zy + z.T @ y + between * np.outer(step_z, step_y)
        self.yy = decay * self.yy + (y * y).sum(0) + between * step_y**2
        self.mean_z = self.mean_z + step_z * (total / both)
        self.mean_y = self.mean_y + step_y * (total / both)
        self.weight = both

    def solve(self, regularisations: Array) -> Path:
        """The ridge solutions for all regularisations, in one decomposition."""
        values, vectors = np.linalg.eigh(self.zz)
        values = np.maximum(values, 0.0)
        rotated = vectors.T @ self.zy
        shifted = values + regularisations[:, None]
        # Directions in which the data do not vary say nothing; without regularisation they are left out.
        known = shifted > len(values) * np.finfo(float).eps * values.max(initial=0.0)
        inverse = np.where(known, 1 / np.where(known, shifted, 1.0), 0.0)
        # contiguous, so that products with them give the same bits before and after they are saved
        weights = np.ascontiguousarray(np.einsum("fe,le,eo->lfo", vectors, inverse, rotated, optimize=True))
        explained = np.einsum("eo,le->lo", rotated**2, inverse * (2 - values * inverse))
        squares = np.maximum(self.yy - explained, np.finfo(float).eps * self.yy)
        freedom = 1 + (values * inverse).sum(1)
        biases = self.mean_y - np.einsum("f,lfo->lo", self.mean_z, weights)
        return Path(regularisations, weights, biases, self._cross_validation(squares, freedom))

    def _cross_validation(self, squares: Array, freedom: Array) -> Array:
        """Generalised cross-validation (Golub, Heath and Wahba 1979, eq. 1.4), of each output in units of its variance,
        the mean over all outputs that vary."""
        left = np.maximum(1 - freedom / self.weight, 0.0)
        varies = self.yy > 0
        relative = (squares[:, varies] / self.yy[varies]).mean(1) if varies.any() else np.zeros(len(freedom))
        with np.errstate(divide="ignore"):
            return np.where(left > 0, relative / np.where(left > 0, left, 1.0) ** 2, np.inf)


@dataclass(frozen=True)
class Path:
    """The solutions along a list of regularisations."""

    regularisations: Array
    """(l,)."""
    weights: Array
    """(l, features, outputs)."""
    biases: Array
    """(l, outputs)."""
    cross_validation: Array
    """(l,): the generalised cross-validation score of each, the lower the better."""
