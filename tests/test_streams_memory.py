"""Streams of models that attend to a memory: given once, the same in torch, in the runtime and in ONNX Runtime."""

from typing import Any

import numpy as np
import pytest
import torch

from recurra import nn
from recurra.errors import ArgumentError, FormatError, ShapeError
from test_streams import FORMS, INSTALLED, SIDES

DECODERS = {
    "decoder": lambda: nn.AttentionDecoder(nn.GRU(2 + 4, 4), nn.AdditiveAttention(4, 3, 5)),
    "within": lambda: nn.Stack(
        nn.LSTM(2, 3),
        nn.Residual(nn.Stack(nn.AttentionDecoder(nn.GRU(3 + 4, 4), nn.MultiplicativeAttention(4, 3)), nn.GRU(4, 3))),
        nn.AttentionDecoder(nn.Stack(nn.GRU(3 + 4, 4), nn.Recurrent("mgu", 4, 4)), nn.AdditiveAttention(4, 3, 5)),
    ),
    "pooled": lambda: nn.Last(nn.AttentionDecoder(nn.LSTM(2 + 4, 4), nn.MultiplicativeAttention(4, 3))),
}


def form_of(name: str, side: str) -> tuple[nn.Layer, Any]:
    """A layer in double precision, and its form on one side."""
    torch.manual_seed(0)
    layer = DECODERS[name]().double().eval()
    return layer, FORMS[side](layer)


def drawn(rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An input of 7 steps, and a memory of 5."""
    rng = np.random.default_rng(rows)
    return rng.standard_normal((rows, 7, 2)), rng.standard_normal((rows, 5, 3))


@torch.no_grad()
def whole(layer: nn.Layer, x: np.ndarray, memory: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
    """What one call in torch gives, step after step."""
    valid = None if lengths is None else torch.tensor(lengths)
    state = layer.attend(torch.from_numpy(memory), valid)
    steps = []
    for x_t in torch.from_numpy(x).unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t.numpy())
    return np.stack(steps, 1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", DECODERS)
def test_a_stream_keeps_the_memory_that_it_began_with(name: str, side: str):
    layer, model = form_of(name, side)
    x, memory = (values[0] for values in drawn())
    expected = whole(layer, x[None], memory[None])[0]
    stream = model.stream(memory=memory)
    for _ in range(2):
        for begin, end in ((0, 1), (1, 2), (2, 3), (3, 7)):
            y = stream.push(x[begin:end])
            np.testing.assert_allclose(np.atleast_2d(y)[-1], expected[end - 1], atol=1e-10)
        # the memory outlives a reset
        stream.reset()
    stream.push(x[:3])
    kept, fork = stream.snapshot(), stream.fork()
    for other in (stream, fork):
        np.testing.assert_allclose(np.atleast_2d(other.push(x[3:]))[-1], expected[-1], atol=1e-10)
    fork.reset()
    np.testing.assert_allclose(np.atleast_2d(fork.push(x[:2]))[-1], expected[1], atol=1e-10)
    fresh = model.stream(memory=memory)
    fresh.restore(kept)
    np.testing.assert_allclose(np.atleast_2d(fresh.push(x[3:]))[-1], expected[-1], atol=1e-10)
    # in the snapshot is the memory, too
    fresh = model.stream(memory=memory + 1)
    fresh.restore(kept)
    np.testing.assert_allclose(np.atleast_2d(fresh.push(x[3:]))[-1], expected[-1], atol=1e-10)
    with pytest.raises(FormatError, match="on a memory as long, as it was taken of"):
        model.stream(memory=memory[:4]).restore(kept)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", DECODERS)
def test_each_of_many_streams_has_its_own_memory(name: str, side: str):
    layer, model = form_of(name, side)
    x, memory = drawn(3)
    lengths = [5, 2, 0]
    expected = whole(layer, x, memory, lengths)
    streams = model.streams(3, memory=memory, memory_lengths=np.array(lengths))
    # row 1 joins at the third step, and begins afresh once more
    for t in range(7):
        rows = [0, 2] if t < 2 else [2, 0, 1] if t % 2 else [0, 1, 2]
        y = streams.tick(x[rows, [t, t] if t < 2 else [t - 2 * (row == 1) for row in rows]], rows=rows)
        for row, own in zip(rows, y, strict=True):
            np.testing.assert_allclose(own, expected[row, t - 2 * (row == 1)], atol=1e-10)
    streams.reset([1])
    np.testing.assert_allclose(streams.tick(x[1:2, 0], rows=[1])[0], expected[1, 0], atol=1e-10)
    alone = streams.take(1)
    np.testing.assert_allclose(np.atleast_2d(alone.push(x[1, 1:3]))[-1], expected[1, 2], atol=1e-10)
    streams.put(2, alone)
    np.testing.assert_allclose(streams.tick(x[1:2, 3], rows=[2])[0], expected[1, 3], atol=1e-10)
    streams.reset()
    for t in range(3):
        # row 2 has the memory of row 1 now
        y = streams.tick(x[[0, 1, 1], t])
        np.testing.assert_allclose(y, expected[[0, 1, 1], t], atol=1e-10)
    with pytest.raises(ShapeError, match="the memory of the stream is of another length"):
        streams.put(0, model.stream(memory=memory[0, :4]))


def test_snapshots_on_a_memory_go_between_the_forms():
    forms = [form_of("within", side)[1] for side in INSTALLED]
    x, memory = (values[0] for values in drawn())
    first = forms[-1].stream(memory=memory)
    first.push(x[:3])
    expected = forms[0].stream(memory=memory).push(x)[3:]
    for model in forms:
        stream = model.stream(memory=memory)
        stream.restore(first.snapshot())
        np.testing.assert_allclose(stream.push(x[3:]), expected, atol=1e-10)


@pytest.mark.parametrize("side", SIDES)
def test_memories_that_do_not_fit_are_refused(side: str):
    _, model = form_of("within", side)
    memory = np.zeros((5, 3))
    for begin in (model.stream, lambda: model.streams(2)):
        with pytest.raises(ArgumentError, match=r"attends to a memory, and none is given.*stream\(memory=\.\.\.\)"):
            begin()
    for wrong in (np.zeros((5, 4)), np.zeros(3), memory.astype(np.float32), np.zeros((1, 5, 3)), np.zeros(())):
        with pytest.raises(ShapeError, match=r"memory has shape .*: expected \(source time, 3\) of float64"):
            model.stream(memory=wrong)
    with pytest.raises(ShapeError, match=r"memory has shape \(5, 3\).*expected \(2, source time, 3\)"):
        model.streams(2, memory=memory)
    for lengths in ([5, 6], [-1, 5], [5], [1.0, 2.0]):
        with pytest.raises((ArgumentError, ShapeError), match="memory_lengths"):
            model.streams(2, memory=np.zeros((2, 5, 3)), memory_lengths=lengths)
    _, without = form_of_plain(side)
    for begin in (lambda: without.stream(memory=memory), lambda: without.streams(1, memory=memory[None])):
        with pytest.raises(ArgumentError, match=r"memory is given, and .* attends to no memory"):
            begin()
    with pytest.raises(ArgumentError, match=r"memory_lengths are given, and .* attends to no memory"):
        without.streams(2, memory_lengths=[1, 2])
    ragged = [[[1.0, 2.0, 3.0]], [[1.0]]]
    for begin in (lambda: model.stream(memory=ragged), lambda: model.streams(2, memory=ragged)):
        with pytest.raises(ShapeError, match="memory is no array"):
            begin()
    with pytest.raises(ShapeError, match="memory_lengths is no array"):
        model.streams(2, memory=np.zeros((2, 5, 3)), memory_lengths=[[1], [1, 2]])
    assert model.stream(memory=memory[:0]).push(np.zeros((2, 2))).shape == (2, 4)


def form_of_plain(side: str) -> tuple[nn.Layer, Any]:
    """A layer that attends to nothing."""
    layer = nn.GRU(2, 3).double().eval()
    return layer, FORMS[side](layer)
