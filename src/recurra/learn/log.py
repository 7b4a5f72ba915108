"""The log of a run: a CSV file, one row for each step at which something was measured."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from recurra.checkpoint import write_atomically

COLUMNS = ("step", "seconds", "learning_rate", "train_loss", "validation_loss")
"""Losses are in nats a token."""


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log, each with the columns that were measured at its step; no rows if there is no file.

    Rows that a crash or a full disk has damaged are left out.
    """
    return [row for row in _parsed(path) if row is not None]


def _parsed(path: Path) -> list[dict[str, float] | None]:
    """The rows of a log, None in place of each that is damaged."""
    if not path.is_file():
        return []
    _, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    # a row that its line break is missing from may have lost digits, too
    return [_row(line) for line in lines[:-1]] + ([None] if lines and lines[-1] else [])


def _row(line: str) -> dict[str, float] | None:
    fields = line.split(",")
    try:
        row = {name: float(value) for name, value in zip(COLUMNS, fields, strict=True) if value}
    except ValueError:
        return None
    return row if row.get("step", -1.0).is_integer() and row["step"] >= 0 else None


class CsvLog(Logger):
    """Appends to the log, a row at a time.

    Args:
        path: of the log.
        after: rows beyond this step are dropped first: a resumed run writes them again.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        super().__init__()
        self._path = path
        parsed = _parsed(path)
        self.damaged = parsed.count(None)
        """How many rows were dropped because they could not be read."""
        rows = [row for row in parsed if row is not None and row["step"] <= after]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows([int(row["step"]), *(row.get(name) for name in COLUMNS[1:])] for row in rows)
        write_atomically(path, text.getvalue().encode())

    @property
    def name(self) -> str:
        """Of the logger."""
        return "log"

    @property
    def version(self) -> str:
        """Of the run; a folder holds one."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; what is no column is left out."""
        if metrics.keys() & set(COLUMNS):
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([step, *(metrics.get(name) for name in COLUMNS[1:])])

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The settings are in `settings.toml`."""
