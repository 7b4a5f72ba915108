"""A reservoir of 500 units over 2,000 steps: recurra against reservoirpy, with the same matrices.

    pip install "reservoirpy>=0.4,<0.5"        # into an environment of its own; recurra does not depend on it
    python benchmarks/reservoir.py [--profile]

First the states are compared, then both are timed in turns; medians and quartiles are printed. "recurra, dense" has the
same matrix without being told that it is sparse. `--profile` says how the time of a step depends on the density.
"""

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from statistics import median

import numpy as np
import torch

from recurra.bench.timing import Effort, Spread, alternate, ratios, sampler
from recurra.nn import Recurrent
from recurra.nn.state import like_of
from recurra.reservoir import Reservoir

UNITS, STEPS = 500, 2000
SETTINGS = Reservoir(UNITS, spectral_radius=0.9, leak=0.3, density=0.1, input_scaling=1.0, bias_scaling=0.2)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
EFFORT = Effort(sample_seconds=0.0, case_seconds=12.0, fewest=9, most=31, peak_seconds=0.0)


def peer(layer: Recurrent, x: np.ndarray) -> Callable[[], np.ndarray]:
    """The same reservoir in reservoirpy, its recurrent matrix sparse as is usual there."""
    sparse, nodes = import_module("scipy.sparse"), import_module("reservoirpy.nodes")
    W, W_in, b = (getattr(layer, name).numpy() for name in ("W", "W_in", "b"))
    matrix = sparse.csr_matrix(W)

    def run() -> np.ndarray:
        # a new node each time, because a node keeps its last state
        node = nodes.Reservoir(W=matrix, Win=W_in, bias=b, lr=SETTINGS.leak, input_dim=x.shape[1], dtype=W.dtype.type)
        return node.run(x)

    return run


def dense(layer: Recurrent) -> Recurrent:
    """The same matrices in the cell that is told nothing of zeros."""
    from recurra.cells import Bias, Input, cell, tanh
    from recurra.cells import Recurrent as Matrix

    @cell
    def esn_dense(x, h, *, W_in=Input(), W=Matrix(), b=Bias(), leak=SETTINGS.leak):
        """The cell `esn` with ordinary parameters."""
        return (1 - leak) * h + leak * tanh(W_in @ x + W @ h + b)

    other = Recurrent(esn_dense, layer.input_size, layer.hidden_size).to(like_of(layer).dtype)
    other.load_state_dict(layer.state_dict())
    return other.requires_grad_(False)


def measure(dtype: torch.dtype, threads: int) -> None:
    """Parity, then times, of one dtype."""
    layer = SETTINGS.layer(1, dtype=dtype)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, STEPS, 1))).to(dtype)
    theirs, unaware = peer(layer, x[0].numpy()), dense(layer)
    difference = np.abs(layer(x)[0][0].numpy() - theirs()).max()
    if difference > TOLERANCE[dtype]:
        raise SystemExit(f"the states differ by {difference:.2g}, more than {TOLERANCE[dtype]}: nothing is timed")
    calls = {"recurra": lambda: layer(x), "recurra, dense": lambda: unaware(x), "reservoirpy": theirs}
    samples = alternate({name: sampler(call, EFFORT.sample_seconds) for name, call in calls.items()}, EFFORT)
    print(f"{str(dtype).removeprefix('torch.')}, {threads} threads; states differ by {difference:.1e} at most")
    for name, taken in samples.items():
        spread, ratio = Spread.of(taken), ratios(samples["reservoirpy"], taken)
        print(
            f"  {name:15}{spread.median * 1e3:8.2f} ms ({spread.lower * 1e3:.2f} to {spread.upper * 1e3:.2f}), "
            f"{spread.median / STEPS * 1e6:6.2f} us a step, {ratio.median:5.1f}x reservoirpy"
        )


def profile(dtype: torch.dtype) -> None:
    """Microseconds a step: the product with W, its share that grows with the elements, and all else."""
    x = torch.zeros(1, STEPS, 1, dtype=dtype)
    print(f"{str(dtype).removeprefix('torch.')}: microseconds a step by the density of W")
    for density in (0.002, 0.02, 0.1, 0.2, 0.5):
        layer = Reservoir(UNITS, density=density).layer(1, dtype=dtype)
        taken = []
        for _ in range(7):
            begin = time.perf_counter()
            layer(x)
            taken.append(time.perf_counter() - begin)
        count = int(torch.count_nonzero(layer.get_parameter("W")))
        print(f"  {density:6}  {count:7,} elements  {median(taken) / STEPS * 1e6:7.2f}")


def main() -> None:
    """Compare, or say how to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="times by density instead")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.profile:
        for dtype in TOLERANCE:
            profile(dtype)
        return
    if find_spec("reservoirpy") is None:
        raise SystemExit(
            'reservoirpy is not installed; python -m pip install "reservoirpy>=0.4,<0.5", and run this again'
        )
    for dtype in TOLERANCE:
        measure(dtype, given.threads)


if __name__ == "__main__":
    main()
