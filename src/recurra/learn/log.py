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
    """The rows of a log, each with the columns that were measured at its step; no rows if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if name and value} for row in csv.DictReader(file)]


class CsvLog(Logger):
    """Appends to the log, a row at a time.

    Args:
        path: of the log.
        after: rows beyond this step are dropped first: a resumed run writes them again.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        super().__init__()
        self._path = path
        rows = [row for row in read_log(path) if row["step"] <= after]
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
