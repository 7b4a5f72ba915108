"""What a parameter's declaration can say: heads, values that are not trained, and what it starts from."""

from __future__ import annotations

import pytest
import torch

from recurra import cells, nn
from recurra.cells import Bias, Diagonal, Fixed, Input, Recurrent, cell, tanh
from recurra.errors import CellError, RecurraError, ShapeError
from recurra.program import Program, Width
from recurra.program.widths import Draw


@cell
def headed(x, h, *, heads=2, W=Input(2), U=Recurrent(2, heads="heads")):
    a, b = W @ x + U @ h
    return tanh(a) * b


@cell
def reservoir(x, h, *, density=0.25, W=Fixed(Input()), U=Fixed(Recurrent(), density="density"), b=Bias()):
    return tanh(W @ x + U @ h + b)


def test_heads_are_a_block_diagonal_matrix() -> None:
    layer = nn.Recurrent(headed(heads=3), 2, 6).double()
    x, h = torch.randn(2, 5, 2, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    assert layer.U.shape == (12, 2)
    gates = layer.U.unflatten(0, (2, 3, 2))
    whole = torch.cat([torch.block_diag(*gate) for gate in gates])
    y, _ = layer(x, layer.initial_state(2)._replace(h=h))
    for t in range(5):
        a, b = (x[:, t] @ layer.W.T + h @ whole.T).chunk(2, dim=1)
        h = torch.tanh(a) * b
        torch.testing.assert_close(y[:, t], h)


def test_each_block_of_a_head_starts_orthogonal() -> None:
    layer = nn.Recurrent(headed(heads=3), 2, 12)
    for block in layer.U.detach().split(4):
        torch.testing.assert_close(block @ block.T, torch.eye(4), rtol=0, atol=1e-5)


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="'hidden' is 8: expected a multiple of 3, the number of heads"):
        nn.Recurrent(headed(heads=3), 2, 8)
    for heads in (0, 1.5, "three", True):
        with pytest.raises(CellError, match="parameter 'U' got 'heads' heads"):
            headed(heads=heads)

    def turned(x, h, *, W=Input(), U=Recurrent(heads=2)):
        return tanh(W @ x + U.T @ h)

    with pytest.raises(CellError, match="a matrix with heads"):
        cell(turned)


@pytest.mark.parametrize("text", ["hidden", "3*hidden", "hidden/4", "6*hidden/4", "1", "12"])
def test_widths_are_read_as_they_are_written(text: str) -> None:
    assert str(Width.parse(text)) == text


@pytest.mark.parametrize("text", ["0*hidden", "hidden/0", "-1*hidden", "x*hidden"])
def test_other_widths_are_refused(text: str) -> None:
    with pytest.raises((RecurraError, ValueError)):
        Width.parse(text)


def test_fixed_parameters_are_saved_and_not_trained() -> None:
    layer = nn.Recurrent(reservoir, 3, 40)
    assert [name for name, _ in layer.named_parameters()] == ["b"]
    assert sorted(layer.state_dict()) == ["U", "W", "b"]
    assert 0.15 < (layer.U != 0).float().mean() < 0.35
    y, _ = layer(torch.randn(2, 4, 3))
    y.sum().backward()
    assert layer.b.grad is not None
    assert layer.U.grad is None
    before = layer.U.clone()
    nn.init.orthogonal_(layer)
    assert torch.equal(layer.U, before)
    assert layer.program.parameters[1].density == 0.25
    assert Program.from_json(layer.program.to_json()) == layer.program


def test_a_sparse_matrix_of_few_rows_leaves_zeros_out() -> None:
    layer = nn.Recurrent(reservoir(density=0.1), 3, 70)
    x, state = torch.randn(1, 30, 3), layer.initial_state(1)
    with torch.no_grad():
        layer.U[:, 5] = 0
        wanted = layer(x, state)[0]
        state.h[0, 5] = torch.nan
        y = layer(x, state)[0]
    assert torch.equal(y, wanted)


def test_what_cannot_be_sparse_or_fixed_is_refused() -> None:
    for density in (0.0, 1.5, "much"):
        with pytest.raises(CellError, match="density"):
            reservoir(density=density)
    for declaration in (Recurrent(2), Bias(), Recurrent(heads=2)):

        def wrong(x, h, *, W=Input(), U=Fixed(declaration, density=0.5)):
            return W @ x + h

        with pytest.raises(CellError, match="only a Fixed matrix of one gate"):
            cell(wrong)
    with pytest.raises(CellError, match="expected a declaration"):
        Fixed(3)  # type: ignore[arg-type]


def started(start: Draw, units: int = 64) -> torch.Tensor:
    @cell
    def one(x, h, *, modules=4, W=Input(), nu=Diagonal(initial=cells.ring_decay(0.5, 0.9)), p=Diagonal(initial=start)):
        return tanh(W @ x + nu * p * h)

    return nn.Recurrent(one, 2, units).p.detach()


def test_draws_lie_where_they_say() -> None:
    bounds = {
        (cells.uniform(-1, 3),): (-1, 3),
        (cells.log_uniform(1, 20),): (1, 20),
        (cells.spaced(3, 6),): (3, 6),
        (cells.periods("modules"),): (1, 8),
    }
    for (start,), (low, high) in bounds.items():
        drawn = started(start)
        assert low <= drawn.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < drawn.max() <= high
    moduli = torch.exp(-torch.exp(started(cells.ring_decay(0.9, 0.999))))
    assert 0.9 <= moduli.min()
    assert moduli.max() <= 0.9991
    assert torch.exp(started(cells.ring_phase(0.5))).max() <= 0.5
    decay = torch.sigmoid(started(cells.gate_decay(0.9, 0.999, 8))) ** 8
    assert 0.9 <= decay.min()
    assert decay.max() <= 0.9991
    assert 0.5 < started(cells.scaled_normal(1.0)).std() < 2
    assert (started(cells.ring_scale("nu")) <= 0).all()


def test_draws_that_make_no_sense_are_refused() -> None:
    for start in (Draw("gumbel"), cells.uniform(3, 1), cells.ring_scale("nowhere"), Draw("uniform", (1.0,))):
        with pytest.raises(CellError, match="initialiser"):
            started(start)
