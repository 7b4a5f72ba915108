"""What transforms cost: each against the plain cell, in turns, forward and a training step. Prints a table.

    python benchmarks/transforms.py [--seconds 3]

Batch 32, 100 steps, 256 to 256 columns, float32, two threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from recurra import cells, nn
from recurra.bench.timing import Effort, alternate, ratios, sampler

BATCH, TIME, SIZE, THREADS = 32, 100, 256, 2
ASKED, ASKED_OF_NORMS = 85, 75
CELLS = ("gru", "lstm")
TRANSFORMS: dict[str, Callable[[str], nn.Layer]] = {
    "layer_norm": lambda cell: _layer(cells.layer_norm(cell)),
    "layer_norm, per gate": lambda cell: _layer(cells.layer_norm(cell, per_gate=True)),
    "rms_norm": lambda cell: _layer(cells.rms_norm(cell)),
    "zoneout 0.1": lambda cell: _layer(cells.zoneout(cell, 0.1)),
    "recurrent_dropout 0.3": lambda cell: _layer(cells.recurrent_dropout(cell, 0.3)),
    "learned_initial_state": lambda cell: _layer(cells.learned_initial_state(cell)),
    "random_initial_state 0.1": lambda cell: _layer(cells.random_initial_state(cell, 0.1)),
    "WeightDropout 0.3": lambda cell: nn.WeightDropout(_layer(cell), 0.3),
}
"""Layers that train, so that masks are drawn."""


def _layer(cell: str | cells.Cell) -> nn.Recurrent:
    return nn.Recurrent(cell, SIZE, SIZE)


def forward(layer: nn.Layer, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def train(layer: nn.Layer, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    y, _ = layer(x)
    y.backward(torch.ones_like(y))
    layer.zero_grad()


def measure(cell: str, call: Callable[[nn.Layer, Tensor], None], seconds: float) -> dict[str, float]:
    """The speed of each transform in per cent of the plain cell's, medians over rounds."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, TIME, SIZE)
    layers = {"plain": _layer(cell)} | {name: build(cell) for name, build in TRANSFORMS.items()}
    samplers = {name: sampler(partial(call, layer.train(), x), 0.0) for name, layer in layers.items()}
    samples = alternate(samplers, Effort(0.0, seconds, 9, 101, 0.0))
    plain = samples.pop("plain")
    return {name: 100 * ratios(plain, times).median for name, times in samples.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each cell and pass")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(THREADS)
    columns = [(cell, call) for cell in CELLS for call in (forward, train)]
    found = [measure(cell, call, seconds) for cell, call in columns]
    print(f"| % of the plain cell's speed | {' | '.join(f'{c} {f.__name__}' for c, f in columns)} | asked |")
    print(f"|---|{'--:|' * (len(columns) + 1)}")
    for name in TRANSFORMS:
        asked = ASKED_OF_NORMS if "norm" in name else ASKED
        print(f"| {name} | {' | '.join(f'{one[name]:.0f}' for one in found)} | {asked} |")


if __name__ == "__main__":
    main()
