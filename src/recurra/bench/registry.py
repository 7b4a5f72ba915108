"""What is measured: cases, and the figures that are to be reached.

A case is a cell at a shape in one direction, with the peers that it is compared to. Two cells stand here and not in the
library: they run as any user's own cell does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from recurra.cells import Bias, Diagonal, Input, cell, sigmoid, tanh
from recurra.cells import Recurrent as RecurrentMatrix
from recurra.nn import GRU, LSTM, Recurrent

Direction = Literal["forward", "training", "step"]

DTYPE = "float32"


@cell
def leaky_gate(x, h, c, *, W=Input(3), U=RecurrentMatrix(3), v=Diagonal(), b=Bias(3)):
    """A cell of a user's own: coupled input and forget gates, a peephole, and an output gate."""
    f, o, g = W @ x + b + U @ h
    f = sigmoid(f + v * c)
    c = f * c + (1 - f) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell
def copied_gru(x, h, *, W=Input(3), U=RecurrentMatrix(3), b=Bias(3), b_n=Bias()):
    """The equations of the gated recurrent unit, under another name."""
    (xr, xz, xn), (hr, hz, hn) = W @ x + b, U @ h
    r = sigmoid(xr + hr)
    z = sigmoid(xz + hz)
    n = tanh(xn + r * (hn + b_n))
    return (1 - z) * n + z * h


LAYERS: dict[str, Callable[[int, int], Recurrent]] = {
    "gru": GRU,
    "lstm": LSTM,
    "leaky_gate": lambda input_size, hidden_size: Recurrent(leaky_gate, input_size, hidden_size),
    "copied_gru": lambda input_size, hidden_size: Recurrent(copied_gru, input_size, hidden_size),
}
"""The layer of each cell, from its sizes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Rows of the batch, time steps, features in, hidden units."""

    batch: int
    steps: int
    input_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"batch {self.batch}, {self.steps:,} steps, {self.input_size}→{self.hidden_size}"


@dataclass(frozen=True, slots=True)
class Case:
    """A cell at a shape, run forward without gradients, as a training step, or one step at a time."""

    cell: str
    direction: Direction
    shape: Shape
    peers: tuple[str, ...]

    @property
    def name(self) -> str:
        """Unique among the cases."""
        what = "training step" if self.direction == "training" else self.direction
        shape = self.shape
        sizes = f"batch {shape.batch}, {shape.input_size}→{shape.hidden_size}" if self.direction == "step" else shape
        return f"{self.cell} {what}, {sizes}"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to reach: a ratio to the fastest of the case's peers ("x"), or a share of the measured peak ("%")."""

    name: str
    case: Case
    unit: Literal["x", "%"]
    at_least: float


@dataclass(frozen=True, slots=True)
class Registry:
    """All cases in the order in which they run, the figures to reach, and what the curves are drawn from."""

    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    curves: tuple[Case, ...]


BASE = Shape(batch=32, steps=100, input_size=256, hidden_size=256)
SMALL = Shape(batch=8, steps=100, input_size=64, hidden_size=64)
STEP = Shape(batch=1, steps=1, input_size=128, hidden_size=128)

TORCH = ("torch.nn",)
LOOPS = ("torch loop", "torch loop, compiled")
OWN_GRU = ("recurra.nn.GRU",)

_BATCHES = (1, 8, 64)
_HIDDEN_SIZES = (64, 128, 512)
_CURVE_STEPS = (10, 25, 50, 100, 200, 400, 700, 1000)


def full() -> Registry:
    """Every case of the benchmark."""
    return _registry(BASE, SMALL, STEP, LOOPS, _CURVE_STEPS)


def quick() -> Registry:
    """Tiny cases that try the harness itself. Their times mean nothing, and nothing is compiled for them."""
    tiny = Shape(batch=2, steps=3, input_size=4, hidden_size=5)
    registry = _registry(tiny, replace(tiny, batch=1), replace(tiny, steps=1), LOOPS[:1], (2, 3, 4))
    kept = {target.case.name for target in registry.targets} | {case.name for case in registry.curves}
    return replace(registry, cases=tuple(case for case in registry.cases if case.name in kept))


def _registry(base: Shape, small: Shape, step: Shape, loops: tuple[str, ...], steps: tuple[int, ...]) -> Registry:
    gru_forward, gru_training = Case("gru", "forward", base, TORCH), Case("gru", "training", base, TORCH)
    lstm_forward, lstm_training = Case("lstm", "forward", base, TORCH), Case("lstm", "training", base, TORCH)
    own, own_small = (Case("leaky_gate", "training", shape, loops) for shape in (base, small))
    copy_forward, copy_training = (Case("copied_gru", d, base, OWN_GRU) for d in ("forward", "training"))
    one_step = Case("gru", "step", step, ("torch.nn.GRUCell",))
    targets = (
        Target("GRU forward against torch.nn.GRU", gru_forward, "x", 2.5),
        Target("GRU training step against torch.nn.GRU", gru_training, "x", 2.5),
        Target("LSTM forward against torch.nn.LSTM", lstm_forward, "x", 1.0),
        Target("LSTM training step against torch.nn.LSTM", lstm_training, "x", 1.0),
        Target("own gated cell, training step, against a torch loop", own, "x", 3.0),
        Target("own gated cell, training step, small, against a torch loop", own_small, "x", 10.0),
        Target("share of peak, GRU forward", gru_forward, "%", 75.0),
        Target("one GRU step against torch.nn.GRUCell", one_step, "x", 1.5),
        Target("the GRU's equations under another name against recurra.nn.GRU, forward", copy_forward, "x", 0.95),
        Target("the same, training step", copy_training, "x", 0.95),
    )
    curves = tuple(
        Case(name, direction, replace(base, steps=count), TORCH)
        for name in ("gru", "lstm")
        for direction in ("forward", "training")
        for count in steps
    )
    cases = [target.case for target in targets] + _variations(base) + list(curves)
    return Registry(tuple(dict.fromkeys(cases)), targets, curves)


def _variations(base: Shape) -> list[Case]:
    """One size at a time away from the base, and a long sequence that is bound by memory where that is done badly."""
    shapes = [replace(base, batch=batch) for batch in _BATCHES]
    shapes += [replace(base, input_size=size, hidden_size=size) for size in _HIDDEN_SIZES]
    shapes += [replace(base, steps=1000), replace(base, steps=1000, input_size=128, hidden_size=128)]
    return [
        Case(name, direction, shape, TORCH)
        for name in ("gru", "lstm")
        for shape in shapes
        for direction in ("forward", "training")
    ]
