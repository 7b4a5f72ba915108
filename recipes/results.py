"""The file of results: a line of JSON for each run, appended as it ends, so that a kill costs no finished run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from recipes.train import Outcome, Recipe, as_record

Record = dict[str, Any]
Key = tuple[str, str, str, int]


def key(recipe: Recipe, seed: int) -> Key:
    """What a run is known by. A recipe that was changed is another."""
    return recipe.task, recipe.arm, recipe.fingerprint(), seed


def read(file: Path) -> dict[Key, Record]:
    """The results so far, the latest of equal keys. A last line that a kill cut short is left out."""
    if not file.exists():
        return {}
    whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
    records = [json.loads(line) for line in whole.splitlines()]
    return {(r["task"], r["arm"], r["fingerprint"], r["seed"]): r for r in records}


def append(file: Path, recipe: Recipe, seed: int, outcome: Outcome, ended: str) -> Record:
    """Write one result to the disk."""
    task, arm, fingerprint, _ = key(recipe, seed)
    record = {"task": task, "arm": arm, "fingerprint": fingerprint, "seed": seed, "ended": ended, **as_record(outcome)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as stream:
        stream.write(json.dumps(record).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return record


def repair(file: Path) -> None:
    """Cut off a last line that a kill cut short, so that the next one stands on its own."""
    content = file.read_bytes() if file.exists() else b""
    if content and not content.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
