"""Law 14 against libraries that have the same cells: outputs, states and gradients, with the weights carried over."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import layers
from recurra import cells, nn
from recurra.bench.cell_libraries import TORCHRECURRENT, torchrecurrent_cell
from recurra.testing.cases import Case
from recurra.testing.peer_law import equals_peer

Step = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
Values = dict[str, Tensor]

CASES = [Case(2, 3, torch.float64, 0), Case(5, 6, torch.float64, 1)]


def over_time(step: Step) -> Callable[..., tuple[Tensor, Any]]:
    """A peer of a layer out of one step: (x_t, states[, elapsed_t]) -> (y_t, states)."""

    def run(x: Tensor, state: Any, elapsed: Tensor | None = None) -> tuple[Tensor, Any]:
        inside, outputs = tuple(state), []
        for t in range(x.shape[1]):
            times = () if elapsed is None else (elapsed[:, t],)
            y, inside = step(x[:, t], inside, *times)
            outputs.append(y)
        return torch.stack(outputs, dim=1), type(state)(*inside)

    return run


def check(layer: nn.Layer, step: Step) -> None:
    for case in CASES:
        equals_peer(layer, case, over_time(step))


def values_of(layer: nn.Layer) -> Values:
    # fixed parameters are buffers
    return dict(layer.state_dict())


# torch.nn


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
def test_torch_has_the_classic_cells(name: str):
    kinds = {"rnn_tanh": nn.RNN, "rnn_relu": lambda i, h: nn.RNN(i, h, nonlinearity="relu"), "lstm": nn.LSTM}
    layer = layers.disturbed(kinds.get(name, nn.GRU)(3, 5)).double()
    module = nn.to_torch(layer).double()

    def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        given = tuple(s[None] for s in states)
        y, after = module(x[:, None], given if name == "lstm" else given[0])
        return y[:, 0], tuple(s[0] for s in (after if name == "lstm" else (after,)))

    check(layer, step)


def test_torch_has_the_projected_lstm():
    layer = layers.of_cell("lstm_projected").double()
    own, module = values_of(layer), torch.nn.LSTM(3, 5, proj_size=2).double()
    with torch.no_grad():
        for theirs, ours in (("weight_ih_l0", "W"), ("weight_hh_l0", "U"), ("bias_ih_l0", "b"), ("weight_hr_l0", "P")):
            getattr(module, theirs).copy_(own[ours])
        module.bias_hh_l0.zero_()

    def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, (r, c) = module(x[None], tuple(s[None] for s in states))
        return y[0], (r[0], c[0])

    check(layer, step)


# torchrecurrent


@pytest.mark.parametrize("name", TORCHRECURRENT)
def test_torchrecurrent_has_the_same_cell(name: str):
    pytest.importorskip("torchrecurrent", reason="compares with it")
    layer = layers.of_cell(name).double()
    assert isinstance(layer, nn.Recurrent)
    module = torchrecurrent_cell(layer)

    def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        after = module(x, states if len(states) > 1 else states[0])
        after = after if isinstance(after, tuple) else (after,)
        return after[0], after

    check(layer, step)


# ncps


@pytest.mark.parametrize("mode", ["default", "no_gate", "pure"])
def test_ncps_has_the_closed_form_network(mode: str):
    ncps = pytest.importorskip("ncps.torch", reason="compares with it")
    cell = cells.cfc_pure if mode == "pure" else cells.cfc(gated=mode == "default")
    layer = layers.disturbed(nn.Recurrent(cell, 3, 5, widths={"backbone": 4})).double()
    own = values_of(layer)
    if mode == "pure":
        own["w_tau"][::2] *= -1  # both take its absolute value
    module = ncps.CfCCell(3, 5, mode=mode, backbone_units=4, backbone_layers=1).double()
    heads = ["ff1"] if mode == "pure" else ["ff1", "ff2", "time_a", "time_b"]
    carried = {"backbone.0.weight": torch.cat([own["W"], own["U"]], dim=1), "backbone.0.bias": own["b"]}
    for head, weight, bias in zip(heads, own["V"].chunk(len(heads)), own["c"].chunk(len(heads)), strict=True):
        carried |= {f"{head}.weight": weight, f"{head}.bias": bias}
    if mode == "pure":
        carried |= {"w_tau": own["w_tau"][None], "A": own["A"][None]}
    module.load_state_dict(carried)

    def step(x: Tensor, states: tuple[Tensor, ...], elapsed: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, h = module(x, states[0], elapsed[:, None])
        return y, (h,)

    check(layer, step)


def test_ncps_has_the_liquid_network():
    ncps, wirings = (pytest.importorskip(name, reason="compares with it") for name in ("ncps.torch", "ncps.wirings"))
    layer = nn.LTC(3, 5).double()
    own = values_of(layer)
    wiring = wirings.FullyConnected(5)
    wiring.build(3)
    module = ncps.LTCCell(
        wiring, input_mapping="none", output_mapping="none", epsilon=0.0, implicit_param_constraints=True
    ).double()
    theirs = {"w": "w", "gamma": "sigma", "mu": "mu", "E": "erev"}
    with torch.no_grad():
        for ours, name in theirs.items():
            getattr(module, name).copy_(own[ours])
            getattr(module, f"sensory_{name}").copy_(own[f"input_{ours}"])
        for ours, name in (("g", "gleak"), ("v_leak", "vleak"), ("c", "cm")):
            getattr(module, name).copy_(own[ours])

    def step(x: Tensor, states: tuple[Tensor, ...], elapsed: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, v = module(x, states[0], elapsed[:, None])
        return y, (v,)

    check(layer, step)


# snntorch


def check_spiking(layer: nn.Layer, step: Step) -> None:
    """Values as everywhere; gradients in single precision, which is what snntorch's spikes have."""

    def values_only(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        with torch.no_grad():
            return step(x, states)

    check(layer, values_only)
    x = torch.randn(5, 20, layer.input_size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 20, layer.output_size, dtype=torch.float64)
    y, _ = layer(x)
    assert 0 < y.mean() < 1
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    theirs, _ = over_time(step)(x, layer.initial_state(5))
    (expected,) = torch.autograd.grad((theirs * weights).sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_snntorch_has_the_recurrent_spiking_cell():
    snntorch = pytest.importorskip("snntorch", reason="compares with it")
    layer = layers.of_cell("lif").double()
    own = values_of(layer)
    gradient = snntorch.surrogate.fast_sigmoid(slope=25)
    module = snntorch.RLeaky(beta=0.9, linear_features=5, spike_grad=gradient).double()
    with torch.no_grad():
        module.recurrent.weight.copy_(own["V"])
        module.recurrent.bias.zero_()
        module.beta.fill_(0.9)  # once more: it was rounded to single precision

    def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        spikes, membrane = module(x @ own["W"].T + own["b"], *states)
        return spikes.double(), (spikes.double(), membrane)

    check_spiking(layer, step)


def test_snntorch_has_the_spiking_lstm():
    snntorch = pytest.importorskip("snntorch", reason="compares with it")
    # theirs forgets its state where the input is not as wide as the hidden state
    layer = layers.disturbed(nn.Recurrent("spiking_lstm", 5, 5)).double()
    own = values_of(layer)
    gradient = snntorch.surrogate.fast_sigmoid(slope=25)
    module = snntorch.SLSTM(5, 5, threshold=0.5, reset_mechanism="subtract", spike_grad=gradient).double()
    with torch.no_grad():
        module.lstm_cell.weight_ih.copy_(own["W"])
        module.lstm_cell.weight_hh.copy_(own["U"])
        module.lstm_cell.bias_ih.copy_(own["b"])
        module.lstm_cell.bias_hh.zero_()

    def step(x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        membrane, cell = states
        spikes, cell, membrane = module(x, cell, membrane)
        return spikes.double(), (membrane, cell)

    check_spiking(layer, step)
