"""Run recipes and write the report: `python -m recipes [TASK ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from recipes import report, results
from recipes.catalogue import RECIPES, TASKS
from recipes.run import run_all

ROOT = Path(__file__).resolve().parents[1]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; none for all of them")
    parser.add_argument("--arm", default="", help="only recipes whose arm holds this text")
    parser.add_argument("--seeds", type=int, help="another number of seeds than the recipes'")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each (2)")
    parser.add_argument("--results", type=Path, default=Path("runs/recipes.jsonl"), help="the file of results")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report of what is there")
    parser.add_argument("--no-report", action="store_true", help="leave docs/recipes.md as it is")
    parser.add_argument(
        "--torch",
        action="store_true",
        help="torch.nn's modules, of the same weights, in place of recurra's; no report",
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.tasks) - TASKS.keys()
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; the tasks are {', '.join(TASKS)}")
    return chosen


def main(arguments: list[str]) -> int:
    """Returns 1 where a published result was not seen."""
    chosen = parse(arguments)
    recipes = [
        recipe for recipe in RECIPES if (not chosen.tasks or recipe.task in chosen.tasks) and chosen.arm in recipe.arm
    ]
    runs = [(recipe, seed) for recipe in recipes for seed in range(chosen.seeds or recipe.seeds)]
    file = chosen.results.with_suffix(".torch.jsonl") if chosen.torch else chosen.results
    load_before = os.getloadavg()[0]
    if not chosen.report_only:
        run_all(runs, file, workers=chosen.workers, torch_twin=chosen.torch)
    if chosen.torch or chosen.no_report:
        return 0
    found = results.read(file)
    page = ROOT / "docs" / "recipes.md"
    report.write(page, RECIPES, found, loads=(load_before, os.getloadavg()[0]))
    print(f"the report stands in {page.relative_to(ROOT)}")
    missed = report.missed(recipes, found)
    for line in missed:
        print(f"NOT AS PUBLISHED  {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
