"""Cells as loops over time in torch, as good as such a loop gets: the input product for all steps at once before it."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recurra.bench.contract import Implementation, gradient_of
from recurra.bench.inputs import States
from recurra.nn import Recurrent

Mode = Literal["eager", "TorchScript", "compiled"]


def _leaky_gate(
    x: Tensor, h: Tensor, c: Tensor, W: Tensor, U: Tensor, v: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = []
    transposed = U.t()
    for projected in F.linear(x, W, b).unbind(1):
        f, o, g = torch.addmm(projected, h, transposed).chunk(3, dim=-1)
        f = torch.sigmoid(f + v * c)
        c = torch.lerp(torch.tanh(g), c, f)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


def _layer_norm_lstm(  # noqa: PLR0913
    x: Tensor,
    h: Tensor,
    c: Tensor,
    W: Tensor,
    U: Tensor,
    b: Tensor,
    gain_W: Tensor,
    gain_U: Tensor,
    gain_c: Tensor,
    bias_c: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = []
    transposed = U.t()
    gates, units = [U.size(0)], [U.size(1)]
    for projected in F.layer_norm(F.linear(x, W), gates, gain_W, b).unbind(1):
        total = projected + F.layer_norm(torch.mm(h, transposed), gates, gain_U)
        i, f, g, o = total.chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, units, gain_c, bias_c))
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


LOOPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "leaky_gate": _leaky_gate,
    "layer_norm_lstm": _layer_norm_lstm,
}
"""By the cell that each computes: x, the states and the parameters, in the order of the cell."""


class TorchLoop:
    """One of the loops, as it is or made faster by torch."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def missing(self) -> str:
        if self._mode == "compiled" and not shutil.which("g++") and not shutil.which("clang++"):
            return "torch.compile needs a C++ compiler (g++ or clang++) on the PATH"
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        parameters = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
        loop = self._prepare(LOOPS[layer.program.name])

        def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
            y, *last = loop(x, *states, *parameters.values())
            return y, tuple(last)

        def gradients() -> dict[str, Tensor]:
            return {name: gradient_of(parameter) for name, parameter in parameters.items()}

        return Implementation(scan, None, list(parameters.values()), gradients)

    def _prepare(self, loop: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        if self._mode == "compiled":
            return torch.compile(loop, dynamic=False)
        if self._mode == "TorchScript":
            with warnings.catch_warnings():
                # it is deprecated, and still what many such loops run under
                warnings.simplefilter("ignore", DeprecationWarning)
                return torch.jit.script(loop)
        return loop
