"""The built-in cells: their length, what the language gives them, and how they start."""

import ast
import re
from pathlib import Path

import pytest
import torch

import layers
from recurra import cells, nn
from recurra.cells import Bias, Diagonal, Input, Matrix, Recurrent, State, cell, tanh
from recurra.errors import CellError, RecurraError
from recurra.models import build_layer, layer_spec
from recurra.program import Program

LINES_OF_A_CELL = 20


def definitions() -> dict[str, ast.FunctionDef]:
    """The function of every built-in cell, as it is written."""
    files = Path(cells.__file__).parent.glob("*.py")
    found = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    return {
        node.name: node
        for node in found
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "cell" for d in node.decorator_list)
    }


def test_every_cell_is_short_and_says_where_it_comes_from():
    defined = definitions()
    assert set(cells.names()) <= set(defined)
    for name, node in defined.items():
        assert node.end_lineno is not None
        assert node.end_lineno - node.decorator_list[0].lineno + 1 <= LINES_OF_A_CELL, f"{name} is too long"
        assert re.search(r"\(.*(19|20)\d\d.*\)", ast.get_docstring(node) or ""), f"{name}: cite its paper"


def test_an_unknown_name_brings_the_nearest_ones():
    with pytest.raises(CellError, match=r"unknown cell 'lstm_peep'; did you mean 'lstm_peephole'(, '\w+')* or '\w+'\?"):
        cells.get("lstm_peep")
    with pytest.raises(CellError, match=r"unknown cell 'indrn'; did you mean 'indrnn'"):
        cells.get("indrn")
    with pytest.raises(CellError, match=r"unknown cell 'LSTM'; did you mean 'lstm'"):
        cells.get("LSTM")
    with pytest.raises(CellError, match=r"unknown cell 'qqqq'; see recurra.cells.names\(\)"):
        cells.get("qqqq")


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("name", layers.CELLS)
def test_large_inputs_leave_outputs_and_gradients_finite(name: str, scale: float):
    torch.manual_seed(1)
    layer = layers.CELLS[name]()
    x = (scale * torch.randn(4, 7, layer.input_size)).requires_grad_()
    y, _ = layer(x, elapsed=torch.rand(4, 7) if layer.uses_elapsed else None)
    y.sum().backward()
    assert y.isfinite().all()
    for value in (x, *layer.parameters()):
        assert value.grad is None or value.grad.isfinite().all()


# repeated parameters


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_hyperparameter_repeats_parameters(depth: int):
    layer = nn.Recurrent(cells.rhn(depth=depth), 3, 5)
    names = ["W", *(f"R_{k + 1}" for k in range(depth)), *(f"b_{k + 1}" for k in range(depth))]
    assert [name for name, _ in layer.named_parameters()] == names
    assert layer.R_1.shape == (10, 5)
    assert layer.b_1.tolist() == [0] * 5 + [-2] * 5
    assert Program.from_json(layer.program.to_json()) == layer.program


@pytest.mark.parametrize("depth", [0, -1, 1.5, True, "3"])
def test_a_number_of_repetitions_is_a_whole_number(depth: object):
    with pytest.raises(CellError, match=r"cell 'rhn': depth is .*; expected a whole number from 1: it repeats 'R'"):
        cells.rhn(depth=depth)


def test_what_repeats_is_a_hyperparameter():
    def deep(x, h, *, W=Input(), U=Recurrent(repeat="depth")):
        return tanh(W @ x + U[0] @ h)

    with pytest.raises(
        CellError, match="'U' is repeated by 'depth', which is no hyperparameter of the cell; add depth=2"
    ):
        cell(deep)


def test_every_kind_of_parameter_repeats():
    @cell
    def deep(
        x, h, *, W=Input(repeat="depth"), M=Matrix(rows="hidden", columns="hidden", repeat="depth"),
        d=Diagonal(repeat="depth", initial=0.5), b=Bias(repeat="depth"), depth=2,
    ):  # fmt: skip
        for W_l, M_l, d_l, b_l in zip(W, M, d, b, strict=True):
            h = tanh(W_l @ x + M_l @ h + d_l * h + b_l)
        return h

    layer = nn.Recurrent(deep(depth=3), 2, 4)
    assert len(list(layer.parameters())) == 12
    assert layer(torch.randn(2, 3, 2))[0].shape == (2, 3, 4)
    assert "W_3 @ x" in str(layer.program)


# widths that are numbers, and values that are drawn


def test_a_width_may_be_a_number_of_columns():
    @cell
    def counting(x, h, n=State(1), *, W=Input(), scale=Bias(width=1, initial=2), pair=Bias(width=2, initial=0.5)):
        first, second = pair
        return scale * tanh(W @ x + first * h + second * n), n + 1

    layer = nn.Recurrent(counting, 3, 4)
    assert layer.scale.tolist() == [2]
    assert layer.pair.tolist() == [0.5, 0.5]
    x = torch.randn(2, 3, 3)
    y, state = layer(x)
    assert state.n.tolist() == [[3], [3]]
    h = torch.zeros(2, 4)
    for t in range(3):
        h = 2 * torch.tanh(x[:, t] @ layer.W.T + 0.5 * h + 0.5 * t)
    torch.testing.assert_close(y[:, 2], h)


@pytest.mark.parametrize("width", [0, -1, 1.5])
def test_a_width_that_is_none_is_refused(width: object):
    with pytest.raises(CellError, match=r"a width is .*; expected a name, or a number of columns from 1"):
        State(width)


def test_starting_values_are_drawn_within_their_bounds():
    layer = nn.Recurrent(cells.unicornn, 3, 500)
    for values, low, high in ((layer.w, 0, 1), (layer.c, -0.1, 0.1)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
    assert not layer.b.any()


def test_a_chain_of_products_from_the_left_is_an_error_that_shows_the_other():
    def chained(x, h, *, W1=Matrix(rows="hidden", columns="rank"), W2=Input(rows="rank")):
        return tanh(W1 @ W2 @ x + h)

    with pytest.raises(CellError, match=r"written from the right, A @ \(B @ x\)"):
        cell(chained)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (cells.clockwork_rnn(modules=0), "whole number of modules from 1"),
        (cells.clockwork_rnn(modules=2.5), "whole number of modules from 1"),
        (cells.lru(r_max=1.5), "radii with 0 <= smallest <= largest <= 1"),
        (cells.lru(r_min=0.9, r_max=0.5), "radii with 0 <= smallest <= largest <= 1"),
    ],
)
def test_hyperparameters_that_no_unit_can_have_are_refused(cell: cells.Cell, message: str):
    with pytest.raises(CellError, match=message):
        nn.Recurrent(cell, 3, 4)


def test_a_ring_may_be_a_circle():
    layer = nn.Recurrent(cells.lru(r_min=1.0, r_max=1.0), 3, 4)
    torch.testing.assert_close(torch.exp(-torch.exp(layer.nu)), torch.ones(4))


# the liquid time-constant layer


def test_a_liquid_layer_is_saved_as_data():
    layer = nn.LTC(3, 4, unfolds=2)
    again = build_layer(layer_spec(layer))
    assert isinstance(again, nn.LTC)
    assert (again.input_size, again.hidden_size, again.unfolds) == (3, 4, 2)


def test_a_liquid_layer_without_time_stands_still():
    layer = nn.LTC(3, 4)
    _, state = layer(torch.randn(2, 5, 3), elapsed=torch.ones(2, 5))
    assert state.v.any()
    y, _ = layer.step(torch.randn(2, 3), state, elapsed=torch.zeros(2))
    torch.testing.assert_close(y, state.v)


def test_a_liquid_layer_says_what_does_not_fit():
    with pytest.raises(RecurraError, match="unfolds"):
        nn.LTC(3, 4, unfolds=0)
    with pytest.raises(RecurraError, match="elapsed is missing"):
        nn.LTC(3, 4)(torch.randn(2, 5, 3))
    with pytest.raises(RecurraError, match="elapsed"):
        nn.LTC(3, 4)(torch.randn(2, 5, 3), elapsed=-torch.ones(2, 5))
