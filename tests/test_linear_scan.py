"""Linear recurrences solved in parallel: the same as step by step, whatever the state, the lengths and the resets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import problems
from recurra import cells, ops
from recurra.cells import Bias, Diagonal, Elapsed, Input, State, cell, cos, exp, output, sigmoid, sin, tanh, where
from recurra.ops import linear_scan, reference, select
from recurra.program.widths import SCALAR


@cell
def rotating(x, a, b, *, W=Input(2), decay=Diagonal(initial=-0.3), theta=Diagonal(initial=0.5)):
    """Two states that read each other, the halves of a complex one, one of which does not start from zero."""
    u, v = W @ x
    re, im = sigmoid(decay) * cos(theta), sigmoid(decay) * sin(theta)
    a, b = re * a - im * b + u, im * a + re * b + v
    return a, b, output(tanh(a) * b)


@cell
def cascading(x, first=State(initial=0.5), second=State(initial=-1.0), *, dt=Elapsed(), W=Input(2), b=Bias()):
    """A state that reads another one of the same step; coefficients that are numbers, values and choices."""
    gate, value = W @ x
    keep = exp(-dt)
    first = (first - value) / (1 + keep) + value
    second = where(gate > 0, second - 0.5 * first, -second) + (1 - second) * sigmoid(gate) + b
    return first, second


@cell
def looking_back(
    x, earlier=State("input", initial=0.2), before=State("input"), h=State(), *, W=Input(), V=Input(), U=Input(2)
):
    """Delay lines, of which one reads another, and a product of what was."""
    z, f = U @ before
    return x, earlier, sigmoid(f) * h + tanh(W @ x + V @ earlier + z), output(h + W @ before)


@cell
def shifting(x, h, old, *, W=Input(2), b=Bias()):
    """A state that another state's past becomes, a state of numbers alone, a scalar that all columns read."""
    f, z = W @ x
    return sigmoid(f) * h + 0.5 * old + z + b, h


@cell
def sharing(x, h, n=State(SCALAR, initial=1.0), *, W=Input(), u=Diagonal(initial=0.5)):
    """A scalar state that is added to a wider one."""
    return sigmoid(u) * h + 0.1 * n + W @ x, 0.5 * n + 1


PROGRAMS = {name: cells.get(name) for name in cells.names() if "linear" in cells.get(name).classes} | {
    c.name: c.program for c in (rotating, cascading, looking_back, shifting, sharing)
}


def run_parallel(problem: problems.Problem) -> dict[str, Tensor]:
    def scan(program, x, states, parameters, **rows):
        return linear_scan.scan_core(program, x, states, reference.core_values(program, parameters), **rows)

    return problems.run(scan, problem)


@pytest.mark.parametrize("name", PROGRAMS)
def test_these_cells_are_linear(name: str) -> None:
    assert "linear" in PROGRAMS[name].classes


@pytest.mark.parametrize("rows", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_parallel_equals_stepwise(name: str, rows: tuple[bool, bool]) -> None:
    for time in (1, 2, 7, 33):
        problem = problems.make(PROGRAMS[name], (4, time, 3, 5), seed=time, lengths=rows[0], reset=rows[1])
        problems.check_close(run_parallel(problem), problems.run_reference(problem), (name, time))


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(PROGRAMS)),
    batch=st.integers(1, 4),
    time=st.integers(1, 40),
    seed=st.integers(0, 1000),
    lengths=st.booleans(),
    reset=st.booleans(),
)
def test_parallel_equals_stepwise_at_random(
    name: str, batch: int, time: int, seed: int, lengths: bool, reset: bool
) -> None:
    problem = problems.make(PROGRAMS[name], (batch, time, 2, 3), seed=seed, lengths=lengths, reset=reset)
    problems.check_close(run_parallel(problem), problems.run_reference(problem), name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_the_parallel_scan(name: str) -> None:
    problem = problems.make(PROGRAMS[name], (2, 5, 2, 2), lengths=True, reset=True)

    def scan(*values: Tensor) -> tuple[Tensor, ...]:
        count = len(problem.states)
        elapsed = values[-1] if problem.elapsed is not None else None
        parameters = values[1 + count : len(values) - (elapsed is not None)]
        core = reference.core_values(problem.program, parameters)
        y, final = linear_scan.scan_core(
            problem.program,
            values[0],
            values[1 : 1 + count],
            core,
            lengths=problem.lengths,
            reset=problem.reset,
            elapsed=elapsed,
        )
        return y, *final

    assert torch.autograd.gradcheck(scan, [v.requires_grad_() for v in problem.differentiable])


def test_coefficients_of_zero_divide_nothing() -> None:
    @cell
    def forgetting(x, h, *, W=Input(2)):
        f, z = W @ x
        return where(f > 0, 0.0, 2.0) * h + z

    problem = problems.make(forgetting.program, (3, 64, 2, 4))
    problems.check_close(run_parallel(problem), problems.run_reference(problem))


def test_the_scan_runs_where_the_engine_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problems.converted(problems.make(cells.mingru.program, (2, 9, 3, 4)), torch.bfloat16)
    calls = []
    parallel = linear_scan.scan_core

    def counted(*args, **rows):
        calls.append(1)
        return parallel(*args, **rows)

    monkeypatch.setattr(linear_scan, "scan_core", counted)
    monkeypatch.setattr(select.Choice, "said", frozenset())
    with pytest.warns(ops.RecurraBackendWarning):
        y, _ = ops.scan(problem.program, problem.x, problem.states, problem.parameters)
    with ops.backend("reference"):
        wanted, _ = ops.scan(problem.program, problem.x, problem.states, problem.parameters)
    assert len(calls) == 1
    torch.testing.assert_close(y, wanted, rtol=0.05, atol=0.05)
    assert "parallel scan" in str(ops.backends())
