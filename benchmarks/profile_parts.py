"""Where the time of a training step or a forward pass goes: each part of the engine, and what torch and Python take.

    python benchmarks/profile_parts.py [--cells gru lstm] [--shapes 32x100x256 8x100x64] [--threads 2]

A shape is batch x steps x columns, of inputs and of states. Milliseconds of one call: the median of many, in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from recurra import cells, engine, nn
from recurra.bench.timing import garbage_kept

_ROUNDS, _WARM_UP = 40, 5


def training(layer: nn.Recurrent, x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], object]:
    """Forward, and backward of everything."""

    def call() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x)[0].backward(gradient)

    return call


def forward(layer: nn.Recurrent, x: torch.Tensor, _: torch.Tensor) -> Callable[[], object]:
    """A forward pass without gradients."""

    def call() -> None:
        with torch.no_grad():
            layer(x)

    return call


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by part, the call as a whole under the name `all`."""
    for _ in range(_WARM_UP):
        call()
    taken: list[dict[str, float]] = []
    with garbage_kept():
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            with engine.profiled() as seconds:
                call()
            whole = time.perf_counter() - begin
            taken.append({**seconds, "torch and Python": whole - sum(seconds.values()), "all": whole})
    return {name: median(one[name] for one in taken) * 1e3 for name in taken[0]}


def main() -> None:
    """Print a table for each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["gru", "lstm"], choices=cells.names(), metavar="CELL")
    parser.add_argument("--shapes", nargs="+", default=["32x100x256", "8x100x64"])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shapes = [[int(size) for size in shape.split("x")] for shape in given.shapes]
    for cell in given.cells:
        columns = {}
        for batch, steps, size in shapes:
            layer = nn.Recurrent(cell, size, size)
            x = torch.randn(batch, steps, size, requires_grad=True)
            gradient = torch.randn(batch, steps, layer.output_size)
            for kind in (forward, training):
                columns[f"{kind.__name__}, {batch} x {steps} x {size}"] = measure(kind(layer, x, gradient))
        print(f"| {cell}: ms ({given.threads} threads) | {' | '.join(columns)} |")
        print("|---|" + "--:|" * len(columns))
        for part in next(iter(columns.values())):
            cells_of_row = (f"{found[part]:.2f} ({found[part] / found['all']:.0%})" for found in columns.values())
            print(f"| {part} | {' | '.join(cells_of_row)} |")
        print()


if __name__ == "__main__":
    main()
