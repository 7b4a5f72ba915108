"""From torch.nn.RNN, LSTM and GRU to layers of recurra, and back."""

from __future__ import annotations

from typing import cast

from torch import nn

from recurra import cells
from recurra.errors import ArgumentError
from recurra.nn.bidirectional import Bidirectional
from recurra.nn.classic import GRU, LSTM, RNN
from recurra.nn.dropout import Dropout
from recurra.nn.layer import Layer
from recurra.nn.recurrent import Recurrent
from recurra.nn.stack import Stack
from recurra.nn.torch_weights import TorchLayer, cell_name, check_torch_layer, has_bias, read_weights, write_weights


def from_torch(module: TorchLayer) -> Stack:
    """A stack that computes what a torch.nn.RNN, LSTM or GRU computes, with its weights (copied), dtype, device and
    mode.

    Always a Stack, one entry a layer: a RNN, LSTM or GRU, or Bidirectional of two; all but the last within Dropout
    where the module has dropout between layers. It reads (batch, time, feature), whatever `batch_first` says. The two
    biases of torch become one. A module without biases gives biases that are zero and frozen. Raises ArgumentError
    for another module, or one with proj_size.
    """
    check_torch_layer(module)
    layers: list[Layer] = []
    for number in range(module.num_layers):
        layer: Layer = _direction(module, number, backward=False)
        if module.bidirectional:
            layer = Bidirectional(layer, _direction(module, number, backward=True))
        if module.dropout and number < module.num_layers - 1:
            layer = Dropout(layer, module.dropout)
        layers.append(layer)
    return cast(Stack, Stack(layers).train(module.training))


def _direction(module: TorchLayer, number: int, backward: bool) -> Recurrent:
    directions = 2 if module.bidirectional else 1
    size = module.input_size if number == 0 else directions * module.hidden_size
    made: Recurrent
    if isinstance(module, nn.LSTM):
        made = LSTM(size, module.hidden_size)
    elif isinstance(module, nn.GRU):
        made = GRU(size, module.hidden_size)
    else:
        made = RNN(size, module.hidden_size, nonlinearity="relu" if cell_name(module) == "rnn_relu" else "tanh")
    read_weights(module, number, backward, made)
    return made


def to_torch(layer: Layer) -> TorchLayer:
    """The torch.nn.RNN, LSTM or GRU (batch_first) that computes what a layer computes, with its weights copied.

    Takes a layer of one of these cells, Bidirectional of two, or a Stack of equal ones, all but the last within equal
    Dropout or none. Biases that are all zero and frozen become bias=False. Raises ArgumentError for anything else,
    since torch.nn has no such module.
    """
    entries = list(layer.layers) if isinstance(layer, Stack) else [layer]
    probability = _dropout(entries)
    rows = [_directions(entry.layer if isinstance(entry, Dropout) else entry) for entry in entries]
    flat = [one for row in rows for one in row]
    first = flat[0]
    if any(one.program != first.program or one.hidden_size != first.hidden_size for one in flat):
        got = ", ".join(sorted({f"{one.program.name} of {one.hidden_size}" for one in flat}))
        raise ArgumentError(
            f"the layers are {got}", expected="one cell and one hidden size", advice="Convert each layer by itself"
        )
    if any(len(row) != len(rows[0]) for row in rows):
        raise ArgumentError(
            "some layers are bidirectional", expected="all or none", advice="Convert each layer by itself"
        )
    made = _empty(first, len(rows), len(rows[0]) == 2, any(has_bias(one) for one in flat), probability)
    for number, row in enumerate(rows):
        for one, backward in zip(row, (False, True), strict=False):
            write_weights(one, number, backward, made)
    return cast(TorchLayer, made.train(layer.training))


def _dropout(entries: list[Layer]) -> float:
    """The dropout between the layers, which torch.nn has once for all of them."""
    found = [entry.probability if isinstance(entry, Dropout) else 0.0 for entry in entries]
    between = set(found[:-1])
    if found[-1] or len(between) > 1:
        raise ArgumentError(
            f"the layers have dropout {found}",
            expected="one value between layers and none after the last",
            advice="Convert without it",
        )
    return between.pop() if between else 0.0


def _directions(layer: Layer) -> list[Recurrent]:
    pair = [layer.forward_layer, layer.backward_layer] if isinstance(layer, Bidirectional) else [layer]
    for one in pair:
        known = isinstance(one, Recurrent) and one.program in [
            cells.get(name) for name in ("rnn_tanh", "rnn_relu", "lstm", "gru")
        ]
        if not known:
            name = one.program.name if isinstance(one, Recurrent) else type(one).__name__
            raise ArgumentError(
                f"a layer is {name}", expected="rnn_tanh, rnn_relu, lstm or gru", advice="torch.nn has no other cell"
            )
    return cast(list[Recurrent], pair)


def _empty(first: Recurrent, layers: int, bidirectional: bool, bias: bool, dropout: float) -> TorchLayer:
    kinds: dict[str, type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
    kind = kinds.get(first.program.name, nn.RNN)
    options = {"nonlinearity": first.program.name.removeprefix("rnn_")} if kind is nn.RNN else {}
    weight = next(first.parameters())
    return kind(
        first.input_size,
        first.hidden_size,
        num_layers=layers,
        bias=bias,
        batch_first=True,
        dropout=dropout,
        bidirectional=bidirectional,
        device=weight.device,
        dtype=weight.dtype,
        **options,
    )
