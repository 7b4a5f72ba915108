"""Hostile ONNX files: refused with an error of recurra, or run; never a crash, never all memory, never other files."""

import contextlib
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recurra.onnx
from onnx_models import BATCH, HIDDEN, TIME, Arrays, TensorProto, helper, model_of, node_of, numpy_helper
from recurra.errors import ArgumentError, FormatError, RecurraError


def hostile() -> tuple[Any, Arrays]:
    """A small model with something of everything."""
    model, given = node_of("LSTM", direction="bidirectional", parts="blp", activations=["Sigmoid", "Elu", "Tanh"] * 2)
    sizes = numpy_helper.from_array(np.array([TIME, 1, 2 * HIDDEN, BATCH]), "sizes")
    model.graph.initializer.append(sizes)
    model.graph.node.extend(
        [
            helper.make_node("Reshape", ["Y", "sizes"], ["flat"]),
            helper.make_node("Squeeze", ["flat"], ["square"]),
            helper.make_node("Transpose", ["square"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("Shape", ["turned"], ["shape"]),
            helper.make_node("Expand", ["turned", "shape"], ["wide"]),
            helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            helper.make_node("MatMul", ["turned", "square"], ["product"]),
            helper.make_node("Softmax", ["product"], ["probabilities"], axis=1),
            helper.make_node("Concat", ["wide", "zeros"], ["joined"], axis=-1),
            helper.make_node("ReduceMean", ["joined"], ["mean"], keepdims=0),
        ]
    )
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("probabilities", "mean")]
    model.graph.output.extend(outputs)
    return model, given


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or put in."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed))
        size = rng.choice((1, 2, 8, 64))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[at : at + size]
        elif kind == 3:
            changed[at:at] = changed[at : at + size]
        else:
            changed[at : at + size] = rng.choice((b"\xff", b"\x7f", b"\x00", b"\x80")) * size
    return bytes(changed)


def looping() -> tuple[Any, Arrays]:
    """A small model of a Scan with a state, a matrix from outside, axes, and a Scan in its body."""
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "hxaygzbw"}
    inner = helper.make_graph(
        [helper.make_node("Add", ["g", "z"], ["b"]), helper.make_node("Neg", ["b"], ["w"])],
        "inner", [infos["g"], infos["z"]], [infos["b"], infos["w"]],
    )  # fmt: skip
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "R"], ["product"]),
            helper.make_node("Add", ["product", "x"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["a"]),
            helper.make_node("ReduceSum", ["a", "axis"], ["total"], keepdims=0),
            helper.make_node("Transpose", ["a"], ["turned"], perm=[1, 0]),
            helper.make_node("Scan", ["total", "turned"], ["last", "y"], body=inner, num_scan_inputs=1),
        ],
        "body", [infos["h"], infos["x"]], [infos["a"], infos["y"]],
    )  # fmt: skip
    node = helper.make_node(
        "Scan", ["h0", "xs"], ["last", "ys"], body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1],
        scan_input_directions=[1], scan_output_directions=[0],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    weights = {"R": rng.normal(size=(HIDDEN, HIDDEN)).astype(np.float32), "axis": np.array([1])}
    given = {"h0": np.zeros((BATCH, HIDDEN), np.float32), "xs": np.ones((BATCH, TIME, HIDDEN), np.float32)}
    return model_of([node], given, ["last", "ys"], weights), given


HOSTILE = {"recurrent nodes": hostile, "loops": looping}


@pytest.mark.parametrize("name", HOSTILE)
def test_mutated_files_are_refused_or_run(name: str):
    model, given = HOSTILE[name]()
    content = model.SerializeToString()
    recurra.onnx.run(content, given)
    rng = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(3000):
        file = mutated(content, rng)
        with contextlib.suppress(RecurraError):
            recurra.onnx.to_layers(file)
        try:
            found = recurra.onnx.run(file, given, most_bytes=2**22)
        except RecurraError:
            refused += 1
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())
    assert 300 < refused < 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("name", [b"lengths", b"probabilities", b"flat", b"sizes"])
def test_names_that_are_no_text_are_refused(name: bytes):
    model, given = hostile()
    content = model.SerializeToString().replace(name, b"\xff" * len(name))
    with pytest.raises(FormatError, match="a name in the model is no text"):
        recurra.onnx.run(content, given)


def test_sizes_are_checked_before_memory_is_taken():
    given = {"x": np.ones(1, np.float32)}
    huge = np.array([2**20, 2**20, 2**20])
    for nodes, extra in (
        ([helper.make_node("Expand", ["x", "s"], ["y"])], {"s": huge}),
        ([helper.make_node("ConstantOfShape", ["s"], ["y"])], {"s": huge}),
        ([helper.make_node("Gather", ["x", "s"], ["y"])], {"s": np.zeros(1, np.int8)}),
        ([helper.make_node("Add", ["x", "s"], ["y"])], {"s": np.zeros((1, 1), np.float32)}),
    ):
        model = model_of(nodes, given, ["y"], extra)
        if nodes[0].op_type in ("Expand", "ConstantOfShape"):
            with pytest.raises(ArgumentError, match="takes more than 1073741824 bytes"):
                recurra.onnx.run(model, given)
        else:
            recurra.onnx.run(model, given)
            with pytest.raises(ArgumentError, match="takes more than 1 bytes"):
                recurra.onnx.run(model, given, most_bytes=1)
    lie = model_of([helper.make_node("Add", ["x", "s"], ["y"])], given, ["y"], {"s": np.zeros(3, np.float32)})
    lie.graph.initializer[0].dims[:] = [2**40]
    with pytest.raises(FormatError, match=r"s has 12 bytes: expected 4398046511104 for shape"):
        recurra.onnx.run(lie, given)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "lies in another file"),
        ({"location": "{root}/secret"}, "lies in another file"),
        ({"location": "link"}, "lies in another file"),
        ({"location": "missing"}, "lies in another file"),
        ({"location": ""}, "lies in another file"),
        ({"location": "inside", "offset": "-4"}, "the place of s in its file"),
        ({"location": "inside", "offset": "1000"}, "expected 4 bytes, within the file's 8"),
        ({"location": "inside", "length": "8"}, "expected 4 bytes"),
    ],
)
def test_data_outside_the_folder_is_not_read(entries: dict[str, str], message: str, tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4))
    (home / "inside").write_bytes(bytes(8))
    (home / "link").symlink_to(tmp_path / "secret")
    given = {"x": np.ones(1, np.float32)}
    model = model_of([helper.make_node("Add", ["x", "s"], ["y"])], given, ["y"], {"s": np.zeros(1, np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value.replace("{root}", str(tmp_path)))
    (home / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=message):
        recurra.onnx.run(home / "model.onnx", given)
