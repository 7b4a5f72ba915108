"""ONNX Runtime: the standard operators GRU and LSTM, forward only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch

from recurra.bench.contract import Foreign, Results, not_installed
from recurra.bench.inputs import Inputs
from recurra.nn import GRU, Recurrent

_OPSET = 22
_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
"""Their gates by the numbers of ours: z, r, n and i, o, f, g."""


class OnnxRuntime:
    """One operator over time-major arrays, the layout that it knows; the exchange of axes is not timed."""

    def missing(self) -> str:
        return not_installed("onnx", "onnxruntime")

    def build(self, layer: Recurrent) -> Foreign:
        ort = import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        model = _model(layer).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def forward(inputs: Inputs) -> Any:
            feeds = {"x": np.ascontiguousarray(inputs.x.numpy().swapaxes(0, 1))}
            feeds |= {f"s{k}": state.numpy()[None] for k, state in enumerate(inputs.states)}
            return lambda: session.run(None, feeds)

        def read(returned: Any) -> Results:
            y, *last = (torch.from_numpy(value) for value in returned)
            return Results(y[:, 0].transpose(0, 1), tuple(state[0] for state in last), {})

        return Foreign(forward, None, read)


def _model(layer: Recurrent) -> Any:
    helper, onnx = import_module("onnx.helper"), import_module("onnx")
    operator = "GRU" if isinstance(layer, GRU) else "LSTM"
    count = 1 if operator == "GRU" else 2
    states, last = [f"s{k}" for k in range(count)], [f"last{k}" for k in range(count)]
    attributes = {"linear_before_reset": 1} if operator == "GRU" else {}
    node = helper.make_node(
        operator, ["x", "W", "R", "B", "", *states], ["y", *last], hidden_size=layer.hidden_size, **attributes
    )
    float32, hidden = onnx.TensorProto.FLOAT, layer.hidden_size

    def values(names: list[str], *sizes: Any) -> list[Any]:
        return [helper.make_tensor_value_info(name, float32, sizes) for name in names]

    graph = helper.make_graph(
        [node],
        operator,
        [*values(["x"], "time", "batch", layer.input_size), *values(states, 1, "batch", hidden)],
        [*values(["y"], "time", 1, "batch", hidden), *values(last, 1, "batch", hidden)],
        [import_module("onnx.numpy_helper").from_array(v[None], name) for name, v in _weights(layer, operator).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)


def _weights(layer: Recurrent, operator: str) -> dict[str, np.ndarray]:
    own = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    inner = np.zeros_like(own["b"])
    if operator == "GRU":
        inner[2 * layer.hidden_size :] = own["b_n"]

    def ordered(value: np.ndarray) -> np.ndarray:
        gates = np.split(value, len(_ORDER[operator]))
        return np.concatenate([gates[k] for k in _ORDER[operator]])

    return {
        "W": ordered(own["W"]),
        "R": ordered(own["U"]),
        "B": np.concatenate([ordered(own["b"]), ordered(inner)]),
    }
