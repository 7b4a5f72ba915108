"""What a stream needs of a model: rows that carry their states from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Stateful(Protocol):
    """Rows of a model with the states that they carry. Whoever calls it has checked the arguments."""

    rows: int
    output_size: int
    input_dtype: Any
    dtype: Any
    pools: bool
    uses_elapsed: bool
    checks_out: bool
    """Whether `push` refuses a `y` that does not fit, before anything has changed."""
    refuses_threads: bool
    """Whether it refuses a second thread itself, before anything has changed."""

    @property
    def input_size(self) -> int | None:
        """None where x holds tokens (whole numbers) instead of features."""
        ...

    def push(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        """Steps of the one row: x (time, features) or (time,) into y (time, output), of a pooling model (1, output)."""

    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these, each given once: x (rows, features) or (rows,) into y (rows, output)."""

    def reset(self, rows: np.ndarray | None) -> None:
        """All rows, or these, are as if they had seen nothing."""

    def read(self) -> list[np.ndarray]:
        """Copies of all states, (rows, columns) each."""
        ...

    def write(self, states: Sequence[np.ndarray]) -> None:
        """Puts in what `read` gave."""

    def another(self, rows: int) -> Stateful:
        """The same model with so many rows that have seen nothing."""
        ...

    def fingerprint(self) -> bytes:
        """32 bytes that tell the model from every other one."""
        ...
