"""ONNX's recurrent operators on our engine: against ONNX Runtime, and against the equations of the standard."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recurra.onnx
from onnx_models import BATCH, HIDDEN, INPUT, TIME, Arrays, model_of, node_of
from recurra import nn
from recurra.errors import ArgumentError, FormatError

onnx = pytest.importorskip("onnx", reason="onnx is an extra: pip install 'recurra[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra: pip install 'recurra[onnx]'")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def against_onnxruntime(model: Any, given: Arrays) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    expected = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, given)
    for found, wanted in zip(recurra.onnx.run(model, given).values(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


DIRECTIONS = ("forward", "reverse", "bidirectional")
PARTS = ("", "b", "l", "i", "bl", "bli")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("parts", PARTS)
def test_inputs_and_directions(direction: str, parts: str):
    against_onnxruntime(*node_of("RNN", direction=direction, parts=parts))
    for before in (0, 1):
        against_onnxruntime(*node_of("GRU", direction=direction, parts=parts, linear_before_reset=before))
    for peepholes, coupled in itertools.product(("", "p"), (0, 1)):
        against_onnxruntime(*node_of("LSTM", direction=direction, parts=parts + peepholes, input_forget=coupled))


ACTIVATIONS: dict[str, tuple[list[float], list[float]]] = {
    "Affine": ([0.5], [0.1]), "Relu": ([], []), "LeakyRelu": ([0.3], []), "ThresholdedRelu": ([0.1], []),
    "Tanh": ([], []), "ScaledTanh": ([0.8], [0.6]), "HardSigmoid": ([0.3], [0.4]), "Sigmoid": ([], []),
    "Elu": ([0.7], []), "Softsign": ([], []), "Softplus": ([], []),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_with_their_numbers(name: str):
    alphas, betas = ACTIVATIONS[name]
    # another one in the backward direction, of which each takes its own numbers
    given = {
        "activations": [name, "HardSigmoid"],
        "activation_alpha": [*alphas, 0.25],
        "activation_beta": [*betas, 0.5],
    }
    against_onnxruntime(*node_of("RNN", direction="bidirectional", parts="bl", **given))
    gates: dict[str, Any] = {"activations": ["Sigmoid", name], "activation_alpha": alphas, "activation_beta": betas}
    against_onnxruntime(*node_of("GRU", parts="b", **gates))
    gates["activations"] = ["HardSigmoid", "Tanh", name]
    gates |= {"activation_alpha": [0.2, *alphas], "activation_beta": [0.5, *betas]}
    against_onnxruntime(*node_of("LSTM", parts="b", **gates))


@pytest.mark.parametrize("name", ["HardSigmoid", "LeakyRelu", "Elu"])
def test_activations_without_numbers_have_those_of_the_operator(name: str):
    against_onnxruntime(*node_of("RNN", parts="b", activations=[name]))


def test_clip_holds_for_what_every_activation_reads():
    # as the standard says; ONNX Runtime leaves the last activation of an LSTM out
    model, given = node_of("LSTM", parts="bi", clip=0.3)
    weights = {one.name: numpy_helper.to_array(one)[0] for one in model.graph.initializer}
    h, c = given["h"][0], given["c"][0]

    def clipped(value):
        return np.clip(value, -0.3, 0.3)

    def sigmoid(value):
        return 1 / (1 + np.exp(-clipped(value)))

    for x in given["X"]:
        i, o, f, g = np.split(x @ weights["W"].T + h @ weights["R"].T + weights["B"].reshape(2, -1).sum(0), 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(clipped(g))
        h = sigmoid(o) * np.tanh(clipped(c))
    found = recurra.onnx.run(model, given)
    np.testing.assert_allclose(found["Y_h"][0], h, atol=1e-6)
    np.testing.assert_allclose(found["Y_c"][0], c, atol=1e-6)


def test_batch_first_is_the_same_turned():
    model, given = node_of("LSTM", direction="bidirectional", parts="bli")
    expected = recurra.onnx.run(model, given)
    model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    turned = {name: value.swapaxes(0, 1) if value.ndim == 3 else value for name, value in given.items()}
    for one in model.graph.input:
        del one.type.tensor_type.shape.dim[:]
        one.type.tensor_type.ClearField("shape")
    found = recurra.onnx.run(model, turned)
    np.testing.assert_array_equal(found["Y"], expected["Y"].transpose(2, 0, 1, 3))
    np.testing.assert_array_equal(found["Y_c"], expected["Y_c"].swapaxes(0, 1))


def test_rows_without_a_step_keep_their_state():
    model, given = node_of("GRU", direction="bidirectional", parts="bli")
    given["lengths"][1] = 0
    found = recurra.onnx.run(model, given)
    np.testing.assert_array_equal(found["Y_h"][:, 1], given["h"][:, 1])
    assert not found["Y"][:, :, 1].any()


def test_a_model_of_recurrent_and_plain_operators(tmp_path: Path):
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(size=(9, INPUT)), "W": rng.normal(size=(2, 4 * HIDDEN, INPUT)),
        "R": rng.normal(size=(2, 4 * HIDDEN, HIDDEN)) / 3, "head": rng.normal(size=(2 * HIDDEN, 3)),
        "bias": rng.normal(size=3),
    }  # fmt: skip
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    weights |= {"merge": np.array([0, 0, -1]), "start": np.array([-1]), "end": np.array([2**31]), "axis": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["x"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=HIDDEN, direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["turned"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["turned", "merge"], ["features"]),
        helper.make_node("Slice", ["features", "start", "end", "axis"], ["last"]),
        helper.make_node("Squeeze", ["last", "axis"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
    ]
    given = {"tokens": rng.integers(0, 9, (BATCH, TIME))}
    model = model_of(nodes, given, ["probabilities"], weights)
    against_onnxruntime(model, given)
    # the same from a file, and with its arrays in a file beside it
    onnx.save(model, tmp_path / "model.onnx")
    beside = tmp_path / "apart.onnx"
    onnx.save(model, beside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    expected = recurra.onnx.run(tmp_path / "model.onnx", given)["probabilities"]
    np.testing.assert_array_equal(recurra.onnx.run(beside, given)["probabilities"], expected)
    with pytest.raises(FormatError, match="lies in a file of its own"):
        recurra.onnx.run(beside.read_bytes(), given)


@pytest.mark.filterwarnings("ignore")  # torch calls this exporter an old one; the new one needs another package
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_models_that_torch_exports(kind: str):
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(9, 5)
            self.layers = getattr(torch.nn, kind)(5, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.norm, self.head = torch.nn.LayerNorm(12), torch.nn.Linear(12, 3)

        def forward(self, tokens):
            y, _ = self.layers(self.embedding(tokens))
            hidden = torch.nn.functional.gelu(self.norm(y))
            return torch.softmax(self.head(hidden.mean(1)), -1), self.head(y[:, -1])

    model, file = Model().eval(), io.BytesIO()
    names = {"input_names": ["tokens"], "dynamic_axes": {"tokens": {0: "batch", 1: "time"}}}
    torch.onnx.export(model, (torch.zeros(2, 3, dtype=torch.int64),), file, dynamo=False, opset_version=17, **names)
    tokens = torch.randint(0, 9, (3, 7))
    found = recurra.onnx.run(file.getvalue(), {"tokens": tokens.numpy()})
    for value, expected in zip(found.values(), model(tokens), strict=True):
        np.testing.assert_allclose(value, expected.detach(), atol=1e-6)
    assert [type(layer) for layer in recurra.onnx.to_layers(file.getvalue()).values()] == [nn.Bidirectional] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "sideways"}, "direction of a recurrent node: expected forward, reverse, bidirectional"),
        ({"activations": ["Tanh", "Cube", "Tanh"]}, "an activation of a recurrent node: expected one of affine"),
        ({"activations": ["Tanh"]}, "has 1 activations: expected 3 for each of 1 directions"),
        ({"activation_alpha": [0.5]}, "activation_alpha gives 1 numbers that no activation takes"),
        ({"hidden_size": 7}, "hidden_size 7: expected sizes from 1, and hidden_size 6 as in R"),
        ({"clip": -1.0}, "the clip of a recurrent node: expected a positive number"),
    ],
)
def test_what_the_standard_does_not_allow_is_named(change: dict[str, Any], message: str):
    model, given = node_of("LSTM", parts="b")
    node = model.graph.node[0]
    kept = [one for one in node.attribute if one.name not in change]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in change.items())])
    with pytest.raises(FormatError, match=rf"node 'Y' \(LSTM\): .*{message}"):
        recurra.onnx.run(model, given)


def test_inputs_that_do_not_fit_are_named():
    model, given = node_of("GRU", parts="l")
    with pytest.raises(ArgumentError, match="inputs has no 'X': expected an array for each of X, lengths"):
        recurra.onnx.run(model, {})
    with pytest.raises(ArgumentError, match="inputs has 'Z'"):
        recurra.onnx.run(model, {**given, "Z": given["X"]})
    with pytest.raises(ArgumentError, match="input 'X' has dtype float64: expected float32"):
        recurra.onnx.run(model, {**given, "X": given["X"].astype(float)})
    with pytest.raises(ArgumentError, match=r"input 'X' has shape \(5, 3\)"):
        recurra.onnx.run(model, {**given, "X": given["X"][..., 0]})
    with pytest.raises(FormatError, match="sequence_lens of a recurrent node: expected 3 whole numbers from 0 to 5"):
        recurra.onnx.run(model, {**given, "lengths": np.array([1, 2, 6], np.int32)})
    with pytest.raises(ArgumentError, match="model is a list"):
        recurra.onnx.run([], given)


def test_operators_that_are_not_run_are_named():
    given = {"x": np.zeros((2, 2), np.float32)}
    model = model_of([helper.make_node("Einsum", ["x"], ["y"], equation="ij->ji")], given, ["y"])
    with pytest.raises(
        FormatError, match=r"node 'y' \(Einsum\) is not run here: expected RNN, GRU, LSTM, Scan, or a plain"
    ):
        recurra.onnx.run(model, given)


# nodes as layers


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("LSTM", {}), ("LSTM", {"input_forget": 1, "clip": 1.0}), ("GRU", {"linear_before_reset": 1}), ("GRU", {}),
     ("RNN", {}), ("RNN", {"activations": ["Softsign", "Elu"]})],
)  # fmt: skip
def test_nodes_become_layers(kind: str, attributes: dict[str, Any]):
    model, given = node_of(kind, direction="bidirectional", parts="blip", **attributes)
    (layer,) = recurra.onnx.to_layers(model).values()
    assert isinstance(layer, nn.Bidirectional)
    states = [torch.from_numpy(given[name]) for name in "hc" if name in given]
    state = layer.initial_state(BATCH)
    state = type(state)(*(type(part)(*(one[d] for one in states)) for d, part in enumerate(state)))
    y, after = layer(torch.from_numpy(given["X"]).transpose(0, 1), state, lengths=torch.from_numpy(given["lengths"]))
    found = recurra.onnx.run(model, given)
    expected = found["Y"].transpose(2, 0, 1, 3).reshape(BATCH, TIME, -1)
    np.testing.assert_allclose(y.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(after.backward[0].detach(), found["Y_h"][1], atol=1e-6)


def test_a_node_that_reads_backwards_becomes_reversed():
    model, given = node_of("GRU", direction="reverse", parts="bl")
    (layer,) = recurra.onnx.to_layers(model).values()
    assert isinstance(layer, nn.Reversed)
    y, _ = layer(torch.from_numpy(given["X"]).transpose(0, 1), lengths=torch.from_numpy(given["lengths"]))
    np.testing.assert_allclose(y.transpose(0, 1).detach(), recurra.onnx.run(model, given)["Y"][:, 0], atol=1e-6)


def test_exact_nodes_become_built_in_cells_and_come_back(tmp_path: Path):
    for layer in (nn.LSTM(3, 4), nn.GRU(3, 4), nn.RNN(3, 4), nn.Recurrent("lstm_peephole", 3, 4)):
        recurra.onnx.export(layer, tmp_path / "layer.onnx")
        (again,) = recurra.onnx.to_layers(tmp_path / "layer.onnx").values()
        assert again.program == layer.program
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in layer.state_dict().items())


def test_nodes_that_cannot_be_layers_are_named():
    model, given = node_of("GRU", parts="i")
    model.graph.initializer.append(numpy_helper.from_array(given["h"], "h"))
    with pytest.raises(ArgumentError, match="begins from 'h' in the file: expected zeros, or an input"):
        recurra.onnx.to_layers(model)
    del model.graph.initializer[:]
    with pytest.raises(ArgumentError, match="computes its weights: 'W'"):
        recurra.onnx.to_layers(model)
