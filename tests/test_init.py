"""Initialisation, gate by gate, seeded by torch's generator."""

import math

import pytest
import torch

import layers
from recurra import nn
from recurra.cells import Matrix, Recurrent, cell, tanh
from recurra.errors import ArgumentError


def is_orthogonal(matrix: torch.Tensor) -> bool:
    return torch.allclose(matrix @ matrix.T, torch.eye(len(matrix), dtype=matrix.dtype), atol=1e-5)


def test_recurrent_matrices_are_orthogonal_gate_by_gate():
    assert all(is_orthogonal(gate) for gate in nn.LSTM(3, 16).U.chunk(4))


def test_input_matrices_are_xavier_gate_by_gate():
    bound = math.sqrt(6 / (30 + 50))
    for gate in nn.GRU(30, 50).W.detach().chunk(3):
        assert gate.abs().max() <= bound
        assert float(gate.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_biases_start_from_the_constants_of_the_cell():
    i, f, g, o = nn.LSTM(3, 4).b.chunk(4)
    assert torch.equal(f, torch.ones(4))
    assert not torch.stack((i, g, o)).any()
    assert torch.equal(nn.Recurrent("indrnn", 3, 4).u, torch.ones(4))


def test_every_parameter_is_set_whatever_the_memory_held():
    # conftest fills fresh memory with NaN
    for build in layers.ALL.values():
        assert all(p.isfinite().all() for p in build().parameters())


def test_torch_s_generator_decides():
    torch.manual_seed(3)
    first = nn.LSTM(3, 4)
    torch.manual_seed(3)
    second = nn.LSTM(3, 4)
    assert torch.equal(first.W, second.W)
    assert torch.equal(first.U, second.U)
    second.reset_parameters()
    assert not torch.equal(first.W, second.W)


def test_he_has_the_variance_of_rectified_units():
    layer = nn.init.he_(nn.RNN(400, 50, nonlinearity="relu"))
    assert float(layer.W.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.05)


def test_xavier_and_orthogonal_can_be_drawn_again():
    layer = nn.GRU(3, 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert nn.init.xavier_(layer) is layer
    assert layer.W.any()
    assert not layer.U.any()
    nn.init.orthogonal_(layer, gain=2.0)
    assert all(is_orthogonal(gate / 2) for gate in layer.U.chunk(3))
    assert not layer.b.any()


def test_orthogonal_works_in_half_precision():
    layer = nn.init.orthogonal_(nn.GRU(3, 8).half())
    assert torch.allclose(layer.U[:8].float() @ layer.U[:8].float().T, torch.eye(8), atol=1e-2)


def test_a_projection_is_xavier():
    @cell
    def project(x, h, *, P=Matrix(rows="hidden", columns="input"), U=Recurrent()):
        return tanh(P @ x + U @ h)

    bound = math.sqrt(6 / (30 + 20))
    assert 0.9 * bound < nn.Recurrent(project, 30, 20).P.abs().max() <= bound


@pytest.mark.parametrize(("build", "keeps"), [(nn.LSTM, 1), (nn.GRU, 1)])
def test_forget_bias_is_that_of_the_gate_that_keeps(build: type, keeps: int):
    layer = nn.init.forget_bias_(nn.Stack(build(3, 4), nn.Dropout(build(4, 4), 0.1)), 2.5)
    for one in (layer[0], layer[1].layer):
        gates = one.b.view(-1, 4)
        assert torch.equal(gates[keeps], torch.full((4,), 2.5))
        assert not torch.cat((gates[:keeps], gates[keeps + 1 :])).any()


def test_chrono_spreads_time_scales_and_couples_the_input_gate():
    layer = nn.init.chrono_(nn.LSTM(3, 500), 100)
    i, f, g, o = layer.b.detach().chunk(4)
    assert torch.equal(i, -f)
    scales = f.exp()
    assert scales.min() >= 1
    assert scales.max() <= 99
    assert float(scales.mean()) == pytest.approx(50, rel=0.1)
    assert not g.any()
    assert not o.any()


def test_chrono_on_a_gru_moves_the_gate_that_keeps():
    r, z, n = nn.init.chrono_(nn.GRU(3, 4), 50).b.detach().chunk(3)
    assert z.min() >= 0
    assert not r.any()
    assert not n.any()


def test_a_gate_that_writes_keeps_the_complement():
    layer = nn.Recurrent("lstm_coupled", 3, 4)
    assert torch.equal(nn.init.forget_bias_(layer, 2.0).b, torch.tensor([-2.0] * 4 + [0.0] * 8))
    i, g, o = nn.init.chrono_(layer, 50).b.detach().chunk(3)
    assert i.max() <= 0
    assert (-i).exp().max() <= 49
    assert not g.any()
    assert not o.any()


@pytest.mark.parametrize(("name", "sign"), [("mgu", -1), ("mingru", -1), ("fastgrnn", 1), ("star", -1)])
def test_a_bias_that_is_asked_for_makes_a_cell_keep(name: str, sign: int):
    layer = nn.init.forget_bias_(nn.Recurrent(name, 3, 4), 30.0)
    assert torch.equal(layer.b[:4], torch.full((4,), 30.0 * sign))
    assert not layer.b[4:].any()
    h = torch.rand(2, 4) - 0.5
    _, after = layer.step(torch.zeros(2, 3), (h,))
    # a gate that is open keeps the state, but for what a cell does to it besides
    wanted = torch.tanh(h) if name == "star" else h
    torch.testing.assert_close(after.h, wanted, atol=0.03, rtol=0)


def test_a_cell_without_such_a_gate_says_so():
    for initialise in (lambda layer: nn.init.chrono_(layer, 10), lambda layer: nn.init.forget_bias_(layer, 1.0)):
        with pytest.raises(ArgumentError, match=r"cells are rnn_tanh: expected one with a gate that keeps.*forget="):
            initialise(nn.RNN(3, 4))


def test_chrono_needs_a_span():
    with pytest.raises(ArgumentError, match="maximum is 2: expected more than 2"):
        nn.init.chrono_(nn.GRU(3, 4), 2)
