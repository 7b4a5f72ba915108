"""The report: docs/recipes.md and its pictures, out of nothing but the catalogue and the file of results."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from recipes import plots
from recipes.catalogue import TASKS
from recipes.results import Key, Record, key
from recipes.train import Recipe
from recurra.bench.machine import describe_machine, describe_versions
from recurra.checkpoint import write_atomically

SHARE = 0.8
"""A recipe that is published to solve its task does so here where at least this share of its seeds do."""

_HEAD = """# What the cells learn

`make recipes` ran this and wrote this page on {date}. No figure here is typed by hand; `recipes/catalogue.py` has every
setting.

{machine}

Evidence for what was published: **[C]** read in the primary text, **[C2]** read in a secondary source, **[R]** from
memory, not to be relied on. *Sequences* are those trained on until the criterion was met: the median of the seeds that
solved the task, with the lowest and the highest. *Seconds* are the wall clock of one run, one thread, the median of all
seeds, beside whatever else the machine did. Where success is published, it counts as *seen* if at least {share:.0%} of
the seeds solve the task; where failure is published, if none does.

{summary}
"""


@dataclass(frozen=True)
class Row:
    """A recipe with the results of its seeds."""

    recipe: Recipe
    records: Sequence[Record]

    @property
    def solved(self) -> int:
        return sum(record["solved"] for record in self.records)

    @property
    def verdict(self) -> str:
        """Whether what is published was seen: "yes", "no", nothing where nothing is published, or what is missing."""
        if not self.records:
            return "not run"
        if len(self.records) < self.recipe.seeds:
            return f"{len(self.records)} of {self.recipe.seeds} seeds run"
        if self.recipe.solves is None:
            return ""
        if self.recipe.solves:
            return "yes" if self.solved >= SHARE * len(self.records) else "**no**"
        return "yes" if self.solved == 0 else "**no**"

    @property
    def is_missed(self) -> bool:
        """Whether something else than what is published was seen."""
        return self.verdict == "**no**"


def collect(recipes: Iterable[Recipe], found: Mapping[Key, Record]) -> list[Row]:
    """Each recipe with its results, as far as they are there; results of recipes that were changed are left out."""
    rows = []
    for recipe in recipes:
        task, arm, fingerprint, _ = key(recipe, 0)
        records = [record for (*which, _), record in sorted(found.items()) if which == [task, arm, fingerprint]]
        rows.append(Row(recipe, records))
    return rows


def missed(recipes: Iterable[Recipe], found: Mapping[Key, Record]) -> list[str]:
    """A line for each recipe that shows something else than what is published, and nobody knows why."""
    return [
        f"{row.recipe.task}, {row.recipe.arm}: {row.solved} of {len(row.records)} seeds solved it"
        for row in collect(recipes, found)
        if row.is_missed and not row.recipe.explained
    ]


def write(page: Path, recipes: Sequence[Recipe], found: Mapping[Key, Record], *, loads: tuple[float, float]) -> None:
    """Write the page and the pictures beside it."""
    rows = collect(recipes, found)
    pictures = {
        "latch": plots.latch(page.with_name("recipes-latch.png"), [r for r in rows if r.recipe.task == "latch"]),
        "copying": plots.copying(
            page.with_name("recipes-copying.png"), [r for r in rows if r.recipe.task == "copying"]
        ),
    }
    text = _head(rows, loads)
    for name, task in TASKS.items():
        own = [row for row in rows if row.recipe.task == name]
        text += (
            f"\n## {task.title}\n\n{_wrapped(task.about)}\n\n{_latch_table(own) if name == 'latch' else _table(own)}\n"
        )
        if name in pictures:
            text += f"\n{pictures[name]}\n"
        text += _notes("Differences from what was published", [(row.recipe.arm, row.recipe.difference) for row in own])
        text += _notes(
            "Not as published, and looked into",
            [(row.recipe.arm, row.recipe.explained) for row in own if row.is_missed],
        )
    write_atomically(page, text.encode())


def _notes(title: str, notes: Iterable[tuple[str, str]]) -> str:
    """A list of remarks, those that say the same joined."""
    arms: dict[str, list[str]] = {}
    for arm, note in notes:
        if note:
            arms.setdefault(note, []).append(arm)
    lines = [f"- {'; '.join(names)}: {note}" for note, names in arms.items()]
    return f"\n{title}:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _head(rows: Sequence[Row], loads: tuple[float, float]) -> str:
    machine, versions = describe_machine(), describe_versions()
    seconds = sum(record["seconds"] for row in rows for record in row.records)
    facts = {
        "processor": f"{machine['processor']}, {machine['cores']} cores, engine {machine['isa']}",
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("recurra", "python", "torch", "numpy")),
        "load": f"{loads[0]:.1f} processes before the run, {loads[1]:.1f} after it",
        "compute": f"{seconds / 60:.0f} minutes, all runs one after another",
        "runs": f"{sum(len(row.records) for row in rows)}, the last ended {_last(rows)}",
    }
    judged = [row for row in rows if row.verdict in ("yes", "**no**")]
    wrong = [row for row in judged if row.is_missed]
    summary = f"**{len(judged) - len(wrong)} of {len(judged)} published results were seen.**"
    left = [row for row in rows if len(row.records) < row.recipe.seeds]
    if left:
        summary += f" {len(left)} of {len(rows)} recipes were not run, or not with all of their seeds."
    if wrong:
        summary += " Not seen: " + "; ".join(
            f"{row.recipe.task}, {row.recipe.arm} ({row.solved} of {len(row.records)} solved)" for row in wrong
        )
        summary += "."
    return _HEAD.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_lines([["", ""], *([name, text] for name, text in facts.items())]),
        share=SHARE,
        summary=summary,
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _last(rows: Sequence[Row]) -> str:
    return max((r["ended"] for row in rows for r in row.records), default="never")


def _table(rows: Sequence[Row]) -> str:
    head = ["recipe", "weights", "training", "solved", "sequences", "error at the end", "seconds", "published", "seen"]
    return _lines([head, *(_cells(row) for row in rows)])


def _cells(row: Row) -> list[str]:
    recipe, records = row.recipe, row.records
    training = f"{recipe.optimiser} {recipe.learning_rate:g}, batch {recipe.batch}, at most {recipe.sequences:,}"
    if not records:
        return [recipe.arm, "", training, "", "", "", "", recipe.anchor, row.verdict]
    return [
        recipe.arm,
        f"{records[0]['parameters']:,}",
        training,
        f"{row.solved}/{len(records)}",
        sequences(records),
        _errors(records),
        f"{median(record['seconds'] for record in records):.1f}",
        recipe.anchor,
        row.verdict,
    ]


def sequences(records: Sequence[Record]) -> str:
    """To success: median, lowest and highest."""
    counts = sorted(record["sequences"] for record in records if record["solved"])
    if not counts:
        return "-"
    return f"{median(counts):,.0f} ({counts[0]:,} to {counts[-1]:,})"


def _errors(records: Sequence[Record]) -> str:
    text = f"{median(record['error'] for record in records):.4g}"
    wrong = [record["wrong"] for record in records if record["wrong"] is not None]
    return f"{text}; {median(wrong):.2%} wrong" if wrong else text


def _latch_table(rows: Sequence[Row]) -> str:
    lags = sorted({row.recipe.problem.lag for row in rows})  # type: ignore[attr-defined]
    names = list(dict.fromkeys(plots.curve_name(row) for row in rows))
    at = {(plots.curve_name(row), row.recipe.problem.lag): row for row in rows}  # type: ignore[attr-defined]
    table = [["steps", *names]]
    for lag in lags:
        cells = [str(lag)]
        for name in names:
            row = at[name, lag]
            cells.append(f"{row.solved}/{len(row.records)}" if row.records else "not run")
        table.append(cells)
    return _lines(table)


def _lines(table: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    return "\n".join([lines[0], "|" + " --- |" * len(table[0]), *lines[1:]])
