"""ONNX's own RNN, GRU and LSTM, where a cell is exactly one of them. Runtimes have fast kernels for these, in single
precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recurra import cells
from recurra.nn import Recurrent
from recurra.onnx.graph_builder import GraphBuilder
from recurra.onnx.program_graph import Signals

# The places of our gates, in the order of ONNX's: LSTM (i, o, f, c), GRU (z, r, h).
_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
_INT32 = 6
_KINDS = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "gru_reset_before": "GRU"}
_KINDS |= {"lstm": "LSTM", "lstm_peephole": "LSTM"}


def standard_operator(layer: Recurrent) -> str:
    """The operator of ONNX that a layer is exactly; empty where there is none, or where runtimes lack its kernel."""
    name = layer.program.name
    exact = name in _KINDS and layer.program == cells.get(name)
    return _KINDS[name] if exact and next(iter(layer.state_dict().values())).dtype.itemsize == 4 else ""


def write_standard(
    builder: GraphBuilder, layer: Recurrent, x: str, states: Sequence[str], signals: Signals
) -> tuple[str, list[str]]:
    """A layer as one operator: x (batch, time, input), states (batch, hidden) each. Returns y and the last states."""
    name, kind = layer.program.name, standard_operator(layer)
    own = {spec.name: getattr(layer, spec.name).detach().numpy() for spec in layer.program.parameters}
    hidden, gates = layer.hidden_size, _GATES[kind]
    if "U_n" in own:
        own["U"] = np.concatenate((own["U"], own["U_n"]))

    def ordered(value: np.ndarray) -> np.ndarray:
        return np.concatenate([value[k * hidden : (k + 1) * hidden] for k in gates])[None]

    of_h = np.zeros_like(own["b"])
    if "b_n" in own:
        of_h[2 * hidden :] = own["b_n"]
    bias = np.concatenate((ordered(own["b"]), ordered(of_h)), axis=1)
    arrays = [builder.array(value) for value in (ordered(own["W"]), ordered(own["U"]), bias)]
    # kernels refuse rows without a step, so such a row reads one, and its result is left out below
    lengths = builder.op("Cast", builder.op("Max", signals.lengths, builder.whole(1)), to=_INT32)
    first = [builder.op("Unsqueeze", state, builder.whole(0)) for state in states]
    inputs = [builder.op("Transpose", x, perm=[1, 0, 2]), *arrays, lengths, *first]
    if name == "lstm_peephole":
        inputs.append(builder.array(np.concatenate([own[p] for p in ("p_i", "p_o", "p_f")])[None]))
    attributes: dict[str, Any] = {"linear_before_reset": int(name == "gru")} if kind == "GRU" else {}
    if name == "rnn_relu":
        attributes["activations"] = ["Relu"]
    y, *last = builder.ops(kind, inputs, 1 + len(states), hidden_size=hidden, **attributes)
    y = builder.op("Transpose", builder.op("Squeeze", y, builder.whole(1)), perm=[1, 0, 2])
    empty = builder.op("Unsqueeze", builder.op("Equal", signals.lengths, builder.whole(0)), builder.whole(1))
    finals = [
        builder.op("Where", empty, state, builder.op("Squeeze", one, builder.whole(0)))
        for state, one in zip(states, last, strict=True)
    ]
    return signals.masked(builder, y), finals
