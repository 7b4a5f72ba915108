"""Transforms of cells: equal to the papers, on the engine as on the reference, in any order; what they refuse."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import problems
from recurra import cells, nn, ops
from recurra.cells import (
    Cell,
    layer_norm,
    learned_initial_state,
    random_initial_state,
    recurrent_dropout,
    rms_norm,
    zoneout,
)
from recurra.errors import CellError, RecurraError, ShapeError
from recurra.models import build_layer, layer_spec
from recurra.nested import restart
from recurra.program import Program
from recurra.program.widths import SCALAR
from recurra.testing import check_laws

TRANSFORMS: dict[str, Callable[..., Cell]] = {
    "layer_norm": layer_norm,
    "layer_norm per gate": lambda cell: layer_norm(cell, per_gate=True),
    "rms_norm": rms_norm,
    "zoneout": lambda cell: zoneout(cell, 0.3),
    "recurrent_dropout": lambda cell: recurrent_dropout(cell, 0.4),
    "learned_initial_state": learned_initial_state,
    "random_initial_state": lambda cell: random_initial_state(cell, 0.7),
}
ON_CELLS = [
    (transform, cell)
    for transform in TRANSFORMS
    for cell in ("gru", "lstm", "rnn_tanh", "gru_reset_before", "indrnn", "mingru")
    if transform != "recurrent_dropout" or cell not in ("indrnn", "mingru")
]
ORDERS = [
    ("zoneout", "layer_norm", "recurrent_dropout"),
    ("recurrent_dropout", "zoneout", "rms_norm"),
    ("learned_initial_state", "random_initial_state", "zoneout"),
    ("random_initial_state", "zoneout", "learned_initial_state"),
    ("zoneout", "learned_initial_state", "layer_norm per gate"),
    ("layer_norm", "recurrent_dropout", "random_initial_state"),
]


def composed(cell: str | Cell, names: tuple[str, ...]) -> Cell:
    for name in names:
        cell = TRANSFORMS[name](cell)
    assert isinstance(cell, Cell)
    return cell


def programs(cell: Cell) -> list[Program]:
    return [cell.program, *([cell.training_program] if cell.training_program else [])]


def engine_equals_reference(cell: Cell) -> None:
    for program in programs(cell):
        for seed, shape in enumerate([(1, 1, 1, 1), (3, 9, 4, 17), (2, 5, 3, 65)]):
            for dtype in (torch.float64, torch.float32):
                p = problems.make(program, shape, dtype, seed, lengths=seed > 0, reset=seed > 0)
                got, expected = problems.run(ops.scan, p), problems.run_reference(p)
                # a norm over one column is zero, and its gradient the rounding error times 1 / sqrt(1e-5)
                if shape[-1] > 1 or "norm" not in cell.name:
                    problems.check_close(got, expected, (program.name, shape, dtype))


@pytest.mark.parametrize(("transform", "cell"), ON_CELLS)
def test_the_engine_equals_the_reference(transform: str, cell: str):
    engine_equals_reference(TRANSFORMS[transform](cell))


@pytest.mark.parametrize("names", ORDERS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_transforms_compose_in_any_order(names: tuple[str, ...], cell: str):
    made = composed(cell, names)
    engine_equals_reference(made)
    for program in programs(made):
        assert Program.from_json(program.to_json()) == program
        assert str(program)


def random_layer(cell: Cell, seed: int = 0) -> nn.Recurrent:
    """A layer whose vectors are not at their starting values, in double precision."""
    torch.manual_seed(seed)
    layer = nn.Recurrent(cell, 3, 5).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def standardised(a: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(a, a.shape[-1:], eps=1e-5)


def rms_divided(a: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(a, a.shape[-1:], eps=1e-5)


def per_gate(norm: Callable[[Tensor], Tensor], gates: int) -> Callable[[Tensor], Tensor]:
    return lambda a: torch.cat([norm(part) for part in a.chunk(gates, -1)], -1)


NORMS = {
    "layer_norm": (standardised, lambda gates: standardised),
    "layer_norm per gate": (standardised, lambda gates: per_gate(standardised, gates)),
    "rms_norm": (rms_divided, lambda gates: rms_divided),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalised_lstm_equals_ba_et_al(name: str):
    layer = random_layer(TRANSFORMS[name]("lstm"))
    norm, group = NORMS[name][0], NORMS[name][1](4)
    p = dict(layer.named_parameters())
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    h, c, ys = torch.zeros(2, 5).double(), torch.zeros(2, 5).double(), []
    for t in range(6):
        gates = group(x[:, t] @ p["W"].T) * p["gain_W"] + group(h @ p["U"].T) * p["gain_U"] + p["b"]
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * (norm(c) * p["gain_c"] + p.get("bias_c", 0)).tanh()
        ys.append(h)
    torch.testing.assert_close(layer(x)[0], torch.stack(ys, 1), rtol=1e-11, atol=1e-12)
    assert sorted(p) == sorted(
        {"W", "U", "b", "gain_W", "gain_U", "gain_c", *(["bias_c"] if norm is standardised else [])}
    )


def test_normalised_gru_keeps_its_own_biases():
    layer = random_layer(layer_norm("gru"))
    p = dict(layer.named_parameters())
    assert sorted(p) == ["U", "W", "b", "b_n", "gain_U", "gain_W"]
    x, h = torch.randn(1, 1, 3, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    xr, xz, xn = (standardised(x[:, 0] @ p["W"].T) * p["gain_W"] + p["b"]).chunk(3, -1)
    hr, hz, hn = (standardised(h @ p["U"].T) * p["gain_U"]).chunk(3, -1)
    z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * (hn + p["b_n"])).tanh()
    torch.testing.assert_close(layer(x, (h,))[0][:, 0], (1 - z) * n + z * h, rtol=1e-11, atol=1e-12)


@cells.cell
def without_biases(x, h, *, W=cells.Input(2), U=cells.Recurrent(2)):
    a, n = W @ x + U @ h
    return cells.sigmoid(a) * h + cells.tanh(n)


def test_a_norm_brings_a_bias_where_the_cell_has_none():
    layer = nn.Recurrent(layer_norm(without_biases), 3, 4)
    assert [n for n, _ in layer.named_parameters()] == ["W", "U", "gain_W", "bias_W", "gain_U", "bias_U"]
    assert torch.equal(layer.gain_W, torch.ones(8))
    assert not layer.bias_U.any()
    assert "bias_W" not in dict(nn.Recurrent(rms_norm(without_biases), 3, 4).named_parameters())


def test_states_of_a_norm_can_be_chosen():
    assert "gain_c" not in dict(nn.Recurrent(layer_norm("lstm", states=[]), 3, 4).named_parameters())
    assert "gain_c" in dict(nn.Recurrent(layer_norm(zoneout("lstm", 0.1)), 3, 4).named_parameters())
    with pytest.raises(CellError, match="reads no nonlinearity of the state 'h'; it reads one of c"):
        layer_norm("lstm", states=["h"])
    with pytest.raises(CellError, match="has no state 'q'; it has h, c"):
        layer_norm("lstm", states=["q"])


# Random numbers


def drawn(seed: Tensor, stream: int, count: Tensor, size: int) -> Tensor:
    """What the books of a transform draw, in [0, 1)."""
    mix = ops.reference.TABLE["mix"].torch(torch)
    key = mix(mix(seed, torch.full_like(seed, stream)), count)
    return mix(key, torch.arange(size, dtype=seed.dtype)) / cells.LEVELS


def test_zoneout_equals_krueger_et_al():
    layer = random_layer(zoneout("lstm", {"h": 0.25, "c": 0.5}))
    plain = nn.Recurrent("lstm", 3, 5).double()
    plain.load_state_dict(layer.state_dict())
    x, states = torch.randn(4, 6, 3, dtype=torch.float64), {}
    for training in (False, True):
        layer.train(training)
        h, c, seed, count = layer.initial_state(4)
        assert bool(seed.any()) == training
        start = layer.initial_state(4)._replace(seed=seed)
        ys = []
        for t in range(6):
            h_new, (_, c_new) = plain.step(x[:, t], (h, c))
            if training:
                h = torch.where(drawn(seed, 0, count + t, 5) < 0.25, h, h_new)
                c = torch.where(drawn(seed, 1, count + t, 5) < 0.5, c, c_new)
            else:
                h, c = 0.25 * h + 0.75 * h_new, 0.5 * c + 0.5 * c_new
            ys.append(h)
        y, states[training] = layer(x, start)
        torch.testing.assert_close(y, torch.stack(ys, 1), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(states[training].c, c, rtol=1e-11, atol=1e-12)
    assert states[True].steps.unique().tolist() == [6]
    assert states[False].steps.unique().tolist() == [0]


def test_recurrent_dropout_has_one_mask_a_sequence():
    layer = random_layer(recurrent_dropout("gru", 0.4)).train()
    plain = nn.Recurrent("gru", 3, 5).double()
    plain.load_state_dict(layer.state_dict())
    x, start = torch.randn(4, 6, 3, dtype=torch.float64), layer.initial_state(4)
    reset = torch.zeros(4, 6, dtype=torch.bool)
    reset[1, 3] = True
    W, U, b, b_n = (getattr(plain, n) for n in ("W", "U", "b", "b_n"))
    h, begin, ys = start.h, torch.zeros(4, 1).double(), []
    for t in range(6):
        fresh = reset[:, t, None]
        h, begin = torch.where(fresh, 0.0, h), torch.where(fresh, t, begin)
        masked = h * (drawn(start.seed, 0, begin, 5) >= 0.4) / 0.6
        (xr, xz, xn), (hr, hz, hn) = (x[:, t] @ W.T + b).chunk(3, -1), (masked @ U.T).chunk(3, -1)
        z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * (hn + b_n)).tanh()
        h = (1 - z) * n + z * h
        ys.append(h)
    torch.testing.assert_close(layer(x, start, reset=reset)[0], torch.stack(ys, 1), rtol=1e-11, atol=1e-12)
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


def test_learned_initial_state_is_where_sequences_begin():
    layer = random_layer(learned_initial_state("lstm"))
    plain = nn.Recurrent("lstm", 3, 5).double()
    plain.load_state_dict({n: v for n, v in layer.state_dict().items() if not n.startswith("initial")})
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    start = (layer.initial_h.expand(2, 5), layer.initial_c.expand(2, 5))
    torch.testing.assert_close(layer(x)[0], plain(x, start)[0], rtol=1e-12, atol=1e-13)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 2] = True
    y, _ = layer(x, reset=reset)
    torch.testing.assert_close(y[0, 2:], plain(x[:1, 2:], (start[0][:1], start[1][:1]))[0][0], rtol=1e-12, atol=1e-13)
    (gradient,) = torch.autograd.grad(y[0, 2].sum(), [layer.initial_h])
    assert bool((gradient != 0).all())


def test_random_initial_state_has_its_spread():
    torch.manual_seed(0)
    layer = nn.Recurrent(random_initial_state(still, 0.5), 2, 400).train()
    with torch.no_grad():
        y, _ = layer(torch.zeros(30, 2, 2), reset=torch.tensor([[False, True]]).expand(30, 2))
    assert abs(float(y.mean())) < 0.01
    assert abs(float(y.std()) - 0.5) < 0.01
    # after a reset other numbers
    assert abs(float(torch.corrcoef(torch.stack([y[:, 0].flatten(), y[:, 1].flatten()]))[0, 1])) < 0.03
    assert not layer.eval()(torch.zeros(30, 2, 2))[0].any()
    with pytest.raises(RecurraError, match="scale is 0"):
        random_initial_state("gru", 0)


@cells.cell
def still(x, h, *, W=cells.Input()):
    """A cell that keeps its state."""
    return h + 0 * cells.tanh(W @ x)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_zoneout_happens_as_often_as_it_says(probability: float):
    torch.manual_seed(0)
    layer = nn.Recurrent(zoneout(counting, probability), 2, 100).train()
    with torch.no_grad():
        y, _ = layer(torch.zeros(20, 50, 2))
    # each unit counts the steps in which it did not zone out
    share = 1 - y[:, -1] / 50
    assert abs(float(share.mean()) - probability) < 0.01
    assert abs(float(share.var()) * 50 / (probability * (1 - probability)) - 1) < 0.15
    stays = torch.diff(y, dim=1) == 0
    for a, b in ((stays[:, 1:], stays[:, :-1]), (stays[..., 1:], stays[..., :-1]), (stays[1:], stays[:-1])):
        together = float((a & b).double().mean())
        assert abs(together - probability**2) < 0.01


@pytest.mark.parametrize(
    "transform", [lambda cell: zoneout(cell, 0.3), lambda cell: random_initial_state(cell, 0.3), learned_initial_state]
)
@pytest.mark.parametrize(("name", "joint"), [("clockwork_rnn", "t"), ("phased_lstm", "t"), ("slstm", "c n m")])
@pytest.mark.parametrize("training", [True, False])
def test_joint_states_are_left_alone(transform, name: str, joint: str, training: bool):
    torch.manual_seed(0)
    layer, plain = random_layer(transform(name)).train(training), nn.Recurrent(name, 3, 5).double()
    x, state, before = 5 * torch.randn(6, 1, 3).double(), layer.initial_state(6), plain.initial_state(6)
    moved = layer.step(x[:, 0], state, **({"elapsed": torch.ones(6).double()} if layer.uses_elapsed else {}))[1]
    for one in joint.split():
        assert torch.equal(getattr(state, one), getattr(before, one))
    if "t" in joint:
        assert torch.equal(moved.t, torch.ones(6, 1).double())
    else:
        # h = o c / n with 0 < o < 1, |c| <= n: what no unit that stands still alone would keep to
        y, _ = layer(50 * torch.randn(6, 40, 3).double())
        assert bool((y.abs() <= 1).all())


def test_a_joint_state_that_is_named_is_taken():
    layer = nn.Recurrent(learned_initial_state("phased_lstm", states=["t"]), 3, 4)
    assert "initial_t" in dict(layer.named_parameters())
    with pytest.raises(CellError, match="kept and joint"):
        cells.State(kept=True, joint=True)


@cells.cell
def counting(x, h, *, W=cells.Input()):
    """A cell that counts its steps."""
    return h + 1 + 0 * cells.tanh(W @ x)


def test_training_is_reproducible_and_goes_on_after_a_reset():
    layer = nn.Recurrent(zoneout("gru", 0.5), 3, 8).train()
    x = torch.randn(4, 6, 3)
    torch.manual_seed(5)
    first = layer(x)[0]
    second = layer(x)[0]
    torch.manual_seed(5)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(first, second)
    state = layer(x)[1]
    again = restart(state, layer.initial_state(4))
    assert torch.equal(again.seed, state.seed)
    assert again.steps.unique().tolist() == [6]
    assert not again.h.any()


def test_the_counter_wraps_instead_of_losing_count():
    layer = nn.Recurrent(zoneout("gru", 0.5), 3, 4).train()
    state = layer.initial_state(1)._replace(steps=torch.full((1, 1), float(cells.LEVELS - 2)))
    y, after = layer(torch.randn(1, 4, 3), state)
    assert after.steps.tolist() == [[2.0]]
    assert bool(y.isfinite().all())


# Layers


def test_layers_of_transformed_cells_are_copied_and_saved():
    layer = nn.Recurrent(composed("lstm", ("zoneout", "layer_norm", "recurrent_dropout")), 3, 4)
    same = build_layer(json.loads(json.dumps(layer_spec(layer))))
    same.load_state_dict(layer.state_dict())
    x, start = torch.randn(2, 5, 3), layer.initial_state(2)
    for other in (same, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert isinstance(other, nn.Recurrent)
        assert other.training_program == layer.training_program
        assert torch.equal(other(x, start)[0], layer(x, start)[0])
        assert torch.equal(other.eval()(x)[0], layer.eval()(x)[0])
        layer.train()
    assert type(pickle.loads(pickle.dumps(start))) is type(start)


def test_a_transformed_cell_compiles_and_steps_in_both_modes():
    layer = nn.Recurrent(zoneout("gru", 0.5), 3, 4)
    x, start = torch.randn(2, 3, 3), layer.initial_state(2)
    compiled = torch.compile(layer, backend="eager")
    for mode in (True, False, True):
        layer.train(mode)
        y, after = layer(x, start)
        assert torch.equal(compiled(x, start)[0], y)
        state, steps = start, []
        with torch.no_grad():
            for t in range(3):
                y_t, state = layer.step(x[:, t], state)
                steps.append(y_t)
        torch.testing.assert_close(torch.stack(steps, 1), y)
        torch.testing.assert_close(state, after)


def test_a_transformed_cell_is_exported_in_both_modes():
    # torch.export takes names of fields for one another where one begins like the other
    @cells.cell
    def own(x, s, c, *, W=cells.Input(), U=cells.Recurrent()):
        s = cells.tanh(W @ x + U @ s)
        return s, cells.where(s > 0, c, s)

    layer = nn.Recurrent(learned_initial_state(recurrent_dropout(layer_norm(own), 0.5)), 3, 4)
    assert layer.initial_state(1)._fields == ("s", "c", "row_seed", "row_steps", "begin", "row_started")
    x, start = torch.randn(2, 3, 3), layer.initial_state(2)
    for mode in (True, False):
        layer.train(mode)
        exported = torch.export.export(layer, (x, start)).module()
        assert torch.equal(exported(x, start)[0], layer(x, start)[0])


def test_hyperparameters_are_set_through_a_transform():
    @cells.cell
    def leaky(x, h, *, W=cells.Input(), leak=0.5):
        return (1 - leak) * h + leak * cells.tanh(W @ x)

    assert zoneout(leaky, 0.1)(leak=0.25).program == zoneout(leaky(leak=0.25), 0.1).program
    with pytest.raises(CellError, match="no hyperparameters"):
        zoneout(leaky.program, 0.1)(leak=0.25)


def test_half_precision_cannot_count():
    layer = nn.Recurrent(zoneout("gru", 0.5), 3, 4).bfloat16()
    x = torch.randn(1, 2, 3).bfloat16()
    for call in (lambda: layer(x), lambda: layer.initial_state(1), lambda: layer.step(x[:, 0], (x[:, 0],) * 3)):
        with pytest.raises(ShapeError, match="which half precision cannot"):
            call()
    with ops.backend("reference"):
        assert layer.eval()(x)[0].dtype == torch.bfloat16
    layer.float().train()
    with torch.autocast("cpu"):
        assert layer(x)[0].dtype == torch.float32


@pytest.mark.parametrize("probability", [-0.1, 1, 1.5, float("nan"), "0.1", True])
def test_probabilities_are_checked(probability: object):
    for refuse in (
        lambda: zoneout("gru", probability),
        lambda: zoneout("lstm", {"c": probability}),
        lambda: recurrent_dropout("gru", probability),
        lambda: nn.WeightDropout(nn.GRU(2, 3), probability),
    ):
        with pytest.raises(RecurraError, match=r"expected from 0 to below 1"):
            refuse()


def test_what_a_cell_cannot_take_is_refused():
    for refuse, message in (
        (lambda: zoneout("lstm", {"s": 0.1}), "has no state 's'; it has h, c"),
        (lambda: recurrent_dropout("indrnn", 0.1), "multiplies no state by a recurrent matrix"),
        (lambda: learned_initial_state("gru", states=["c"]), "has no state 'c'"),
        (lambda: learned_initial_state("gru", states="h"), "expected a list of names"),
        (lambda: layer_norm(weightless), "no product of an input or recurrent matrix"),
        (lambda: zoneout("gruu", 0.1), "did you mean 'gru'"),
        (lambda: Cell(cells.gru.program, cells.lstm.program), "other states or parameters"),
    ):
        with pytest.raises(CellError, match=message):
            refuse()


@cells.cell
def weightless(x, h, *, u=cells.Diagonal()):
    return cells.tanh(u * h + cells.sum_columns(x))


def test_a_cell_of_your_own_can_norm_draw_and_keep():
    @cells.cell
    def own(x, h, n=cells.State(SCALAR, kept=True), *, W=cells.Input(), U=cells.Recurrent()):
        a = cells.standardise(W @ x) + cells.divide_by_rms(U @ h)
        noise = cells.mix(cells.mix(7 + cells.columns(h) * 0, n), cells.unit(h)) / 2**24
        spread = cells.mean_columns(a * a) - cells.mean_columns(a) * cells.mean_columns(a)
        return cells.tanh(a + noise + spread + cells.dot_columns(h, h)), n + 1

    for shape in ((3, 9, 4, 17), (2, 5, 3, 65)):
        p = problems.make(own.program, shape, torch.float64, 0, lengths=True, reset=True)
        n = torch.arange(shape[0], dtype=torch.float64)[:, None]
        p = problems.replace(p, states=(p.states[0], n))
        problems.check_close(problems.run(ops.scan, p), problems.run_reference(p), shape)
    layer = nn.Recurrent(own, 3, 4)
    _, state = layer(torch.randn(2, 6, 3), reset=torch.ones(2, 6, dtype=torch.bool))
    assert state.n.tolist() == [[6.0], [6.0]]
    check_laws(layer, samples=2)
