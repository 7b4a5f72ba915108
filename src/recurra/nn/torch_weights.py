"""How one direction of one layer of torch.nn.RNN, LSTM and GRU lays out its weights, and how the same cell here does.

torch keeps two biases a gate, of the input product and of the recurrent one. Only their sum matters, except for the
GRU's candidate, whose recurrent bias the reset gate multiplies.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn.recurrent import Recurrent

TorchLayer = nn.RNN | nn.LSTM | nn.GRU


def check_torch_layer(module: nn.Module) -> None:
    """Raises ArgumentError for what has no counterpart here."""
    if not isinstance(module, nn.RNN | nn.LSTM | nn.GRU):
        raise ArgumentError(
            f"module is a {type(module).__name__}",
            expected="a torch.nn.RNN, LSTM or GRU",
            advice="Convert each such module",
        )
    if module.proj_size:
        raise ArgumentError(
            f"module has proj_size={module.proj_size}",
            expected="0",
            advice="A projected LSTM is another cell; write it with recurra.cells.cell and copy its weights",
        )


def cell_name(module: TorchLayer) -> str:
    """The cell that a module of torch.nn computes."""
    if isinstance(module, nn.RNN):
        return f"rnn_{module.nonlinearity}"
    return "lstm" if isinstance(module, nn.LSTM) else "gru"


def _names(layer: int, backward: bool) -> list[str]:
    end = f"l{layer}_reverse" if backward else f"l{layer}"
    return [f"{start}_{end}" for start in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


@torch.no_grad()
def read_weights(module: TorchLayer, layer: int, backward: bool, into: Recurrent) -> None:
    """Gives `into` the weights of one direction of one layer, with their dtype, device and requires_grad."""
    w_ih, w_hh, *biases = (
        cast(Tensor, getattr(module, name)) for name in _names(layer, backward)[: 4 if module.bias else 2]
    )
    _replace(into, "W", w_ih.clone(), w_ih.requires_grad)
    _replace(into, "U", w_hh.clone(), w_hh.requires_grad)
    if biases:
        b, b_hh = biases[0].clone(), biases[1]
        trainable = biases[0].requires_grad or b_hh.requires_grad
    else:
        # no bias there means one that stays zero here
        b = b_hh = w_ih.new_zeros(w_ih.shape[0])
        trainable = False
    if isinstance(module, nn.GRU):
        hidden = module.hidden_size
        b = torch.cat((b[: 2 * hidden] + b_hh[: 2 * hidden], b[2 * hidden :]))
        _replace(into, "b_n", b_hh[2 * hidden :].clone(), trainable)
    else:
        b = b + b_hh
    _replace(into, "b", b, trainable)
    into.train(module.training)


def _replace(layer: Recurrent, name: str, value: Tensor, trainable: bool) -> None:
    setattr(layer, name, nn.Parameter(value, requires_grad=trainable))


def has_bias(layer: Recurrent) -> bool:
    """Whether the layer has more than biases that are zero and frozen."""
    biases = [getattr(layer, spec.name) for spec in layer.program.parameters if spec.kind == "bias"]
    return any(bias.requires_grad or bool(bias.count_nonzero()) for bias in biases)


@torch.no_grad()
def write_weights(layer: Recurrent, number: int, backward: bool, into: TorchLayer) -> None:
    """The inverse of `read_weights`."""
    values = dict(layer.named_parameters())
    names = _names(number, backward)
    sources: list[Tensor] = [values["W"], values["U"]]
    trainable = [source.requires_grad for source in sources]
    if into.bias:
        b_hh = torch.zeros_like(values["b"])
        if "b_n" in values:
            b_hh[2 * layer.hidden_size :] = values["b_n"]
        sources += [values["b"], b_hh]
        trainable += [values["b"].requires_grad] * 2
    for name, source, train in zip(names, sources, trainable, strict=False):
        target = cast(nn.Parameter, getattr(into, name))
        target.copy_(source)
        target.requires_grad_(train)
