"""The matrix memories: chunks of any size are the recurrence, whatever the gates are, and equal the papers' steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from layers import disturbed
from paper_steps import memories as papers
from recurra import nn
from recurra.errors import ArgumentError, RecurraError, ShapeError
from recurra.models import build_layer, layer_spec
from recurra.nn.memory.scan import linear_scan, recomputed
from recurra.testing import check_laws
from recurra.testing import sequence_laws as laws
from recurra.testing.cases import Case

BUILD: dict[str, Callable[..., Any]] = {
    "mlstm": lambda chunk=64: nn.MatrixLSTM(3, 6, heads=2, chunk_size=chunk),
    "mlstm, exponential forget gate": lambda chunk=64: nn.MatrixLSTM(
        3, 6, heads=3, forget="exponential", chunk_size=chunk
    ),
    "gated delta rule": lambda chunk=64: nn.GatedDelta(3, 6, heads=2, chunk_size=chunk),
    "negative eigenvalues": lambda chunk=64: nn.GatedDelta(3, 4, heads=1, negative_eigenvalues=True, chunk_size=chunk),
    "gated linear attention": lambda chunk=64: nn.GatedLinearAttention(3, 6, heads=2, chunk_size=chunk),
    "selective state space": lambda chunk=64: nn.SelectiveStateSpace(3, 5, state_size=3, chunk_size=chunk),
}
every = pytest.mark.parametrize("name", BUILD)


def fold(layer: nn.Layer, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    state = layer.initial_state(x.shape[0]) if state is None else state
    outputs = []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    for a, e in zip(actual, expected, strict=True):
        a, e = a.detach(), e.detach()
        assert torch.isfinite(e).all()
        assert float((a - e).abs().max()) <= tolerance * max(1.0, float(e.abs().max()))


def with_gradients(layer: nn.Layer, call: Callable[[Tensor], tuple[Tensor, Any]], x: Tensor) -> list[Tensor]:
    """The output, the state after, and the gradients of the input and of every parameter through both."""
    x = x.clone().requires_grad_()
    y, state = call(x)
    total = sum((part * torch.cos(torch.arange(part.numel(), dtype=x.dtype)).view_as(part)).sum() for part in state)
    gradients = torch.autograd.grad(y.cos().sum() + total, [x, *layer.parameters()])
    return [y, *state, *gradients]


# law 14: the papers' formulas, written by somebody else


def peer_of(layer: Any, step: Callable[..., Any], parameters: dict[str, Any], finish: Callable[..., Tensor]) -> Any:
    p = {k: v.detach().double().numpy() if isinstance(v, Tensor) else v for k, v in parameters.items()}
    shapes = dict(zip(layer._state_type._fields, layer._shapes, strict=True))

    def peer(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        now = {k: getattr(state, k).detach().numpy().reshape(-1, *shape) for k, shape in shapes.items()}
        outputs = []
        with torch.no_grad():
            for x_t in x.detach().unbind(1):
                y, now = step(finish(x_t, None).numpy(), now, p)
                outputs.append(finish(x_t, torch.from_numpy(y)))
        parts = [torch.from_numpy(np.ascontiguousarray(now[k])).flatten(1) for k in shapes]
        return torch.stack(outputs, 1), type(state)(*parts)

    return peer


@pytest.mark.parametrize("forget", ["sigmoid", "exponential"])
def test_mlstm_equals_the_step_of_its_paper(forget: Any):
    layer = disturbed(nn.MatrixLSTM(3, 6, heads=2, forget=forget, chunk_size=2))
    gates = {
        "q": layer.query,
        "k": layer.key,
        "v": layer.value,
        "o": layer.output_gate,
        "i": layer.input_gate,
        "f": layer.forget_gate,
    }
    p = {f"{kind}_{g}": getattr(m, word) for g, m in gates.items() for kind, word in (("W", "weight"), ("b", "bias"))}
    p["forget"] = "sigmoid" if forget == "sigmoid" else "exp"
    excused = dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 12, 13), "tried elsewhere")
    peer = peer_of(layer, papers.mlstm, p, lambda x, y: x if y is None else y)
    assert check_laws(layer, peer=peer, inapplicable=excused)[14].outcome == "passed"


def gated(layer: Any) -> Callable[..., Tensor]:
    """What stands around the recurrence in the layers of two papers: a norm, a gate, a projection."""
    twin = build_layer(layer_spec(layer)).double()
    twin.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})

    def finish(x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return x
        heads = y.unflatten(-1, (layer.heads, -1))
        heads = heads / (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt() * twin.norm.weight
        return twin.out(heads.flatten(1) * torch.nn.functional.silu(twin.gate(x)))

    return finish


@pytest.mark.parametrize("negative", [False, True])
def test_gated_delta_equals_the_step_of_its_paper(negative: bool):
    layer = disturbed(nn.GatedDelta(3, 6, heads=2, negative_eigenvalues=negative, chunk_size=2))
    p = {
        "W_q": layer.query.weight,
        "W_k": layer.key.weight,
        "W_v": layer.value.weight,
        "W_beta": layer.strength.weight,
        "W_a": layer.decay.weight,
        "b_a": layer.decay.bias,
        "A_log": layer.log_rate,
        "qkv_activation": "silu",
        "l2_eps": 1e-6,
        "beta_scale": 2.0 if negative else 1.0,
    }
    excused = dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 12, 13), "tried elsewhere")
    report = check_laws(layer, peer=peer_of(layer, papers.gated_delta, p, gated(layer)), inapplicable=excused)
    assert report[14].outcome == "passed"


def test_gated_linear_attention_equals_the_step_of_its_paper():
    layer = disturbed(nn.GatedLinearAttention(3, 6, heads=2, chunk_size=3))
    p = {
        "W_q": layer.query.weight,
        "W_k": layer.key.weight,
        "W_v": layer.value.weight,
        "W_alpha_1": layer.forget_down.weight,
        "W_alpha_2": layer.forget_up.weight,
        "b_alpha": layer.forget_up.bias,
        "scale": 3**-0.5,
    }
    excused = dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 12, 13), "tried elsewhere")
    peer = peer_of(layer, papers.gated_linear_attention, p, gated(layer))
    assert check_laws(layer, peer=peer, inapplicable=excused)[14].outcome == "passed"


def test_selective_state_space_equals_the_step_of_its_paper():
    layer = disturbed(nn.SelectiveStateSpace(3, 5, state_size=2, chunk_size=3))
    low, b, c = layer.select.weight.split((1, 2, 2))
    p = {
        "A_log": layer.log_a,
        "W_dt_1": low,
        "W_B": b,
        "W_C": c,
        "W_dt_2": layer.delta.weight,
        "b_dt": layer.delta.bias,
        "D": layer.D,
        "discretisation": "euler",
    }
    into = layer.input.weight.detach().double()
    excused = dict.fromkeys((1, 2, 3, 4, 5, 6, 7, 8, 12, 13), "tried elsewhere")
    peer = peer_of(layer, papers.selective_ssm, p, lambda x, y: x @ into.T if y is None else y)
    assert check_laws(layer, peer=peer, inapplicable=excused)[14].outcome == "passed"


# against the parallel formulas over the whole sequence, without chunks and without stabilisation


def test_mlstm_is_its_parallel_formula():
    layer = disturbed(nn.MatrixLSTM(3, 6, heads=2, chunk_size=4)).double()
    x = torch.randn(2, 11, 3, dtype=torch.float64)
    q, k, v, log_i, log_f = layer._project(x)
    total = log_f.cumsum(-1)
    decay = torch.exp(total[..., :, None] - total[..., None, :] + log_i[..., None, :]).tril()
    scores = decay * (q @ k.mT)
    h = (scores @ v) / scores.sum(-1, keepdim=True).abs().clamp(min=1)
    expected = torch.sigmoid(layer.output_gate(x)) * h.transpose(1, 2).flatten(2)
    close([layer(x)[0]], [expected])


def test_gated_linear_attention_is_its_sum():
    layer = disturbed(nn.GatedLinearAttention(3, 6, heads=2, chunk_size=4)).double()
    x = torch.randn(2, 11, 3, dtype=torch.float64)
    q, k, v, log_alpha = layer._project(x)
    total = log_alpha.cumsum(2)
    decay = torch.exp(total[:, :, :, None] - total[:, :, None])
    scores = torch.einsum("bhid,bhijd,bhjd->bhij", q, decay, k).tril()
    close([layer(x)[0]], [layer._put_out(x, (scores @ v).transpose(1, 2))])


# chunks


@every
@given(st.integers(1, 3), st.integers(1, 14), st.sampled_from([1, 2, 3, 5, 8, 64]), st.integers(0, 99))
@settings(max_examples=6)
def test_chunks_of_any_size_give_the_same(name: str, batch: int, time: int, chunk: int, seed: int):
    torch.manual_seed(seed)
    layer = disturbed(BUILD[name](chunk)).double()
    case = Case(batch, time, torch.float64, seed)
    laws.forward_is_fold_of_step(layer, case)
    laws.chunks_are_the_whole(layer, case)
    laws.padding_changes_nothing(layer, case)
    laws.reset_is_a_fresh_start(layer, case)


@every
def test_a_long_sequence_in_single_precision(name: str):
    layer = BUILD[name](16)
    x = torch.randn(2, 150, 3)
    close(layer(x)[0], fold(layer, x)[0], 2e-5)


def gates_at(layer: Any, value: float) -> None:
    """Every gate's bias far from where it started, so that the memory forgets, or keeps, or writes, all or nothing."""
    for name in ("forget_gate", "input_gate", "decay", "forget_up", "delta"):
        if hasattr(layer, name):
            torch.nn.init.constant_(getattr(layer, name).bias, value)


@every
@pytest.mark.parametrize("value", [-1000.0, -40.0, 40.0, 1000.0])
def test_gates_at_their_limits_stay_finite_and_exact(name: str, value: float):
    layer = disturbed(BUILD[name](8))
    if "exponential" in name and value > 0:
        value = 5.0
    gates_at(layer, value)
    x = torch.randn(2, 30, 3)
    actual = with_gradients(layer, layer, x)
    close(actual[:1], fold(layer, x)[:1], 2e-5)
    assert all(bool(part.isfinite().all()) for part in actual)
    layer = layer.double()
    close(with_gradients(layer, layer, x.double()), with_gradients(layer, lambda x: fold(layer, x), x.double()), 1e-9)


@every
def test_gates_of_zero_weights(name: str):
    layer = BUILD[name](4).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    (y, state), expected = layer(x), fold(layer, x)
    close([y, *state], [expected[0], *expected[1]])


def test_a_slow_decay_after_a_fast_one_keeps_its_digits():
    # differences of running sums would be off by 1e-4 here
    layer = nn.MatrixLSTM(2, 2, heads=1, chunk_size=64)
    with torch.no_grad():
        layer.forget_gate.weight.copy_(torch.tensor([[1000.0, 0.0]]))
        layer.forget_gate.bias.fill_(2.0)
    x = torch.randn(1, 60, 2)
    x[..., 0] = 0.0
    x[:, 5, 0] = -2.0
    close([layer(x)[0]], [layer.double()(x.double())[0].float()], 2e-5)


def test_a_state_that_comes_in_with_any_stabiliser():
    layer = disturbed(nn.MatrixLSTM(3, 6, heads=2, chunk_size=4)).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    state = layer(torch.randn(2, 5, 3, dtype=torch.float64))[1]
    moved = state._replace(C=state.C * np.e**3, n=state.n * np.e**3, m=state.m - 3)
    close([layer(x, moved)[0]], [layer(x, state)[0]])


# NaN


@every
def test_nan_reaches_no_earlier_step_of_its_chunk(name: str):
    layer = BUILD[name](8)
    x = torch.randn(2, 8, 3)
    clean = layer(x)[0]
    for bad in (float("nan"), float("inf")):
        x[0, 4, 1] = bad
        y, state = layer(x)
        assert torch.equal(y[0, :4], clean[0, :4])
        assert torch.equal(y[1], clean[1])
        assert bool(y[0, 4:].isnan().all())
        stepped, after = fold(layer, x)
        assert torch.equal(stepped.isnan(), y.isnan())
        assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(after, state, strict=True))


@every
def test_nan_in_the_state_ends_at_a_reset(name: str):
    layer = BUILD[name](3)
    state = layer.initial_state(2)
    state[0][0, 0] = float("nan")
    x = torch.randn(2, 7, 3)
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[0, 4] = True
    y, after = layer(x, state, reset=reset)
    assert bool(y[0, :4].isnan().all())
    assert bool(y[1].isfinite().all())
    close(
        [y[0, 4:], *(part[0] for part in after)],
        [part[0] for part in layer(x[:1, 4:])[:1]] + [part[0] for part in layer(x[:1, 4:])[1]],
        1e-6,
    )


# the rest


def test_the_scan_is_twice_differentiable_in_both_directions():
    decay, write = (torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    start = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear_scan, (decay, write, start))
    assert torch.autograd.gradgradcheck(linear_scan, (decay, write, start))


def test_what_is_computed_again_has_the_same_gradients():
    def function(a: Tensor, b: Tensor, none: None, c: Tensor) -> tuple[Tensor, ...]:
        return (a * b).sin() * c, a.exp()

    a, b = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    c = torch.randn(3, dtype=torch.float64)
    again = functools.partial(recomputed, function)
    assert torch.autograd.gradcheck(lambda a, b: again(a, b, None, c), (a, b))
    assert torch.autograd.gradgradcheck(lambda a, b: again(a, b, None, c), (a, b))
    # its results hold no more than its arguments
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        again(a, b, None, c)
    assert len(kept) <= 3


@every
def test_gradients_under_torch_func_are_those_of_autograd(name: str):
    layer = BUILD[name](3).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x)[0].sin().sum(), x)
    close([torch.func.grad(lambda x: layer(x)[0].sin().sum())(x)], [expected])


@every
def test_a_memory_is_saved_as_data(name: str):
    layer = nn.Stack(BUILD[name](7))
    spec = layer_spec(layer)
    assert spec["layers"][0]["chunk_size"] == 7
    same = build_layer(spec)
    same.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, 3)
    assert torch.equal(same(x)[0], layer(x)[0])


@every
def test_autocast_and_the_same_call_again(name: str):
    layer = BUILD[name]()
    x = torch.randn(2, 9, 3)
    y = layer(x)[0]
    assert torch.equal(layer(x)[0], y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, state = layer(x)
    assert {part.dtype for part in state} == {torch.float32}
    close([half.float()], [y], 0.1)


@pytest.mark.parametrize("name", [n for n in BUILD if "," not in n])
def test_torch_compiles_and_exports_a_memory(name: str):
    layer = BUILD[name]()
    x = torch.randn(2, 6, layer.input_size, dtype=next(layer.parameters()).dtype)
    (y, _), weights = layer(x), list(layer.parameters())
    expected = torch.autograd.grad(y.sin().sum(), weights)
    # the graphs and their gradients, without the minute that their translation to C++ takes
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, _ = compiled(x)
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(torch.autograd.grad(got.sin().sum(), weights), expected)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x)[0], y)


def test_negative_eigenvalues_turn_the_sign():
    layer = nn.GatedDelta(2, 2, heads=1, negative_eigenvalues=True).double()
    plain = nn.GatedDelta(2, 2, heads=1).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 5, 2, dtype=torch.float64)
    _, k, _, beta, _ = layer._project(x)
    assert torch.equal(beta, 2 * plain._project(x)[3])
    turned = torch.eye(2, dtype=torch.float64) - beta[..., None, None] * k[..., :, None] * k[..., None, :]
    assert float(torch.linalg.eigvalsh(turned.detach()).min()) < 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.MatrixLSTM(3, 8, heads=3), "heads is 3, which does not divide hidden_size=8.*nearest is 2"),
        (lambda: nn.GatedDelta(3, 8, heads=0), "heads is 0: expected a whole number from 1"),
        (lambda: nn.GatedLinearAttention(3, 8, heads=16), "heads is 16, which does not divide"),
        (lambda: nn.MatrixLSTM(3, 8, chunk_size=0), "chunk_size is 0"),
        (lambda: nn.MatrixLSTM(0, 8), "input_size is 0"),
        (lambda: nn.MatrixLSTM(3, 8, forget="tanh"), "forget is 'tanh': expected 'sigmoid' or 'exponential'"),
        (lambda: nn.SelectiveStateSpace(3, 0), "hidden_size is 0"),
        (lambda: nn.SelectiveStateSpace(3, 4, state_size=-1), "state_size is -1"),
    ],
)
def test_bad_settings_are_named(build: Callable[[], Any], message: str):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_bad_input_is_named_before_computing():
    layer = nn.MatrixLSTM(3, 8)
    x = torch.randn(2, 5, 3)
    with pytest.raises(ShapeError, match=r"x has shape \(2, 5, 4\): expected \(batch, time, 3\)"):
        layer(torch.randn(2, 5, 4))
    with pytest.raises(ArgumentError, match="lengths holds 6: expected 0 to 5"):
        layer(x, lengths=torch.tensor([1, 6]))
    with pytest.raises(ShapeError, match="reset has dtype"):
        layer(x, reset=torch.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"state.C has shape"):
        layer(x, layer.initial_state(3))
    with pytest.raises(RecurraError, match="elapsed is given"):
        layer.step(x[:, 0], layer.initial_state(2), elapsed=torch.ones(2))
