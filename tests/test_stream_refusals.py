"""What streams refuse: a second thread, crafted snapshots, what is no array, numbers that numpy does not have."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import recurra
from recurra import nn, runtime
from recurra.errors import ArgumentError, FormatError, ShapeError, StreamInUse
from test_runtime import as_runtime
from test_streams import FORMS, SIDES

BUILT: dict[str, Callable[[], nn.Layer]] = {
    "stack": lambda: nn.Stack(nn.GRU(8, 64), nn.GRU(64, 8)),
    "residual": lambda: nn.Residual(nn.GatedLinearAttention(8, 8, heads=2)),
    "memory": lambda: nn.MatrixLSTM(8, 8, heads=2),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", BUILT)
def test_a_second_thread_is_refused_before_anything_has_changed(name: str, side: str):
    layer = BUILT[name]().eval()
    model = FORMS[side](layer)
    stream, other = model.stream(), model.stream()
    x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    inside, leave, run = threading.Event(), threading.Event(), stream._stateful.push

    def slow(*arguments: object) -> None:
        run(*arguments)  # type: ignore[arg-type]
        inside.set()
        leave.wait(60)

    stream._stateful.push = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=stream.push, args=(x,))
    thread.start()
    assert inside.wait(60)
    calls: list[Callable[[], object]] = [
        lambda: stream.push(x), lambda: stream.push(x[0]), stream.reset, stream.snapshot, stream.fork,
        lambda: stream.restore(b""), lambda: model.streams(2).put(0, stream),
    ]  # fmt: skip
    try:
        for call in calls:
            with pytest.raises(StreamInUse, match="in use by another thread"):
                call()
    finally:
        leave.set()
        thread.join()
    other.push(x)
    assert stream.snapshot() == other.snapshot()


def test_streams_refuse_a_second_thread():
    streams = nn.Stack(nn.GRU(3, 4), nn.GRU(4, 4)).eval().streams(2)
    x = np.zeros((2, 3), np.float32)
    # what another thread would hold
    with streams._alone:
        for call in (lambda: streams.tick(x), streams.reset, streams.snapshot, lambda: streams.take(0)):
            with pytest.raises(StreamInUse):
                call()
    assert streams.tick(x).shape == (2, 4)


@pytest.mark.parametrize("change", [lambda body: body[:-4], lambda body: body + bytes(4)])
def test_a_snapshot_with_a_true_checksum_and_states_of_another_size_is_refused(change: Callable[[bytes], bytes]):
    stream = as_runtime(nn.LSTM(3, 4)).stream()
    stream.push(np.ones((3, 3), np.float32))
    good = stream.snapshot()
    body = change(good[:-32])
    with pytest.raises(FormatError, match="shorter or longer"):
        stream.restore(body + hashlib.sha256(body).digest())
    assert stream.snapshot() == good


@pytest.mark.parametrize("wrong", ["text", 5, None, ["a"]])
def test_snapshots_that_are_no_bytes_are_refused(wrong: object):
    model = as_runtime(nn.GRU(3, 4))
    for one in (model.stream(), model.streams(2)):
        with pytest.raises(ShapeError, match=r"the snapshot is a .*: expected bytes"):
            one.restore(wrong)  # type: ignore[arg-type]


def test_snapshots_tell_layers_that_were_built_of_data_apart():
    one, other = as_runtime(nn.GRU(3, 4)), as_runtime(nn.GRU(3, 4))
    with pytest.raises(FormatError, match="of another model"):
        other.stream().restore(one.stream().snapshot())
    assert as_runtime(layer := nn.GRU(3, 4).eval()).stream().snapshot() == layer.stream().snapshot()


def test_what_is_no_array_is_named():
    model = as_runtime(nn.GRU(3, 4))
    with pytest.raises(ShapeError, match="chunk is no array"):
        model.stream().push([[1.0], [1.0, 2.0]])
    with pytest.raises(ShapeError, match="x is no array"):
        model.streams(2).tick([[1.0], [1.0, 2.0]])
    with pytest.raises(ShapeError, match="rows is no array"):
        model.streams(2).tick(np.zeros((2, 3), np.float32), rows=[[0], [0, 1]])


@pytest.mark.filterwarnings("ignore::recurra.errors.RecurraBackendWarning")
def test_half_precision_streams_where_numpy_has_it(tmp_path: Path):
    layer = nn.GRU(3, 4).half().eval()
    stream = layer.stream()
    first = stream.push(np.ones((2, 3), np.float16))
    kept = stream.snapshot()
    second = stream.push(np.ones((2, 3), np.float16))
    stream.restore(kept)
    assert first.dtype == np.float16
    assert np.array_equal(stream.push(np.ones((2, 3), np.float16)), second)
    recurra.save_layer(layer, tmp_path)
    with pytest.raises(FormatError, match=r"1 row of \(4 float16\): expected 1 row of \(4 float32\)"):
        runtime.load(tmp_path).stream().restore(kept)
    with pytest.raises(ArgumentError, match="the model is bfloat16, which numpy does not have"):
        nn.GRU(3, 4).bfloat16().eval().stream()
