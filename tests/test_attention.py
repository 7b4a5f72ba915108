"""Attention over a padded memory, decoders that read one, and causal attention over a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from layers import disturbed
from recurra import nn
from recurra.errors import ArgumentError, RecurraError, ShapeError
from recurra.models import build_layer, layer_spec
from recurra.testing import sequence_laws as laws
from recurra.testing.cases import Case

ATTENTIONS: dict[str, Callable[[], Any]] = {
    "additive": lambda: nn.AdditiveAttention(4, 3, 5),
    "dot": lambda: nn.MultiplicativeAttention(3, 3, score="dot"),
    "general": lambda: nn.MultiplicativeAttention(4, 3),
}
every = pytest.mark.parametrize("name", ATTENTIONS)


def score(attention: Any, query: Tensor, step: Tensor) -> Tensor:
    """The score of one step of one row's memory, as the papers write it."""
    if isinstance(attention, nn.AdditiveAttention):
        W, b, U = attention.query.weight, attention.query.bias, attention.key.weight
        return attention.score.weight[0] @ torch.tanh(W @ query + b + U @ step)
    return query @ (step if attention.score == "dot" else attention.key.weight @ step)


@every
def test_attention_equals_its_formula_row_by_row(name: str):
    attention = ATTENTIONS[name]().double()
    query, memory = torch.randn(3, attention.query_size).double(), torch.randn(3, 6, 3).double()
    lengths = torch.tensor([6, 1, 4])
    context, weights = attention(query, attention.prepare(memory, lengths))
    for b, length in enumerate(lengths.tolist()):
        scores = torch.stack([score(attention, query[b], memory[b, j]) for j in range(length)])
        expected = torch.exp(scores) / torch.exp(scores).sum()
        assert torch.allclose(weights[b, :length], expected, rtol=1e-10)
        assert bool((weights[b, length:] == 0).all())
        assert torch.allclose(context[b], expected @ memory[b, :length], rtol=1e-10)


@every
def test_nan_in_padding_reaches_nothing(name: str):
    attention = ATTENTIONS[name]()
    query, lengths = torch.randn(3, attention.query_size), torch.tensor([5, 0, 2])
    clean = torch.randn(3, 5, 3)
    poisoned = torch.where((torch.arange(5) < lengths[:, None])[..., None], clean, float("nan")).requires_grad_()
    expected = attention(query, attention.prepare(clean, lengths))
    actual = attention(query, attention.prepare(poisoned, lengths))
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    assert bool((actual[0][1] == 0).all())
    assert bool((actual[1][1] == 0).all())
    gradients = torch.autograd.grad(actual[0].sin().sum(), [poisoned, *attention.parameters()])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert bool((gradients[0][1] == 0).all())


@every
def test_gradients_of_attention(name: str):
    attention = ATTENTIONS[name]().double()
    query = torch.randn(2, attention.query_size, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([4, 2])
    assert torch.autograd.gradcheck(lambda q, m: attention(q, attention.prepare(m, lengths)), (query, memory))


def test_bad_attention_is_named():
    attention = nn.AdditiveAttention(4, 3, 5)
    memory, query = torch.randn(2, 6, 3), torch.randn(2, 4)
    with pytest.raises(ShapeError, match=r"memory has shape .*expected .batch, source time, 3.*memory_size=3"):
        attention.prepare(torch.randn(2, 6, 4))
    with pytest.raises(ShapeError, match="memory has shape"):
        attention.prepare(torch.randn(6, 3))
    with pytest.raises(ArgumentError, match="lengths holds 7: expected 0 to 6"):
        attention.prepare(memory, torch.tensor([7, 1]))
    with pytest.raises(ShapeError, match=r"memory is a Tensor: expected what prepare returned"):
        attention(query, memory)
    with pytest.raises(ShapeError, match="query has 3 rows: expected 2"):
        attention(torch.randn(3, 4), attention.prepare(memory))
    with pytest.raises(ShapeError, match="query has shape"):
        attention(torch.randn(2, 5), attention.prepare(memory))
    with pytest.raises(ShapeError, match="query_size is 4 and memory_size 3: expected equal sizes"):
        nn.MultiplicativeAttention(4, 3, score="dot")
    with pytest.raises(ArgumentError, match="score is 'cosine'"):
        nn.MultiplicativeAttention(4, 3, score="cosine")  # type: ignore[arg-type]


# the decoder


def decoder() -> nn.AttentionDecoder:
    return nn.AttentionDecoder(nn.LSTM(2 + 4, 4), nn.AdditiveAttention(4, 3, 5))


def test_decoder_equals_its_equations():
    layer = decoder().double()
    x, memory = torch.randn(2, 5, 2).double(), torch.randn(2, 6, 3).double()
    lengths = torch.tensor([6, 2])
    y, after = layer(x, layer.attend(memory, lengths))
    a, inner = torch.zeros(2, 4, dtype=torch.float64), layer.layer.initial_state(2)
    weights = torch.empty(0)
    for t in range(5):
        s, inner = layer.layer.step(torch.cat((x[:, t], a), 1), inner)
        context, weights = layer.attention(s, layer.attention.prepare(memory, lengths))
        a = torch.tanh(torch.cat((context, s), 1) @ layer.combine.weight.T)
        assert torch.allclose(y[:, t], a, rtol=1e-10)
    assert torch.allclose(after.weights, weights, rtol=1e-10)
    assert torch.allclose(after.layer.c, inner.c, rtol=1e-10)


def test_a_reset_starts_afresh_on_the_same_memory():
    layer = decoder().double()
    x, memory = torch.randn(2, 5, 2).double(), torch.randn(2, 6, 3).double()
    reset = torch.zeros(2, 5, dtype=torch.bool)
    reset[0, 3] = True
    y, _ = layer(x, layer.attend(memory), reset=reset)
    whole, _ = layer(x, layer.attend(memory))
    again, _ = layer(x[:1, 3:], layer.attend(memory[:1]))
    assert torch.allclose(y[:1, 3:], again, rtol=1e-10)
    assert torch.allclose(y[0, :3], whole[0, :3], rtol=1e-10)
    assert torch.allclose(y[1], whole[1], rtol=1e-10)


def test_a_state_carries_its_memory_and_gradients_to_it():
    layer = decoder()
    memory = torch.randn(2, 6, 3, requires_grad=True)
    state = layer.attend(memory, torch.tensor([6, 3]))
    x = torch.randn(2, 4, 2)
    rows = torch.tensor([1, 1, 0])
    picked, _ = layer(x[rows], nn.map_state(lambda part: part[rows], state))
    y, _ = layer(x, state)
    assert torch.allclose(picked, y[rows], atol=1e-6)
    (gradient,) = torch.autograd.grad(y.sum(), memory)
    assert float(gradient[1, :3].abs().max()) > 0
    assert bool((gradient[1, 3:] == 0).all())


def test_an_empty_memory_gives_no_context():
    layer = decoder()
    x = torch.randn(2, 3, 2)
    y, state = layer(x)
    assert state.keys.shape == (2, 0)
    y_nothing, _ = layer(x, layer.attend(torch.randn(2, 5, 3), torch.tensor([0, 0])))
    assert torch.allclose(y, y_nothing)


@pytest.mark.parametrize(
    "attention", [lambda: nn.AdditiveAttention(4, 3, 5), lambda: nn.MultiplicativeAttention(4, 4, score="dot")]
)
def test_a_decoder_is_saved_as_data(attention: Callable[[], Any]):
    layer = nn.AttentionDecoder(nn.Stack(nn.GRU(6, 4), nn.Residual(nn.GRU(4, 4))), attention())
    same: Any = build_layer(layer_spec(layer))
    same.load_state_dict(layer.state_dict())
    x, memory = torch.randn(2, 3, 2), torch.randn(2, 6, layer.attention.memory_size)
    assert torch.equal(same(x, same.attend(memory))[0], layer(x, layer.attend(memory))[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.AttentionDecoder(nn.GRU(4, 4), nn.AdditiveAttention(4, 3, 5)), "layer has input_size 4"),
        (lambda: nn.AttentionDecoder(nn.GRU(6, 4), nn.AdditiveAttention(5, 3, 5)), "attention has query_size 5"),
        (lambda: nn.AttentionDecoder(nn.Last(nn.GRU(6, 4)), nn.AdditiveAttention(4, 3, 5)), "layer is Last, which"),
        (lambda: nn.AttentionDecoder(nn.GRU(6, 4), torch.nn.Linear(4, 3)), "attention is a Linear"),  # type: ignore[arg-type]
    ],
)
def test_a_decoder_that_does_not_fit_is_named(build: Callable[[], Any], message: str):
    with pytest.raises(RecurraError, match=message):
        build()


def test_a_state_of_another_batch_is_named():
    layer = decoder()
    with pytest.raises(ShapeError, match=r"state.attentional has shape \(3, 4\): expected \(2, 4\)"):
        layer(torch.randn(2, 3, 2), layer.attend(torch.randn(3, 5, 3)))
    state = layer.attend(torch.randn(2, 5, 3))
    with pytest.raises(ShapeError, match=r"state\.keys has shape"):
        layer.step(torch.randn(2, 2), state._replace(keys=state.keys[:, 1:]))


# causal attention over a window


def by_definition(layer: nn.WindowAttention, x: Tensor, starts: set[int]) -> Tensor:
    """One row, x (time, input): each step by itself, over the steps that it may see."""
    outputs = []
    for t in range(len(x)):
        first = max([0, t - layer.window + 1, *(s for s in starts if s <= t)])
        seen = x[first : t + 1]
        q, k, v = layer.query(x[t : t + 1]), layer.key(seen), layer.value(seen)
        heads = []
        for h in range(layer.heads):
            part = slice(h * layer.hidden_size // layer.heads, (h + 1) * layer.hidden_size // layer.heads)
            scores = (q[:, part] @ k[:, part].T) / (layer.hidden_size / layer.heads) ** 0.5
            bias = layer.bias[h, : len(seen)].flip(0)
            heads.append(torch.softmax(scores + bias, -1) @ v[:, part])
        outputs.append(layer.out(torch.cat(heads, 1)))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [1, 2, 3, 8, 40])
def test_a_window_equals_its_definition(window: int):
    layer: Any = disturbed(nn.WindowAttention(3, 6, heads=3, window=window)).double()
    x = torch.randn(2, 19, 3, dtype=torch.float64)
    reset = torch.zeros(2, 19, dtype=torch.bool)
    reset[0, [5, 6, 15]] = True
    y, state = layer(x, reset=reset)
    for row, starts in enumerate(({5, 6, 15}, set())):
        assert torch.allclose(y[row], by_definition(layer, x[row], starts), rtol=1e-10, atol=1e-12)
    assert state.seen.sum(1).tolist() == [min(window - 1, 4), min(window - 1, 19)]


@given(st.integers(1, 3), st.integers(1, 14), st.integers(1, 16), st.integers(0, 99))
@settings(max_examples=6)
def test_laws_of_windows_of_any_size(batch: int, time: int, window: int, seed: int):
    torch.manual_seed(seed)
    layer = disturbed(nn.WindowAttention(3, 4, heads=2, window=window)).double()
    case = Case(batch, time, torch.float64, seed)
    laws.forward_is_fold_of_step(layer, case)
    laws.chunks_are_the_whole(layer, case)
    laws.padding_changes_nothing(layer, case)
    laws.reset_is_a_fresh_start(layer, case)


def test_nan_leaves_the_window_again():
    layer = nn.WindowAttention(3, 4, heads=2, window=3)
    x = torch.randn(1, 12, 3)
    clean, _ = layer(x)
    x[0, 4, 1] = float("nan")
    y, state = layer(x)
    assert y[0].isnan().any(1).nonzero().flatten().tolist() == [4, 5, 6]
    assert torch.allclose(y[0, 7:], clean[0, 7:], atol=1e-6)
    now, steps = layer.initial_state(1), []
    for t in range(12):
        y_t, now = layer.step(x[:, t], now)
        steps.append(y_t)
    assert torch.equal(torch.stack(steps, 1).isnan(), y.isnan())
    assert torch.allclose(now.keys, state.keys, atol=1e-6)


def test_the_cache_is_bounded():
    layer = nn.WindowAttention(3, 4, heads=2, window=5)
    _, state = layer(torch.randn(2, 1000, 3))
    assert [tuple(part.shape) for part in state] == [(2, 16), (2, 16), (2, 4)]


def test_a_hybrid_block_is_its_parts_and_is_saved():
    block = nn.hybrid_block(nn.GRU(3, 4), heads=2, window=3)
    x = torch.randn(2, 7, 3)
    h, _ = block[0](x)
    attention: Any = block[1]
    y, _ = block(x)
    assert torch.allclose(y, h + attention.layer(h)[0])
    same = build_layer(layer_spec(block))
    same.load_state_dict(block.state_dict())
    assert torch.equal(same(x)[0], y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.WindowAttention(3, 4, heads=3), "heads is 3, which does not divide hidden_size=4"),
        (lambda: nn.WindowAttention(3, 4, window=0), "window is 0: expected a whole number from 1"),
        (lambda: nn.hybrid_block(nn.Mean(nn.GRU(3, 4))), "layer is Mean, which pools"),
        (lambda: nn.hybrid_block(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2))), "which needs the future"),
        (lambda: nn.hybrid_block(nn.GRU(3, 6)), "heads is 4, which does not divide"),
    ],
)
def test_bad_windows_are_named(build: Callable[[], Any], message: str):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_lengths_out_of_range_are_named():
    with pytest.raises(ArgumentError, match="lengths holds -1"):
        nn.WindowAttention(3, 4)(torch.randn(2, 5, 3), lengths=torch.tensor([-1, 2]))
    with pytest.raises(ArgumentError, match="lengths holds 9"):
        decoder()(torch.randn(2, 5, 2), lengths=torch.tensor([9, 2]))
