"""Scan, and the operators of sequences: our own files run again, and files of others against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layers
import recurra.onnx
from onnx_models import Arrays, TensorProto, helper, model_of, onnx
from recurra import cells, nn
from recurra.errors import ArgumentError, FormatError
from recurra.nn.state import state_tensors
from recurra.onnx import graph_runner, running
from test_onnx_run import against_onnxruntime

EXPORTED = [name for name in layers.ALL if name != "attention decoder"]


def run_again(layer: nn.Layer, path: Path, batch: int, time: int, *, reset: bool = False) -> None:
    """What `run` makes of the file is what the layer gives."""
    generator = torch.Generator().manual_seed(0)
    like = next(iter(layer.state_dict().values()))
    x = torch.randn(batch, time, layer.input_size, generator=generator).to(like.dtype)
    given: dict[str, Any] = {"lengths": torch.randint(0, time + 1, (batch,), generator=generator)}
    if reset:
        given["reset"] = torch.rand(batch, time, generator=generator) < 0.3
    if layer.uses_elapsed:
        given["elapsed"] = torch.rand(batch, time, generator=generator).to(like.dtype) + 0.1
    with torch.no_grad():
        y, after = layer(x, **given)
    found = recurra.onnx.run(path, {"x": x.numpy()} | {name: one.numpy() for name, one in given.items()})
    tolerance = 1e-10 if like.dtype is torch.float64 else 1e-5
    for value, expected in zip(found.values(), [y, *state_tensors(after)], strict=True):
        assert value.dtype == expected.numpy().dtype
        np.testing.assert_allclose(value, expected, atol=tolerance)


@pytest.mark.parametrize("name", EXPORTED)
def test_our_own_files_run_again(name: str, tmp_path: Path):
    layer = layers.ALL[name]().double().eval()
    path = recurra.onnx.export(layer, tmp_path / "layer.onnx", with_reset=True).path
    # ONNX Runtime's kernels do not bear no rows and no steps; this interpreter does
    for batch, time in ((3, 5), (2, 0), (0, 3)):
        run_again(layer, path, batch, time, reset=True)


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_runs_again_in_single_precision(name: str, tmp_path: Path):
    layer = layers.of_cell(name).eval()
    run_again(layer, recurra.onnx.export(layer, tmp_path / "layer.onnx").path, 3, 4)


# loops of others


def scan_of(
    body: Any, given: Arrays, outputs: list[str], sequences: int, weights: Arrays | None = None, **attributes: Any
) -> tuple[Any, Arrays]:
    """A model of one Scan of these inputs, and the inputs."""
    node = helper.make_node(
        "Scan", list(given), outputs, name="scan", body=body, num_scan_inputs=sequences, **attributes
    )
    return model_of([node], given, outputs, weights), given


def accumulating(*, of_outer: str = "") -> Any:
    """A body that adds a step to what it holds, multiplied by a value from outside where one is named."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "x", "after", "y")]
    scaled = "scaled" if of_outer else "x"
    nodes = [helper.make_node("Mul", ["x", of_outer], ["scaled"])] if of_outer else []
    nodes.append(helper.make_node("Add", ["h", scaled], ["after"]))
    nodes.append(helper.make_node("Tanh", ["after"], ["y"]))
    return helper.make_graph(nodes, "body", infos[:2], infos[2:])


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axes_and_directions(axis: int, backwards: int):
    rng = np.random.default_rng(0)
    shape = np.insert([2, 3], axis if axis >= 0 else 2, 5)
    given = {"h0": rng.normal(size=(2, 3)).astype(np.float32), "xs": rng.normal(size=shape).astype(np.float32)}
    attributes = {"scan_input_axes": [axis], "scan_input_directions": [backwards]}
    attributes |= {"scan_output_axes": [axis], "scan_output_directions": [1 - backwards]}
    against_onnxruntime(*scan_of(accumulating(), given, ["last", "ys"], 1, **attributes))


def test_a_body_reads_what_stands_outside():
    given = {"h0": np.zeros(3, np.float32), "xs": np.arange(12, dtype=np.float32).reshape(4, 3)}
    factor = {"factor": np.array([1, -1, 0.5], np.float32)}
    against_onnxruntime(*scan_of(accumulating(of_outer="factor"), given, ["last", "ys"], 1, factor))


def nested(depth: int) -> Any:
    """A body that scans what it gets, and so on."""
    if depth == 0:
        return accumulating()
    infos = [helper.make_tensor_value_info(f"{name}{depth}", TensorProto.FLOAT, None) for name in ("h", "x", "a", "y")]
    inner = helper.make_node(
        "Scan", [f"h{depth}", f"x{depth}"], [f"a{depth}", f"y{depth}"], body=nested(depth - 1), num_scan_inputs=1
    )
    return helper.make_graph([inner], f"body{depth}", infos[:2], infos[2:])


def test_loops_in_loops():
    given = {"h0": np.zeros((), np.float32), "xs": np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)}
    against_onnxruntime(*scan_of(nested(2), given, ["last", "ys"], 1))


def test_a_loop_without_a_state_and_one_without_an_output():
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("h", "x", "y")]
    xs = np.arange(6, dtype=np.float32).reshape(3, 2)
    square = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "body", infos[1:2], infos[2:])
    against_onnxruntime(*scan_of(square, {"xs": xs}, ["ys"], 1))
    total = helper.make_graph([helper.make_node("Add", ["h", "x"], ["y"])], "body", infos[:2], infos[2:])
    against_onnxruntime(*scan_of(total, {"h0": xs[0], "xs": xs}, ["last"], 1))


# the operators of sequences


OPERATORS: dict[str, tuple[str, dict[str, Any], list[np.ndarray]]] = {
    "range": ("Range", {}, [np.array(3), np.array(-8), np.array(-3)]),
    "range of floats": ("Range", {}, [np.array(one, np.float32) for one in (1, 2.1, 0.25)]),
    "empty range": ("Range", {}, [np.array(3), np.array(3), np.array(1)]),
    "mod": ("Mod", {}, [np.array([7, -7, 5]), np.array([3, 3, -3])]),
    "fmod": ("Mod", {"fmod": 1}, [np.array([7.5, -7.5], np.float32), np.array([2, 2], np.float32)]),
    "cumulative sum": ("CumSum", {}, [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(1)]),
    "exclusive": ("CumSum", {"exclusive": 1, "reverse": 1}, [np.arange(6.0).reshape(2, 3), np.array(0)]),
    "reverse sequence": (
        "ReverseSequence", {"batch_axis": 0, "time_axis": 1}, [np.arange(12.0).reshape(2, 3, 2), np.array([2, 3])]
    ),
    "time first": ("ReverseSequence", {}, [np.arange(6.0).reshape(3, 2), np.array([1, 3])]),
    "pad": ("Pad", {}, [np.ones((2, 2), np.float32), np.array([0, 1, 2, 0]), np.array(3, np.float32)]),
    "pad an axis": ("Pad", {}, [np.ones((2, 2)), np.array([0, 1]), np.array(3.0), np.array([-1])]),
    "gather": ("GatherND", {}, [np.arange(8.0).reshape(2, 2, 2), np.array([[0, 1], [1, 0]])]),
    "gather by rows": ("GatherND", {"batch_dims": 1}, [np.arange(8.0).reshape(2, 2, 2), np.array([[1], [0]])]),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_sequences(name: str):
    kind, attributes, arrays = OPERATORS[name]
    given = {f"x{k}": one for k, one in enumerate(arrays)}
    model = model_of([helper.make_node(kind, list(given), ["y"], **attributes)], given, ["y"])
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    against_onnxruntime(model, given)


@pytest.mark.parametrize(
    ("kind", "attributes", "arrays", "message"),
    [
        ("Range", {}, [np.array(0), np.array(1), np.array(0)], "the step of a Range"),
        ("Range", {}, [np.array(0), np.array(2**40), np.array(1)], "takes more than"),
        ("Mod", {}, [np.array([1]), np.array([0])], "a rest of a division by zero"),
        ("ReverseSequence", {}, [np.zeros((2, 2)), np.array([1, 3])], "the lengths of a ReverseSequence"),
        ("ReverseSequence", {"time_axis": 2}, [np.zeros((2, 2)), np.array([1, 1])], "the axes of a ReverseSequence"),
        ("Pad", {"mode": "reflect"}, [np.zeros(2), np.array([0, 1])], "a Pad: expected the mode 'constant'"),
        ("Pad", {}, [np.zeros(2), np.array([0, -1])], "a Pad: expected the mode 'constant'"),
        ("Pad", {}, [np.zeros(2), np.array([0, 2**40])], "takes more than"),
        ("Pad", {}, [np.zeros((2, 2)), np.array([0, 1])], "the sizes of a Pad"),
        ("GatherND", {"batch_dims": 1}, [np.zeros((2, 2)), np.zeros((3, 1), np.int64)], "GatherND of shapes"),
        ("GatherND", {}, [np.zeros((2, 2)), np.array([[5, 0]])], "does not fit its inputs"),
    ],
)
def test_sequences_that_do_not_fit_are_named(
    kind: str, attributes: dict[str, Any], arrays: list[np.ndarray], message: str
):
    given = {f"x{k}": one for k, one in enumerate(arrays)}
    model = model_of([helper.make_node(kind, list(given), ["y"], **attributes)], given, ["y"])
    with pytest.raises((ArgumentError, FormatError), match=rf"node 'y' \({kind}\).*{message}"):
        recurra.onnx.run(model, given)


# refusals


def test_loops_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch):
    given = {"h0": np.zeros(3, np.float32), "xs": np.ones((4, 3), np.float32)}
    outputs = ["last", "ys"]

    def refused(message: str, model: Any, *, most_bytes: int = 2**30) -> None:
        with pytest.raises((ArgumentError, FormatError), match=rf"node 'scan' \(Scan\).*{message}"):
            recurra.onnx.run(model, given, most_bytes=most_bytes)

    for count in (0, -1, 3):
        refused("whose body has 2 inputs", scan_of(accumulating(), given, outputs, count)[0])
    refused(
        "the axes and directions of the inputs", scan_of(accumulating(), given, outputs, 1, scan_input_axes=[0, 0])[0]
    )
    refused("the axes and directions", scan_of(accumulating(), given, outputs, 1, scan_output_directions=[2])[0])
    refused("does not fit its inputs", scan_of(accumulating(), given, outputs, 1, scan_input_axes=[7])[0])
    refused("takes more than 40 bytes", scan_of(accumulating(), given, outputs, 1)[0], most_bytes=40)
    refused("reads 'nowhere'", scan_of(accumulating(of_outer="nowhere"), given, outputs, 1)[0])
    # a value of the step before is not one of this step
    late = accumulating()
    late.node.insert(0, helper.make_node("Neg", ["after"], ["negative"]))
    refused("reads 'after'", scan_of(late, given, outputs, 1)[0])
    growing = accumulating()
    del growing.node[:]
    growing.node.append(helper.make_node("Concat", ["h", "x"], ["after"], axis=0))
    growing.node.append(helper.make_node("Tanh", ["after"], ["y"]))
    refused(r"a state of a Scan becomes \(6,\)", scan_of(growing, given, outputs, 1)[0])
    old = scan_of(accumulating(), given, outputs, 1)[0]
    old.opset_import[0].version = 8
    refused("of opset 8: expected one from 9", old)
    bodiless = scan_of(accumulating(), given, outputs, 1)[0]
    bodiless.graph.node[0].ClearField("attribute")
    refused("with a body", bodiless)
    monkeypatch.setattr(graph_runner, "MOST_NODES", 10)
    monkeypatch.setattr(running, "Call", lambda limits: graph_runner.Call(limits, 10))
    refused("run more than 10 nodes", scan_of(accumulating(), given, outputs, 1)[0])


def test_other_control_flow_is_not_run():
    condition = {"c": np.array(True)}
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value_float=1.0)],
        "branch",
        [],
        [helper.make_tensor_value_info("k", TensorProto.FLOAT, [])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    with pytest.raises(FormatError, match=r"node 'y' \(If\) is not run here"):
        recurra.onnx.run(model_of([node], condition, ["y"]), condition)
    smuggled = helper.make_node("Not", ["c"], ["y"], body=branch)
    with pytest.raises(FormatError, match="no other control flow is run"):
        recurra.onnx.run(model_of([smuggled], condition, ["y"]), condition)


def test_the_reference_of_onnx_agrees(tmp_path: Path):
    layer = nn.Stack(nn.Recurrent("mgu", 3, 4), nn.Last(nn.Recurrent("slstm", 4, 4))).eval()
    path = recurra.onnx.export(layer, tmp_path / "layer.onnx", with_reset=True).path
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    reset = np.random.default_rng(1).random((2, 5)) < 0.3
    from onnx.reference import ReferenceEvaluator

    wanted = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x, "reset": reset})
    found = recurra.onnx.run(path, {"x": x, "reset": reset})
    for value, expected in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-5)
