"""What a training step over a long sequence takes in memory and time: an LSTM, recomputed or not, and torch.nn.LSTM.

    python benchmarks/long_sequences.py

Memory is the peak of resident memory during the first step of a fresh process, beyond what was resident before it and
beyond y and the gradient of x; x and the gradient of y were there before. So was, for every contestant alike, what
torch imports when any `backward(gradient)` is first called in a process (sympy, 33 MiB). Times are medians of steps
that alternate in one process.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from recurra import nn
from recurra.ops import native, recompute, segments
from recurra.ops.native import Call

MEBIBYTE = 1 << 20
CONTESTANTS = ("torch.nn.LSTM", "recurra, all kept", "recurra")


def contestant(name: str, hidden: int) -> tuple[torch.nn.Module, Callable[[], AbstractContextManager[None]]]:
    """The layer, and the context that its steps run in."""
    if name == "torch.nn.LSTM":
        return torch.nn.LSTM(hidden, hidden, batch_first=True), nullcontext
    keeps_all = name == "recurra, all kept"
    return nn.LSTM(hidden, hidden), (lambda: recompute(above=math.inf)) if keeps_all else nullcontext


def train(
    layer: torch.nn.Module, context: Callable[[], AbstractContextManager[None]], x: Tensor, grad_y: Tensor
) -> None:
    """One step: forwards, and backwards to x and to the weights."""
    with context():
        layer(x)[0].backward(grad_y)


def resident(field: str) -> int:
    """A field of this process's memory, in bytes: VmRSS is now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this needs Linux")


def sequences(steps: int, batch: int, hidden: int) -> tuple[Tensor, Tensor]:
    """x and the gradient of y, (batch, steps, hidden)."""
    return torch.randn(batch, steps, hidden, requires_grad=True), torch.randn(batch, steps, hidden)


def measure_memory(name: str, steps: int, batch: int, hidden: int) -> int:
    """Bytes, in this process, which must be fresh."""
    layer, context = contestant(name, hidden)
    x, grad_y = sequences(steps, batch, hidden)
    torch.ones(1, requires_grad=True).neg().backward(torch.ones(1))
    before = resident("VmRSS")
    train(layer, context, x, grad_y)
    return resident("VmHWM") - before - 2 * x.nbytes


def memory_of(name: str, arguments: list[str]) -> int:
    """Bytes, measured in a process of its own."""
    command = [sys.executable, __file__, "--contestant", name, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def counted(name: str, steps: int, batch: int, hidden: int) -> int | None:
    """Bytes of tape and kept states by arithmetic; None for torch."""
    if name == "torch.nn.LSTM":
        return None
    layer = nn.LSTM(hidden, hidden)
    x, states = torch.empty(1, 1, hidden).expand(batch, steps, hidden), [torch.empty(batch, hidden)] * 2
    call = Call(layer.program.json, x, states, [p.detach() for p in layer.parameters()], None, None, None)
    plan = native.plan_of(call.program, "train", native.columns_of(x, states, call.core))
    every = 0 if name == "recurra, all kept" else segments.segment_steps(plan, call, 0, segments.MOST_TAPE)
    rest = steps - (steps // every - 1) * every if every else 0
    return 4 * (segments.kept_size(plan, call, every) + rest * batch * plan.tape_columns)


def seconds_of_each(rounds: int, steps: int, batch: int, hidden: int) -> dict[str, list[float]]:
    """The times of training steps, contestant after contestant in each round; the first round is left out."""
    x, grad_y = sequences(steps, batch, hidden)
    all_of_them = {name: contestant(name, hidden) for name in CONTESTANTS}
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds + 1):
        for name, (layer, context) in all_of_them.items():
            began = time.perf_counter()
            train(layer, context, x, grad_y)
            found[name].append(time.perf_counter() - began)
            x.grad = None
    return {name: times[1:] for name, times in found.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contestant", choices=CONTESTANTS, help="only print the bytes that one takes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = given.steps, given.batch, given.hidden
    if given.contestant:
        print(json.dumps(measure_memory(given.contestant, *sizes)))
        return
    names = ("steps", "batch", "hidden", "threads")
    arguments = [f"--{name}={getattr(given, name)}" for name in names]
    memory = {name: memory_of(name, arguments) for name in CONTESTANTS}
    seconds = seconds_of_each(given.rounds, *sizes)
    table = Table("", "peak MiB", "of torch's", "counted MiB", "seconds", "fastest", "of all kept")
    for name in CONTESTANTS:
        count = counted(name, *sizes)
        pairs = [own / kept for own, kept in zip(seconds[name], seconds[CONTESTANTS[1]], strict=True)]
        table.add_row(
            name,
            f"{memory[name] / MEBIBYTE:.0f}",
            f"{memory[name] / memory[CONTESTANTS[0]]:.1%}",
            "" if count is None else f"{count / MEBIBYTE:.0f}",
            f"{statistics.median(seconds[name]):.2f}",
            f"{min(seconds[name]):.2f}",
            f"{statistics.median(pairs):.2f}",
        )
    Console(width=100).print(f"one training step of an LSTM: {', '.join(arguments)}", table, sep="\n")


if __name__ == "__main__":
    main()
