"""The plain-torch reference against torch.nn, against equations written out in numpy, and under torch's transforms."""

import numpy as np
import pytest
import torch
from torch import Tensor

import problems
from recurra import cells
from recurra.ops import reference


def torch_layer(name: str) -> torch.nn.RNNBase:
    if name == "gru":
        return torch.nn.GRU(4, 6, batch_first=True, dtype=torch.float64)
    if name == "lstm":
        return torch.nn.LSTM(4, 6, batch_first=True, dtype=torch.float64)
    return torch.nn.RNN(4, 6, batch_first=True, dtype=torch.float64, nonlinearity=name.removeprefix("rnn_"))


@pytest.mark.parametrize("name", ["gru", "lstm", "rnn_relu", "rnn_tanh"])
def test_equals_torch_nn(name: str):
    layer = torch_layer(name)
    weights, recurrent, bias_x, bias_h = (p.detach() for p in layer.parameters())
    parameters = [weights, recurrent, bias_x + bias_h]
    if name == "gru":
        # the bias of the candidate's product stands inside the reset gate
        candidate = bias_h[12:]
        parameters = [
            weights,
            recurrent,
            bias_x + torch.cat([bias_h[:12], torch.zeros(6, dtype=torch.float64)]),
            candidate,
        ]
    program = cells.get(name)
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    states = [torch.randn(3, 6, dtype=torch.float64) for _ in program.states]
    y, final = reference.scan(program, x, states, parameters)
    given = tuple(s[None] for s in states) if name == "lstm" else states[0][None]
    expected, after = layer(x, given)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    for got, want in zip(final, after if name == "lstm" else (after,), strict=True):
        torch.testing.assert_close(got, want[0], rtol=0, atol=1e-12)


def test_equals_equations_in_numpy():
    p = problems.make(problems.PROGRAMS["ticking"], lengths=True, reset=True)
    w, u, b, tau = (q.numpy() for q in p.parameters)
    assert p.lengths is not None
    assert p.reset is not None
    assert p.elapsed is not None
    y, final = reference.scan(p.program, p.x, p.states, p.parameters, **p.rows())
    for row in range(p.x.shape[0]):
        h = p.states[0][row].numpy()
        for t in range(int(p.lengths[row])):
            if p.reset[row, t]:
                h = np.full_like(h, 0.5)
            dt = p.elapsed[row, t].numpy()
            keep = np.exp(-dt * np.log1p(np.exp(tau)))
            h = keep * h + (1 - keep) * np.tanh(w @ p.x[row, t].numpy() + u @ h + b) + np.sin(dt) / (1 + dt)
            np.testing.assert_allclose(y[row, t], h, rtol=0, atol=1e-12)
        np.testing.assert_allclose(final[0][row], h, rtol=0, atol=1e-12)
        assert not y[row, int(p.lengths[row]) :].any()


def test_padding_may_hold_anything():
    p = problems.make(problems.PROGRAMS["ticking"], lengths=True, reset=True)
    padded = problems.make(problems.PROGRAMS["ticking"], lengths=True, reset=True)
    assert padded.lengths is not None
    assert padded.reset is not None
    assert padded.elapsed is not None
    padding = torch.arange(p.x.shape[1]) >= padded.lengths[:, None]
    padded.x[padding] = torch.nan
    padded.elapsed[padding] = torch.nan
    padded.reset[padding] = True
    problems.check_equal(problems.run_reference(padded), problems.run_reference(p))


@pytest.mark.parametrize("steps", [0, 3])
def test_results_are_new_tensors(steps: int):
    p = problems.make(problems.PROGRAMS["delayed"], (2, steps, 4, 6))
    y, final = reference.scan(p.program, p.x, p.states, p.parameters)
    assert y.shape == (2, steps, 4)
    given = {t.untyped_storage().data_ptr() for t in p.differentiable if t.numel()}
    made = [t.untyped_storage().data_ptr() for t in (y, *final) if t.numel()]
    assert len(set(made)) == len(made)
    assert not given & set(made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_runs_in_any_dtype(dtype: torch.dtype):
    exact = problems.make(problems.PROGRAMS["gru"])
    rounded = problems.converted(exact, dtype)
    y, (h,) = reference.scan(rounded.program, rounded.x, rounded.states, rounded.parameters)
    expected, _ = reference.scan(exact.program, exact.x, exact.states, exact.parameters)
    assert y.dtype == h.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps)


@pytest.mark.filterwarnings(problems.TORCH_SCRIPTS)
@pytest.mark.parametrize("name", ["antisymmetric", "ticking"])
def test_is_differentiable_twice(name: str):
    p = problems.make(problems.PROGRAMS[name], (2, 3, 2, 2), lengths=True, reset=True)

    def scan(x: Tensor, h: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        count = len(p.parameters)
        elapsed = rest[count] if p.elapsed is not None else None
        y, final = reference.scan(p.program, x, (h,), rest[:count], lengths=p.lengths, reset=p.reset, elapsed=elapsed)
        return y, *final

    arguments = tuple(p.with_leaves().differentiable)
    assert torch.autograd.gradcheck(scan, arguments, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scan, arguments, fast_mode=True)


def test_works_under_vmap():
    p = problems.make(problems.PROGRAMS["lstm"])
    many = torch.stack([p.x, 2 * p.x, -p.x])
    got = torch.vmap(lambda x: reference.scan(p.program, x, p.states, p.parameters)[0])(many)
    expected = torch.stack([reference.scan(p.program, x, p.states, p.parameters)[0] for x in many])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_step_is_a_scan_of_one_step():
    p = problems.make(problems.PROGRAMS["ticking"], (3, 1, 4, 6))
    assert p.elapsed is not None
    y, (h,) = reference.step(p.program, p.x[:, 0], p.states, p.parameters, elapsed=p.elapsed[:, 0])
    expected, (after,) = reference.scan(p.program, p.x, p.states, p.parameters, elapsed=p.elapsed)
    assert torch.equal(y, expected[:, 0])
    assert torch.equal(h, after)
