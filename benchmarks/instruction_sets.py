"""The same layers on every instruction set that the engine is built for and this processor has, beside torch.nn:
`python benchmarks/instruction_sets.py [--write]`. A process for each (RECURRA_ISA), which take turns; float32."""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import IO, cast

import torch

from recurra import engine
from recurra.bench.cases import LAYERS, Case, Shape
from recurra.bench.machine import describe_machine
from recurra.bench.timing import garbage_kept
from recurra.bench.work import operations
from recurra.nn import Recurrent, to_torch

PAGE = Path(__file__).resolve().parents[1] / "docs" / "instruction-sets.md"
PLAIN = "torch.nn"
SHAPES = (Shape(32, 100, 256, 256), Shape(8, 100, 64, 64))
CASES = tuple(Case(cell, d, s, ()) for cell in ("gru", "lstm") for s in SHAPES for d in ("forward", "training"))
ROUNDS, SAMPLE_SECONDS, THREADS = 9, 0.05, 2


def layer_of(case: Case) -> Recurrent:
    """The layer of a case, the same weights in every process."""
    torch.manual_seed(0)
    return LAYERS[case.cell](case.shape.input_size, case.shape.hidden_size)


def serve(who: str) -> None:
    """Reads numbers of cases from standard input, writes the seconds that one call took to standard output."""
    torch.set_num_threads(THREADS)
    modules: dict[int, torch.nn.Module] = {}
    for line in sys.stdin:
        number = int(line)
        case = CASES[number]
        if number not in modules:
            modules[number] = to_torch(layer_of(case)) if who == PLAIN else layer_of(case)
            sample(modules[number], case, 0.0)
        print(sample(modules[number], case, SAMPLE_SECONDS), flush=True)


def sample(module: torch.nn.Module, case: Case, least: float) -> float:
    """The mean seconds of as many calls as take so long, two or more."""
    shape = case.shape
    training = case.direction == "training"
    x = torch.ones(shape.batch, shape.steps, shape.input_size, requires_grad=training)
    with garbage_kept(), torch.set_grad_enabled(training):
        count, begin = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - begin < least:
            y = module(x)[0]
            if training:
                module.zero_grad()
                x.grad = None
                y.backward(y.detach())
            count += 1
        return (time.perf_counter() - begin) / count


def start(who: str) -> subprocess.Popen[str]:
    """A process that serves one contender."""
    environment = os.environ if who == PLAIN else {**os.environ, "RECURRA_ISA": who}
    command = [sys.executable, __file__, "--serve", who]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], number: int) -> float:
    """One sample of a case."""
    requests, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    requests.write(f"{number}\n")
    requests.flush()
    return float(answers.readline())


def measure(contenders: dict[str, subprocess.Popen[str]]) -> list[dict[str, list[float]]]:
    """Of each case the seconds of each contender, in turns."""
    found = []
    for number, case in enumerate(CASES):
        print(f"{number + 1}/{len(CASES)} {case.name}", file=sys.stderr, flush=True)
        times: dict[str, list[float]] = {who: [] for who in contenders}
        for turn in range(ROUNDS + 1):
            for who in contenders if turn % 2 else reversed(contenders):
                taken = ask(contenders[who], number)
                if turn:
                    times[who].append(taken)
        found.append(times)
    return found


def page(found: list[dict[str, list[float]]]) -> str:
    """The table, as Markdown."""
    machine, contenders = describe_machine(), list(found[0])
    others = [who for who in contenders if who != PLAIN]
    head = ["case", *(f"{who}, ms" for who in contenders), *(f"{who}, GFLOP/s" for who in others)]
    head += [f"{who} against {PLAIN}" for who in others]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for case, times in zip(CASES, found, strict=True):
        work = operations(case, layer_of(case))
        middle = {who: median(taken) for who, taken in times.items()}
        lines.append(
            [
                case.name,
                *(f"{1e3 * middle[who]:.2f}" for who in contenders),
                *(f"{1e-9 * work / middle[who]:.0f}" for who in others),
                *(f"{median(b / a for a, b in zip(times[who], times[PLAIN], strict=True)):.2f}x" for who in others),
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"""# Instruction sets

`python benchmarks/instruction_sets.py --write` wrote this page on {datetime.date.today()}: {machine["processor"]},
{THREADS} threads for everybody, float32, medians of {ROUNDS} turns, ratios within one. The engine takes the best set
that the processor has, and torch.nn does too; `RECURRA_ISA` forces another one on the engine, as here. What the
processor lacks is not here: `make emulate` tests AVX-512 and `make cross` 64-bit ARM anywhere, but times mean nothing
there.

{table}
"""


def main() -> None:
    """Measure and print the page, and with --write store it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/instruction-sets.md")
    parser.add_argument("--serve", metavar="WHO", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    contenders = {who: start(who) for who in (*engine.available_isas(), PLAIN)}
    try:
        text = page(measure(contenders))
    finally:
        for process in contenders.values():
            process.terminate()
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
