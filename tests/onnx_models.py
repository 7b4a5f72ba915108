"""ONNX models of one recurrent node, or of any nodes, to try things on."""

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is an extra: pip install 'recurra[onnx]'")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
Arrays = dict[str, np.ndarray]


def model_of(nodes: list[Any], given: Arrays, outputs: list[str], weights: Arrays | None = None) -> Any:
    """A model of these nodes, whose inputs are these arrays."""
    kinds = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(n, kinds(v.dtype), v.shape) for n, v in given.items()]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    arrays = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, infos, arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node_of(kind: str, *, direction: str = "forward", parts: str = "", **attributes: Any) -> tuple[Any, Arrays]:
    """A model of one recurrent node and its inputs. `parts` has a letter for each input that is not left out: b of the
    bias, l of the lengths, i of the initial states, p of the peepholes."""
    rng = np.random.default_rng(sum(map(ord, kind + direction + parts)))
    count, gates = 2 if direction == "bidirectional" else 1, GATES[kind]

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape, scale=0.5).astype(np.float32)

    given = {"X": draw(TIME, BATCH, INPUT)}
    weights = {"W": draw(count, gates * HIDDEN, INPUT), "R": draw(count, gates * HIDDEN, HIDDEN)}
    names = ["X", "W", "R"]
    for letter, name, value in (
        ("b", "B", draw(count, 2 * gates * HIDDEN)),
        ("l", "lengths", np.array([5, 2, 3], np.int32)),
        ("i", "h", draw(count, BATCH, HIDDEN)),
        *([("i", "c", draw(count, BATCH, HIDDEN)), ("p", "P", draw(count, 3 * HIDDEN))] if kind == "LSTM" else []),
    ):
        names.append(name if letter in parts else "")
        if letter in parts:
            (weights if name in ("B", "P") else given)[name] = value
    outputs = ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    attributes = {name: value for name, value in attributes.items() if value != []}
    node = helper.make_node(kind, names, outputs, hidden_size=HIDDEN, direction=direction, **attributes)
    return model_of([node], given, outputs, weights), given
