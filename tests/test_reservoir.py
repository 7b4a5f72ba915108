"""Echo-state networks: the matrix, the readout against its formulas, learning, and what is refused."""

import json
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import recurra
from recurra import nn
from recurra.cells import Input, State, cell
from recurra.errors import ArgumentError, FormatError, RecurraError, ShapeError
from recurra.reservoir import (
    EchoStateClassifier,
    EchoStateNetwork,
    RecurraEchoStateWarning,
    Reservoir,
    echo_state_test,
    series,
    spectral_radius,
)
from recurra.reservoir.problems import mackey_glass, memory_capacity, narma10, nrmse
from recurra.reservoir.ridge import Moments
from recurra.testing import check_laws

SMALL = Reservoir(20, leak=0.5, density=0.3, bias_scaling=0.1)
SEVERAL = (1e-6, 1e-3, 1.0)


def data(steps: int = 120, inputs: int = 2, outputs: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((steps, inputs)), generator.standard_normal((steps, outputs))


def states(reservoir: Reservoir, x: np.ndarray) -> np.ndarray:
    """The states one by one, from the equation."""
    weights = {name: value.double().numpy() for name, value in reservoir.layer(x.shape[1]).state_dict().items()}
    h, all_states = np.zeros(reservoir.units), []
    for u in x:
        new = np.tanh(weights["W_in"] @ u + weights["W"] @ h + weights["b"])
        h = (1 - reservoir.leak) * h + reservoir.leak * new
        all_states.append(h)
    return np.array(all_states)


# the spectral radius


@pytest.mark.parametrize(("size", "density"), [(60, 0.1), (300, 0.05), (600, 0.02)])
def test_arnoldi_finds_the_radius_that_all_eigenvalues_give(size: int, density: float):
    generator = np.random.default_rng(size)
    matrix = (generator.random((size, size)) < density) * generator.uniform(-1, 1, (size, size))
    exact = np.abs(np.linalg.eigvals(matrix)).max()
    assert spectral_radius(matrix, exact_up_to=1) == pytest.approx(exact, rel=1e-7)
    assert spectral_radius(matrix, exact_up_to=size) == pytest.approx(exact, rel=1e-12)


def test_arnoldi_finds_complex_pairs_and_many_eigenvalues_of_one_modulus():
    pair = np.diag(np.linspace(0, 2.9, 150))
    pair[:2, :2] = [[0, -3], [3, 0]]
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((150, 150)))[0]
    for matrix, radius in ((pair, 3.0), (rotation, 1.0), (2 * np.eye(150), 2.0), (np.zeros((150, 150)), 0.0)):
        assert spectral_radius(matrix, exact_up_to=1) == pytest.approx(radius, rel=1e-9)


def test_arnoldi_takes_large_matrices():
    size, generator = 1200, np.random.default_rng(0)
    blocks = np.zeros((size, size))
    # eigenvalues known: pairs r exp(+-i phi), under an orthogonal change of basis by a permutation
    order = generator.permutation(size)
    moduli, angles = np.sqrt(generator.random(size // 2)), generator.uniform(0, 3, size // 2)
    for k, (r, phi) in enumerate(zip(moduli, angles, strict=True)):
        a, b = order[2 * k], order[2 * k + 1]
        blocks[[a, a, b, b], [a, b, a, b]] = r * np.cos(phi), -r * np.sin(phi), r * np.sin(phi), r * np.cos(phi)
    assert spectral_radius(blocks) == pytest.approx(moduli.max(), rel=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (0, 0)])
def test_the_radius_needs_a_square_matrix(shape: tuple[int, ...]):
    with pytest.raises(ShapeError, match="expected a square one"):
        spectral_radius(np.zeros(shape))


def test_the_radius_of_nan_is_refused():
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        spectral_radius(np.full((2, 2), np.nan))


# drawing


def test_a_reservoir_is_drawn_as_its_settings_say():
    settings = Reservoir(80, spectral_radius=0.7, density=0.1, input_scaling=0.5, bias_scaling=0.2, seed=3)
    layer = settings.layer(2)
    W, W_in, b = (value.numpy() for value in (layer.W, layer.W_in, layer.b))
    assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(0.7, rel=1e-10)
    assert ((W != 0).sum(1) == 8).all()
    assert 0.45 < np.abs(W_in).max() <= 0.5
    assert 0.15 < np.abs(b).max() <= 0.2
    again, other = settings.layer(2), Reservoir(80, seed=4).layer(2)
    assert all(torch.equal(a, c) for a, c in zip(layer.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(layer.W, other.W)
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("units", 0),
        ("units", 2.5),
        ("units", True),
        ("spectral_radius", -0.1),
        ("spectral_radius", float("inf")),
        ("leak", 0.0),
        ("leak", 1.1),
        ("density", 0.0),
        ("density", 1.5),
        ("input_scaling", float("nan")),
        ("bias_scaling", -1),
        ("seed", -1),
    ],
)
def test_settings_outside_their_range_are_refused(setting: str, value: float):
    with pytest.raises(ArgumentError, match=f"{setting} is {value!r}: expected"):
        Reservoir(**{setting: value})


@pytest.mark.parametrize("units", [1, 2, 7])
def test_the_sparsest_reservoir_has_a_radius(units: int):
    for seed in range(5):
        matrix = Reservoir(units, density=0.01, seed=seed).layer(1).W.numpy()
        assert np.abs(np.linalg.eigvals(matrix)).max() == pytest.approx(0.9, rel=1e-6)


# the readout


def ridge(z: np.ndarray, y: np.ndarray, regularisation: float, weights: np.ndarray | None = None) -> np.ndarray:
    """(1 + features, outputs): the bias, which is not regularised, and the weights, by the normal equations."""
    z = np.column_stack([np.ones(len(z)), z])
    w = np.ones(len(z)) if weights is None else weights
    penalty = regularisation * np.eye(z.shape[1])
    penalty[0, 0] = 0
    return np.linalg.solve(z.T @ (w[:, None] * z) + penalty, z.T @ (w[:, None] * y))


@given(st.integers(5, 40), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99), st.floats(0.8, 1.0))
def test_moments_give_the_normal_equations_however_the_rows_are_split(rows, features, outputs, seed, forgetting):
    generator = np.random.default_rng(seed)
    z, y = generator.standard_normal((rows, features)) + 5, generator.standard_normal((rows, outputs)) - 7
    moments, cut = Moments(features, outputs), generator.integers(0, rows)
    for part in (slice(0, cut), slice(cut, rows)):
        moments.add(z[part], y[part], forgetting)
    path = moments.solve(np.array(SEVERAL))
    weights = forgetting ** np.arange(rows - 1, -1, -1.0)
    for k, regularisation in enumerate(SEVERAL):
        expected = ridge(z, y, regularisation, weights)
        np.testing.assert_allclose(path.weights[k], expected[1:], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(path.biases[k], expected[0], rtol=1e-6, atol=1e-7)


def test_generalised_cross_validation_is_its_formula():
    z, y = data(60, 4, 1)
    moments = Moments(4, 1)
    moments.add(z, y)
    scores = moments.solve(np.array(SEVERAL)).cross_validation
    centred = z - z.mean(0)
    for regularisation, score in zip(SEVERAL, scores, strict=True):
        hat = centred @ np.linalg.solve(centred.T @ centred + regularisation * np.eye(4), centred.T) + 1 / 60
        residual = y - hat @ y
        expected = np.mean(residual**2) / (1 - np.trace(hat) / 60) ** 2 / y.var()
        assert score == pytest.approx(expected, rel=1e-10)


def test_without_regularisation_directions_that_do_not_vary_are_left_out():
    z, y = data(50, 3, 1)
    twice = np.column_stack([z, z[:, 0], np.ones(50)])
    moments = Moments(5, 1)
    moments.add(twice, y)
    path = moments.solve(np.zeros(1))
    expected = ridge(z, y, 0.0)
    np.testing.assert_allclose(twice @ path.weights[0] + path.biases[0], z @ expected[1:] + expected[0], atol=1e-10)


def test_fit_is_ridge_regression_on_input_and_states():
    x, y = data()
    network = EchoStateNetwork(SMALL, regularisation=0.1).fit(x, y, washout=20)
    z = np.column_stack([x, states(SMALL, x)])
    expected = ridge(z[20:], y[20:], 0.1)
    np.testing.assert_allclose(network.coef_, expected[1:].T, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(network.intercept_, expected[0], rtol=1e-8, atol=1e-10)
    predicted = network.predict(x)
    np.testing.assert_allclose(predicted, z @ expected[1:] + expected[0], atol=1e-9)
    assert network.regularisation_ == 0.1
    r2 = [1 - np.mean((p - t) ** 2) / np.var(t) for p, t in zip(predicted.T, y.T, strict=True)]
    assert network.score(x, y) == pytest.approx(np.mean(r2))


def test_memory_does_not_depend_on_the_length(monkeypatch):
    x, y = data(500)
    whole = EchoStateNetwork(SMALL).fit(x, y, washout=30)
    monkeypatch.setattr(series, "_NUMBERS", 20 * 7)
    assert (
        max(len(z) for piece in series.walk(whole.layer_, series.read_sequences("x", x)) for z in piece.features) == 7
    )
    pieces = EchoStateNetwork(SMALL).fit(x, y, washout=30)
    np.testing.assert_allclose(pieces.coef_, whole.coef_, rtol=1e-9)
    np.testing.assert_allclose(pieces.predict(x), whole.predict(x), atol=1e-11)


def test_partial_fit_equals_fit():
    x, y = data(200)
    whole = EchoStateNetwork(SMALL, regularisation=SEVERAL).fit(x, y)
    once = EchoStateNetwork(SMALL, regularisation=SEVERAL).partial_fit(x, y)
    assert np.array_equal(once.coef_, whole.coef_)
    parts = EchoStateNetwork(SMALL, regularisation=SEVERAL).partial_fit(x[:70], y[:70])
    for first, last in ((70, 71), (71, 200)):
        parts.coef_  # noqa: B018 - solving in between changes nothing
        parts.partial_fit(x[first:last], y[first:last], state=parts.state_)
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-9, atol=1e-12)
    assert parts.scores_ == pytest.approx(whole.scores_, rel=1e-9)
    assert parts.regularisation_ == whole.regularisation_


def test_fit_forgets_what_was_before():
    x, y = data()
    network = EchoStateNetwork(SMALL).fit(x + 1, y)
    assert np.array_equal(network.fit(x, y).coef_, EchoStateNetwork(SMALL).fit(x, y).coef_)


def test_forgetting_follows_a_change():
    x, y = data(600, outputs=1)
    y = x[:, :1] * np.where(np.arange(600) < 300, 1.0, -1.0)[:, None]
    late = slice(500, 600)
    remembers = EchoStateNetwork(SMALL).fit(x, y).predict(x)
    forgets = EchoStateNetwork(SMALL, forgetting=0.95).fit(x, y).predict(x)
    assert nrmse(y[late], forgets[late]) < 0.01 < 0.5 < nrmse(y[late], remembers[late])


def test_sequences_in_every_form_give_the_same():
    generator = np.random.default_rng(1)
    lengths = np.array([30, 12, 41])
    x, y = generator.standard_normal((3, 41, 2)), generator.standard_normal((3, 41))
    rows, targets = [a[:n] for a, n in zip(x, lengths, strict=True)], [a[:n] for a, n in zip(y, lengths, strict=True)]
    x[1, 12:] = np.nan  # padding
    listed = EchoStateNetwork(SMALL).fit(rows, targets, washout=5)
    padded = EchoStateNetwork(SMALL).fit(x, y, washout=5, lengths=lengths)
    one_by_one = EchoStateNetwork(SMALL)
    for row, target in zip(rows, targets, strict=True):
        one_by_one.partial_fit(row, target, washout=5)
    np.testing.assert_allclose(padded.coef_, listed.coef_, rtol=1e-9)
    np.testing.assert_allclose(one_by_one.coef_, listed.coef_, rtol=1e-9)
    outputs = listed.predict(x, lengths=lengths)
    assert outputs.shape == (3, 41)
    assert (outputs[1, 12:] == 0).all()
    for row, given_back, output in zip(rows, listed.predict(rows), outputs, strict=True):
        np.testing.assert_allclose(given_back, listed.predict(row), atol=1e-11)
        np.testing.assert_allclose(given_back, output[: len(row)], atol=1e-11)
    np.testing.assert_allclose(listed.state_.h[1], listed.warm_up(rows[1]).h[0], atol=1e-12)


def test_more_sequences_than_run_side_by_side(monkeypatch):
    monkeypatch.setattr(series, "_ROWS", 2)
    x, y = np.random.default_rng(0).standard_normal((2, 5, 20, 1))
    network = EchoStateNetwork(SMALL).fit(x, y[..., 0])
    assert network.state_.h.shape == (5, 20)
    np.testing.assert_allclose(network.predict(x)[4], network.predict(x[4]), atol=1e-12)
    later = network.predict(x[3], state=network.warm_up(x[3]))
    np.testing.assert_allclose(network.predict(x, state=network.state_)[3], later, atol=1e-12)


def test_warm_up_goes_on_where_it_stopped():
    x, y = data(outputs=1)
    network = EchoStateNetwork(SMALL).fit(x, y)
    later = network.predict(x[50:], state=network.warm_up(x[:50]))
    np.testing.assert_allclose(later, network.predict(x)[50:], atol=1e-12)


def test_single_precision_data_run_in_single_precision():
    x, y = (a.astype(np.float32) for a in data())
    network = EchoStateNetwork(SMALL, regularisation=0.1).fit(x, y)
    assert next(iter(network.layer_.state_dict().values())).dtype == torch.float32
    double = EchoStateNetwork(SMALL, regularisation=0.1).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(network.predict(x), double.predict(x.astype(np.float64)), atol=1e-4)


def test_any_layer_is_a_reservoir():
    x, y = data()
    layer = nn.Stack(nn.GRU(2, 8), nn.LSTM(8, 6)).double()
    network = EchoStateNetwork(layer, regularisation=0.1).fit(x, y)
    with torch.no_grad():
        z = np.column_stack([x, layer(torch.from_numpy(x)[None])[0][0].numpy()])
    np.testing.assert_allclose(network.coef_, ridge(z, y, 0.1)[1:].T, rtol=1e-7, atol=1e-9)


# choosing the regularisation


def test_validation_chooses_the_least_error_and_returns_all():
    x, y = data(60, outputs=2)
    held_out = data(80, outputs=2, seed=1)
    network = EchoStateNetwork(SMALL, regularisation=(1e-8, 1e3, 1e-2)).fit(x, y, validation=held_out, washout=10)
    expected = {}
    for regularisation in (1e-8, 1e3, 1e-2):
        one = EchoStateNetwork(SMALL, regularisation=regularisation).fit(x, y, washout=10)
        outputs = one.predict(held_out[0])[10:]
        expected[regularisation] = np.mean([nrmse(t, p) for t, p in zip(held_out[1][10:].T, outputs.T, strict=True)])
    assert network.scores_ == pytest.approx(expected, rel=1e-7)
    assert network.criterion_ == "validation"
    # noise: the strongest regularisation is right, and it is not the first or the last
    assert network.regularisation_ == 1e3


def test_cross_validation_is_used_without_validation():
    x, y = data(60)
    network = EchoStateNetwork(SMALL, regularisation=(1e-8, 1e3)).fit(x, y)
    assert (network.criterion_, network.regularisation_) == ("generalised cross-validation", 1e3)


# generation


def test_generation_feeds_each_output_back():
    series_ = mackey_glass(400)[:, None]
    network = EchoStateNetwork(Reservoir(40, leak=0.5)).fit(series_[:-1], series_[1:], washout=50)
    generated = network.generate(series_[:300], 5)
    x = series_[:300]
    for value in generated:
        np.testing.assert_allclose(value, network.predict(x)[-1], atol=1e-10)
        x = np.concatenate([x, value[None]])
    both = network.generate(np.stack([series_[:300], series_[50:350]]), 5)
    np.testing.assert_allclose(both[0], generated, atol=1e-10)
    goes_on = network.generate(series_[100:300], 5, state=network.warm_up(series_[:100]))
    np.testing.assert_allclose(goes_on, generated, atol=1e-10)


def test_generation_needs_as_many_outputs_as_inputs():
    with pytest.raises(ShapeError, match="has 3 outputs: expected 2, one for each input"):
        EchoStateNetwork(SMALL).fit(*data()).generate(data()[0], 5)
    network = EchoStateNetwork(SMALL).fit(*data(outputs=2))
    with pytest.raises(ArgumentError, match="steps is 0"):
        network.generate(data()[0], 0)


def test_generation_that_explodes_says_where():
    x = 1.5 ** np.arange(40.0)[:, None]
    network = EchoStateNetwork(Reservoir(5, input_scaling=0.01), regularisation=1e-9).fit(x[:-1], x[1:])
    with pytest.raises(RecurraError, match=r"generated values are \S+ at step \d+"):
        network.generate(x, 5000)


# learning


def test_narma_is_learned():
    errors = []
    for seed in range(2):
        u, y = narma10(3000, seed=seed)
        reservoir = Reservoir(200, leak=1.0, input_scaling=0.2, bias_scaling=0.2, seed=seed)
        network = EchoStateNetwork(reservoir, regularisation=(1e-9, 1e-8, 1e-7)).fit(u[:2000], y[:2000], washout=200)
        errors.append(nrmse(y[2200:], network.predict(u)[2200:]))
    # a linear model of ten inputs reaches about 0.4
    assert max(errors) < 0.25


def test_mackey_glass_is_generated():
    x = mackey_glass(3100)[:, None]
    reservoir = Reservoir(300, bias_scaling=0.2)
    network = EchoStateNetwork(reservoir, regularisation=(1e-11, 1e-9, 1e-7)).fit(x[:2999], x[1:3000], washout=100)
    assert nrmse(x[3000:3084], network.generate(x[:3000], 84)) < 0.05


def test_memory_capacity_has_its_bounds():
    linear = Reservoir(20, spectral_radius=0.9, leak=1.0, density=0.3, input_scaling=0.01)
    capacity, parts = memory_capacity(linear, most_delay=40, steps=3000)
    # nearly linear units keep as many values as they are, never more (but for what chance correlates)
    assert 14 < capacity < 21
    assert parts[0] > 0.99
    assert parts[-1] < 0.05
    saturated, _ = memory_capacity(Reservoir(20, leak=1.0, density=0.3, input_scaling=20.0), most_delay=40, steps=3000)
    assert saturated < 0.5 * capacity


def classes(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows whose class is the period of a sine in noise; of different lengths."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    rows = []
    for label in labels:
        t = np.arange(generator.integers(40, 90)) + generator.uniform(0, 50)
        rows.append((np.sin(2 * np.pi * t / (5 + 3 * label)) + 0.3 * generator.standard_normal(len(t)))[:, None])
    return rows, np.array(["low", "middle", "high"])[labels]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_sequences_are_classified(pooling: str):
    reservoir = Reservoir(100, leak=0.8, bias_scaling=0.5)
    classifier = EchoStateClassifier(reservoir, regularisation=(1e-4, 1e-2, 1.0), pooling=pooling)
    x, y = classes(150, 0)
    test_x, test_y = classes(100, 1)
    classifier.fit(x, y, washout=10)
    assert classifier.classes_.tolist() == ["high", "low", "middle"]
    assert classifier.score(test_x, test_y) > 0.9
    assert classifier.score(test_x, np.roll(test_y, 1)) < 0.6
    in_parts = EchoStateClassifier(reservoir, regularisation=(1e-4, 1e-2, 1.0), pooling=pooling)
    for part in (slice(0, 50), slice(50, 150)):
        in_parts.partial_fit(x[part], y[part], classes=["low", "middle", "high"], washout=10)
    np.testing.assert_allclose(in_parts.decision_function(test_x), classifier.decision_function(test_x), atol=1e-8)


# the echo state property


def test_the_echo_state_rate_of_a_linear_contraction_is_its_radius():
    # driven near zero, tanh is the identity, and the slowest direction decides
    layer = Reservoir(30, spectral_radius=0.8, leak=1.0).layer(1)
    with torch.no_grad():
        layer.W.copy_(0.8 * torch.eye(30, dtype=torch.float64))
    measured = echo_state_test(layer, torch.zeros(80, 1, dtype=torch.float64))
    assert measured.rate == pytest.approx(0.8, rel=1e-3)
    assert measured.holds


@pytest.mark.parametrize(("radius", "scaling", "holds"), [(0.9, 1.0, True), (1.3, 5.0, True), (3.0, 0.1, False)])
def test_a_strong_input_can_make_up_for_the_radius(radius: float, scaling: float, holds: bool):
    layer = Reservoir(100, spectral_radius=radius, leak=1.0, input_scaling=scaling).layer(1)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (300, 1)))
    measured = echo_state_test(layer, x)
    assert measured.holds is holds
    assert (measured.rate < 0.99) is holds
    assert str(measured).startswith("two states come together" if holds else "two states do not come together")


def test_the_echo_state_is_measured_on_states_that_mean_something_alone():
    # with clocks drawn apart, the modules of one would move when those of the other rest, and never meet
    clocked = nn.Recurrent("clockwork_rnn", 1, 8).double()
    stack = nn.Stack(clocked, nn.RNN(8, 3).double())
    with torch.no_grad():
        for layer in stack:
            layer.U.mul_(0.5)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (400, 1)))
    assert echo_state_test(clocked, x).holds
    assert echo_state_test(stack, x).holds
    with pytest.raises(ArgumentError, match="no state of the layer can be set alone"):
        echo_state_test(nn.Recurrent(counter, 1, 1), torch.zeros(5, 1))


@cell
def counter(x, t=State(joint=True), *, W=Input()):
    """Counts steps, and forgets what it reads."""
    return t + 1 + 0 * (W @ x)


def test_half_precision_cannot_tell_whether_states_meet():
    with pytest.raises(ShapeError, match=r"x is torch.float16: expected torch.float32 or torch.float64"):
        echo_state_test(nn.GRU(1, 3).half(), torch.zeros(5, 1, dtype=torch.float16))


def test_a_radius_of_one_or_more_warns_with_what_was_measured():
    x, y = data(300)
    network = EchoStateNetwork(Reservoir(50, spectral_radius=1.2, input_scaling=5.0))
    with pytest.warns(
        RecurraEchoStateWarning, match=r"radius is 1.2; .* come together .* factor of 0\.\d+ a step"
    ) as got:
        network.fit(x, y)
    assert got[0].filename == __file__
    assert network.echo_state_ is not None
    assert f"{network.echo_state_.rate:.4f}" in str(got[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EchoStateNetwork(Reservoir(50, spectral_radius=0.99)).fit(x, y).echo_state_ is None
    # a first sequence too short to measure on
    with pytest.warns(RecurraEchoStateWarning):
        network = EchoStateNetwork(Reservoir(50, spectral_radius=1.2)).fit([x[:1], x[1:]], [y[:1], y[1:]])
    assert network.echo_state_ is not None


# saved models


def test_a_saved_network_predicts_the_same_bits(tmp_path):
    x, y = data(outputs=2)
    network = EchoStateNetwork(SMALL, regularisation=SEVERAL, forgetting=0.99).fit(x, y)
    network.save(tmp_path)
    again = recurra.load(tmp_path)
    assert isinstance(again, EchoStateNetwork)
    assert np.array_equal(again.predict(x), network.predict(x))
    assert np.array_equal(again.generate(x, 5), network.generate(x, 5))
    assert again.get_params() == {**network.get_params(), "regularisation": list(SEVERAL)}
    assert (again.scores_, again.criterion_) == (network.scores_, network.criterion_)
    with pytest.raises(ArgumentError, match=r"loaded without what partial_fit needs. Save it with save\(folder, res"):
        again.partial_fit(x, y)
    assert np.array_equal(again.fit(x, y).coef_, network.coef_)


def test_a_resumable_network_learns_on(tmp_path):
    x, y = data(outputs=1)
    EchoStateNetwork(SMALL).fit(x, y[:, 0]).save(tmp_path, resumable=True)
    again = recurra.load(tmp_path).partial_fit(x * 2, y[:, 0])
    direct = EchoStateNetwork(SMALL).fit(x, y[:, 0]).partial_fit(x * 2, y[:, 0])
    assert np.array_equal(again.coef_, direct.coef_)
    assert again.predict(x).shape == (120,)


def test_a_saved_classifier_and_a_layer_of_ones_own(tmp_path):
    x, y = classes(20, 0)
    classifier = EchoStateClassifier(nn.GRU(1, 10).double(), pooling="last").fit(x, y, washout=3)
    classifier.save(tmp_path)
    again = recurra.load(tmp_path)
    assert isinstance(again, EchoStateClassifier)
    assert (again.predict(x) == classifier.predict(x)).all()
    assert np.array_equal(again.decision_function(x), classifier.decision_function(x))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="is not a saved model"):
        recurra.load(tmp_path)
    EchoStateNetwork(SMALL).fit(*data()).save(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    for change in ({"task": "weather"}, {"model": {**content["model"], "dtype": "float8"}}, {"model": {}}):
        (tmp_path / "model.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(FormatError, match=r"does not know|is damaged"):
            recurra.load(tmp_path)
    with pytest.raises(ArgumentError, match="this EchoStateNetwork is not fitted"):
        EchoStateNetwork(SMALL).save(tmp_path)


# law 14


def test_the_cell_equals_a_step_written_from_the_paper_by_someone_else():
    """Jaeger et al. 2007, eq. 3, by an author who has not seen our equations, with a = 1 and gamma the leak."""
    layer = Reservoir(9, leak=0.4, density=0.3, bias_scaling=0.3).layer(3)
    p = {name: value.double().numpy() for name, value in layer.state_dict().items()} | {"gamma": 0.4, "a": 1.0}

    def echo_state(x: np.ndarray, state: np.ndarray) -> np.ndarray:
        new = np.tanh(x @ p["W_in"].T + state @ p["W"].T + p["b"])
        return (1.0 - p["a"] * p["gamma"]) * state + p["gamma"] * new

    def peer(x: torch.Tensor, state: nn.State) -> tuple[torch.Tensor, nn.State]:
        h, outputs = state[0].detach().numpy(), []
        for frame in x.detach().numpy().transpose(1, 0, 2):
            h = echo_state(frame, h)
            outputs.append(torch.from_numpy(h))
        return torch.stack(outputs, 1), type(state)(torch.from_numpy(h))

    assert check_laws(layer, peer=peer)[14].outcome == "passed"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_states_equal_those_of_reservoirpy(dtype: torch.dtype, tolerance: float):
    nodes = pytest.importorskip("reservoirpy.nodes", reason="reservoirpy is not installed")
    layer = Reservoir(50, leak=0.4, bias_scaling=0.2).layer(2, dtype=dtype)
    W, W_in, b = (getattr(layer, name).numpy() for name in ("W", "W_in", "b"))
    x = np.random.default_rng(0).standard_normal((300, 2)).astype(W.dtype)
    expected = nodes.Reservoir(W=W, Win=W_in, bias=b, lr=0.4, input_dim=2, dtype=W.dtype.type).run(x)
    np.testing.assert_allclose(layer(torch.from_numpy(x)[None])[0][0].numpy(), expected, atol=tolerance)
