"""Measures one case: the parity gate, then times in turns with every peer and with the peak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from recurra import engine
from recurra.bench import parity
from recurra.bench.cases import LAYERS, Case
from recurra.bench.contract import Foreign, Implementation, Peer, own
from recurra.bench.inputs import Inputs
from recurra.bench.parity import Parity
from recurra.bench.timing import Effort, Sampler, Spread, alternate, ratios, sampler
from recurra.bench.work import operations

RECURRA = "recurra"
_PEAK = "peak"
_FLOAT_BYTES = 4
STEPS_A_CALL = 100
"""Steps in a loop that are timed together: one alone is as short as reading the clock is exact."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one contestant of a case did: seconds, the operations of a run, and the ratio of its time to ours."""

    who: str
    seconds: Spread
    operations: int
    share_of_peak: Spread
    ratio: Spread

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations a second."""
        return self.operations / self.seconds.median / 1e9


@dataclass(frozen=True, slots=True)
class Measurement:
    """A case with the result of its gate, and its times, ours first, and the peak in GFLOP/s.

    There are no times when the gate is red.
    """

    case: Case
    parities: tuple[Parity, ...]
    skipped: Mapping[str, str]
    speeds: tuple[Speed, ...]
    peak: float
    rounds: int

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.parities)

    @property
    def fastest_peer(self) -> Speed | None:
        """The peer with the smallest median; None without times of one."""
        return min(self.speeds[1:], key=lambda speed: speed.seconds.median, default=None)


def measure_case(case: Case, peers: Mapping[str, Peer], effort: Effort, threads: int) -> Measurement:
    """Parity and times of a case with those of its peers that are there."""
    with _torch_threads(case.threads or threads):
        return _measure(case, peers, effort, case.threads or threads)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(case: Case, peers: Mapping[str, Peer], effort: Effort, threads: int) -> Measurement:
    layer = LAYERS[case.cell](case.shape.input_size, case.shape.hidden_size)
    parity.randomise(layer)
    inputs = Inputs(case, layer)
    skipped = {name: peers[name].missing() for name in case.peers if peers[name].missing()}
    contestants: dict[str, Implementation | Foreign] = {RECURRA: own(layer, bfloat16=case.bfloat16)}
    contestants |= {name: peers[name].build(layer) for name in case.peers if name not in skipped}
    ours = parity.evaluate(contestants[RECURRA], inputs)
    parities: list[Parity] = []
    for name, one in list(contestants.items())[1:]:
        found = parity.compare(
            parity.asked_of(one, ours, inputs), parity.evaluate(one, inputs), name, parity.tolerance_of(case)
        )
        if not found.passed and isinstance(one, Implementation) and not case.bfloat16:
            found = parity.settle(found, peers[name], layer, inputs, ours)
        parities.append(found)
    del ours
    if not all(one.passed for one in parities):
        return Measurement(case, tuple(parities), skipped, (), 0.0, 0)
    samplers = {name: _sampler(one, inputs, effort, threads) for name, one in contestants.items()}
    samplers[_PEAK] = lambda: engine.peak_flops(_FLOAT_BYTES, threads, effort.peak_seconds)
    samples = alternate(samplers, effort)
    work = operations(case, layer)
    speeds = tuple(_speed(name, samples, work) for name in contestants)
    return Measurement(case, tuple(parities), skipped, speeds, median(samples[_PEAK]) / 1e9, len(samples[RECURRA]))


def _speed(name: str, samples: Mapping[str, Sequence[float]], work: int) -> Speed:
    seconds, peak = samples[name], samples[_PEAK]
    share = ratios([work / s for s in seconds], peak)
    return Speed(name, Spread.of(seconds), work, share, ratios(seconds, samples[RECURRA]))


def _sampler(one: Implementation | Foreign, inputs: Inputs, effort: Effort, threads: int) -> Sampler:
    if isinstance(one, Foreign):
        return sampler(_foreign_call(one, inputs), effort.sample_seconds)
    used = one.threads or threads
    with _torch_threads(used):
        sample = sampler(_CALLS[inputs.case.direction](one, inputs), effort.sample_seconds)
    calls = STEPS_A_CALL if inputs.case.direction == "step" else 1

    def take() -> float:
        with _torch_threads(used):
            return sample() / calls

    return take


def _foreign_call(foreign: Foreign, inputs: Inputs) -> Callable[[], object]:
    if inputs.case.direction == "forward":
        assert foreign.forward is not None
        return foreign.forward(inputs)
    assert foreign.training is not None
    return foreign.training(inputs, False)


def _forward(implementation: Implementation, inputs: Inputs) -> Callable[[], object]:
    scan, x, states = implementation.scan, inputs.x, inputs.states
    assert scan is not None

    def call() -> object:
        with torch.no_grad():
            return scan(x, states)

    return call


def _training(implementation: Implementation, inputs: Inputs) -> Callable[[], object]:
    """Forward, and backward of everything: x, the first states and all parameters."""
    scan, parameters, cotangent = implementation.scan, implementation.parameters, inputs.output_cotangent
    x, states = inputs.leaves
    assert scan is not None

    def call() -> None:
        inputs.clear_gradients(parameters)
        y, _ = scan(x, states)
        y.backward(cotangent)

    return call


def _steps(implementation: Implementation, inputs: Inputs) -> Callable[[], object]:
    steps, x, states = implementation.steps, inputs.x, inputs.states
    assert steps is not None

    def call() -> object:
        with torch.no_grad():
            return steps(x, states, STEPS_A_CALL)

    return call


_CALLS = {"forward": _forward, "training": _training, "step": _steps}
