"""Compiled plans, read by the emulator, equal the plain-torch reference: chosen cells, and cells made up at random."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import problems
from plan_emulator import Call, Emulator
from recurra import cells
from recurra.cells import (
    Bias,
    Diagonal,
    Elapsed,
    Input,
    Matrix,
    Recurrent,
    State,
    cell,
    clip,
    exp,
    max_columns,
    maximum,
    minimum,
    output,
    relu,
    rsqrt,
    sigmoid,
    softplus,
    spike,
    stop_gradient,
    sum_columns,
    tanh,
    where,
)
from recurra.errors import ArgumentError, ShapeError
from recurra.ops import reference
from recurra.program import Program
from recurra.program.compile import compile_plan

SIZES = {"input": 5, "hidden": 7}


@cell
def many_products(x, h, c, *, W=Input(3), U=Recurrent(2), u=Diagonal(), V=Recurrent(), b=Bias(3)):
    a, f, o = W @ x + b
    p, q = U @ h
    c = where(c > 0.5, sigmoid(f + p) * c, tanh(a + q) * c) + clip(a, -0.5, 0.5)
    return tanh(V @ c + u * h) * sigmoid(o), c


@cell
def projected(
    x, h=State("projection"), c=State(), *, W=Input(4), U=Recurrent(4, columns="projection"),
    R=Matrix(rows="projection", columns="hidden"), b=Bias(4),
):  # fmt: skip
    i, f, g, o = W @ x + U @ h + b
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return R @ (sigmoid(o) * tanh(c)), c


@cell
def normalised(x, h, *, W=Input(2), U=Recurrent(2), b=Bias(2)):
    a = W @ x + U @ h
    centred = a - sum_columns(a) / 14.0
    z, n = centred * rsqrt(sum_columns(centred * centred) / 14.0 + 1e-5) + b
    z = sigmoid(z)
    return (1 - z) * h + z * tanh(n)


@cell
def timed(x, h, *, elapsed=Elapsed(), W=Input(2), U=Recurrent(2), b=Bias(2)):
    t, n = W @ x + b + U @ h
    keep = exp(-softplus(t) * elapsed)
    return keep * h + (1 - keep) * tanh(n)


@cell
def separate_output(x, h, *, W=Input(), U=Recurrent(), V=Recurrent(), b=Bias()):
    after = relu(W @ x + U @ h)
    return after, output(sigmoid(V @ after + b) + h)


@cell
def linear_output(x, h, *, W=Input(), U=Recurrent(), V=Matrix(rows="projection", columns="hidden")):
    after = W @ x + U @ h
    return after, output(V @ after)


@cell
def delayed_input(x, h, delayed=State("input"), *, W=Input(), V=Input(), u=Diagonal()):
    return tanh(W @ (x * sigmoid(delayed)) + u * h + V @ delayed), x + 0.5 * delayed


@cell
def one_matrix_twice(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    return tanh(U @ tanh(W @ x + U @ h + b) + h)


@cell
def antisymmetric(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    return h + 0.1 * tanh((U - U.T) @ h - 0.1 * h + W @ x + b)


@cell
def swapped(x, a, b, *, W=Input()):
    return b, tanh(W @ x) + a, output(a)


@cell
def two_recurrent_products(x, h, *, A=Recurrent(), B=Recurrent(), W=Input()):
    return tanh(A @ h + B @ (h * h) + W @ x)


@cell
def spiking(x, v, s, *, W=Input(), U=Recurrent()):
    v = 0.9 * v * (1 - s) + W @ x + U @ s
    s = spike(v - 0.3)
    return v, s, output(s)


@cell
def extremes(x, h, *, W=Input(2), U=Recurrent()):
    a, b = W @ x
    return tanh(minimum(a, h) + maximum(b, h)) * sigmoid(max_columns(U @ h)) + stop_gradient(h) * 0.1


@cell
def starts_from_one(x, h=State(initial=1.0), *, W=Input()):
    return h * sigmoid(W @ x)


@cell
def transposed(x, h, *, W=Input(), U=Recurrent()):
    return tanh(U.T @ h + W @ x)


ODD = [
    many_products, projected, normalised, timed, separate_output, linear_output, delayed_input,
    one_matrix_twice, antisymmetric,
    swapped, two_recurrent_products, spiking, extremes, starts_from_one, transposed,
]  # fmt: skip
PROGRAMS = {**{name: cells.get(name) for name in cells.names()}, **{c.name: c.program for c in ODD}}


def compare(program: Program, sizes: dict[str, int], batch: int, time: int, seed: int, ragged: bool) -> None:
    """Holds the three plans of a program, read by the emulator, equal to the reference and its autograd."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.6).requires_grad_()

    x = normal(batch, time, sizes["input"])
    parameters = [normal(*p.shape(sizes)) for p in program.parameters]
    states = [normal(batch, s.columns(sizes)) for s in program.states]
    elapsed = normal(batch, time).detach().abs().requires_grad_() if program.uses_elapsed else None
    lengths = torch.randint(0, time + 1, (batch,), generator=generator) if ragged else None
    reset = torch.rand(batch, time, generator=generator) < 0.3 if ragged else None
    core = reference.core_values(program, parameters)
    y, final = reference.scan_core(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)
    grad_y, grad_final = (
        torch.randn(y.shape, generator=generator, dtype=torch.float64),
        [torch.ones_like(f) for f in final],
    )
    leaves = [x, *([] if elapsed is None else [elapsed]), *states, *core]
    gradients = torch.autograd.grad([y, *final], leaves, [grad_y, *grad_final], allow_unused=True, retain_graph=True)

    def array(value: torch.Tensor | None) -> np.ndarray | None:
        return None if value is None else value.detach().numpy()

    call = Call(
        x.detach().numpy(), [p.detach().numpy() for p in core], [s.detach().numpy() for s in states], array(elapsed),
        array(lengths), array(reset),
    )  # fmt: skip
    plans = {d: compile_plan(program, sizes, d) for d in ("infer", "train", "backward")}
    for direction in ("infer", "train"):
        result = Emulator(plans[direction].code.tolist(), plans[direction].constants.tolist()).run(call)
        np.testing.assert_allclose(result["y"], y.detach().numpy(), rtol=1e-9, atol=1e-10)
        for got, wanted in zip(result["final"], final, strict=True):
            np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=1e-9, atol=1e-10)
    call.tape, call.grad_y, call.grad_final = result["tape"], grad_y.numpy(), [g.numpy() for g in grad_final]
    result = Emulator(plans["backward"].code.tolist(), plans["backward"].constants.tolist()).run(call)
    found = [
        result["grad_x"],
        *([] if elapsed is None else [result["grad_elapsed"]]),
        *result["grad_initial"],
        *result["grad_parameters"],
    ]
    for got, wanted in zip(found, gradients, strict=True):
        expected = np.zeros_like(got) if wanted is None else wanted.numpy()
        np.testing.assert_allclose(
            got, expected, rtol=1e-8, atol=1e-9 * max(1.0, float(np.abs(expected).max(initial=0)))
        )


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_plans_equal_the_reference(name: str, ragged: bool) -> None:
    compare(PROGRAMS[name], problems.sizes(PROGRAMS[name], 5, 7), batch=4, time=5, seed=3, ragged=ragged)


UNARY: list[Callable] = [
    tanh,
    sigmoid,
    relu,
    softplus,
    abs,
    stop_gradient,
    lambda a: 1 - a,
    lambda a: -a,
    lambda a: 0.5 * a,
]
BINARY: list[Callable] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, minimum, maximum, lambda a, b: where(a > b, a, b * 0.3),
    lambda a, b: a / (1 + b * b),
]  # fmt: skip


def random_cell(choices: list[int]):
    """A cell whose equations are drawn from numbers."""
    numbers = iter(choices)

    def draw(count: int) -> int:
        return next(numbers, 0) % count

    def made_up(x, h, c, *, W=Input(3), U=Recurrent(2), V=Recurrent(), u=Diagonal(), b=Bias(3)):
        values = [*(W @ x + b), *(U @ h), h, c, u * c]
        for _ in range(8):
            kind = draw(8)
            a, d = values[draw(len(values))], values[draw(len(values))]
            if kind == 0:
                values.append(V @ a)
            elif kind == 1:
                values.append(tanh(a) * sum_columns(d * d) * 0.1)
            elif kind < 5:
                values.append(UNARY[draw(len(UNARY))](a))
            else:
                values.append(BINARY[draw(len(BINARY))](a, d))
        everything = values[0]
        for value in values[1:]:
            everything = everything + 0.3 * value
        first, second = values[-1 - draw(3)], values[-1 - draw(5)]
        return tanh(first) + 0.1 * tanh(everything), tanh(second + V @ h), output(values[draw(len(values))])

    return cell(made_up)


@given(st.lists(st.integers(0, 1000), min_size=30, max_size=30), st.integers(0, 2**20), st.booleans())
def test_plans_of_made_up_cells_equal_the_reference(choices: list[int], seed: int, ragged: bool) -> None:
    compare(random_cell(choices).program, {"input": 2, "hidden": 3}, batch=3, time=4, seed=seed, ragged=ragged)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ArgumentError, match="direction"):
        compile_plan(cells.gru.program, SIZES, "sideways")
    with pytest.raises(ShapeError, match="projection"):
        compile_plan(projected.program, {"input": 5, "hidden": 7}, "infer")
