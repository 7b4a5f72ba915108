"""Products of earlier inputs are taken out of the loop, and nothing changes by it."""

from __future__ import annotations

import pytest

import problems
from plan_emulator import POINTWISE, Emulator
from recurra import cells, ops
from recurra.cells import Bias, Input, Matrix, State, cell, output, sigmoid, tanh
from recurra.program.compile import compile_plan
from recurra.program.hoist import hoist


@cell
def looking_back(x, c, first=State("input"), second=State("input"), *, U=Input(2), V=Input(2), W=Input(), b=Bias()):
    """Three steps of the input, two of them in one product each, and one of them twice."""
    f = W @ x + b
    left, right = U @ second
    forget, candidate = V @ first
    c = sigmoid(f + forget + left) * c + tanh(candidate + right)
    return c, x, first, output(c * tanh(W @ first))


@cell
def elsewhere(x, c, before=State("input", initial=0.5), *, W=Input(), V=Input()):
    """A delay line that does not start from zero stays in the loop."""
    return sigmoid(W @ before) * c + V @ x, x


@cell
def mapped(
    x,
    c,
    before=State("seen"),
    *,
    W=Input(),
    P=Matrix(rows="seen", columns="input"),
    V=Matrix(2, rows="hidden", columns="seen"),
):
    """A delay line of a value that is computed from the input."""
    f, z = V @ before
    return sigmoid(f + W @ x) * c + z, tanh(P @ x)


PROGRAMS = {c.name: c.program for c in (looking_back, mapped, cells.qrnn_window_2)}


@pytest.mark.parametrize("direction", ["infer", "train", "backward"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_product_is_left_in_the_loop(name: str, direction: str) -> None:
    plan = compile_plan(hoist(PROGRAMS[name]).program, {"input": 5, "hidden": 7, "seen": 3}, direction)
    _, loop, _, _ = Emulator(plan.code, plan.constants).sections
    assert {phase.type for phase in loop} == {POINTWISE}


@pytest.mark.parametrize("rows", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hoisted_scan_equals_the_reference(name: str, rows: tuple[bool, bool]) -> None:
    for shape in ((3, 7, 3, 5), (1, 2, 1, 1), (5, 33, 4, 17)):
        problem = problems.make(PROGRAMS[name], shape, lengths=rows[0], reset=rows[1])
        problems.check_close(problems.run(ops.scan, problem), problems.run_reference(problem), (name, shape))


def test_what_cannot_be_hoisted_is_left_as_it_is() -> None:
    for program in (elsewhere.program, cells.lstm.program, cells.mingru.program):
        assert hoist(program).program is program
        assert hoist(program).products == ()


def test_only_the_states_of_the_cell_come_back() -> None:
    problem = problems.make(cells.qrnn_window_2.program)
    _, final = ops.scan(problem.program, problem.x, problem.states, problem.parameters)
    assert [tuple(s.shape) for s in final] == [(3, 6), (3, 4)]
