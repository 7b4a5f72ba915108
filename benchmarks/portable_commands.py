"""How a result names the command that made it: without the folders of the machine."""

import shlex
from collections.abc import Iterable
from pathlib import Path


def portable(script: str, words: Iterable[str]) -> str:
    """The command line of a script in this folder, its files and absolute paths as `PATH/TO/name`."""
    named = [f"{option}{sign}{_portable(value)}" for option, sign, value in (word.rpartition("=") for word in words)]
    return shlex.join(["python", f"benchmarks/{script}", *named])


def _portable(value: str) -> str:
    path = Path(value)
    return f"PATH/TO/{path.name}" if path.is_absolute() or path.is_file() else value
