"""Streams: pieces of any size give what one call gives; snapshots, forks, and many streams as one batch."""

import functools
import itertools
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import layers
import recurra
from recurra import nn, runtime
from recurra.errors import ArgumentError, FormatError, ShapeError
from test_runtime import as_runtime, saved_model

STREAMED = [name for name, build in layers.ALL.items() if name != "attention decoder" and build().causal]
FEW = ["gru", "lstm", "leaky", "observed", "stack", "residual", "mean", "weight dropout", "masked batch norm", "mlstm"]
FEW += ["hybrid block", "lstm, zoneout", "stack in continuous time", "sru", "ltc"]

BOTH = ("torch", "runtime")
INSTALLED = (*BOTH, "onnx") if find_spec("onnx") and find_spec("onnxruntime") else BOTH
needs_onnx = pytest.mark.skipif(INSTALLED is BOTH, reason="ONNX is an extra: pip install 'recurra[onnx]'")
SIDES = (*BOTH, pytest.param("onnx", marks=needs_onnx))


def as_exported(layer: nn.Layer) -> recurra.onnx.Model:
    """The layer as ONNX Runtime has it."""
    with tempfile.TemporaryDirectory() as folder:
        return recurra.onnx.load(recurra.onnx.export(layer, Path(folder) / "layer.onnx").path)


FORMS = {"torch": lambda layer: layer, "runtime": as_runtime, "onnx": as_exported}


@functools.cache
def exported_pair(name: str) -> tuple[nn.Layer, recurra.onnx.Model]:
    """A layer in double precision, and its ONNX file."""
    layer = layers.ALL[name]().double().eval()
    return layer, as_exported(layer)


def pair(name: str, side: str) -> tuple[nn.Layer, object]:
    """A layer in double precision, and the same or its form without torch."""
    if side == "onnx":
        return exported_pair(name)
    layer = layers.ALL[name]().double().eval()
    return layer, FORMS[side](layer)


def drawn(layer: nn.Layer, time: int, rows: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(time)
    x = rng.standard_normal((rows, time, layer.input_size))
    return x, rng.random((rows, time)) + 0.1 if layer.uses_elapsed else None


def whole(layer: nn.Layer, x: np.ndarray, elapsed: np.ndarray | None) -> np.ndarray:
    times = None if elapsed is None else torch.from_numpy(elapsed)
    with torch.no_grad():
        return layer(torch.from_numpy(x), elapsed=times)[0].numpy()


def pieces(stream, x: np.ndarray, elapsed: np.ndarray | None, borders: list[int], *, pools: bool) -> np.ndarray:
    edges = [0, *sorted(borders), len(x)]
    got = [stream.push(x[a:b], elapsed=None if elapsed is None else elapsed[a:b]) for a, b in itertools.pairwise(edges)]
    return got[-1] if pools else np.concatenate(got)


@pytest.mark.parametrize("name", STREAMED)
def test_two_pieces_give_what_one_call_gives(name: str):
    layer, model = pair(name, "runtime")
    x, elapsed = drawn(layer, 7)
    got = pieces(model.stream(), x[0], None if elapsed is None else elapsed[0], [3], pools=layer.pools)
    np.testing.assert_allclose(got, whole(layer, x, elapsed)[0], atol=1e-10)


@given(
    st.sampled_from(FEW), st.sampled_from(INSTALLED), st.integers(0, 12).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), max_size=5))
    )
)  # fmt: skip
def test_any_pieces_give_what_one_call_gives(name: str, side: str, sizes: tuple[int, list[int]]):
    torch.manual_seed(0)
    time, borders = sizes
    layer, model = pair(name, side)
    x, elapsed = drawn(layer, time)
    got = pieces(model.stream(), x[0], None if elapsed is None else elapsed[0], borders, pools=layer.pools)
    np.testing.assert_allclose(got, whole(layer, x, elapsed)[0], atol=1e-10)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", FEW)
def test_frames_one_by_one_snapshots_forks_and_resets(name: str, side: str):
    layer, model = pair(name, side)
    x, elapsed = drawn(layer, 6)
    expected = whole(layer, x, elapsed)[0]
    at = (lambda t: None) if elapsed is None else (lambda t: elapsed[0, t])
    stream = model.stream()
    for t in range(3):
        y = stream.push(x[0, t], elapsed=at(t))
        assert y.shape == (layer.output_size,)
        if not layer.pools:
            np.testing.assert_allclose(y, expected[t], atol=1e-10)
    kept, other = stream.snapshot(), stream.fork()
    ends = []
    for one in (stream, other):
        for t in range(3, 6):
            y = one.push(x[0, t], elapsed=at(t))
        ends.append(y)
    assert np.array_equal(*ends)
    np.testing.assert_allclose(y, expected if layer.pools else expected[-1], atol=1e-10)
    stream.restore(kept)
    again = [stream.push(x[0, t], elapsed=at(t)) for t in range(3, 6)]
    assert np.array_equal(again[-1], ends[0])
    stream.reset()
    fresh = model.stream()
    assert np.array_equal(stream.push(x[0, 0], elapsed=at(0)), fresh.push(x[0, 0], elapsed=at(0)))
    assert stream.snapshot() == fresh.snapshot()


def test_torch_and_runtime_take_each_other_s_snapshots(tmp_path: Path):
    layer = nn.Stack(nn.GRU(3, 4), nn.Recurrent("lstm", 4, 2)).eval()
    recurra.save_layer(layer, tmp_path)
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    streams = [recurra.load_layer(tmp_path).stream(), runtime.load(tmp_path).stream()]
    for first, second in (streams, streams[::-1]):
        first.push(x)
        second.restore(first.snapshot())
        np.testing.assert_allclose(first.push(x[:2]), second.push(x[:2]), atol=1e-6)


def test_the_language_model_streams_the_same_in_both(tmp_path: Path):
    model, loaded = saved_model(tmp_path), runtime.load(tmp_path)
    tokens = np.array([1, 3, 0, 2, 2, 4])
    expected = model(torch.from_numpy(tokens[None]))[0].detach().numpy()[0]
    for one in (model, loaded):
        stream = one.stream()
        got = np.concatenate([stream.push(tokens[:2]), stream.push(tokens[2:2]), stream.push(tokens[2:])])
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert stream.push(3).shape == (len(model.vocabulary),)
        for wrong in (np.array([0.5]), np.array([[1]])):
            with pytest.raises(ShapeError):
                stream.push(wrong)
        for wrong in ([99], [-1]):
            with pytest.raises(ArgumentError, match="0 to"):
                stream.push(wrong)
        rows = one.streams(3)
        y = rows.tick([1, 2, 3])
        np.testing.assert_allclose(y[1], one.stream().push(2), atol=1e-5)
    assert model.stream().snapshot() == loaded.stream().snapshot()


# many streams as one batch


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [name for name in FEW if name != "mean"])
def test_rows_join_leave_and_reset_at_any_time(name: str, side: str):
    layer, model = pair(name, side)
    rng = np.random.default_rng(0)
    count = 5
    streams, alone = model.streams(count), [model.stream() for _ in range(count)]
    for tick in range(12):
        rows = None if tick % 4 == 0 else rng.permutation(count)[: rng.integers(0, count + 1)]
        numbers = range(count) if rows is None else rows
        x = rng.standard_normal((len(numbers), layer.input_size))
        elapsed = rng.random(len(numbers)) + 0.1 if layer.uses_elapsed else None
        got = streams.tick(x, rows=rows, elapsed=elapsed)
        for k, row in enumerate(numbers):
            expected = alone[row].push(x[k], elapsed=None if elapsed is None else elapsed[k])
            np.testing.assert_allclose(got[k], expected, atol=1e-10)
        if tick % 3 == 2:
            gone = rng.permutation(count)[:2]
            streams.reset(gone)
            for row in gone:
                alone[row].reset()
    frame = rng.standard_normal((1, layer.input_size))
    times = np.ones(1) if layer.uses_elapsed else None
    taken = streams.take(2)
    assert len(streams) == count
    np.testing.assert_allclose(taken.push(frame, elapsed=times), alone[2].push(frame, elapsed=times), atol=1e-10)
    streams.put(0, taken)
    kept = streams.snapshot()
    first = streams.tick(frame, rows=[0], elapsed=times)
    np.testing.assert_allclose(first, alone[2].push(frame, elapsed=times), atol=1e-10)
    streams.restore(kept)
    assert np.array_equal(streams.tick(frame, rows=[0], elapsed=times), first)
    streams.reset()
    np.testing.assert_allclose(
        streams.tick(frame, rows=[4], elapsed=times), model.stream().push(frame, elapsed=times), atol=1e-10
    )


def test_ticks_refuse_what_does_not_fit():
    streams = as_runtime(nn.GRU(3, 4)).streams(4)
    x = np.zeros((4, 3), np.float32)
    for arguments, message in (
        ({"x": x[0]}, "x has shape"),
        ({"x": x[:2]}, "x has 2 rows: expected 4"),
        ({"x": x[:2], "rows": [0, 4]}, "rows holds 0 to 4"),
        ({"x": x[:2], "rows": [-1, 0]}, "rows holds -1"),
        ({"x": x[:2], "rows": [1, 1]}, "rows holds a row twice"),
        ({"x": x[:2], "rows": [0.0, 1.0]}, "rows has shape"),
        ({"x": x.astype(np.float64)}, "x has dtype float64"),
        ({"x": x, "elapsed": np.ones(4)}, "elapsed is given"),
        ({"x": x, "out": np.zeros((4, 3), np.float32)}, "out is"),
    ):
        with pytest.raises((ShapeError, ArgumentError), match=message):
            streams.tick(**arguments)
    for count in (0, -1, 2.5, True):
        with pytest.raises(ArgumentError, match="rows is"):
            as_runtime(nn.GRU(3, 4)).streams(count)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="of another model"):
        nn.GRU(3, 4).eval().streams(2).put(0, nn.GRU(3, 4).eval().stream())


# out=


@pytest.mark.parametrize("name", ["gru", "lstm", "stack", "residual", "mlstm", "mean"])
def test_results_go_where_they_are_wanted(name: str):
    layer = layers.ALL[name]().eval()
    x = np.random.default_rng(0).standard_normal((4, layer.input_size)).astype(np.float32)
    for model in (layer, as_runtime(layer)):
        expected = model.stream().push(x)
        out = np.empty_like(expected)
        stream = model.stream()
        assert stream.push(x, out=out) is out
        assert np.array_equal(out, expected)
        read_only = np.empty_like(out)
        read_only.setflags(write=False)
        for wrong in (out[..., :1], out.astype(np.float64), read_only, [0.0], np.empty((9, 9), np.float32)):
            with pytest.raises(ShapeError, match="out is"):
                model.stream().push(x, out=wrong)


def test_results_do_not_overwrite_what_is_read():
    stream = as_runtime(nn.GRU(4, 4)).stream()
    memory = np.zeros((4, 4), np.float32)
    with pytest.raises((ArgumentError, ValueError), match="shares memory"):
        stream.push(memory, out=memory)


def test_a_push_with_out_allocates_nothing():
    import tracemalloc

    stream = as_runtime(nn.Stack(nn.GRU(4, 8), nn.LSTM(8, 8))).stream()
    x, out = np.zeros((16, 4), np.float32), np.empty((16, 8), np.float32)
    stream.push(x, out=out)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(50):
            stream.push(x, out=out)
        assert tracemalloc.get_traced_memory()[0] - before < 1024
        tracemalloc.reset_peak()
        stream.push(x, out=out)
        # tuples and views, but no array of results
        assert tracemalloc.get_traced_memory()[1] - before < out.nbytes * 4
    finally:
        tracemalloc.stop()


# refusals


@pytest.mark.parametrize("side", SIDES)
def test_chunks_that_do_not_fit_are_named(side: str):
    layer = nn.GRU(3, 4).eval()
    model = FORMS[side](layer)
    stream = model.stream()
    kept = stream.snapshot()
    for chunk, message in (
        (np.zeros((2, 2), np.float32), r"chunk has shape \(2, 2\)"),
        (np.zeros((2, 3)), "chunk has dtype float64: expected float32"),
        (np.zeros((2, 3), np.int32), "chunk has dtype int32"),
        (np.zeros((1, 2, 3), np.float32), "chunk has shape"),
        (np.float32(0), "chunk has shape"),
        ("text", "chunk has shape"),
    ):
        with pytest.raises(ShapeError, match=message):
            stream.push(chunk)
    with pytest.raises(ArgumentError, match="elapsed is given"):
        stream.push(np.zeros((2, 3), np.float32), elapsed=np.ones(2))
    assert stream.snapshot() == kept


@pytest.mark.parametrize("side", SIDES)
def test_chunks_of_any_layout_are_read(side: str):
    layer = nn.GRU(3, 4).eval()
    model = FORMS[side](layer)
    x = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    for chunk in (
        x[:, 1:4],
        x[:, ::-3][:, :3],
        x.T[:3].T,
        np.asfortranarray(x[:, :3]),
        np.frombuffer(x[:3].tobytes(), np.float32).reshape(10, 3),
    ):
        expected = model.stream().push(np.array(chunk))
        assert np.array_equal(model.stream().push(chunk), expected)
        assert np.array_equal(model.streams(len(chunk)).tick(chunk)[0], expected[0])


@pytest.mark.parametrize("side", SIDES)
def test_times_are_asked_for(side: str):
    _, model = pair("leaky", side)
    for elapsed, message in (
        (None, "elapsed is missing"),
        ([1.0], "elapsed has shape"),
        ([1.0, -1.0], "elapsed holds -1"),
        ([1.0, np.nan], "elapsed holds nan"),
        ([1.0, np.inf], "elapsed holds inf"),
        (["1", "2"], "elapsed has shape .* of <U1"),
        ([1.0, [2.0]], "elapsed is no array"),
    ):
        with pytest.raises((ShapeError, ArgumentError), match=message):
            model.stream().push(np.zeros((2, 3)), elapsed=elapsed)


def test_a_model_in_training_does_not_stream():
    with pytest.raises(ArgumentError, match="in training: expected evaluation"):
        nn.GRU(3, 4).stream()
    with pytest.raises(ArgumentError, match="cannot stream"):
        nn.Bidirectional(nn.GRU(3, 4), nn.GRU(3, 4)).eval().streams(2)


@pytest.mark.parametrize("side", SIDES)
def test_snapshots_of_others_and_damaged_ones_are_refused(side: str, tmp_path: Path):
    layer = nn.GRU(3, 4).eval()
    recurra.save_layer(layer, tmp_path)
    stream = (runtime.load(tmp_path) if side == "runtime" else FORMS[side](layer)).stream()
    stream.push(np.ones((3, 3), np.float32))
    good = stream.snapshot()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(good), 60):
        damaged = bytearray(good)
        damaged[position] ^= int(rng.integers(1, 256))
        with pytest.raises(FormatError):
            stream.restore(bytes(damaged))
    for wrong in (b"", b"recurras", good[:-1], good[:50], good + b"\0", bytes(500)):
        with pytest.raises(FormatError):
            stream.restore(wrong)
    with pytest.raises(FormatError, match="of another model"):
        stream.restore(nn.GRU(3, 4).eval().stream().snapshot())
    with pytest.raises(FormatError, match="2 rows"):
        stream.restore(layer.streams(2).snapshot())
    with pytest.raises(ShapeError, match="the snapshot is a str"):
        stream.restore("text")  # type: ignore[arg-type]
    assert stream.snapshot() == good


def test_models_in_several_threads_and_a_stream_in_one():
    model = as_runtime(nn.GRU(16, 64))
    x = np.random.default_rng(0).standard_normal((8, 200, 16)).astype(np.float32)
    expected, results = [model(row[None])[0][0] for row in x], [None] * len(x)

    def work(k: int) -> None:
        stream = model.stream()
        results[k] = np.concatenate([stream.push(frame[None]) for frame in x[k]])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(x))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(results, expected, strict=True):
        assert np.array_equal(got, want)


def test_nan_stays_in_its_row_and_goes_with_a_reset():
    streams = as_runtime(nn.LSTM(3, 4)).streams(2)
    x = np.zeros((2, 3), np.float32)
    x[0, 1] = np.nan
    y = streams.tick(x)
    assert np.isnan(y[0]).any()
    assert not np.isnan(y[1]).any()
    streams.reset([0])
    assert not np.isnan(streams.tick(np.zeros((2, 3), np.float32))).any()
