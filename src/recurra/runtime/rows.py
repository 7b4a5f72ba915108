"""The rows of a padded batch: which steps are valid, where a row starts afresh, and the same sequences backwards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """What a call says of its rows, checked: lengths (batch,) int64, reset (batch, time) booleans, elapsed (batch,
    time); None where not given."""

    lengths: np.ndarray | None = None
    reset: np.ndarray | None = None
    elapsed: np.ndarray | None = None

    def valid(self, time: int) -> np.ndarray | None:
        """(batch, time), true where a step is no padding; None when all are."""
        return None if self.lengths is None else np.arange(time) < self.lengths[:, None]

    def valid_reset(self, time: int) -> np.ndarray | None:
        """Where rows start afresh at valid steps; None when nowhere. What stands in padding does not count."""
        valid = self.valid(time)
        return self.reset if valid is None or self.reset is None else self.reset & valid

    def masked(self, x: np.ndarray, filling: float) -> np.ndarray:
        """x (batch, time, ...) with its padding replaced, for that may hold NaN."""
        valid = self.valid(x.shape[1])
        if valid is None:
            return x
        return np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, x.dtype.type(filling))

    def without_elapsed(self) -> Rows:
        """For a layer that does not read the time."""
        return self if self.elapsed is None else self._replace(elapsed=None)


def reverse(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """x (batch, time, ...) with the valid part of each row reversed in time; padding stays where it is."""
    if lengths is None:
        return np.ascontiguousarray(x[:, ::-1])
    steps = np.arange(x.shape[1])
    order = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return x[np.arange(x.shape[0])[:, None], order]
