"""What echo-state networks are measured by in the literature: NARMA-10, Mackey-Glass, memory capacity.

    python benchmarks/reservoir_tasks.py

One line a seed; errors are normalised root mean squares (1 is what the mean would reach).
"""

import argparse

import numpy as np

from recurra.reservoir import EchoStateNetwork, Reservoir
from recurra.reservoir.problems import mackey_glass, memory_capacity, narma10, nrmse

REGULARISATIONS = tuple(10.0**k for k in range(-12, -3))


def narma(seed: int) -> float:
    """One step of NARMA-10 from its input: 300 units, 2,000 steps to learn from, 2,000 to be judged by."""
    u, y = narma10(4000, seed=seed)
    reservoir = Reservoir(300, leak=1.0, input_scaling=0.2, bias_scaling=0.2, seed=seed)
    network = EchoStateNetwork(reservoir, regularisation=REGULARISATIONS).fit(u[:2000], y[:2000], washout=200)
    return nrmse(y[2000:], network.predict(u)[2000:])


def generated(seed: int, horizon: int = 84) -> float:
    """Mackey-Glass (delay 17), 84 steps ahead in free run, from 20 places: 500 units, 3,000 steps to learn from."""
    x = mackey_glass(6000, seed=seed)[:, None]
    network = EchoStateNetwork(Reservoir(500, bias_scaling=0.2, seed=seed), regularisation=REGULARISATIONS)
    network.fit(x[:2999], x[1:3000], washout=100)
    starts = np.linspace(3200, len(x) - horizon, 20).astype(int)
    last = network.generate(np.stack([x[s - 200 : s] for s in starts]), horizon)[:, -1, 0]
    return float(np.sqrt(np.mean((last - x[starts + horizon - 1, 0]) ** 2)) / x.std())


def capacity(seed: int) -> float:
    """Memory capacity of 100 units, of at most 100."""
    reservoir = Reservoir(100, leak=1.0, input_scaling=0.1, seed=seed)
    return memory_capacity(reservoir, most_delay=100, seed=seed)[0]


def main() -> None:
    """A table, a row for each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    rows = [(narma(seed), generated(seed), capacity(seed)) for seed in range(parser.parse_args().seeds)]
    print("seed  NARMA-10 NRMSE  Mackey-Glass NRMSE84  memory capacity")
    for seed, row in enumerate(rows):
        print(f"{seed:4}  {row[0]:14.3f}  {row[1]:20.5f}  {row[2]:15.1f}")
    middle = np.median(rows, axis=0)
    print(f"median{middle[0]:14.3f}  {middle[1]:20.5f}  {middle[2]:15.1f}")


if __name__ == "__main__":
    main()
