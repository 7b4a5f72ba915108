"""The layers of the recipes: built-in cells by name, two cells of their own, and torch.nn in place of recurra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import recurra
from recurra.cells import Bias, Diagonal, Input, Recurrent, cell, sigmoid, stop_gradient
from recurra.nn import Layer


@cell
def lstm_1997(  # noqa: PLR0913 - as many as the equations have
    x,
    h,
    c,
    i,
    o,
    *,
    W=Input(3),
    U=Recurrent(3),
    U_i=Recurrent(3),
    U_o=Recurrent(3),
    b_i=Bias(),
    b_o=Bias(),
    truncated=True,
):
    """Long short-term memory as published (Hochreiter and Schmidhuber 1997): no forget gate, blocks of one cell, gates
    that feed all units, and a gradient that passes from step to step inside the cells only, if it is truncated."""
    if truncated:
        h, i, o = stop_gradient(h), stop_gradient(i), stop_gradient(o)
    xi, xg, xo = W @ x + U @ h + U_i @ i + U_o @ o
    i = sigmoid(xi + b_i)
    o = sigmoid(xo + b_o)
    c = c + i * (4 * sigmoid(xg) - 2)
    return o * (2 * sigmoid(c) - 1), c, i, o


@cell
def linear(x, h, *, W=Input(), a=Diagonal(initial=1.0)):
    """A linear recurrence, one factor a unit, which starts from 1: the cell that forgets nothing."""
    return a * h + W @ x


OWN_CELLS = {"lstm_1997": lstm_1997, "lstm_1997_bptt": lstm_1997(truncated=False), "linear": linear}


def build_layer(name: str, input_size: int, hidden_size: int) -> Layer:
    """A layer by the name that the recipes have for it, its parameters drawn from torch's generator."""
    if name == "mlstm":
        return recurra.nn.MatrixLSTM(input_size, hidden_size, heads=1)
    layer = recurra.nn.Recurrent(OWN_CELLS.get(name, name), input_size, hidden_size)
    if name.startswith("lstm_1997"):
        with torch.no_grad():
            # the first output gate is open, the others nearly closed: cells come into use one after another
            layer.get_parameter("b_o").copy_(-torch.arange(1.0, hidden_size + 1))
    return layer


class TorchTwin(Layer):
    """torch.nn's module with the weights of a recurra layer, to tell a fault of a recipe from one of a kernel.

    It reads padding too, which no earlier output sees, and hands no state on.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.module = recurra.nn.to_torch(layer)
        self.input_size = layer.input_size
        self.output_size = layer.output_size

    def forward(
        self,
        x: Tensor,
        state: tuple | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, tuple]:
        """torch.nn over the padded batch, from its own zero state."""
        return self.module(x)[0], ()

    def step(self, x_t: Tensor, state: tuple, *, elapsed: Tensor | None = None) -> tuple[Tensor, tuple]:
        """One step, from the zero state."""
        return self.module(x_t[:, None])[0][:, 0], ()

    def initial_state(self, batch: int) -> tuple:
        """Nothing."""
        return ()


class Network(nn.Module):
    """A layer (or a stack) and a linear map of its output, at every step or at each sequence's last."""

    inner: Layer

    def __init__(self, layer: Layer, output_size: int, *, every_step: bool, bias: bool = True) -> None:
        super().__init__()
        self.inner = layer
        self.every_step = every_step
        self.head = nn.Linear(layer.output_size, output_size, bias=bias)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (batch, time, input_size), lengths (batch,): (batch, output_size), or (batch, time, output_size)."""
        layer = self.inner if self.every_step else recurra.nn.Last(self.inner)
        return self.head(layer(x, lengths=lengths)[0])
