"""Makes mutants, tries whether the suite catches them, and writes docs/mutants.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mutants import build, page
from mutants.run import Runner, Task

KINDS = ("programs", "rules", "opcodes")
ENOUGH = 0.95


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; none for all of them")
    parser.add_argument("--subject", action="append", help="only this cell, rule or place of the engine (repeatable)")
    parser.add_argument("--limit", type=int, help="so many mutants of each at most")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (2)")
    parser.add_argument("--results", type=Path, default=build.ROOT / "runs" / "mutants.jsonl", help="what is done")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.kinds) - set(KINDS)
    if unknown:
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; the kinds are {', '.join(KINDS)}")
    return chosen


def tasks_of(kinds: Sequence[str], subjects: Sequence[str] | None, limit: int | None) -> list[Task]:
    """The subjects of each kind, those of the engine last: they need a build of their own."""
    if "opcodes" in kinds:
        print("building the engine with its mutants ...", flush=True)
        build.build()
    return [
        Task(kind, subject, limit)
        for kind in KINDS
        if kind in kinds
        for subject in import_module(f"mutants.{kind}").subjects()
        if subjects is None or subject in subjects
    ]


def main(arguments: Sequence[str]) -> int:
    """Returns 1 where less than 95 % of a kind are caught."""
    chosen = parse(arguments)
    kinds = chosen.kinds or KINDS
    begin, load = time.monotonic(), os.getloadavg()[0]
    tasks = tasks_of(kinds, chosen.subject, chosen.limit)
    outcomes = Runner(chosen.results, len(tasks)).run(tasks, chosen.workers)
    counts = page.count(outcomes)
    for kind, count in counts.items():
        print(f"{kind}: {count.sentence}")
    if not (chosen.kinds or chosen.subject or chosen.limit):
        page.write(build.ROOT / "docs" / "mutants.md", outcomes, time.monotonic() - begin, load)
        print("the page stands in docs/mutants.md")
    return 0 if all(count.share >= ENOUGH for count in counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
