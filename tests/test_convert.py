"""Layers of torch.nn become layers of recurra and back, equal in every output, state and gradient."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra import nn
from recurra.cells import Bias, Input, Recurrent, cell, tanh
from recurra.errors import ArgumentError
from recurra.testing import check_laws

CLASSES = {"RNN": (torch.nn.RNN, nn.RNN), "LSTM": (torch.nn.LSTM, nn.LSTM), "GRU": (torch.nn.GRU, nn.GRU)}
KINDS = {
    "tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
}


def build(kind: str, **options: Any) -> torch.nn.RNNBase:
    made, more = KINDS[kind]
    module = made(3, 5, dtype=torch.float64, **more, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return module


def torch_state(state: nn.State, bidirectional: bool) -> Any:
    """The state of a stack as torch.nn wants it: (layers * directions, batch, hidden), for the LSTM a pair."""
    flat = [one for layer in state for one in (layer if bidirectional else [layer])]
    stacked = tuple(torch.stack(parts) for parts in zip(*flat, strict=True))
    return stacked if len(stacked) > 1 else stacked[0]


def run_torch(module: torch.nn.RNNBase, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    y, after = module(x if module.batch_first else x.transpose(0, 1), state)
    return (y if module.batch_first else y.transpose(0, 1)), after


def reached_state(layer: nn.Stack, batch: int) -> nn.State:
    with torch.no_grad():
        return layer(torch.randn(batch, 2, 3, dtype=torch.float64))[1]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_states_and_gradients_are_those_of_torch(kind, layers, bidirectional, bias, batch_first):
    module = build(kind, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=batch_first)
    layer = nn.from_torch(module)
    state = reached_state(layer, 4)
    x = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    y, after = layer(x, state)
    expected, expected_after = run_torch(module, x, torch_state(state, bidirectional))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch_state(after, bidirectional), expected_after, rtol=0, atol=1e-12)

    weights = torch.randn_like(y)
    own = torch.autograd.grad((y * weights).sum(), [x, *trainable(layer)])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *module.parameters()])
    torch.testing.assert_close(own[0], theirs[0], rtol=0, atol=1e-10)
    # the gradients of torch, in the layout of a layer of recurra
    as_module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter, gradient in zip(as_module.parameters(), theirs[1:], strict=True):
            parameter.copy_(gradient)
    for (name, gradient), wanted in zip(
        zip([n for n, p in layer.named_parameters() if p.requires_grad], own[1:], strict=True),
        gradients_of(as_module, layer),
        strict=True,
    ):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10, msg=name)


def trainable(layer: torch.nn.Module) -> list[Tensor]:
    return [p for p in layer.parameters() if p.requires_grad]


def gradients_of(module: torch.nn.RNNBase, layer: nn.Stack) -> list[Tensor]:
    """What each gradient of the layer must be: both biases of torch have the gradient of the one here."""
    found = []
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            number, end = name.split(".")[0], "_reverse" if "backward_layer" in name else ""
            kind = {"W": "weight_ih", "U": "weight_hh", "b": "bias_ih", "b_n": "bias_hh"}[name.split(".")[-1]]
            value = getattr(module, f"{kind}_l{number}{end}")
            found.append(value[2 * module.hidden_size :] if name.endswith("b_n") else value)
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_one_layer_and_direction_becomes_a_layer_of_its_class(name: str):
    theirs, ours = CLASSES[name]
    module = theirs(3, 5, batch_first=True)
    layer = ours.from_torch(module)
    assert type(layer) is ours
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(layer(x)[0], module(x)[0])
    assert ours.from_torch(theirs(3, 5).double()).W.dtype == torch.float64


@pytest.mark.parametrize("name", CLASSES)
def test_law_14_holds_against_torch(name: str):
    theirs, ours = CLASSES[name]
    module = theirs(3, 5, batch_first=True, dtype=torch.float64)

    def peer(x: Tensor, state: Any) -> tuple[Tensor, nn.State]:
        given = tuple(s[None] for s in state)
        y, after = module(x, given if len(given) > 1 else given[0])
        return y, type(state)(*((after[0][0], after[1][0]) if isinstance(after, tuple) else (after[0],)))

    layer = ours.from_torch(module)
    assert check_laws(layer, peer=peer)[14].outcome == "passed"
    with torch.no_grad():
        layer.U[0, 0] += 1e-6
    report = check_laws(layer, peer=peer, raise_on_failure=False)
    assert [failure.number for failure in report.failures] == [14]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_again(kind: str, bidirectional: bool, bias: bool):
    module = build(kind, num_layers=3, bidirectional=bidirectional, bias=bias, dropout=0.2, batch_first=True).eval()
    back = nn.to_torch(nn.from_torch(module))
    assert type(back) is type(module)
    assert not back.training
    for option in (
        "num_layers",
        "bidirectional",
        "bias",
        "batch_first",
        "dropout",
        "input_size",
        "hidden_size",
        "mode",
    ):
        assert getattr(back, option) == getattr(module, option)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(back(x)[0], module(x)[0], rtol=0, atol=1e-12)
    again = nn.from_torch(back)
    for one, other in zip(nn.from_torch(module).parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad == other.requires_grad


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_a_layer_by_the_name_of_its_cell_becomes_torch(name: str):
    layer = nn.Recurrent(name, 3, 5)
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(nn.to_torch(layer)(x)[0], layer(x)[0])


def test_weights_are_copied():
    module = torch.nn.GRU(3, 5)
    layer = nn.GRU.from_torch(module)
    before = layer.W.clone()
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    assert torch.equal(layer.W, before)


def test_dropout_between_layers_is_kept():
    layer = nn.from_torch(torch.nn.GRU(3, 5, num_layers=3, dropout=0.3))
    assert [type(one).__name__ for one in layer.layers] == ["Dropout", "Dropout", "GRU"]
    assert layer[0].probability == 0.3


def test_a_module_without_biases_gives_zero_frozen_ones():
    layer = nn.GRU.from_torch(torch.nn.GRU(3, 5, bias=False))
    assert not layer.b.any()
    assert not layer.b.requires_grad
    assert not layer.b_n.requires_grad
    assert layer.W.requires_grad
    assert not nn.to_torch(layer).bias
    assert nn.to_torch(nn.Recurrent("gru", 3, 5)).bias


def test_frozen_weights_stay_frozen():
    module = torch.nn.LSTM(3, 5)
    module.weight_hh_l0.requires_grad_(False)
    layer = nn.LSTM.from_torch(module)
    assert [name for name, p in layer.named_parameters() if not p.requires_grad] == ["U"]
    assert not nn.to_torch(layer).weight_hh_l0.requires_grad


@cell
def own(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    return tanh(W @ x + U @ h) + b


REFUSED = {
    "projection": (lambda: nn.from_torch(torch.nn.LSTM(3, 5, proj_size=2)), "proj_size=2: expected 0"),
    "other module": (
        lambda: nn.from_torch(torch.nn.Linear(2, 2)),
        "module is a Linear: expected a torch.nn.RNN, LSTM or GRU",
    ),
    "other class": (lambda: nn.GRU.from_torch(torch.nn.LSTM(3, 5)), "module is a LSTM: expected a torch.nn.GRU"),
    "layers": (lambda: nn.GRU.from_torch(torch.nn.GRU(3, 5, 2)), "2 layers and one direction: expected one layer"),
    "directions": (
        lambda: nn.RNN.from_torch(torch.nn.RNN(3, 5, bidirectional=True)),
        "two directions: expected one layer",
    ),
    "own cell": (
        lambda: nn.to_torch(nn.Recurrent(own, 3, 5)),
        "a layer is own: expected rnn_tanh, rnn_relu, lstm or gru",
    ),
    "wrapper": (lambda: nn.to_torch(nn.Last(nn.GRU(3, 5))), "a layer is Last: expected rnn_tanh"),
    "two cells": (lambda: nn.to_torch(nn.Stack(nn.GRU(3, 5), nn.LSTM(5, 5))), "gru of 5, lstm of 5: expected one cell"),
    "two sizes": (lambda: nn.to_torch(nn.Stack(nn.GRU(3, 5), nn.GRU(5, 4))), "gru of 4, gru of 5: expected one cell"),
    "mixed": (
        lambda: nn.to_torch(nn.Stack(nn.Bidirectional(nn.GRU(3, 5), nn.GRU(3, 5)), nn.GRU(10, 5))),
        "some layers are bidirectional: expected all or none",
    ),
    "last dropout": (
        lambda: nn.to_torch(nn.Dropout(nn.GRU(3, 5), 0.5)),
        r"dropout \[0.5\]: expected one value between layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused(name: str):
    convert, message = REFUSED[name]
    with pytest.raises(ArgumentError, match=message):
        convert()
