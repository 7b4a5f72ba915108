"""Does a driven network forget where it started from? The echo state property (Jaeger 2001, definition 1), measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, compress

import numpy as np
import torch
from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.nn import Layer, Recurrent, map_state
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

    States that mean nothing alone, such as a clock (`joint` ones), and the books of random numbers start where a layer
    starts them, and are no part of the distance.

    Args:
        layer: any layer that reads forwards.
        x: (time, input_size), at least 2 steps, like the layer's weights, in single or double precision.
        seed: of the initial states, uniform in [-1, 1].

    Raises:
        ArgumentError: the layer has no state that can be set alone.
        ShapeError: x is not of this shape, or in half precision, whose rounding hides whether states meet.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ShapeError(f"x has shape {tuple(x.shape)}", expected=f"(time, {layer.input_size}), time from 2")
    if x.dtype not in _FLOOR:
        raise ShapeError(
            f"x is {x.dtype}",
            expected=" or ".join(map(str, _FLOOR)),
            advice="Measure the layer and x after .float()",
        )
    initial = layer.initial_state(2 * _PAIRS)
    free = _free(initial, _bound(layer))
    if not any(free):
        raise ArgumentError(
            "no state of the layer can be set alone", got=type(layer).__name__, expected="a layer with such a state"
        )
    generator = torch.Generator().manual_seed(seed)

    def random(s: Tensor) -> Tensor:
        return (torch.rand(s.shape, generator=generator, dtype=torch.float64) * 2 - 1).to(s)

    with torch.no_grad():
        flags = iter(free)
        state = map_state(lambda s: random(s) if next(flags) else s, initial)
        distances = [_distances(state, free)]
        # a step at a time, because the distance is of the whole state, not of the output
        for frame in x:
            _, state = layer.step(frame.expand(2 * _PAIRS, -1).contiguous(), state)
            distances.append(_distances(state, free))
            if (distances[-1] <= _FLOOR[x.dtype] * distances[0]).all():
                break
    return _worst(np.stack(distances), _FLOOR[x.dtype])


def _bound(layer: Layer) -> dict[type, set[str]]:
    """By the type of a cell's state, the names in it that mean nothing alone."""
    bound: dict[type, set[str]] = {}
    for module in layer.modules():
        if isinstance(module, Recurrent):
            names = {spec.name for spec in module.program.states if not spec.own or spec.role == "joint"}
            bound.setdefault(type(module.initial_state(1)), set()).update(names)
    return bound


def _free(state: State, bound: Mapping[type, set[str]]) -> list[bool]:
    """Of each tensor of a nested state, whether it can be set alone."""
    names, fixed = getattr(state, "_fields", range(len(state))), bound.get(type(state), set())
    flags = [
        _free(part, bound) if isinstance(part, tuple) else [name not in fixed]
        for name, part in zip(names, state, strict=True)
    ]
    return list(chain.from_iterable(flags))


def _distances(state: State, free: list[bool]) -> np.ndarray:
    parts = [(s[0::2] - s[1::2]).double().square().sum(1) for s in compress(state_tensors(state), free)]
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
