"""Does a driven network forget where it started from? The echo state property (Jaeger 2001, definition 1), measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recurra.errors import ShapeError
from recurra.nn import Layer, map_state
from recurra.nn.layer import State
from recurra.nn.state import state_tensors

_PAIRS = 4
# Below this share of the first distance, rounding is what is measured.
_FLOOR = {torch.float32: 1e-5, torch.float64: 1e-12}
# States of which this share of the distance remains count as met.
_MET = 1e-3


class RecurraEchoStateWarning(UserWarning):
    """A reservoir may remember its initial state for ever; the message gives the measured rate."""


@dataclass(frozen=True)
class EchoStateTest:
    """How the distance between two states under the same input went on, for the worst of several pairs."""

    rate: float
    """The factor by which the distance changes a step, on average over the second half of the steps measured. Below 1
    they approach each other."""
    remaining: float
    """The last distance, as a share of the first."""
    steps: int
    """How many steps were measured: fewer than given where the states met earlier."""

    @property
    def holds(self) -> bool:
        """Whether the states came together while they were measured."""
        return self.remaining < _MET

    def __str__(self) -> str:
        outcome = "come together" if self.holds else "do not come together"
        return (
            f"two states {outcome} in {self.steps} steps: their distance changes by a factor of {self.rate:.4f} a "
            f"step, and {self.remaining:.2g} of it remains"
        )


def echo_state_test(layer: Layer, x: Tensor, *, seed: int = 0) -> EchoStateTest:
    """Drive pairs of different initial states with the same input, and measure how their distance changes.

    Args:
        layer: any layer that reads forwards.
        x: (time, input_size), at least 2 steps, like the layer's weights.
        seed: of the initial states, uniform in [-1, 1].

    Raises:
        ShapeError: x is not of this shape.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"x has shape {tuple(x.shape)}", expected=f"(time, {layer.input_size}), time from 2")
    generator = torch.Generator().manual_seed(seed)

    def random(s: Tensor) -> Tensor:
        return (torch.rand(s.shape, generator=generator, dtype=torch.float64) * 2 - 1).to(s)

    with torch.no_grad():
        state = map_state(random, layer.initial_state(2 * _PAIRS))
        distances = [_distances(state)]
        # a step at a time, because the distance is of the whole state, not of the output
        for frame in x:
            _, state = layer.step(frame.expand(2 * _PAIRS, -1).contiguous(), state)
            distances.append(_distances(state))
            if (distances[-1] <= _FLOOR[x.dtype] * distances[0]).all():
                break
    return _worst(np.stack(distances), _FLOOR[x.dtype])


def _distances(state: State) -> np.ndarray:
    parts = [(s[0::2] - s[1::2]).double().square().sum(1) for s in state_tensors(state)]
    return torch.stack(parts).sum(0).sqrt().numpy()


def _worst(distances: np.ndarray, floor: float) -> EchoStateTest:
    tests = []
    for pair in distances.T:
        met = np.flatnonzero(pair <= floor * pair[0])
        steps = int(met[0]) if len(met) else len(pair) - 1
        middle = steps // 2
        tiny = np.finfo(float).tiny
        rate = (max(pair[steps], tiny) / max(pair[middle], tiny)) ** (1 / max(1, steps - middle))
        tests.append(EchoStateTest(float(rate), float(pair[steps] / pair[0]), steps))
    return max(tests, key=lambda test: (not test.holds, test.rate))
