"""Complex values, and cells that are product-free, linear, stabilised or clocked: what makes each what it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import layers
from paper_peers import peer_of
from plan_emulator import POINTWISE, Emulator
from recurra import cells, nn
from recurra.cells import Bias, Complex, Diagonal, Input, Matrix, Recurrent, State, cell, exp_i, output, tanh
from recurra.errors import CellError
from recurra.program import Program
from recurra.program.compile import compile_plan
from recurra.program.hoist import hoist

CLASSES = {
    "mingru": {"product-free", "linear"},
    "minlstm": {"product-free", "linear"},
    "sru": {"product-free"},
    "qrnn": {"product-free", "linear"},
    "qrnn_window_2": {"product-free", "linear"},
    "lru": {"product-free", "linear"},
    "rglru": {"product-free", "linear"},
    "indrnn": {"product-free"},
    "slstm": set(),
    "clockwork_rnn": set(),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    assert cells.get(name).classes == CLASSES[name]


@pytest.mark.parametrize("direction", ["infer", "train", "backward"])
@pytest.mark.parametrize("name", [name for name, classes in CLASSES.items() if classes])
def test_product_free_cells_have_no_product_in_the_loop(name: str, direction: str) -> None:
    plan = compile_plan(hoist(cells.get(name)).program, {"input": 5, "hidden": 7}, direction)
    pre, loop, post, _ = Emulator(plan.code, plan.constants).sections
    assert {phase.type for phase in loop} == {POINTWISE}
    assert any(phase.type != POINTWISE for phase in (*pre, *post))


def x_free(h):
    return 2.0 - (0.25 * h + h.real) + (3 - h)


@cell
def twisted(x, h=Complex(State(initial=0.5)), *, theta=Diagonal(), B=Complex(Input(2)), u=Complex(Diagonal())):
    """Every operation that complex values have."""
    a, b = B @ x
    h = exp_i(theta) * h.conj() * u + a / 2 - b * a.conj() + 1.5 - x_free(h)
    return -h, output(tanh(h.real) + h.imag)


def test_complex_values_are_pairs() -> None:
    layer = nn.Recurrent(twisted, 3, 4).double()
    assert [spec.name for spec in layer.program.states] == ["h_re", "h_im"]
    assert set(layer.state_dict()) == {"theta", "B_re", "B_im", "u_re", "u_im"}
    assert layer.initial_state(1).h_re[0, 0] == 0.5
    assert layer.initial_state(1).h_im[0, 0] == 0
    assert Program.from_json(layer.program.to_json()) == layer.program
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    x, state = torch.randn(2, 3, dtype=torch.float64), layer.initial_state(2)
    y, after = layer.step(x, state)
    h = torch.complex(state.h_re, state.h_im)
    B, u = torch.complex(layer.B_re, layer.B_im), torch.complex(layer.u_re, layer.u_im)
    a, b = (x.to(B.dtype) @ B.T).chunk(2, dim=1)
    wanted = torch.exp(1j * layer.theta) * h.conj() * u + a / 2 - b * a.conj() + 1.5
    wanted = wanted - (2.0 - (0.25 * h + h.real) + (3 - h))
    torch.testing.assert_close(y, torch.tanh(wanted.real) + wanted.imag)
    torch.testing.assert_close(torch.complex(after.h_re, after.h_im), -wanted)


def real_function(x, h=Complex(), *, W=Input()):
    return tanh(h) + W @ x


def real_state(x, h=Complex(), c=State(), *, W=Input()):
    return W @ x + c, h, output(c)


def complex_for_real(x, h, *, W=Complex(Input())):
    return h + W @ x


def real_for_complex(x, h=Complex(), *, W=Input()):
    return h.real + W @ x, output(W @ x)


def complex_output(x, h=Complex(), *, W=Input()):
    return h + W @ x


def marked_output(x, h=Complex(), *, W=Input()):
    return h + W @ x, output(h)


def compared(x, h=Complex(), *, W=Input()):
    return h * (h > 0) + W @ x, output(W @ x)


def divided(x, h=Complex(), *, W=Complex(Input())):
    return h / (W @ x), output(h.real)


def too_few(x, h=Complex(), c=State(), *, W=Input()):
    return h + W @ x + c


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (real_function, "a real one is expected"),
        (real_state, "'h' is real; expected a complex value"),
        (complex_for_real, "'h' is complex; expected a real value"),
        (real_for_complex, "'h' is real; expected a complex value"),
        (complex_output, "the output is complex"),
        (marked_output, "the output is complex"),
        (compared, "a real one is expected"),
        (divided, "conj"),
        (too_few, "one for each of h, c"),
    ],
)
def test_real_and_complex_values_do_not_mix_silently(function, advice: str) -> None:
    with pytest.raises(CellError, match=advice):
        cell(function)


def test_what_cannot_be_complex_is_refused() -> None:
    with pytest.raises(CellError, match="Complex got 3"):
        Complex(3)  # type: ignore[arg-type]


def run(layer: nn.Recurrent, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)[0]


def test_the_lru_is_a_complex_diagonal() -> None:
    torch.manual_seed(0)
    layer = nn.Recurrent(cells.lru(r_min=0.5, r_max=0.99, max_phase=1.0), 3, 6).double()
    x = torch.randn(2, 30, 3, dtype=torch.float64)
    eigenvalues = torch.exp(torch.complex(-torch.exp(layer.nu), torch.exp(layer.theta)))
    assert 0.5 <= eigenvalues.abs().min()
    assert eigenvalues.abs().max() <= 0.99
    torch.testing.assert_close(torch.exp(layer.gamma) ** 2, 1 - eigenvalues.abs() ** 2)
    B, C = torch.complex(layer.B_re, layer.B_im), torch.complex(layer.C_re, layer.C_im)
    h, found = torch.zeros(2, 6, dtype=B.dtype), []
    for t in range(30):
        h = eigenvalues * h + torch.exp(layer.gamma) * (x[:, t].to(B.dtype) @ B.T)
        found.append((h @ C.T).real + x[:, t] @ layer.D.T)
    torch.testing.assert_close(run(layer, x), torch.stack(found, dim=1))


def test_the_slstm_is_its_equations_without_the_stabiliser() -> None:
    torch.manual_seed(0)
    layer = nn.Recurrent(cells.slstm(heads=2), 3, 6).double()
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    blocks = layer.R.unflatten(0, (4, 2, 3))
    whole = torch.cat([torch.block_diag(*gate) for gate in blocks])
    h, c, n = (torch.zeros(2, 6, dtype=torch.float64) for _ in range(3))
    found = []
    for t in range(20):
        z, i, f, o = (x[:, t] @ layer.W.T + h @ whole.T + layer.b).chunk(4, dim=1)
        i, f = torch.exp(i), torch.sigmoid(f)
        c, n = f * c + i * torch.tanh(z), f * n + i
        h = torch.sigmoid(o) * c / n
        found.append(h)
    torch.testing.assert_close(run(layer, x), torch.stack(found, dim=1))


def test_the_slstm_stays_finite_where_exponential_gates_overflow() -> None:
    layer = nn.Recurrent("slstm", 3, 4)
    assert run(layer, 1e3 * torch.randn(2, 50, 3)).isfinite().all()


def test_modules_of_a_clockwork_move_at_their_periods() -> None:
    layer = nn.Recurrent(cells.clockwork_rnn(modules=3), 2, 6)
    assert layer.period.tolist() == [1, 1, 2, 2, 4, 4]
    assert layer.mask.tolist() == [[1.0] * 6] * 2 + [[0.0] * 2 + [1.0] * 4] * 2 + [[0.0] * 4 + [1.0] * 2] * 2
    y = run(layer, torch.randn(1, 17, 2))[0]
    moved = torch.cat([torch.zeros(1, 6), y]).diff(dim=0) != 0
    for unit, period in enumerate(layer.period.tolist()):
        assert moved[:, unit].tolist() == [t % period == 0 for t in range(17)]


def test_the_clock_of_a_clockwork_starts_again() -> None:
    # beyond the longest period, 8, where the clock has started again at 16 and the one of the paper has not
    layer = layers.of_cell("clockwork_rnn").double()
    peer = peer_of("clockwork_rnn", layer)
    assert peer is not None
    x, state = torch.randn(2, 40, 3, dtype=torch.float64), layer.initial_state(2)
    with torch.no_grad():
        y, after = layer(x, state)
    torch.testing.assert_close(y, peer(x, state)[0])
    assert after.t.tolist() == [[40 % 16]] * 2


def test_a_slow_module_is_not_reached_by_faster_ones() -> None:
    layer = nn.Recurrent(cells.clockwork_rnn(modules=2), 2, 4)
    x = torch.randn(1, 9, 2)
    with torch.no_grad():
        before = run(layer, x)
        layer.W[:2] += 1.0
        after = run(layer, x)
    assert torch.equal(before[..., 2:], after[..., 2:])
    assert not torch.equal(before[..., :2], after[..., :2])


def test_a_window_of_two_steps_reads_the_step_before() -> None:
    layer, shifted = nn.Recurrent("qrnn_window_2", 3, 4), nn.Recurrent("qrnn", 6, 4)
    with torch.no_grad():
        shifted.W.copy_(torch.cat([layer.W_1, layer.W_2], dim=1))
        shifted.b.copy_(layer.b)
    x = torch.randn(2, 9, 3)
    earlier = torch.cat([torch.zeros(2, 1, 3), x[:, :-1]], dim=1)
    torch.testing.assert_close(run(layer, x), run(shifted, torch.cat([earlier, x], dim=2)))


def test_the_decay_of_the_rglru_starts_within_its_bounds() -> None:
    layer = nn.Recurrent("rglru", 3, 200)
    decay = torch.sigmoid(layer.decay) ** 8
    assert 0.9 <= decay.min() < 0.92
    assert 0.98 < decay.max() <= 0.9991


def test_a_projection_of_a_complex_state_may_be_complex_too() -> None:
    @cell
    def projected(x, h=Complex(), *, W=Input(), V=Recurrent(), C=Matrix(2, rows="hidden", columns="hidden"), b=Bias()):
        left, right = C @ h
        return 0.5 * h + W @ x, output((V @ h).real + (left * right).imag + b)

    layer = nn.Recurrent(projected, 2, 3)
    assert run(layer, torch.randn(2, 4, 2)).shape == (2, 4, 3)
