"""What the three kinds of mutants share: what becomes of one, and when two results differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from recurra.errors import RecurraError
from recurra.testing.compare import Disagreement

SAME = 1e-12
"""Results that differ by less, relative to the largest, are those of one function that is computed in another order."""

# what a mutant may raise in the middle of a test; anything else is a fault of the tool
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    Disagreement,
    RecurraError,
)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant, and the tests that caught it.

    `fate` is "caught", "survived", "equivalent" (the same function), or "impossible" (there is no such function).
    """

    kind: str
    subject: str
    change: str
    fate: str
    by: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def differ(got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = SAME) -> bool:
    """Whether any value is another one, or NaN in another place."""
    for a, b in zip(got, expected, strict=True):
        if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
            return True
        finite = b.isfinite()
        if not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
            return True
        if finite.any() and float((a - b)[finite].abs().max()) > tolerance * max(1e-3, float(b[finite].abs().max())):
            return True
    return False


Test = tuple[str, Callable[[], Any]]


def check_baseline(tests: Sequence[Test], subject: str) -> None:
    """Raises RuntimeError where a test fails without any mutant: it would catch all of them."""
    failing = failures(tests, every=True)
    if failing:
        raise RuntimeError(f"{subject}: {failing} fails without a mutant")


def failures(tests: Sequence[Test], every: bool = False) -> str:
    """The name of the first of these tests that fails, or the names of all that do; empty when none does."""
    found = []
    for name, test in tests:
        torch.manual_seed(0)
        try:
            test()
        except FAULTS:
            found.append(name)
            if not every:
                break
    return ", ".join(dict.fromkeys(found))
