"""`recurra bench`: every case with its peers, measured by one command; `bench.json` and a report for people.

Read `registry.py` for what is measured, `measure.py` for how. A case is timed only after its outputs and gradients
equal each peer's.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from recurra import engine
from recurra.bench import registry, report, results
from recurra.bench.machine import describe_machine, describe_versions, load
from recurra.bench.measure import Measurement, measure_case
from recurra.bench.peers import PEERS, Peer
from recurra.bench.registry import Registry
from recurra.bench.timing import FULL, QUICK
from recurra.errors import ArgumentError, BackendUnavailable, FormatError

JSON_FILE = "bench.json"
REPORT_FOLDER = "docs"
THREADS = 2
_PARITY_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command `recurra bench`.

    Raises SystemExit with code 1 when a parity gate is red, and only then; 2 for bad arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.report_only:
        if render_again(options.out):
            raise SystemExit(_PARITY_FAILED)
        return
    command = shlex.join(["recurra", "bench", *given])
    if run(options.out, quick=options.quick, threads=options.threads, only=options.only, command=command):
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
    parser.add_argument(
        "--report-only",
        action="store_true",
        help=f"write the report again from the {JSON_FILE} that is there, measuring nothing",
    )
    return parser


def run(
    output_folder: Path,
    *,
    quick: bool = False,
    threads: int = THREADS,
    only: str = "",
    command: str = "recurra bench",
    peers: Mapping[str, Peer] = PEERS,
    say: Callable[[str], None] = print,
) -> int:
    """Measures all cases, writes `bench.json` and the report, and returns the number of red parity gates.

    Raises ArgumentError for a number of threads that cannot be, or when no case is left; BackendUnavailable without
    the engine.
    """
    if engine.missing():
        raise BackendUnavailable(engine.missing())
    if threads < 1:
        raise ArgumentError(f"threads is {threads}", expected="1 or more")
    chosen = registry.quick() if quick else registry.full()
    cases = [case for case in chosen.cases if only in case.name]
    if not cases:
        raise ArgumentError(f"no case's name contains {only!r}", advice="See the names in docs/benchmarks.md")
    load_before, before = load(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        measurements = []
        for number, case in enumerate(cases, start=1):
            measurements.append(measure_case(case, peers, QUICK if quick else FULL, threads))
            say(f"{number:3}/{len(cases)}  {_line(measurements[-1])}")
    finally:
        torch.set_num_threads(before)
    settings = {"threads": threads, "dtype": registry.DTYPE, "load_before": load_before, "load_after": load()}
    about = {"command": command, "quick": quick, "settings": settings}
    result = collect(chosen, measurements, about, output_folder)
    _write(result, output_folder, say)
    return sum(not row["passed"] for row in result["parity"])


def collect(
    chosen: Registry, measurements: Sequence[Measurement], about: Mapping[str, object], output_folder: Path
) -> results.Json:
    """What `bench.json` holds."""
    return {
        "format": results.FORMAT,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **about,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "peak_gflops": _peak(measurements),
        "targets": [*results.target_rows(chosen.targets, measurements), results.language_model_row(output_folder)],
        "parity": results.parity_rows(measurements),
        "rows": results.rows(measurements),
        "curves": [case.name for case in chosen.curves],
        "skipped": {name: why for one in measurements for name, why in one.skipped.items()},
    }


def render_again(output_folder: Path) -> int:
    """Writes the report from the `bench.json` that is in the folder, with the language model's result as it is now.

    Returns the number of red gates. Raises FormatError when the file is of another format.
    """
    result = results.read_json(output_folder / JSON_FILE)
    if result.get("format") != results.FORMAT:
        raise FormatError(
            f"{output_folder / JSON_FILE} has format {result.get('format')!r}", expected=str(results.FORMAT)
        )
    row = results.language_model_row(output_folder)
    result["targets"] = [row if old["name"] == row["name"] else old for old in result["targets"]]
    _write(result, output_folder, print)
    return sum(not row["passed"] for row in result["parity"])


def _write(result: results.Json, output_folder: Path, say: Callable[[str], None]) -> None:
    results.write_json(output_folder / JSON_FILE, result)
    report.write_report(result, output_folder / REPORT_FOLDER, say)
    say(f"figures: {output_folder / JSON_FILE}\n")
    say(report.targets_table(result))


def _peak(measurements: Sequence[Measurement]) -> float:
    found = sorted(one.peak for one in measurements if one.speeds)
    return found[len(found) // 2] if found else 0.0


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
