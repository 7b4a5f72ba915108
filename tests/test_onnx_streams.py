"""Exported files on streams. That they give what torch and the runtime give is in test_streams.py, side by side."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import layers
import recurra
import recurra.onnx
from onnx_models import model_of, node_of, onnx
from recurra import nn, runtime
from recurra.data import Vocabulary
from recurra.decode import likeliest
from recurra.errors import ArgumentError, BackendUnavailable, FormatError, RecurraError, ShapeError
from recurra.tasks import LanguageModel

pytest.importorskip("onnxruntime", reason="onnxruntime is an extra: pip install 'recurra[onnx]'")

CHILD = """
import sys
import numpy as np
import recurra

model = recurra.onnx.load(sys.argv[1])
stream, rows = model.stream(), model.streams(3)
x = np.load(sys.argv[2])
y = np.concatenate([stream.push(x[:2]), stream.push(x[2])[None], stream.push(x[3:])])
rows.tick(x[:1], rows=[1])
stream.restore(stream.snapshot())
np.save(sys.argv[3], y)
print(*sorted({"torch", "onnx", "lightning"} & sys.modules.keys()))
"""


def test_a_file_streams_without_torch_and_without_onnx(tmp_path: Path):
    layer = nn.Stack(nn.GRU(3, 4), nn.Residual(nn.Recurrent("mgu", 4, 4))).eval()
    path = recurra.onnx.export(layer, tmp_path / "layer.onnx").path
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    files = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    found = subprocess.run([sys.executable, "-c", CHILD, *files], check=True, capture_output=True, text=True)
    assert not found.stdout.split(), found.stdout
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), layer.stream().push(x), atol=1e-6)


STREAMED = [name for name, build in layers.ALL.items() if name != "attention decoder" and build().causal]


@pytest.mark.parametrize("name", STREAMED)
def test_two_pieces_and_ticks_give_what_one_call_gives(name: str, tmp_path: Path):
    layer = layers.ALL[name]().double().eval()
    model = recurra.onnx.load(recurra.onnx.export(layer, tmp_path / "layer.onnx").path)
    assert (model.input_size, model.output_size, model.pools) == (layer.input_size, layer.output_size, layer.pools)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, layer.input_size))
    times = rng.random(5) + 0.1 if layer.uses_elapsed else None
    with torch.no_grad():
        elapsed = None if times is None else torch.from_numpy(times)[None]
        expected = layer(torch.from_numpy(x)[None], elapsed=elapsed)[0][0].numpy()
    stream, rows = model.stream(), model.streams(2)
    part = [None, None] if times is None else [times[:2], times[2:]]
    got = [stream.push(x[:2], elapsed=part[0]), stream.push(x[2:], elapsed=part[1])]
    np.testing.assert_allclose(got[1] if layer.pools else np.concatenate(got), expected, atol=1e-10)
    # the second of two pieces of one length is computed in arrays that are kept
    stream.reset()
    part = [None] * 5 if times is None else [times[t : t + 1] for t in range(5)]
    single = [stream.push(x[t : t + 1], elapsed=part[t]) for t in range(5)]
    np.testing.assert_allclose(single[-1] if layer.pools else np.concatenate(single), expected, atol=1e-10)
    ticks = [rows.tick(x[t : t + 1], rows=[1], elapsed=None if times is None else times[t : t + 1]) for t in range(5)]
    np.testing.assert_allclose(ticks[-1][0], expected if layer.pools else expected[-1], atol=1e-10)
    np.testing.assert_allclose(rows.take(1)._stateful.read()[0], stream._stateful.read()[0], atol=1e-10)


def test_the_language_model_streams_from_its_file(tmp_path: Path):
    vocabulary = Vocabulary("char", list("abcde"))
    model = LanguageModel.build(vocabulary, cell="gru", hidden=6, layers=2, embedding=4).eval()
    loaded = recurra.onnx.load(recurra.onnx.export(model, tmp_path / "model.onnx").path)
    assert isinstance(loaded, recurra.onnx.LanguageModel)
    assert loaded.vocabulary == vocabulary
    pages = ["".join(one.generate("ab", likeliest, length=20)) for one in (loaded, model)]
    assert pages[0] == pages[1]
    tokens = np.array([1, 3, 0, 2, 2, 4])
    stream, theirs = loaded.stream(), model.stream()
    got = np.concatenate([stream.push(tokens[:2]), stream.push(tokens[2:2]), stream.push(tokens[2:])])
    np.testing.assert_allclose(got, theirs.push(tokens), atol=1e-5)
    # a snapshot goes on where another form of the same model left off
    theirs.restore(stream.snapshot())
    np.testing.assert_allclose(theirs.push(3), stream.push(3), atol=1e-5)
    for wrong in ([len(vocabulary)], [-1]):
        with pytest.raises(ArgumentError, match=f"0 to {len(vocabulary) - 1}"):
            stream.push(wrong)
        with pytest.raises(ArgumentError, match=f"0 to {len(vocabulary) - 1}"):
            loaded.streams(1).tick(wrong)
    with pytest.raises(ShapeError, match="chunk has dtype float64"):
        stream.push(np.array([0.5]))


def test_tokens_in_continuous_time(tmp_path: Path):
    embedding, head = torch.nn.Embedding(9, 3), torch.nn.Linear(5, 2)
    layer = nn.Recurrent(layers.leaky, 3, 5).eval()
    parts = recurra.onnx.Parts(layer, embedding.weight, ((head.weight, head.bias),))
    model = recurra.onnx.load(recurra.onnx.export(parts, tmp_path / "model.onnx").path.read_bytes())
    assert (model.tokens, model.input_size, model.uses_elapsed) == (9, None, True)
    tokens, times = np.array([8, 0, 3]), np.array([0.5, 0.25, 1.5], np.float32)
    with torch.no_grad():
        y, _ = layer(embedding(torch.from_numpy(tokens))[None], elapsed=torch.from_numpy(times)[None])
        expected = head(y)[0].numpy()
    np.testing.assert_allclose(model.stream().push(tokens, elapsed=times), expected, atol=1e-6)


def test_calls_of_one_length_keep_their_arrays(tmp_path: Path):
    layer = nn.Stack(nn.LSTM(3, 4), nn.Recurrent("mgu", 4, 2)).eval()
    model = recurra.onnx.load(recurra.onnx.export(layer, tmp_path / "layer.onnx").path)
    x = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
    expected = layer.stream().push(x)
    stream, rows, y = model.stream(), model.streams(1), np.empty((2, 2), np.float32)
    # what comes between them takes the states along
    for begin in range(0, 24, 2):
        if begin == 8:
            other = stream.fork()
            kept = other.snapshot()
            stream.push(x[:7])
            stream.restore(kept)
        if begin in (14, 16):
            pieces = [stream.push(piece) for piece in np.split(x[begin : begin + 2], 2)]
            np.testing.assert_allclose(np.concatenate(pieces), expected[begin : begin + 2], atol=1e-6)
        else:
            assert stream.push(x[begin : begin + 2], out=y) is y
            np.testing.assert_allclose(y, expected[begin : begin + 2], atol=1e-6)
        ticks = [rows.tick(x[t : t + 1], rows=None if t % 3 else [0]) for t in (begin, begin + 1)]
        np.testing.assert_allclose(np.concatenate(ticks), expected[begin : begin + 2], atol=1e-6)
    assert stream.snapshot() == stream.fork().snapshot()
    # a result that was handed out is not written over
    first = stream.push(x[:2])
    before = first.copy()
    stream.push(x[2:4])
    assert np.array_equal(first, before)
    for wrong in (np.empty((3, 2), np.float32), np.empty((2, 2)), np.empty((2, 4), np.float32)[:, ::2], [[0.0]]):
        with pytest.raises(ShapeError, match="out is"):
            stream.push(x[:2], out=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="out shares memory with the chunk"):
        stream.push(x[:2, :3], out=x.reshape(-1)[2:6].reshape(2, 2))


def test_a_kept_call_allocates_no_arrays(tmp_path: Path):
    model = recurra.onnx.load(recurra.onnx.export(nn.Stack(nn.GRU(16, 64), nn.GRU(64, 64)), tmp_path / "x.onnx").path)
    stream, x, y = model.stream(), np.zeros((500, 16), np.float32), np.empty((500, 64), np.float32)
    for _ in range(2):
        stream.push(x, out=y)
    tracemalloc.start()
    try:
        for _ in range(3):
            stream.push(x, out=y)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < y.nbytes // 4


@pytest.mark.parametrize("pool", [nn.Last, nn.Mean])
def test_a_piece_of_no_steps_gives_the_result_so_far(pool: type[nn.Layer], tmp_path: Path):
    layer = pool(nn.GRU(3, 4)).eval()
    stream = recurra.onnx.load(recurra.onnx.export(layer, tmp_path / "layer.onnx").path).stream()
    nothing = np.zeros((0, 3), np.float32)
    assert not stream.push(nothing).any()
    y = stream.push(np.ones((2, 3), np.float32))
    assert np.array_equal(stream.push(nothing), y)


def test_snapshots_go_between_all_three_forms(tmp_path: Path):
    layer = nn.Stack(nn.GRU(3, 4), nn.Recurrent("lstm", 4, 2)).eval()
    recurra.save_layer(layer, tmp_path / "saved")
    models = [layer, runtime.load(tmp_path / "saved")]
    models.append(recurra.onnx.load(recurra.onnx.export(layer, tmp_path / "layer.onnx").path))
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    first = models[2].stream()
    first.push(x[:3])
    kept = first.snapshot()
    for model in models:
        stream = model.stream()
        stream.restore(kept)
        np.testing.assert_allclose(stream.push(x[3:]), layer.stream().push(x)[3:], atol=1e-6)


# refusals


def test_a_model_that_needs_the_future_does_not_stream(tmp_path: Path):
    layer = nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)).eval()
    model = recurra.onnx.load(recurra.onnx.export(layer, tmp_path / "layer.onnx").path)
    for refused in (model.stream, lambda: model.streams(2)):
        with pytest.raises(ArgumentError, match="the model cannot stream"):
            refused()


def test_files_of_others_and_damaged_ones_are_refused(tmp_path: Path):
    theirs, _ = node_of("GRU", parts="bi")
    with pytest.raises(FormatError, match="the states of this file cannot be told: it has inputs X, h"):
        recurra.onnx.load(theirs.SerializeToString())
    for content in (b"", b"no model", bytes(100)):
        with pytest.raises(FormatError, match=r"^ONNX Runtime does not open the file"):
            recurra.onnx.load(content)
        (tmp_path / "note.txt").write_bytes(content)
        with pytest.raises(FormatError, match=r"note\.txt': ONNX Runtime does not open the file"):
            recurra.onnx.load(tmp_path / "note.txt")
    with pytest.raises(ArgumentError, match=r"missing\.onnx' is not there: expected a file"):
        recurra.onnx.load(tmp_path / "missing.onnx")
    path = recurra.onnx.export(nn.GRU(3, 4), tmp_path / "layer.onnx").path
    for name, value, message in (
        ("fingerprint", "xyz", "fingerprint"),
        ("written_by", "another", "cannot be told"),
        ("causal", None, "cannot stream"),
    ):
        proto = onnx.load(path)
        about = {one.key: one.value for one in proto.metadata_props} | {name: value}
        del proto.metadata_props[:]
        onnx.helper.set_model_props(proto, {key: one for key, one in about.items() if one is not None})
        with pytest.raises((FormatError, ArgumentError), match=message):
            recurra.onnx.load(proto.SerializeToString()).stream()
    for count in (0, -1, 2.5, True):
        with pytest.raises(ArgumentError, match="rows is"):
            recurra.onnx.load(path).streams(count)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="threads is"):
            recurra.onnx.load(path, threads=count)  # type: ignore[arg-type]


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path):
    model = LanguageModel.build(Vocabulary("char", list("abc")), cell="gru", hidden=3, layers=1, embedding=3).eval()
    path = recurra.onnx.export(model, tmp_path / "model.onnx").path
    for vocabulary, message in (
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "a vocabulary in a model file"),
        (json.dumps({"unit": "char", "tokens": ["a", "a", "b"]}), "a token twice"),
        (json.dumps({"unit": "char", "tokens": ["a", "b"]}), "has 3 tokens: expected 4 read"),
    ):
        proto = onnx.load(path)
        for one in proto.metadata_props:
            if one.key == "vocabulary":
                one.value = vocabulary
        with pytest.raises(RecurraError, match=message):
            recurra.onnx.load(proto.SerializeToString())


def test_a_file_that_calls_itself_ours_is_still_checked():
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = model_of([node], {"x": np.zeros((1, 2, 3), np.float32)}, ["y"])
    onnx.helper.set_model_props(model, {"written_by": "recurra", "causal": "yes"})
    with pytest.raises(FormatError, match="cannot be told"):
        recurra.onnx.load(model.SerializeToString())


def test_without_onnxruntime_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = recurra.onnx.export(nn.GRU(3, 4), tmp_path / "layer.onnx").path
    monkeypatch.setattr("recurra.onnx.packages.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"onnxruntime is not installed. .*pip install 'recurra\[onnx\]'"):
        recurra.onnx.load(path)
