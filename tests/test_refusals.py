"""What a newcomer hands over by mistake: each is a recurra error that says what was got, expected, and to be done."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import recurra
import recurra.onnx
from recurra import nn, ops, runtime
from recurra.cells import Elapsed, Input, cell, tanh
from recurra.checkpoint import save_layer
from recurra.data import Vocabulary
from recurra.errors import ArgumentError, CellError, ShapeError, StreamInUse
from recurra.reservoir import EchoStateNetwork, Reservoir
from recurra.tasks import LanguageModel

X = np.random.default_rng(0).standard_normal((30, 2))
NETWORK = EchoStateNetwork(Reservoir(5, density=0.5))


def gru() -> nn.Layer:
    """A small layer."""
    return nn.GRU(3, 4).eval()


def language_model() -> LanguageModel:
    """Of three characters and the reserved token."""
    return LanguageModel.build(Vocabulary.build(["abc"], "char", size=9), cell="gru", hidden=5, embedding=4).eval()


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(
    ("tokens", "error", "match"),
    [
        (torch.tensor([[10**6]]), ArgumentError, "tokens holds 1000000: expected 0 to 3, .*vocabulary.encode"),
        (torch.tensor([[1, -1]]), ArgumentError, "tokens holds -1: expected 0 to 3"),
        (torch.zeros(1, 2), ShapeError, r"tokens has dtype torch.float32: .*tokens.long\(\)"),
        (torch.zeros(1, 2, dtype=torch.uint8), ShapeError, "tokens has dtype torch.uint8"),
        (torch.tensor([1]), ShapeError, r"tokens has shape \(1,\): expected \(batch, time\). .*tokens\[None\]"),
        ([[1]], ShapeError, "tokens is a list: expected a tensor"),
    ],
)
def test_tokens_that_a_model_does_not_have(tokens, error, match, small):
    model = recurra.quantise(language_model()) if small else language_model()
    with pytest.raises(error, match=match):
        model(tokens)
    if isinstance(tokens, torch.Tensor) and tokens.ndim == 2:
        with pytest.raises(error, match=match):
            model.step(tokens[:, -1], model.initial_state(1))
    assert model(torch.zeros(2, 0, dtype=torch.int32))[0].shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("validation", "match"), [(X, "is a ndarray"), (3, "is a int"), ((X,), "is a 1 parts"), ([X, X, X], "is a 3 parts")]
)
def test_validation_that_is_no_pair(validation, match):
    with pytest.raises(ArgumentError, match=rf"{match}: expected a pair. .*validation=\(x, y\)"):
        NETWORK.fit(X, X, validation=validation)


@pytest.mark.parametrize(
    ("model", "match"),
    [(None, "a NoneType"), (NETWORK, "a EchoStateNetwork"), (nn.GRU, "the class GRU")],
    ids=["None", "estimator", "class"],
)
def test_what_is_quantised_is_a_module(model, match):
    with pytest.raises(ArgumentError, match=f"model is {match}: expected a layer"):
        recurra.quantise(model)


def test_a_text_is_no_list_of_names():
    with pytest.raises(ArgumentError, match=r"chosen is the text 'W': expected a list of names.*\['W'\]"):
        recurra.quantise(gru(), "W")


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.double, lambda m: m.to(torch.float16)])
def test_small_weights_are_not_converted(convert, weights):
    small = recurra.quantise(gru(), weights=weights)
    with pytest.raises(ArgumentError, match=f"{weights} weights come with float32: expected no other dtype. Leave it"):
        convert(small)


@pytest.mark.parametrize("where", ["torch", "runtime", "language model"])
def test_streams_that_there_cannot_be(tmp_path, where):
    if where == "runtime":
        save_layer(gru(), tmp_path)
    model = {"torch": gru, "runtime": lambda: runtime.load(tmp_path), "language model": language_model}[where]()
    for rows in (0, 2**24 + 1, 10**30, 2.0, True):
        with pytest.raises(ArgumentError, match="expected a whole number from 1 to 16777216"):
            model.streams(rows)
    with pytest.raises(ArgumentError, match="stream is a int: expected a Stream"):
        model.streams(2).put(0, 3)


def test_a_stream_of_two_threads(tmp_path):
    save_layer(nn.GRU(32, 256).eval(), tmp_path)
    stream, ended = runtime.load(tmp_path).stream(), threading.Event()

    def read_long() -> None:
        while not ended.is_set():
            # whoever comes second is refused, this thread too
            with suppress(StreamInUse):
                stream.push(np.zeros((10_000, 32), np.float32))
                ended.set()

    def read_short() -> None:
        while not ended.is_set():
            stream.push(np.zeros((1, 32), np.float32))

    thread = threading.Thread(target=read_long)
    thread.start()
    try:
        with pytest.raises(StreamInUse, match=r"expected one thread at a time\. Give each thread a stream of its own"):
            read_short()
    finally:
        thread.join()
    assert stream.push(np.zeros(32, np.float32)).shape == (256,)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ops.recompute(above="a").__enter__(), ArgumentError, "above is 'a': expected 0 or more bytes"),
        (lambda: recurra.cells.register(3), CellError, "a cell was expected; got int: decorate"),
        (lambda: nn.map_state(torch.detach, 3), ShapeError, "state is a int: expected a tuple of tensors"),
        (lambda: nn.map_state(torch.detach, torch.zeros(2)), ShapeError, "state is a Tensor"),
    ],
)
def test_functions_of_one_argument(call: Callable[[], object], error, match):
    with pytest.raises(error, match=match):
        call()


def constant_state_model() -> bytes:
    """An LSTM whose first states are constants in the file, as torch exports it."""
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 16, 3), "R": (1, 16, 4), "B": (1, 32), "h": (1, 1, 4), "c": (1, 1, 4)}
    constants = [onnx.numpy_helper.from_array(rng.standard_normal(s).astype("f4"), n) for n, s in shapes.items()]
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y"], hidden_size=4)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize(
    ("place", "inputs", "match"),
    [
        ("missing.onnx", {}, "missing.onnx' is not there: expected a file"),
        ("", {}, "is a folder: expected a file. Give the path of an ONNX model"),
        ("model.onnx", np.zeros((5, 1, 3), np.float32), r"inputs is a ndarray: .* x, by name. Write \{'x': ...\}"),
        ("model.onnx", [("x", 1)], "inputs is a list"),
    ],
)
def test_onnx_without_a_file_or_names(tmp_path, place, inputs, match):
    (tmp_path / "model.onnx").write_bytes(constant_state_model())
    with pytest.raises(ArgumentError, match=match):
        recurra.onnx.run(tmp_path / place, inputs)


def test_read_only_arrays_run_without_a_warning():
    x = np.zeros((5, 1, 3), np.float32)
    x.flags.writeable = False
    script = (
        "import sys, numpy as np, recurra.onnx\n"
        "x = np.zeros((5, 1, 3), np.float32)\n"
        "x.flags.writeable = False\n"
        "print(recurra.onnx.run(sys.stdin.buffer.read(), {'x': x})['y'].tolist())\n"
    )
    # torch says it once a process
    command = [sys.executable, "-W", "error::UserWarning", "-c", script]
    found = subprocess.run(command, input=constant_state_model(), capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()
    assert found.stdout.decode().strip() == str(recurra.onnx.run(constant_state_model(), {"x": x})["y"].tolist())


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_where_a_file_is(tmp_path, place):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ArgumentError, match="file' is a file: expected a folder"):
        save_layer(gru(), tmp_path / place)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (torch.int64, r"Convert it: x.float\(\)"),
        (torch.bool, r"Convert it: x.float\(\)"),
        (torch.complex64, r"Hand over real features, such as torch.cat\(\(x.real, x.imag\), -1\)"),
        (torch.float64, r"x.to\(torch.float32\), or layer.to\(torch.float64\)"),
    ],
)
def test_the_advice_for_another_dtype(dtype, advice):
    with pytest.raises(ShapeError, match=f"x has dtype {dtype}: expected torch.float32, .*{advice}$"):
        gru()(torch.zeros(1, 2, 3, dtype=dtype))


def test_lengths_of_a_memory():
    with pytest.raises(ArgumentError, match="lengths holds 9: expected 0 to 3, the number of steps of memory"):
        nn.AdditiveAttention(3, 4, 5).prepare(torch.zeros(2, 3, 4), torch.tensor([1, 9]))


@pytest.mark.parametrize("declared", [Input(), Elapsed()])
def test_a_parameter_before_the_star(declared):
    def plain(x, h, W=declared):
        return tanh(W @ x + h)

    with pytest.raises(CellError) as refused:
        cell(plain)
    advice = "the parameter 'W' stands before '*'; write it after: def plain(x, h, *, W=...)"
    assert str(refused.value) == f"cell 'plain': {advice}"


def test_the_slow_path_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(ops.select.Choice, "said", frozenset())
    layer = gru().half()
    x = torch.zeros(1, 2, 3).half()
    with pytest.warns(ops.RecurraBackendWarning, match="float16") as said:
        layer(x)
    layer(x)
    assert len(said) == 1
    assert not caplog.records


def test_a_decoder_without_a_memory(tmp_path):
    layer = nn.AttentionDecoder(nn.GRU(2 + 3, 3), nn.AdditiveAttention(3, 4, 5)).eval()
    for begin in (layer.stream, lambda: layer.streams(2)):
        with pytest.raises(ArgumentError, match=r"attends to a memory, and none is given.*stream\(memory=...\)"):
            begin()
    save_layer(layer, tmp_path)
    model = runtime.load(tmp_path)
    memory, x = torch.randn(1, 3, 4), torch.randn(1, 5, 2)
    with torch.no_grad():
        expected = layer(x, layer.attend(memory))[0][0].numpy()
    got = model.stream(model.attend(memory.numpy())).push(x[0].numpy())
    np.testing.assert_allclose(got, expected, atol=1e-6)
