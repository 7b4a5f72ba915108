"""Times that can be compared: taken in turns, after a warm-up, with medians and quartiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

Sampler = Callable[[], float]
"""Takes one sample: the seconds that one call took, or any other figure of this moment."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples, and the quartiles below and above it."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Raises ValueError without samples."""
        if not samples:
            raise ValueError("no samples: expected one or more")
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        lower, _, upper = quantiles(samples, n=4, method="inclusive")
        return cls(median(samples), lower, upper)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure. A sample repeats a call for `sample_seconds`. A case has between `fewest` and `most` rounds,
    and ends between them once `case_seconds` are over. Within each round the peak is measured for `peak_seconds`.
    Before each sample, `settle_seconds` pass in which the threads of the contestant before stop waiting for work."""

    sample_seconds: float
    case_seconds: float
    fewest: int
    most: int
    peak_seconds: float
    settle_seconds: float = 0.0


FULL = Effort(0.02, case_seconds=6.0, fewest=9, most=61, peak_seconds=0.02, settle_seconds=0.003)
ASKED = Effort(0.02, case_seconds=2.0, fewest=7, most=61, peak_seconds=0.02, settle_seconds=0.003)
QUICK = Effort(sample_seconds=0.0, case_seconds=0.0, fewest=2, most=2, peak_seconds=0.001)


@contextmanager
def garbage_kept() -> Iterator[None]:
    """No garbage collection within it: it would fall on whoever is being timed at that moment."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sampler(call: Callable[[], object], sample_seconds: float) -> Sampler:
    """A sampler of a call's time, warmed up. A sample is the mean of as many calls as fill `sample_seconds`."""
    call()
    call()
    begin = time.perf_counter()
    call()
    once = time.perf_counter() - begin
    repeats = max(1, round(sample_seconds / max(once, 1e-9)))

    def sample() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begin) / repeats

    return sample


def alternate(samplers: Mapping[str, Sampler], effort: Effort) -> dict[str, list[float]]:
    """Samples of each, one after the other in rounds, so that whatever else the machine does meets all of them.

    Every second round runs backwards: nobody always follows the same neighbour.
    """
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)
    with garbage_kept():
        for name in names:
            samplers[name]()
        begin = time.perf_counter()
        for round_number in range(effort.most):
            for name in names if round_number % 2 == 0 else reversed(names):
                time.sleep(effort.settle_seconds)
                samples[name].append(samplers[name]())
            if round_number + 1 >= effort.fewest and time.perf_counter() - begin > effort.case_seconds:
                break
    return samples


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the quotients of samples taken in the same rounds."""
    return Spread.of([a / b for a, b in zip(numerators, denominators, strict=True)])
