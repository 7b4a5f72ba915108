"""What the estimators of recurra.reservoir refuse, before any work is done; and their settings by name."""

from typing import Any

import numpy as np
import pytest
import torch

from recurra import nn
from recurra.errors import ArgumentError, ShapeError
from recurra.reservoir import EchoStateClassifier, EchoStateNetwork, Reservoir

SMALL = Reservoir(10, density=0.5)
X, Y = np.random.default_rng(0).standard_normal((2, 30, 2))
NAN = X.copy()
NAN[7, 1] = np.nan
INFINITE = Y.copy()
INFINITE[3, 0] = np.inf


@pytest.mark.parametrize(
    ("x", "y", "rest", "error", "match"),
    [
        (NAN, Y, {}, ArgumentError, "x holds nan at step 7, column 1: expected finite numbers. Fill missing values"),
        ([X, NAN], [Y, Y], {}, ArgumentError, "x, row 1, holds nan at step 7, column 1"),
        (X, INFINITE, {}, ArgumentError, "y holds inf at step 3, column 0"),
        (X[:, 0], Y, {}, ShapeError, r"x has shape \(30,\): expected .* A single feature is x\[:, None\]"),
        (X[None, None], Y, {}, ShapeError, "x has shape"),
        (X[:0], Y[:0], {}, ShapeError, "x has no steps: expected one or more"),
        (X[:, :0], Y, {}, ShapeError, "x has 0 features: expected one or more"),
        ([], [], {}, ShapeError, "x is an empty list"),
        (X[None][:0], Y[None][:0], {}, ShapeError, "expected one sequence or more"),
        ([X, X[:, :1]], [Y, Y], {}, ShapeError, "x, row 1, has 1 features: expected 2"),
        ([X, X[0]], [Y, Y], {}, ShapeError, r"x, row 1, has shape \(2,\)"),
        (X.astype(complex), Y, {}, ShapeError, "x has dtype complex128: expected float32, float64 or whole numbers"),
        (X > 0, Y, {}, ShapeError, "x has dtype bool"),
        (X.astype(np.float16), Y, {}, ShapeError, "x has dtype float16"),
        (np.full((30, 2), "a"), Y, {}, ShapeError, "x has dtype <U1"),
        (X, Y[:20], {}, ShapeError, r"y has shape \(20, 2\): expected a target for each of 30 steps"),
        (X, Y[None], {}, ShapeError, "y is a batch of 1: expected one sequence, as x is"),
        ([X, X], [Y, Y[:, 0]], {}, ShapeError, "y, row 1, has shape"),
        ([X, X], [Y, Y[:, :1]], {}, ShapeError, "y, row 1, has 1 outputs: expected 2"),
        (X, Y[:, :0], {}, ShapeError, "y has 0 outputs: expected one or more"),
        (X, Y, {"washout": 30}, ArgumentError, "washout is 30, and x has 30 steps: expected a washout shorter than"),
        ([X, X[:4]], [Y, Y[:4]], {"washout": 4}, ArgumentError, "washout is 4, and x, row 1, has 4 steps"),
        (X, Y, {"washout": -1}, ArgumentError, "washout is -1: expected a whole number"),
        (X, Y, {"washout": 1.0}, ArgumentError, "washout is 1.0"),
        (X, Y, {"lengths": [3]}, ArgumentError, "lengths is given with one sequence"),
        ([X], [Y], {"lengths": [3]}, ArgumentError, "lengths is given with a list"),
        (X[None], Y[None], {"lengths": [31]}, ArgumentError, "lengths holds 31: expected 1 to 30"),
        (X[None], Y[None], {"lengths": [0]}, ArgumentError, "lengths holds 0"),
        (X[None], Y[None], {"lengths": [3, 4]}, ShapeError, r"lengths has shape \(2,\)"),
        (X[None], Y[None], {"lengths": [3.0]}, ShapeError, "dtype float64: expected .* whole numbers"),
        (X, Y, {"validation": (X[:, :1], Y)}, ShapeError, "x has 1 features: expected 2"),
        (X, Y, {"validation": (X, Y[:, 0])}, ShapeError, "targets of validation have 1 outputs: expected 2"),
        (X, Y, {"validation": (X[:5], Y[:5]), "washout": 5}, ArgumentError, "washout is 5, and x has 5 steps"),
    ],
)
def test_data_that_do_not_fit_are_refused(x: Any, y: Any, rest: dict[str, Any], error: type, match: str):
    network = EchoStateNetwork(SMALL)
    with pytest.raises(error, match=match):
        network.fit(x, y, **rest)
    assert not hasattr(network, "layer_")


def test_later_data_must_be_like_the_first():
    network = EchoStateNetwork(SMALL).fit(X, Y)
    for call in (network.predict, network.warm_up, lambda x: network.generate(x, 2), lambda x: network.score(x, Y)):
        with pytest.raises(ShapeError, match="x has 1 features: expected 2, as many as the layer reads"):
            call(X[:, :1])
    with pytest.raises(ShapeError, match="y has 1 outputs: expected 2, as before"):
        network.partial_fit(X, Y[:, 0])


def test_what_is_not_fitted_says_so():
    for call in (lambda n: n.predict(X), lambda n: n.coef_, lambda n: n.warm_up(X), lambda n: n.scores_):
        with pytest.raises(ArgumentError, match=r"this EchoStateNetwork is not fitted. Call fit or partial_fit before"):
            call(EchoStateNetwork(SMALL))


@pytest.mark.parametrize("value", [-1e-9, float("nan"), float("inf"), "small", True, [1.0, -1.0]])
def test_a_bad_regularisation_is_refused(value: Any):
    with pytest.raises(ArgumentError, match=r"regularisation holds .*: expected finite numbers from 0"):
        EchoStateNetwork(SMALL, regularisation=value)


def test_other_bad_settings_are_refused():
    with pytest.raises(ArgumentError, match="regularisation is empty"):
        EchoStateNetwork(SMALL, regularisation=())
    with pytest.raises(ArgumentError, match=r"reservoir is a int: expected a recurra.reservoir.Reservoir, or a layer"):
        EchoStateNetwork(500)  # type: ignore[arg-type]
    for layer in (nn.Last(nn.GRU(1, 2)), nn.Bidirectional(nn.GRU(1, 2), nn.GRU(1, 2))):
        with pytest.raises(ArgumentError, match="expected a layer that reads forwards"):
            EchoStateNetwork(layer)
    for value in (0.0, 1.1, "much", True):
        with pytest.raises(ArgumentError, match=r"forgetting is .*: expected more than 0, at most 1"):
            EchoStateNetwork(SMALL, forgetting=value)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="pooling is 'max': expected 'mean' or 'last'"):
        EchoStateClassifier(SMALL, pooling="max")
    with pytest.raises(ShapeError, match="x has 2 features: expected 3, as many as the layer reads"):
        EchoStateNetwork(nn.GRU(3, 4).double()).fit(X, Y)


def test_classes_that_do_not_fit_are_refused():
    x, y = np.stack([X, Y, X]), np.array(["a", "b", "a"])
    for labels, error, match in (
        (y[:2], ShapeError, r"y has shape \(2,\): expected \(3,\)"),
        (["a"] * 3, ArgumentError, "y holds 1 class: expected two or more"),
        ([1.0, np.nan, 2.0], ArgumentError, "none missing"),
        ([None, "a", "b"], ArgumentError, "classes of dtype object"),
    ):
        with pytest.raises(error, match=match):
            EchoStateClassifier(SMALL).fit(x, labels)
    with pytest.raises(ShapeError, match=r"expected \(batch, time, features\). One is x\[None\]"):
        EchoStateClassifier(SMALL).fit(X, ["a"])
    with pytest.raises(ArgumentError, match="classes is missing"):
        EchoStateClassifier(SMALL).partial_fit(x, y)
    with pytest.raises(ArgumentError, match=r"y holds the class 'b': expected one of \['a', 'c'\]"):
        EchoStateClassifier(SMALL).partial_fit(x, y, classes=["a", "c"])
    classifier = EchoStateClassifier(SMALL).fit(x, y)
    with pytest.raises(ArgumentError, match="y holds the class 'c'"):
        classifier.partial_fit(x, ["a", "b", "c"])


def test_settings_have_names():
    network = EchoStateNetwork(SMALL, regularisation=0.5)
    assert network.get_params(deep=False) == {"reservoir": SMALL, "regularisation": 0.5, "forgetting": 1.0}
    assert network.get_params()["reservoir__units"] == 10
    network.set_params(reservoir__leak=0.7, forgetting=0.9)
    assert (network.reservoir.leak, network.reservoir.units, network.forgetting) == (0.7, 10, 0.9)
    again = EchoStateNetwork(**network.get_params(deep=False))
    assert repr(again) == repr(network)
    assert "leak=0.7" in repr(network)
    for wrong in ({"leek": 1}, {"reservoir__leak": 3.0}, {"forgetting": 0.5, "regularisation": -1}):
        with pytest.raises(ArgumentError):
            network.set_params(**wrong)
    assert (network.reservoir.leak, network.forgetting) == (0.7, 0.9)


def test_tensors_lists_of_lists_and_whole_numbers_are_taken():
    expected = EchoStateNetwork(SMALL).fit(X, Y).coef_
    assert np.array_equal(EchoStateNetwork(SMALL).fit(torch.from_numpy(X), torch.from_numpy(Y)).coef_, expected)
    whole = np.arange(30)[:, None] % 7
    assert EchoStateNetwork(SMALL).fit(whole, whole).predict(whole).shape == (30, 1)
