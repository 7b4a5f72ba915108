"""What a run of the laws found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, slots=True)
class LawResult:
    """One law: how it went, on how many cases, and why it failed or does not apply."""

    number: int
    name: str
    outcome: Outcome
    cases: int = 0
    reason: str = ""

    def __str__(self) -> str:
        return f"law {self.number} ({self.name}): {self.outcome}{f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """All laws for one layer. `str(report)` is a table, in Markdown."""

    layer: str
    results: tuple[LawResult, ...]

    @property
    def failures(self) -> tuple[LawResult, ...]:
        return tuple(result for result in self.results if result.outcome == "failed")

    def __getitem__(self, number: int) -> LawResult:
        """The result of a law by its number."""
        return {result.number: result for result in self.results}[number]

    def __str__(self) -> str:
        rows = [("law", "", "result", "cases", "note")]
        rows += [(str(r.number), r.name, r.outcome, str(r.cases) if r.cases else "", r.reason) for r in self.results]
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = [
            "| " + " | ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]) + " |"
            for row in rows
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in [*widths, 4]) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])


class LawViolation(AssertionError):
    """A layer breaks at least one law. `report` has all results."""

    def __init__(self, report: Report) -> None:
        super().__init__(
            "\n".join([f"{report.layer} breaks {len(report.failures)} of the laws", *map(str, report.failures)])
        )
        self.report = report
