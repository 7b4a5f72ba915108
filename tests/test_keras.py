"""Weights of Keras models and of files of named arrays: the same results as the real library, and hostile files."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from recurra import convert, nn
from recurra.errors import ArgumentError, FormatError

os.environ.setdefault("KERAS_BACKEND", "torch")
REASON = "keras and h5py are extras: pip install 'recurra[test]'"
h5py = pytest.importorskip("h5py", reason=REASON)
keras = pytest.importorskip("keras", reason=REASON)
if keras.backend.backend() != "torch":
    pytest.skip("keras runs on another backend than torch", allow_module_level=True)

# of Keras itself, under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FORMATS = ("keras", pytest.param("h5", marks=pytest.mark.filterwarnings("ignore")))


def saved(tmp_path: Path, kind: str, *layers: Any, features: int = 3) -> tuple[Any, Path]:
    """A Keras model of these layers with weights of any value, and its file."""
    model = keras.Sequential([keras.Input((None, features)), *layers])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=one.shape, scale=0.5) for one in model.get_weights()])
    path = tmp_path / f"model.{kind}"
    model.save(path)
    return model, path


def call(module: Any, x: torch.Tensor) -> torch.Tensor:
    found = module(x)
    return found[0] if isinstance(found, tuple) else found


LAYERS = {
    "lstm": lambda: keras.layers.LSTM(4, return_sequences=True),
    "lstm, last": lambda: keras.layers.LSTM(4),
    "lstm, other activations": lambda: keras.layers.LSTM(
        4, activation="softsign", recurrent_activation="hard_sigmoid", use_bias=False, return_sequences=True
    ),
    "lstm, backwards": lambda: keras.layers.LSTM(4, go_backwards=True),
    "gru": lambda: keras.layers.GRU(4, return_sequences=True),
    "gru without biases": lambda: keras.layers.GRU(4, use_bias=False),
    "gru, reset before": lambda: keras.layers.GRU(4, reset_after=False, return_sequences=True),
    "simple": lambda: keras.layers.SimpleRNN(4, return_sequences=True),
    "simple, relu": lambda: keras.layers.SimpleRNN(4, activation="relu"),
    "bidirectional": lambda: keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True)),
    "bidirectional, last": lambda: keras.layers.Bidirectional(keras.layers.LSTM(4)),
    "bidirectional of two": lambda: keras.layers.Bidirectional(
        keras.layers.LSTM(4, return_sequences=True),
        backward_layer=keras.layers.GRU(2, return_sequences=True, go_backwards=True),
    ),
    "dense": lambda: keras.layers.Dense(4, activation="softmax"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gives_what_keras_gives(name: str, kind: str, tmp_path: Path):
    model, path = saved(tmp_path, kind, LAYERS[name]())
    (found,) = convert.from_keras(path).values()
    x = torch.randn(2, 5, 3)
    np.testing.assert_allclose(call(found, x).detach(), model.predict(x.numpy(), verbose=0), atol=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_model_in_its_order(kind: str, tmp_path: Path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None,)),
            layers.Embedding(9, 3, mask_zero=False),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="reader"),
            layers.Dropout(0.5),
            layers.GRU(5, return_sequences=True),
            layers.GRU(5, name="summary"),
            layers.Dense(2, activation="tanh"),
        ]
    )
    path = tmp_path / f"model.{kind}"
    model.save(path)
    found = convert.from_keras(path)
    assert list(found)[1] == "reader"
    tokens = torch.randint(0, 9, (2, 6))
    value: Any = tokens
    for module in found.values():
        value = call(module, value)
    np.testing.assert_allclose(value.detach(), model.predict(tokens.numpy(), verbose=0), atol=1e-5)
    assert list(convert.from_keras(path, layers=["summary"])) == ["summary"]
    with pytest.raises(ArgumentError, match="the model has no layer 'missing'"):
        convert.from_keras(path, layers=["missing"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: keras.layers.Conv1D(4, 2), "layer '.*' is a Conv1D: expected LSTM, GRU"),
        (lambda: keras.layers.LSTM(4, go_backwards=True, return_sequences=True), "has go_backwards and puts out"),
        (lambda: keras.layers.LSTM(4, activation="selu"), "has activation 'selu': expected one of linear"),
        (
            lambda: keras.layers.Bidirectional(keras.layers.LSTM(4), merge_mode="sum"),
            "has merge_mode 'sum': expected 'concat'",
        ),
        (lambda: keras.layers.RNN(keras.layers.LSTMCell(4)), "is a RNN: expected LSTM"),
    ],
)
def test_what_has_no_counterpart_is_named(layer: Any, message: str, tmp_path: Path):
    _, path = saved(tmp_path, "keras", layer())
    with pytest.raises(ArgumentError, match=message):
        convert.from_keras(path)


# hostile files


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return saved(tmp_path, "keras", keras.layers.LSTM(4))[1]


def changed(good: Path, *, config: Any = None, weights: bytes | None = None, compression: int = 0) -> Path:
    """The file with another description or other weights."""
    with zipfile.ZipFile(good) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        parts["config.json"] = config if isinstance(config, bytes) else json.dumps(config).encode()
    if weights is not None:
        parts["model.weights.h5"] = weights
    path = good.with_name("changed.keras")
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def config_of(good: Path) -> Any:
    with zipfile.ZipFile(good) as archive:
        return json.loads(archive.read("config.json"))


def test_a_zip_bomb_is_not_unpacked(good: Path):
    path = changed(good, weights=bytes(2**26), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(FormatError, match=r"model\.weights\.h5 in .* takes 67,108,864 bytes"):
        convert.from_keras(path)


def test_a_lambda_is_not_run(good: Path):
    config = config_of(good)
    code = {"class_name": "__lambda__", "config": {"code": "4wAAAA", "defaults": None, "closure": None}}
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "evil", "function": code}}
    config["config"]["layers"].insert(1, layer)
    with pytest.raises(ArgumentError, match="layer 'evil' is a Lambda"):
        convert.from_keras(changed(good, config=config))


@pytest.mark.parametrize(
    "config",
    [b"{", b"[" * 100_000, [], {"class_name": "Sequential"}, {"class_name": "os.system", "config": {"layers": []}},
     {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": None}]}},
     {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {"name": "lstm"}}]}}],
)  # fmt: skip
def test_a_malformed_description_is_refused(config: Any, good: Path):
    with pytest.raises(FormatError):
        convert.from_keras(changed(good, config=config))


@pytest.mark.parametrize("units", [-1, 10**18, 2.5, "4", True, 5])
def test_sizes_that_the_weights_do_not_have_are_refused(units: Any, good: Path):
    config = config_of(good)
    config["config"]["layers"][-1]["config"]["units"] = units
    with pytest.raises(FormatError):
        convert.from_keras(changed(good, config=config))


def hdf5(write: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("layers/lstm/vars")
        group.attrs["name"] = "lstm"
        write(file.create_group("layers/lstm/cell/vars"))
    return buffer.getvalue()


def test_weights_that_do_not_lie_in_the_file_are_refused(good: Path, tmp_path: Path):
    config = config_of(good)
    config["config"]["layers"][-1]["config"]["name"] = "lstm"
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))

    def external(group: Any) -> None:
        group.create_dataset("0", (3, 16), "f4", external=[(str(secret), 0, 192)])
        group["1"] = np.zeros((4, 16), "f4")
        group["2"] = np.zeros(16, "f4")

    def linked(group: Any) -> None:
        group["0"] = h5py.ExternalLink(str(secret), "/x")

    def empty(group: Any) -> None:
        for name, shape in zip("012", ((3, 16), (4, 16), (16,)), strict=True):
            group.create_dataset(name, shape, "f4", chunks=True)  # its size is said, and nothing is stored

    def whole(group: Any) -> None:
        for name, shape in zip("012", ((3, 16), (4, 16), (16,)), strict=True):
            group[name] = np.zeros(shape, "i4")

    for write in (external, linked, empty, whole, lambda group: None):
        with pytest.raises(FormatError):
            convert.from_keras(changed(good, config=config, weights=hdf5(write)))


def test_damaged_files_are_refused(good: Path, tmp_path: Path):
    content = good.read_bytes()
    for cut in range(0, len(content), 997):
        (tmp_path / "cut.keras").write_bytes(content[:cut])
        with pytest.raises(FormatError):
            convert.from_keras(tmp_path / "cut.keras")
    with pytest.raises(ArgumentError, match="there is no file"):
        convert.from_keras(tmp_path / "missing.keras")


# named arrays


def test_a_map_of_names_fills_a_layer(tmp_path: Path):
    theirs, ours = torch.nn.GRU(3, 4, batch_first=True), nn.GRU(3, 4)
    hidden = 4
    arrays = {name: value.detach().numpy() for name, value in theirs.named_parameters()}
    gates = np.split(arrays["weight_ih_l0"], 3)
    bias, of_h = arrays["bias_ih_l0"], arrays["bias_hh_l0"]
    bias = np.concatenate([bias[: 2 * hidden] + of_h[: 2 * hidden], bias[2 * hidden :]])
    kept = {f"in_{k}": np.ascontiguousarray(gate.T) for k, gate in enumerate(gates)}
    kept |= {"recurrent": np.concatenate(np.split(arrays["weight_hh_l0"], 3)[::-1]), "b": bias, "n": of_h[2 * hidden :]}
    safetensors.numpy.save_file(kept, tmp_path / "weights.safetensors")
    np.savez_compressed(tmp_path / "weights.npz", **kept)
    names = {
        "W": convert.Taken(["in_0", "in_1", "in_2"], transposed=True),
        "U": convert.Taken("recurrent", gates=(2, 1, 0)), "b": "b", "b_n": "n",
    }  # fmt: skip
    x = torch.randn(2, 5, 3)
    for file in ("weights.safetensors", "weights.npz"):
        ours.reset_parameters()
        convert.fill(ours, tmp_path / file, names)
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    before = ours.W.clone()
    with pytest.raises(ArgumentError, match="names leaves out the weight 'W'"):
        convert.fill(ours, tmp_path / "weights.npz", {"U": "recurrent", "b": "b", "b_n": "n"})
    with pytest.raises(ArgumentError, match="the file has no array 'nothing'"):
        convert.fill(ours, tmp_path / "weights.npz", {**names, "b": "nothing"})
    with pytest.raises(FormatError, match=r"'b' is taken of \(4,\) float32: expected \(12,\), floats"):
        convert.fill(ours, tmp_path / "weights.npz", {**names, "b": "n"})
    assert torch.equal(ours.W, before)


def test_objects_and_bombs_in_an_npz_are_refused(tmp_path: Path):
    layer, names = nn.GRU(1, 1), {"W": "W", "U": "U", "b": "b", "b_n": "b_n"}
    np.savez(tmp_path / "objects.npz", W=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="expected plain numbers"):
        convert.fill(layer, tmp_path / "objects.npz", names)
    np.savez_compressed(tmp_path / "bomb.npz", W=np.zeros(2**24))
    with pytest.raises(FormatError, match="unpacks to"):
        convert.fill(layer, tmp_path / "bomb.npz", names)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bomb.npz").read_bytes()[:500])
    with pytest.raises(FormatError, match="damaged"):
        convert.fill(layer, tmp_path / "cut.npz", names)
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(FormatError, match="truncated or damaged"):
        convert.fill(layer, tmp_path / "cut.safetensors", names)
    with pytest.raises(ArgumentError, match=r"expected a \.safetensors or \.npz file"):
        convert.fill(layer, tmp_path / "weights.pt", names)
