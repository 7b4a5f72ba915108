"""The training step of each matrix memory by chunk size, and of the same layer stepped through a loop.

    python benchmarks/memories.py [--time 1024] [--batch 8] [--hidden 128]

Prints a table of milliseconds, forward and backward, the best of a few runs that alternate between the cases. The
outputs of chunks and loop are compared first.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recurra import nn

CHUNKS = (16, 32, 64, 128)
ROUNDS = 3
MEMORIES: tuple[Any, ...] = (nn.MatrixLSTM, nn.GatedDelta, nn.GatedLinearAttention, nn.SelectiveStateSpace)


def loop(layer: nn.Layer, x: Tensor) -> Tensor:
    """The outputs of a layer, one step after another."""
    state, outputs = layer.initial_state(x.shape[0]), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1)


def train(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Milliseconds of a forward and a backward pass."""
    began = time.perf_counter()
    run(x).sum().backward()
    return 1000 * (time.perf_counter() - began)


def measure(kind: Any, x: Tensor, hidden: int) -> list[float]:
    """The best time for each chunk size, and for the loop, which is run once."""
    layers = [kind(x.shape[2], hidden, chunk_size=size) for size in CHUNKS]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    with torch.no_grad():
        expected = loop(layers[0], x)
        for layer in layers:
            torch.testing.assert_close(layer(x)[0], expected, rtol=1e-3, atol=1e-4)
    times = [[train(lambda x, layer=layer: layer(x)[0], x) for layer in layers] for _ in range(ROUNDS)]
    return [*(min(column) for column in zip(*times, strict=True)), train(lambda x: loop(layers[0], x), x)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    x = torch.randn(given.batch, given.time, 64)
    print(f"batch {given.batch}, {given.time} steps, 64 -> {given.hidden}, float32, {given.threads} threads\n")
    print(f"| ms | {' | '.join(f'chunk {size}' for size in CHUNKS)} | loop of steps | loop / best |")
    print("|---|" + "--:|" * (len(CHUNKS) + 2))
    for kind in MEMORIES:
        times = measure(kind, x, given.hidden)
        cells = " | ".join(f"{value:.0f}" for value in times)
        print(f"| {kind.__name__} | {cells} | {times[-1] / min(times[:-1]):.1f}x |", flush=True)


if __name__ == "__main__":
    main()
