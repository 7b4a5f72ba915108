"""The language of cells: tracing, errors, classes, programs as data, printing."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from problems import sizes
from recurra import cells
from recurra.cells import Bias, Diagonal, Input, Recurrent, State, cell, output, sigmoid, tanh, where
from recurra.errors import CellError, FormatError
from recurra.program import Program
from recurra.program.compile import compile_plan
from recurra.program.core import core_of
from recurra.program.differentiate import differentiate
from recurra.program.keep import kept_nodes


@pytest.mark.parametrize("name", cells.names())
def test_a_program_survives_being_saved(name: str) -> None:
    program = cells.get(name)
    again = Program.from_json(program.to_json())
    assert again == program
    assert hash(again) == hash(program)
    widths = sizes(program, 5, 7)
    for direction in ("infer", "train", "backward"):
        plans = [compile_plan(p, widths, direction) for p in (again, program)]
        assert np.array_equal(plans[0].code, plans[1].code)


def test_the_equations_keep_their_names() -> None:
    text = str(cells.gru.program)
    for line in (
        "r = sigmoid(xr + hr)",
        "n = tanh(xn + r * (hn + b_n))",
        "h' = (1 - z) * n + z * h",
        "d_h = ",
        "d_U += outer(",
    ):
        assert line in text


def test_only_what_the_adjoint_needs_is_stored() -> None:
    core = core_of(cells.lstm.program)
    kept = [core.nodes[i].operation for i in kept_nodes(core, differentiate(core))]
    assert kept == ["sigmoid", "sigmoid", "tanh", "sigmoid"]


@pytest.mark.parametrize(
    ("name", "classes"),
    [("gru", set()), ("lstm", set()), ("indrnn", {"product-free"}), ("mingru", {"product-free", "linear"})],
)
def test_classes_are_read_off_the_equations(name: str, classes: set[str]) -> None:
    assert cells.get(name).classes == classes


def test_a_delay_line_counts_as_input() -> None:
    @cell
    def qrnn(x, c, delayed=State("input"), *, W=Input(2), V=Input(2), b=Bias(2)):
        z, f = W @ x + V @ delayed + b
        f = sigmoid(f)
        return f * c + (1 - f) * tanh(z), x

    assert qrnn.program.classes == {"product-free", "linear"}


def test_hyperparameters_are_fixed_when_traced() -> None:
    @cell
    def leaky(x, h, *, rate=0.5, W=Input(), u=Diagonal()):
        return (1 - rate) * h + rate * tanh(W @ x + u * h)

    assert "0.25" in str(leaky(rate=0.25).program)
    with pytest.raises(CellError, match="has no hyperparameter"):
        leaky(speed=1)


def test_what_is_printed_reads_as_it_is_meant():
    @cell
    def terse(x, h, *, W=Input(2), U=Recurrent(), r=Bias()):
        """Tested here only."""
        _, n = W @ x
        return tanh(n) + r * (U @ (r * h)) - (U - U.T) @ h

    text = str(terse.program)
    assert "n = (W @ x)[1]" in text
    assert "h' = tanh(n) + r * (U @ (r * h)) - ((U - U.T) @ h)" in text


def iterates(x, h, *, W=Input()):
    return sum(v for v in W @ x)


def indexes(x, h, *, W=Input(2)):
    return (W @ x)[0]


def branches(x, h, *, W=Input()):
    return h if (W @ x) > 0 else W @ x


def branches_on_equality(x, h, *, W=Input()):
    return h if h == 0 else W @ x


def branches_on_difference(x, h, *, W=Input()):
    return h if h != 0 else W @ x


def uses_math(x, h, *, W=Input()):
    return (W @ x) * math.tanh(h)


def uses_numpy(x, h, *, W=Input()):
    return np.tanh(W @ x + h)


def wrong_width(x, h, *, W=Input(2), U=Recurrent()):
    return W @ x + U @ h


def wrong_operand(x, h, *, W=Input()):
    return W @ h + h


def never_assigned(x, h, c, *, W=Input(), U=Recurrent()):
    return tanh(W @ x + U @ h + c)


def unknown_name(x, h, *, W=Input()):
    return tahn(W @ x + h)  # noqa: F821


def unused_parameter(x, h, *, W=Input(), U=Recurrent()):
    return tanh(W @ x + h)


def unused_state(x, h, c, *, W=Input()):
    return tanh(W @ x + h), h


def no_default(x, h, *, W):
    return W @ x + h


def parameter_as_state(x, h, W=Input()):
    return W @ x + h


def no_state(x, *, W=Input()):
    return W @ x


def two_outputs(x, h, *, W=Input()):
    return tanh(W @ x + h), output(h), output(x)


def too_few_gates(x, h, *, W=Input(2)):
    a, b, c = W @ x
    return a + b + c + h


def returns_number(x, h, *, W=Input()):
    return 1.0


def star(x, *h, W=Input()):
    return W @ x


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (iterates, "one step"),
        (indexes, "unpack the gates"),
        (branches, "where"),
        (branches_on_equality, r"write equal\(a, b\)"),
        (branches_on_difference, r"write 1 - equal\(a, b\)"),
        (uses_math, "functions of recurra.cells"),
        (uses_numpy, "functions of recurra.cells"),
        (wrong_width, "number of gates"),
        (wrong_operand, "Recurrent for"),
        (never_assigned, "expected 2"),
        (unknown_name, "functions of recurra.cells"),
        (unused_parameter, "never used"),
        (unused_state, "never used"),
        (no_default, "Input"),
        (parameter_as_state, "after"),
        (no_state, "at least one"),
        (two_outputs, "expected one at most"),
        (too_few_gates, "names each gate once"),
        (returns_number, "expected a value of the cell"),
        (star, "name every state"),
    ],
)
def test_malformed_equations_say_what_to_write_instead(function, advice: str) -> None:
    with pytest.raises(CellError, match=advice) as caught:
        cell(function)
    assert function.__name__ in str(caught.value)


def test_unknown_cells_are_named_with_the_nearest() -> None:
    with pytest.raises(CellError, match="did you mean 'lstm'"):
        cells.get("lstn")
    with pytest.raises(CellError, match="decorate"):
        cells.get(3)  # type: ignore[arg-type]


def test_damaged_programs_are_refused() -> None:
    text = cells.lstm.program.to_json()
    rng = random.Random(0)
    refused = 0
    for _ in range(2000):
        position = rng.randrange(len(text))
        damaged = text[:position] + rng.choice('0123456789[]{},"xab-') + text[position + rng.randrange(3) :]
        try:
            Program.from_json(damaged)
        except (FormatError, CellError):
            refused += 1
    assert refused > 1000
    value = json.loads(text)
    value["version"] = 99
    with pytest.raises(FormatError, match="version"):
        Program.from_json(json.dumps(value))
    for damaged in ("", "[", "3", "null", "{}", "[" * 100000):
        with pytest.raises(FormatError):
            Program.from_json(damaged)


def test_programs_of_version_1_are_read() -> None:
    value = json.loads(cells.lstm.program.to_json())
    value["version"] = 1
    value["states"] = [state[:3] for state in value["states"]]
    assert Program.from_json(json.dumps(value)) == cells.lstm.program


def test_roles_of_states_are_checked() -> None:
    value = json.loads(cells.lstm.program.to_json())
    value["states"][0][3] = "guessed"
    with pytest.raises((FormatError, CellError), match="role 'guessed'; expected one of , kept, joint, seed"):
        Program.from_json(json.dumps(value))


def test_a_value_of_another_cell_is_refused() -> None:
    leaked = []

    @cell
    def first(x, h, *, W=Input()):
        leaked.append(W @ x)
        return tanh(leaked[0] + h)

    def second(x, h, *, W=Input()):
        return where(h > 0, W @ x, leaked[0])

    with pytest.raises(CellError, match="two cells"):
        cell(second)


def test_a_traced_cell_leaves_the_profiler_alone() -> None:
    import sys

    def plain(x, h, *, W=Input(), U=Recurrent()):
        return tanh(W @ x + U @ h)

    calls = []
    sys.setprofile(lambda *_: calls.append(1))
    try:
        cell(plain)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
