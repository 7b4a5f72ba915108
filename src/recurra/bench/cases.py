"""What can be measured: a cell at a shape in one direction, with its peers, and figures to reach.

A few cells stand here and not in the library: they run as any user's own cell does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from recurra.cells import Bias, Diagonal, Input, cell, layer_norm, sigmoid, tanh, where
from recurra.cells import Recurrent as RecurrentMatrix
from recurra.nn import GRU, LSTM, RNN, Recurrent
from recurra.ops.mixed import float32_reason
from recurra.reservoir import Reservoir

Direction = Literal["forward", "training", "step"]

DTYPE = "float32"
LEAK = 0.3
"""Of the reservoir."""


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


@cell
def positive_mingru(x, h, *, W=Input(2)):
    """minGRU with a positive candidate (Feng et al. 2024), appendix B, as minGRU-pytorch has it: without a bias."""
    candidate, z = W @ x
    z = sigmoid(z)
    candidate = where(candidate >= 0, candidate + 0.5, sigmoid(candidate))
    return (1 - z) * h + z * candidate


ALSO_IN_TORCHRECURRENT = (
    "antisymmetric_rnn", "antisymmetric_rnn_gated", "atr", "brc", "nbrc", "cfn", "cornn", "fastrnn", "fastgrnn",
    "indrnn", "light_gru", "lstm_peephole", "mgu", "mut1", "mut2", "mut3", "ran", "star",
)  # fmt: skip
"""Built-in cells with the same equations there."""


def _of(chosen: Any) -> Callable[[int, int], Recurrent]:
    return lambda input_size, hidden_size: Recurrent(chosen, input_size, hidden_size)


def _reservoir(input_size: int, hidden_size: int) -> Recurrent:
    return Reservoir(hidden_size, leak=LEAK, bias_scaling=0.5).layer(input_size, dtype=torch.float32)


LAYERS: dict[str, Callable[[int, int], Recurrent]] = {
    "gru": GRU,
    "lstm": LSTM,
    "rnn_tanh": RNN,
    "leaky_gate": _of(leaky_gate),
    "copied_gru": _of(copied_gru),
    "layer_norm_lstm": _of(layer_norm("lstm")),
    "positive_mingru": _of(positive_mingru),
    "esn": _reservoir,
} | {name: _of(name) for name in ALSO_IN_TORCHRECURRENT}
"""The layer of each cell, from its sizes."""

POSITIVE_STATES = ("positive_mingru",)
"""Cells whose peer takes the logarithm of the first state."""


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
    """A cell at a shape, run forward without gradients, as a training step, or one step at a time.

    threads is for the cases that are about it; None for the number that the run has. With bfloat16, ours runs under
    autocast, whose products are in bfloat16.
    """

    cell: str
    direction: Direction
    shape: Shape
    peers: tuple[str, ...]
    threads: int | None = None
    bfloat16: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot be measured here; empty where it can."""
        return float32_reason("cpu", torch.bfloat16) if self.bfloat16 else ""

    @property
    def dtype(self) -> str:
        """What is computed in."""
        return "float32, products in bfloat16" if self.bfloat16 else DTYPE

    @property
    def name(self) -> str:
        """Unique among the cases."""
        what = "training step" if self.direction == "training" else self.direction
        shape = self.shape
        sizes = f"batch {shape.batch}, {shape.input_size}→{shape.hidden_size}" if self.direction == "step" else shape
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.cell} {what}, {sizes}{threads}{', bfloat16' * self.bfloat16}"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to reach, out of a case.

    A ratio ("x") of the time of the fastest of `peers` (of all the case's peers where none is named) to ours, or of our
    time in `other`, another case, to that in `case`; or a share of the measured peak ("%").
    """

    name: str
    case: Case
    unit: Literal["x", "%"]
    at_least: float
    peers: tuple[str, ...] = ()
    other: Case | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """All cases in the order in which they run, the figures to reach, and the cases of each curve by what grows."""

    cases: tuple[Case, ...]
    targets: tuple[Target, ...]
    curves: Mapping[str, tuple[Case, ...]]

    @property
    def asked(self) -> tuple[Case, ...]:
        """The cases without which a figure to reach has no value."""
        named = [case for target in self.targets for case in (target.case, target.other) if case is not None]
        return tuple(dict.fromkeys(named))
