"""torch.nn's own modules, and recurra's under another name, or with another number of threads or precision."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from recurra.bench.cases import LAYERS
from recurra.bench.contract import Implementation, gradient_of, own, under_autocast
from recurra.bench.inputs import States
from recurra.nn import GRU, Recurrent, to_torch


class TorchNN:
    """torch.nn.RNN, GRU or LSTM, batch first: on a CPU, ATen's loop and oneDNN."""

    def __init__(self, *, bfloat16: bool = False) -> None:
        self._bfloat16 = bfloat16

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        module = to_torch(layer)
        several = isinstance(module, nn.LSTM)

        def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
            leading = [state[None] for state in states]
            y, last = module(x, tuple(leading) if several else leading[0])
            return y, tuple(state[0] for state in last) if several else (last[0],)

        def gradients() -> dict[str, Tensor]:
            found = {name: gradient_of(parameter) for name, parameter in module.named_parameters()}
            return _layer_gradients(layer, *found.values())

        chosen = under_autocast(scan) if self._bfloat16 else scan
        return Implementation(chosen, None, list(module.parameters()), gradients)


def _layer_gradients(layer: Recurrent, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> dict[str, Tensor]:
    """torch keeps two biases where the layer has one: both have the same gradient, but for the GRU's candidate."""
    named = {"W": w_ih, "U": w_hh, "b": b_ih}
    if isinstance(layer, GRU):
        named["b_n"] = b_hh[2 * layer.hidden_size :]
    return named


class TorchGRUCell:
    """torch.nn.GRUCell: one step."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        module = cast(nn.GRU, to_torch(layer))
        cell = nn.GRUCell(layer.input_size, layer.hidden_size)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})

        def steps(x: Tensor, states: States, count: int) -> States:
            h = states[0]
            for _ in range(count):
                h = cell(x, h)
            return (h,)

        def gradients() -> dict[str, Tensor]:
            found = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
            return _layer_gradients(layer, *(gradient_of(parameter) for parameter in found))

        return Implementation(None, steps, list(cell.parameters()), gradients)


class OwnGRU:
    """recurra.nn.GRU, for a cell that has its equations under another name."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        made = GRU(layer.input_size, layer.hidden_size)
        made.load_state_dict(layer.state_dict())
        return own(made)


class Itself:
    """The layer itself in float32: with one thread, for what a second one brings; or beside ours in bfloat16."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        made = LAYERS[layer.program.name](layer.input_size, layer.hidden_size)
        made.load_state_dict(layer.state_dict())
        return own(made, self._threads)
