"""Layers that act while training: dropout of weights, and batch normalisation over valid steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from recurra import cells, nn
from recurra.errors import ArgumentError, ShapeError
from recurra.models import build_layer, layer_spec
from recurra.program.operations import TABLE
from recurra.testing import check_laws

mix = TABLE["mix"].numpy


def kept_weights(seed: float, number: int, rows: int, columns: int, probability: float) -> torch.Tensor:
    key = mix(np.array(seed), np.array(float(number)))
    drawn = mix(mix(key, np.arange(float(rows)))[:, None], np.arange(float(columns))[None])
    return torch.from_numpy(drawn / 2**24 >= probability)


def test_weight_dropout_masks_recurrent_matrices_alone():
    torch.manual_seed(0)
    plain = nn.Stack(nn.LSTM(3, 6), nn.GRU(6, 5)).double()
    layer = nn.WeightDropout(plain, 0.4).train()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    start = layer.initial_state(2)
    assert start.seed.unique().numel() == 1
    y, after = layer(x, start)
    y.sum().backward()
    assert torch.equal(after.seed, start.seed)
    masked = nn.Stack(nn.LSTM(3, 6), nn.GRU(6, 5)).double()
    masked.load_state_dict(plain.state_dict())
    with torch.no_grad():
        for number, (one, rows, columns) in enumerate(((masked[0], 24, 6), (masked[1], 15, 5))):
            kept = kept_weights(float(start.seed[0]), number, rows, columns, 0.4)
            one.U.mul_(kept.double() / 0.6)
            gradient = plain[number].U.grad
            assert torch.equal(gradient != 0, kept)
    torch.testing.assert_close(y, masked(x)[0], rtol=1e-11, atol=1e-12)
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


def test_weight_dropout_drops_as_often_as_it_says():
    layer = nn.WeightDropout(nn.RNN(2, 400), 0.3).train()
    ((name, weight),) = layer._matrices()
    dropped = layer._dropped(torch.tensor([[99.0]]), 0, torch.ones_like(weight))
    assert name == "U"
    assert abs(float((dropped == 0).double().mean()) - 0.3) < 0.005
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])


def test_weight_dropout_is_reproducible_steps_and_saves():
    layer = nn.WeightDropout(nn.GRU(3, 4), 0.5).train()
    x = torch.randn(2, 5, 3)
    torch.manual_seed(1)
    first = layer(x)[0]
    assert not torch.equal(layer(x)[0], first)
    torch.manual_seed(1)
    state, steps = layer.initial_state(2), []
    for t in range(5):
        y_t, state = layer.step(x[:, t], state)
        steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), first)
    same = build_layer(json.loads(json.dumps(layer_spec(layer))))
    assert isinstance(same, nn.WeightDropout)
    assert same.probability == 0.5


def test_weight_dropout_refuses_what_it_cannot_do():
    with pytest.raises(ArgumentError, match="has no recurrent matrix"):
        nn.WeightDropout(nn.Recurrent("mingru", 2, 3), 0.1)
    layer = nn.WeightDropout(nn.GRU(2, 3), 0.5).train()
    state = layer.initial_state(2)
    with pytest.raises(ArgumentError, match="differs from row to row"):
        layer(torch.randn(2, 4, 2), state._replace(seed=torch.tensor([[1.0], [2.0]])))
    with pytest.raises(ShapeError, match="which half precision cannot"):
        layer.half().initial_state(2)


@pytest.mark.parametrize("padded", [False, True])
def test_masked_batch_norm_equals_torch_on_the_valid_steps(padded: bool):
    torch.manual_seed(0)
    layer, peer = nn.MaskedBatchNorm(3).double(), torch.nn.BatchNorm1d(3).double()
    for norm in (layer, peer):
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
            norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    lengths = torch.tensor([4, 0, 2]) if padded else None
    valid = torch.arange(4) < torch.tensor([4, 0, 2] if padded else [4, 4, 4])[:, None]
    for training in (True, True, False):
        layer.train(training)
        peer.train(training)
        x = torch.randn(3, 4, 3, dtype=torch.float64)
        x[~valid] = torch.nan
        x.requires_grad_()
        y, state = layer(x, lengths=lengths)
        expected = peer(x[valid])
        assert state == ()
        torch.testing.assert_close(y[valid], expected, rtol=1e-11, atol=1e-12)
        assert not y[~valid].any()
        weights = torch.randn_like(expected)
        got = torch.autograd.grad((y[valid] * weights).sum(), [x, layer.weight, layer.bias])
        wanted = torch.autograd.grad((expected * weights).sum(), [x, peer.weight, peer.bias])
        torch.testing.assert_close(got[0][valid], wanted[0][valid], rtol=1e-10, atol=1e-12)
        assert not got[0][~valid].any()
        torch.testing.assert_close(got[1:], wanted[1:], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(layer.running_mean, peer.running_mean)
        torch.testing.assert_close(layer.running_variance, peer.running_var)


def test_masked_batch_norm_says_which_laws_hold_in_evaluation_only():
    layer = nn.Stack(nn.GRU(3, 4), nn.MaskedBatchNorm(4))
    report = check_laws(layer, samples=1)
    for number in (3, 4, 13):
        assert report[number].outcome == "passed"
        assert report[number].reason == "in evaluation; in training its statistics are those of the whole batch"
    same = build_layer(json.loads(json.dumps(layer_spec(layer))))
    assert layer_spec(same) == layer_spec(layer)


def test_masked_batch_norm_without_a_valid_step_keeps_its_averages():
    layer = nn.MaskedBatchNorm(2).train()
    x = torch.full((2, 3, 2), torch.nan)
    y, _ = layer(x, lengths=torch.zeros(2, dtype=torch.int64))
    assert not y.any()
    assert not layer.running_mean.any()
    for wrong in (0, 1.5, True, "0.1"):
        with pytest.raises(ArgumentError, match="momentum is"):
            nn.MaskedBatchNorm(2, momentum=wrong)
    with pytest.raises(ShapeError, match="expected"):
        layer(torch.randn(2, 3, 4))


def test_matrices_that_are_not_trained_are_left_whole():
    with pytest.raises(ArgumentError, match="no recurrent matrix that is trained"):
        nn.WeightDropout(nn.Recurrent("esn", 2, 3), 0.1)
    inner = nn.Recurrent(cells.clockwork_rnn(modules=1), 2, 1)
    with torch.no_grad():
        inner.U.fill_(1)
    layer, seen = nn.WeightDropout(inner, 0.5).train(), set()
    for _ in range(20):
        state = layer.initial_state(1)
        begun = state._replace(layer=state.layer._replace(h=torch.full((1, 1), 0.1)))
        seen.add(round(float(layer.step(torch.zeros(1, 2), begun)[0].detach().atanh()), 4))
    assert seen == {0.0, 0.2}


def test_transformed_cells_may_stand_inside():
    layer = nn.WeightDropout(nn.Recurrent(cells.zoneout("gru", 0.3), 3, 4), 0.3)
    x, start = torch.randn(2, 6, 3), layer.initial_state(2)
    whole, _ = layer(x, start)
    first, state = layer(x[:, :2], start)
    torch.testing.assert_close(torch.cat((first, layer(x[:, 2:], state)[0]), 1), whole)
