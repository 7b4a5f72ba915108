"""The language model on recurra and on torch.nn, trained side by side: time to the same loss, and where the time goes.

    python benchmarks/language_model.py [DATA] [--steps 200] [--cells gru lstm] [--set NAME=VALUE]

DATA is a text file or a folder; without it the Python standard library's source is read. Both have the same first
weights, batches and masks, and are trained by the code of `recurra train`, each in a process of its own as it would be
there; they take turns of a few updates, so that whatever else the machine does meets both. The clock of each runs in
its turns only. Then torch.nn trains once more, alone, its first weights disturbed in the last bit: by as much as its
losses go away from its own, rounding alone can separate two that are equal. Writes language_model.json, which `recurra
bench` takes over into its table, and into docs/ (both in the folder of --out) a picture of the losses for each cell and
the tables of docs/language-model.md.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from contender import DISTURBED, RECURRA, TORCH, Report, contend
from portable_commands import portable
from side_by_side_report import draw, entry, summary, write_section

from recurra.bench.results import SIDE_BY_SIDE_FILE, SIDE_BY_SIDE_TARGETS, read_json, write_json
from recurra.errors import RecurraError
from recurra.learn.settings import Settings, parse_assignments

CONTENDERS = (RECURRA, TORCH)
DOCS = "docs"
# In which the threads of the one before stop waiting for work.
_SETTLE_SECONDS = 0.02
# A run this short is validated twice, on less; its state is saved at the end only.
DEFAULTS = {"threads": 2, "validations": 2, "validation_tokens": 30_000, "save_every": 1e6}


@dataclass(frozen=True)
class Race:
    """What came of both, and the seconds of their turns."""

    reports: dict[str, Report]
    turns: dict[str, list[float]]


def race(
    settings: Settings, folder: Path, turn: int, *, double: bool = False, contenders: Sequence[str] = CONTENDERS
) -> Race:
    """Train them in turns of so many updates, every second round in the other order.

    Raises RecurraError when one of them fails; it has said why on standard error.
    """
    started = {who: _start(who, settings, folder / who, turn, double) for who in contenders}
    turns: dict[str, list[float]] = {who: [] for who in contenders}
    try:
        for connection, _ in started.values():
            _received(connection)
        rounds = -(-(settings.steps or 1) // turn)
        for number in range(rounds):
            for who in contenders if number % 2 == 0 else reversed(contenders):
                time.sleep(_SETTLE_SECONDS)
                started[who][0].send("go")
                turns[who].append(_received(started[who][0]))
            _tell(number + 1, rounds, turns)
        return Race({who: _received(connection) for who, (connection, _) in started.items()}, turns)
    finally:
        for _, process in started.values():
            process.terminate()
            process.join()


def _start(who: str, settings: Settings, folder: Path, turn: int, double: bool) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=contend, args=(who, there, settings, folder, turn), kwargs={"double": double}, daemon=True
    )
    process.start()
    there.close()
    return here, process


def _tell(done: int, rounds: int, turns: Mapping[str, Sequence[float]]) -> None:
    taken = ", ".join(f"{who} {sum(seconds):.1f} s" for who, seconds in turns.items())
    print(f"turn {done} of {rounds}: {taken}", file=sys.stderr, flush=True)


def _received(connection: Connection) -> Any:
    try:
        return connection.recv()
    except EOFError:
        raise RecurraError("a contender ended before its time; its error stands above") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write, print."""
    given_words = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser().parse_args(given_words)
    chosen = {**DEFAULTS, "data": given.data, "steps": given.steps, **parse_assignments(given.set)}
    command = portable("language_model.py", given_words)
    result_file = given.out / SIDE_BY_SIDE_FILE
    entries = read_json(result_file) if result_file.exists() else {}
    for cell in given.cells:
        settings = Settings.create({**chosen, "cell": cell})
        with tempfile.TemporaryDirectory() as folder:
            found = race(settings, Path(folder), given.turn, double=given.double)
            alone = race(settings, Path(folder), given.steps, double=given.double, contenders=[DISTURBED])
        reports = found.reports | alone.reports
        entries[cell] = entry(reports, found.turns, settings, command)
        print(summary(cell, entries[cell]))
        draw(cell, reports, given.out / DOCS)
        write_json(result_file, entries)
    write_section(entries, given.out / DOCS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", metavar="DATA", help="text; Python's own source if not given")
    parser.add_argument("--steps", type=int, default=200, help="updates of each (default: %(default)s)")
    parser.add_argument("--cells", nargs="+", default=list(SIDE_BY_SIDE_TARGETS), choices=list(SIDE_BY_SIDE_TARGETS))
    parser.add_argument("--turn", type=int, default=5, help="updates of a turn (default: %(default)s)")
    parser.add_argument("--double", action="store_true", help="in float64: how much of the difference is rounding")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting, for both")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)")
    return parser


if __name__ == "__main__":
    main()
