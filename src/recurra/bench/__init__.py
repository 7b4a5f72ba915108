"""`recurra bench`: every case with its peers, measured by one command; `bench.json` and a report for people.

Read `registry.py` for what is measured, `measure.py` for how, `contract.py` for what a peer is. A case is timed only
after its outputs and gradients equal each peer's.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from recurra import engine
from recurra.bench import registry, report, results
from recurra.bench.cases import DTYPE, Registry
from recurra.bench.contract import Peer
from recurra.bench.machine import describe_machine, describe_versions, load
from recurra.bench.measure import RECURRA, Measurement, measure_case
from recurra.bench.peers import PEERS
from recurra.bench.timing import ASKED, FULL, QUICK, Effort
from recurra.errors import ArgumentError, BackendUnavailable

JSON_FILE = "bench.json"
REPORT_FOLDER = "docs"
THREADS = 2
_PARITY_FAILED = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and what becomes of an earlier `bench.json`.

    quick: tiny cases that only try the harness. asked: only the cases of the figures to reach, with less time for each.
    only: cases whose name contains it. merge: keep what is in the file of cases that are not measured now. resume:
    merge, and measure no case that has times there.
    """

    quick: bool = False
    threads: int = THREADS
    only: str = ""
    asked: bool = False
    merge: bool = False
    resume: bool = False

    @property
    def effort(self) -> Effort:
        """How long to measure each case."""
        return QUICK if self.quick else ASKED if self.asked else FULL

    def registry(self) -> Registry:
        """The cases to choose from, and the figures."""
        return registry.quick() if self.quick else registry.full()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `recurra bench`.

    Raises SystemExit with code 1 when a parity gate is red, and only then; 2 for bad arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = vars(_parser().parse_args(given))
    folder = options.pop("out")
    if options.pop("report_only"):
        if render_again(folder):
            raise SystemExit(_PARITY_FAILED)
        return
    command = shlex.join(["recurra", "bench", *given])
    if run(folder, Options(**options), command=command):
        raise SystemExit(_PARITY_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recurra bench",
        description="Measure the engine against its peers: parity first, then times, taken in turns.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help=f"where {JSON_FILE} and {REPORT_FOLDER}/{report.REPORT_FILE} are written (default: here)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny cases that only try the harness; their times mean nothing"
    )
    parser.add_argument("--threads", type=int, default=THREADS, help="threads for everybody (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--asked", action="store_true", help="only the cases of the figures to reach, in less time")
    parser.add_argument(
        "--merge", action="store_true", help=f"keep what {JSON_FILE} has of cases that are not measured now"
    )
    parser.add_argument("--resume", action="store_true", help="--merge, and measure no case that it has already")
    parser.add_argument(
        "--report-only",
        action="store_true",
        help=f"write the report again from the {JSON_FILE} that is there, measuring nothing",
    )
    return parser


def run(
    output_folder: Path,
    options: Options | None = None,
    *,
    command: str = "recurra bench",
    peers: Mapping[str, Peer] = PEERS,
    say: Callable[[str], None] = print,
) -> int:
    """Measures the cases, writes `bench.json` after each and the report at the end; returns the number of red gates.

    Raises ArgumentError for a number of threads that cannot be, when no case is left, or for an earlier result of
    another machine, other threads or tiny cases; BackendUnavailable without the engine.
    """
    options = options or Options()
    if engine.missing():
        raise BackendUnavailable(engine.missing())
    if options.threads < 1:
        raise ArgumentError(f"threads is {options.threads}", expected="1 or more")
    chosen = options.registry()
    earlier = _earlier(output_folder / JSON_FILE, options)
    listed = chosen.asked if options.asked else chosen.cases
    named = [case for case in listed if options.only in case.name]
    cases = [case for case in named if not case.missing]
    if named and not cases:
        raise ArgumentError(f"the cases with {options.only!r} cannot be measured here", advice=named[0].missing)
    if not cases:
        raise ArgumentError(f"no case's name contains {options.only!r}", advice="See the names in docs/benchmarks.md")
    if options.resume and earlier is not None:
        cases = [case for case in cases if case.name not in results.measured_cases(earlier)]
    about = {"command": command, "quick": options.quick, "load_before": load(), "threads": options.threads}
    measurements: list[Measurement] = []
    result = collect(chosen, measurements, about, earlier, output_folder)
    for number, case in enumerate(cases, start=1):
        measurements.append(measure_case(case, peers, options.effort, options.threads))
        say(f"{number:3}/{len(cases)}  {_line(measurements[-1])}")
        result = collect(chosen, measurements, about, earlier, output_folder)
        results.write_json(output_folder / JSON_FILE, result)
    _write(result, output_folder, say)
    return sum(not row["passed"] for row in result["parity"])


def _earlier(path: Path, options: Options) -> results.Json | None:
    """What is in the file and is to be kept; None where nothing is.

    Raises ArgumentError when it cannot stand beside what is measured now.
    """
    if not (options.merge or options.resume) or not path.exists():
        return None
    found = results.read_result(path)
    here = describe_machine()
    now = {"quick": options.quick, "threads": options.threads, "processor": here["processor"], "engine": here["isa"]}
    was = {
        "quick": found["quick"],
        "threads": found["settings"]["threads"],
        "processor": found["machine"]["processor"],
        "engine": found["machine"]["isa"],
    }
    different = [f"{name} {was[name]!r} in {path}, {now[name]!r} now" for name in now if was[name] != now[name]]
    if different:
        raise ArgumentError("; ".join(different), advice="Measure all of it anew, or into another folder with --out")
    return found


def collect(
    chosen: Registry,
    measurements: Sequence[Measurement],
    about: Mapping[str, Any],
    earlier: results.Json | None,
    output_folder: Path,
) -> results.Json:
    """What `bench.json` holds."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    threads = about["threads"]
    result: results.Json = {
        "format": results.FORMAT,
        "date": date,
        "command": about["command"],
        "quick": about["quick"],
        "settings": {
            "threads": threads,
            "dtype": DTYPE,
            "load_before": about["load_before"],
            "load_after": load(),
        },
        "machine": describe_machine(),
        "versions": describe_versions(),
        "parity": results.parity_rows(measurements),
        "rows": results.rows(measurements, threads, date),
        "curves": {axis: [case.name for case in curve] for axis, curve in chosen.curves.items()},
        "skipped": {name: why for one in measurements for name, why in one.skipped.items()},
        "installed": sorted({speed.who for one in measurements for speed in one.speeds}),
    }
    if earlier is not None:
        result = results.merge(earlier, result)
    result["peak_gflops"] = _peak(result["rows"])
    result["targets"] = [*results.target_rows(chosen, result), *results.language_model_rows(output_folder)]
    return result


def render_again(output_folder: Path) -> int:
    """Writes the report from the `bench.json` that is in the folder, with the figures as they are asked for now and the
    language models' results as they are now.

    Returns the number of red gates. Raises FormatError when the file is of another format.
    """
    result = results.read_result(output_folder / JSON_FILE)
    chosen = Options(quick=result["quick"]).registry()
    result["targets"] = [*results.target_rows(chosen, result), *results.language_model_rows(output_folder)]
    _write(result, output_folder, print)
    return sum(not row["passed"] for row in result["parity"])


def _write(result: results.Json, output_folder: Path, say: Callable[[str], None]) -> None:
    results.write_json(output_folder / JSON_FILE, result)
    report.write_report(result, output_folder / REPORT_FOLDER, say)
    say(f"figures: {output_folder / JSON_FILE}\n")
    say(report.targets_table(result))


def _peak(rows: Sequence[results.Json]) -> float:
    found = [row["peak_gflops"] for row in rows if row["who"] == RECURRA]
    return median(found) if found else 0.0


def _line(measurement: Measurement) -> str:
    name = measurement.case.name
    red = [one for one in measurement.parities if not one.passed]
    if red:
        return f"{name}: PARITY FAILED, " + "; ".join(
            f"{one.peer}: {one.tensor} by {one.difference:.1e}" for one in red
        )
    ours, *others = measurement.speeds
    text = f"{name}: {1e3 * ours.seconds.median:.4g} ms, {ours.share_of_peak.median:.0%} of peak"
    return text + "".join(f"; {other.who} {other.ratio.median:.2f}x as long" for other in others)
