"""Saved models without torch: nothing of torch is loaded, and the results are those of the layers."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import layers
import recurra
from recurra import engine, nn, runtime
from recurra.cells import Bias, Input, Recurrent, cell, sigmoid, tanh, zoneout
from recurra.checkpoint import save_model, save_weights
from recurra.data import Vocabulary
from recurra.decode import drawn
from recurra.errors import ArgumentError, RecurraBackendWarning, ShapeError
from recurra.models import layer_spec
from recurra.nested import leaves
from recurra.nn.state import state_tensors
from recurra.reservoir import EchoStateClassifier, EchoStateNetwork, Reservoir
from recurra.runtime import kernel
from recurra.runtime.state import from_arrays
from recurra.tasks import LanguageModel


@cell
def mine(x, h, *, W=Input(2), U=Recurrent(2), b=Bias(2)):
    """Known here only."""
    (xz, xn), (hz, hn) = W @ x + b, U @ h
    z = sigmoid(xz + hz)
    return (1 - z) * tanh(xn + hn) + z * h


VOCABULARIES = {"char": Vocabulary("char", list("abc猫 ")), "word": Vocabulary("word", ["a", " b", " c", "."])}


def saved_model(folder: Path, unit: str = "char", *, tied: bool = False) -> LanguageModel:
    """A language model with random weights, written into the folder."""
    vocabulary = VOCABULARIES[unit]
    model = LanguageModel.build(vocabulary, cell=zoneout(mine, 0.1), hidden=5, layers=2, embedding=4, tied=tied)
    save_model(folder, model.task, model.to_spec())
    save_weights(folder, model.state_dict(), {})
    return model.eval()


def as_runtime(layer: nn.Layer) -> runtime.Layer:
    """The layer as the runtime has it."""
    spec = json.loads(json.dumps(layer_spec(layer)))
    return runtime.from_data(spec, {name: value.numpy() for name, value in layer.state_dict().items()})


@pytest.fixture
def no_engine(monkeypatch):
    """As where there was no compiler."""
    monkeypatch.setattr(engine, "_native", None)
    monkeypatch.setattr(kernel, "_said", set())


# without torch

CHILD = """
import sys
import numpy as np
from recurra import runtime
model = runtime.load(sys.argv[1])
tokens = np.array([[1, 2, 3, 0, 4]])
y, state = model(tokens)
stream = model.stream()
parts = [stream.push(tokens[0, :2]), stream.push(tokens[0, 2:])]
assert np.array_equal(np.concatenate(parts), y[0])
text = "".join(model.generate("a", lambda scores: int(scores.argmax()), length=5))
found = {"torch", "lightning", "pydantic", "matplotlib"} & sys.modules.keys()
assert not found, found
np.save(sys.argv[2], y)
print(len(text))
"""


def test_a_model_with_a_cell_of_one_s_own_runs_where_torch_is_never_imported(tmp_path: Path):
    model = saved_model(tmp_path)
    command = [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), str(tmp_path / "y.npy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5"]
    expected = model(torch.tensor([[1, 2, 3, 0, 4]]))[0].detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("unit", VOCABULARIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_scores_and_writes_as_in_torch(tmp_path: Path, unit: str, tied: bool):
    model, loaded = saved_model(tmp_path, unit, tied=tied), runtime.load(tmp_path)
    assert isinstance(loaded, runtime.LanguageModel)
    assert loaded.vocabulary == model.vocabulary
    tokens = torch.randint(0, len(model.vocabulary), (3, 7))
    reset = torch.rand(3, 7) < 0.3
    expected, _ = model(tokens, reset=reset)
    got, _ = loaded(tokens.numpy(), reset=reset.numpy())
    np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-5)
    written = ["".join(m.generate("a b ", drawn(temperature=0.5, seed=3), length=20)) for m in (model, loaded)]
    assert written[0] == written[1]
    assert len(written[0]) >= 20


def test_the_reader_agrees_with_the_score_of_a_whole_text(tmp_path: Path):
    from recurra.data import Document

    model, loaded = saved_model(tmp_path), runtime.load(tmp_path)
    assert isinstance(loaded, runtime.LanguageModel)
    text = "abc 猫cab aaa?b"
    reader = loaded.reader()
    pieces = [reader.read(part) for part in (text[:3], "", text[3:4], text[4:])]
    score = model.score([Document("", text)])
    assert sum(count for _, count in pieces) == len(text)
    assert sum(nats for nats, _ in pieces) == pytest.approx(score.nats, rel=1e-5)


def test_a_layer_is_saved_and_opened_in_both(tmp_path: Path):
    layer = nn.Stack(nn.Recurrent(mine, 3, 4), nn.Residual(nn.LSTM(4, 4)), nn.Last(nn.GRU(4, 2))).double().eval()
    recurra.save_layer(layer, tmp_path)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = layer(x)[0].detach()
    assert torch.equal(recurra.load_layer(tmp_path)(x)[0], expected)
    assert torch.equal(recurra.load(tmp_path)(x)[0], expected)
    got = runtime.load(tmp_path)(x.numpy())[0]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_echo_state_network_predicts_as_in_torch(tmp_path: Path, dtype: type):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 60, 2)).astype(dtype)
    network = EchoStateNetwork(Reservoir(units=20, seed=1)).fit(x, np.roll(x, 1, 1))
    network.save(tmp_path)
    loaded = runtime.load(tmp_path)
    np.testing.assert_allclose(loaded(x)[0], network.predict(x), atol=1e-4 if dtype == np.float32 else 1e-9)
    stream = loaded.stream()
    got = np.concatenate([stream.push(x[0, :7]), stream.push(x[0, 7:])])
    np.testing.assert_allclose(got, network.predict(x)[0], atol=1e-4 if dtype == np.float32 else 1e-9)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_echo_state_classifier_decides_as_in_torch(tmp_path: Path, pooling: str):
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((6, 20, 2)), np.array(["up", "down"] * 3)
    classifier = EchoStateClassifier(Reservoir(units=12, seed=1), pooling=pooling).fit(x, labels, washout=3)
    classifier.save(tmp_path, resumable=True)
    loaded = runtime.load(tmp_path)
    lengths = np.array([20, 9, 5, 20, 12, 7])
    expected = classifier.decision_function(x, lengths=lengths)
    np.testing.assert_allclose(loaded(x, lengths=lengths)[0], expected, atol=1e-9)
    assert loaded.classes.tolist() == classifier.classes_.tolist()  # type: ignore[attr-defined]


def test_weights_in_half_precision_are_read_as_float32(tmp_path: Path):
    layer = nn.GRU(3, 4).eval()
    save_model(tmp_path, "layer", {"layer": layer_spec(layer)})
    x = np.random.default_rng(0).standard_normal((1, 4, 3)).astype(np.float32)
    for dtype in (torch.bfloat16, torch.float16):
        weights = {name: value.to(dtype) for name, value in layer.state_dict().items()}
        save_weights(tmp_path, weights, {})
        rounded = nn.GRU(3, 4)
        rounded.load_state_dict(weights)
        got, _ = runtime.load(tmp_path)(x)
        np.testing.assert_allclose(got, rounded(torch.from_numpy(x))[0].detach().numpy(), atol=1e-6)


# without the engine


@pytest.mark.parametrize("name", [name for name in layers.ALL if name != "attention decoder"])
def test_without_the_engine_numpy_gives_the_same(name: str, request: pytest.FixtureRequest):
    layer = layers.ALL[name]().double().eval()
    x = torch.randn(3, 5, layer.input_size, dtype=torch.float64)
    lengths, reset = torch.tensor([5, 0, 3]), torch.rand(3, 5) < 0.3
    elapsed = torch.rand(3, 5, dtype=torch.float64) if layer.uses_elapsed else None
    y, state = layer(x, lengths=lengths, reset=reset, elapsed=elapsed)
    request.getfixturevalue("no_engine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecurraBackendWarning)
        model = as_runtime(layer)
    times = None if elapsed is None else elapsed.numpy()
    got, after = model(x.numpy(), lengths=lengths.numpy(), reset=reset.numpy(), elapsed=times)
    np.testing.assert_allclose(got, y.detach().numpy(), atol=1e-9)
    for a, b in zip(leaves(after), state_tensors(state), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-9)


def test_without_the_engine_one_warning_says_that_it_is_slow(no_engine):
    layer = nn.GRU(2, 3).eval()
    with pytest.warns(RecurraBackendWarning, match="runs in numpy, which is many times slower, because the native"):
        model = as_runtime(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_runtime(layer)
    stream = model.stream()
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    whole, _ = model(x[None])
    np.testing.assert_allclose(np.concatenate([stream.push(x[:2]), stream.push(x[2:])]), whole[0], rtol=1e-6)


# attention over a memory


@pytest.mark.parametrize("attention", [lambda: nn.AdditiveAttention(4, 3, 5), lambda: nn.MultiplicativeAttention(4, 3)])
def test_a_decoder_attends_to_its_memory(attention):
    layer = nn.AttentionDecoder(nn.GRU(6, 4), attention()).double().eval()
    model = as_runtime(layer)
    memory, lengths = torch.randn(2, 5, 3, dtype=torch.float64), torch.tensor([3, 5])
    x, reset = torch.randn(2, 4, 2, dtype=torch.float64), torch.tensor([[False] * 4, [False, True, False, False]])
    y, state = layer(x, layer.attend(memory, lengths), lengths=torch.tensor([4, 3]), reset=reset)
    start = model.attend(memory.numpy(), lengths.numpy())  # type: ignore[attr-defined]
    got, after = model(x.numpy(), start, lengths=np.array([4, 3]), reset=reset.numpy())
    np.testing.assert_allclose(got, y.detach().numpy(), atol=1e-10)
    for a, b in zip(leaves(after), state_tensors(state), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), atol=1e-10)
    stream = model.stream(from_arrays(start, [part[1:] for part in leaves(start)]))
    whole, _ = layer(x[1:], layer.attend(memory[1:]))
    np.testing.assert_allclose(stream.push(x[1].numpy()), whole[0].detach().numpy(), atol=1e-10)


# refusals


@pytest.fixture
def gru() -> runtime.Layer:
    """A small GRU of 3 and 4 columns."""
    return as_runtime(nn.GRU(3, 4))


X = np.zeros((2, 5, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0],), "x is a list: expected a numpy array"),
        ((X[0],), r"x has shape \(5, 3\): expected \(batch, time, 3\)"),
        ((X[..., :2],), r"x has shape \(2, 5, 2\): expected \(batch, time, 3\)"),
        ((X.astype(np.float64),), "x has dtype float64: expected float32"),
        ((X, (np.zeros((2, 4)),)), "state.h has shape"),
        ((X, np.zeros((2, 4))), "state is ndarray"),
        ((X, (np.zeros((3, 4), np.float32),)), r"state.h has shape \(3, 4\)"),
        ((X, ()), "state is tuple"),
    ],
)
def test_what_does_not_fit_is_named(gru: runtime.Layer, arguments: tuple, message: str):
    with pytest.raises(ShapeError, match=message):
        gru(*arguments)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"lengths": [5]}, "lengths has shape"),
        ({"lengths": [6, 1]}, "lengths holds 1 to 6"),
        ({"lengths": [-1, 1]}, "lengths holds -1"),
        ({"lengths": [0.5, 1.0]}, "lengths has shape .* of float64"),
        ({"lengths": [[1], [1, 2]]}, "lengths is no array"),
        ({"reset": [[True], [True, False]]}, "reset is no array"),
        ({"reset": np.zeros((2, 5))}, "reset has shape .* of float64"),
        ({"reset": np.zeros((2, 4), bool)}, r"reset has shape \(2, 4\)"),
        ({"elapsed": np.zeros((2, 5), np.float32)}, "elapsed is given"),
    ],
)
def test_rows_that_do_not_fit_are_named(gru: runtime.Layer, rows: dict, message: str):
    with pytest.raises((ShapeError, ArgumentError), match=message):
        gru(X, **rows)


def test_steps_that_do_not_fit_are_named(gru: runtime.Layer):
    state = gru.initial_state(2)
    for x_t, message in (
        (X, "x_t has shape"),
        (X[:, 0].astype(np.float64), "x_t has dtype float64"),
        ([1.0], "x_t is a list"),
    ):
        with pytest.raises(ShapeError, match=message):
            gru.step(x_t, state)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"state\.h has shape"):
        gru.step(X[:1, 0], state)
    with pytest.raises(ArgumentError, match="elapsed is given"):
        gru.step(X[:, 0], state, elapsed=np.ones(2, np.float32))


def test_time_is_asked_for_where_a_cell_reads_it():
    model = as_runtime(nn.Recurrent(layers.leaky, 3, 4))
    for elapsed, message in (
        (None, "elapsed is missing"),
        (np.ones((2, 4), np.float32), r"elapsed has shape \(2, 4\)"),
        (np.full((2, 5), -1, np.float32), "elapsed holds -1"),
        (np.full((2, 5), np.nan, np.float32), "elapsed holds nan"),
        (np.full((2, 5), np.inf, np.float32), "elapsed holds inf"),
    ):
        with pytest.raises((ShapeError, ArgumentError), match=message):
            model(X, elapsed=elapsed)


def test_a_layer_that_needs_the_future_cannot_step_or_stream():
    model = as_runtime(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)))
    for call in (model.stream, lambda: model.streams(2), lambda: model.step(X[:, 0], model.initial_state(2))):
        with pytest.raises(ArgumentError, match="the model cannot"):
            call()


def test_inputs_of_any_layout_are_read(gru: runtime.Layer):
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32).transpose(2, 1, 0)
    expected = gru(np.ascontiguousarray(x))[0]
    assert np.array_equal(gru(x)[0], expected)
    state = gru.initial_state(2)
    for t in range(5):
        y, state = gru.step(x[:, t], state)
        assert np.array_equal(y, expected[:, t])


def test_threads_change_no_bit(gru: runtime.Layer):
    model = as_runtime(nn.LSTM(32, 64))
    x = np.random.default_rng(0).standard_normal((40, 20, 32)).astype(np.float32)
    before = kernel.Threads.count
    try:
        results = []
        for count in (1, 2, 3):
            runtime.set_threads(count)
            results.append(model(x)[0])
    finally:
        runtime.set_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    with pytest.raises(ArgumentError, match="number of threads is 0"):
        runtime.set_threads(0)
