"""The tasks that reservoirs are measured by, made anew from a seed."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.network import EchoStateNetwork

Array = NDArray[np.float64]


def nrmse(target: Array, predicted: Array) -> float:
    """The root mean square error in units of the target's standard deviation: 1 is what the mean would reach."""
    target, predicted = np.asarray(target), np.asarray(predicted)
    return float(np.sqrt(np.mean((target - predicted) ** 2) / np.var(target)))


def narma10(steps: int, *, seed: int = 0) -> tuple[Array, Array]:
    """The nonlinear autoregressive moving average of order 10 (Atiya and Parlos 2000, eq. 86).

    Returns the input (steps, 1), uniform in [0, 0.5], and the target (steps,), the system's output after it. A
    sequence that grows beyond all bounds, which happens once in a while, is drawn again.
    """
    generator = np.random.default_rng(seed)
    while True:
        u = generator.uniform(0, 0.5, steps)
        y, sums = np.zeros(steps + 1), 0.0
        for t in range(9, steps):
            sums = y[t - 9 : t + 1].sum()
            y[t + 1] = 0.3 * y[t] + 0.05 * y[t] * sums + 1.5 * u[t - 9] * u[t] + 0.1
            if abs(y[t + 1]) > 1:
                break
        else:
            return u[:, None], y[1:]


def mackey_glass(steps: int, *, delay: int = 17, seed: int = 0, substeps: int = 10) -> Array:
    """The Mackey-Glass series, dx/dt = 0.2 x(t - delay) / (1 + x(t - delay)^10) - 0.1 x(t), one value a unit of time
    (Mackey and Glass 1977; Jaeger 2001, section 5.1).

    Returns (steps,), squashed to tanh(x - 1) as Jaeger does. Integrated with Runge-Kutta steps of 1 / substeps, the
    delayed value held over each; the first 1,000 values are left out.
    """
    if delay < 1 or substeps < 1:
        raise ArgumentError(f"delay is {delay} and substeps {substeps}", expected="whole numbers from 1")
    generator = np.random.default_rng(seed)
    past = deque(1.2 + 0.2 * (generator.random(delay * substeps) - 0.5), maxlen=delay * substeps)
    size, before = 1 / substeps, 1000
    x, values = past[-1], np.empty(before + steps)
    for k in range(before + steps):
        for _ in range(substeps):
            delayed = past[0]
            gain = 0.2 * delayed / (1 + delayed**10)
            k1 = gain - 0.1 * x
            k2 = gain - 0.1 * (x + size / 2 * k1)
            k3 = gain - 0.1 * (x + size / 2 * k2)
            k4 = gain - 0.1 * (x + size * k3)
            x += size / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            past.append(x)
        values[k] = x
    return np.tanh(values[before:] - 1)


def memory_capacity(
    reservoir: Reservoir, *, most_delay: int, steps: int = 4000, washout: int = 200, seed: int = 0
) -> tuple[float, Array]:
    """The short-term memory capacity (Jaeger 2001b, definition 1): how much of an independent random input the units
    still know k steps later, summed over k = 1 ... most_delay.

    The readout sees the input too, which tells nothing of earlier ones. Returns the capacity, at most the number of
    units (proposition 2 there), and the squared correlation at each delay, (most_delay,), on as many fresh steps.
    """
    generator = np.random.default_rng(seed)
    u = generator.uniform(-0.5, 0.5, (2, steps + most_delay))
    x, y = u[:, most_delay:, None], np.stack([u[:, most_delay - k : -k] for k in range(1, most_delay + 1)], -1)
    network = EchoStateNetwork(reservoir, regularisation=1e-10).fit(x[0], y[0], washout=washout)
    outputs, targets = network.predict(x[1])[washout:], y[1][washout:]
    parts = np.array([np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(outputs.T, targets.T, strict=True)])
    return float(parts.sum()), parts
