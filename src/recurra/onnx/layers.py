"""The recurrent nodes of an ONNX model as layers, to be trained on, streamed and saved like any other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recurra.errors import ArgumentError, FormatError
from recurra.nn import Bidirectional, Layer, Recurrent, Reversed
from recurra.onnx.files import Source, array_of, attributes_of, describe, name_of, read_source
from recurra.onnx.recurrent_nodes import RECURRENT, Direction, RecurrentNode, read_node


def to_layers(model: Any) -> dict[str, Layer]:
    """Each RNN, GRU and LSTM node of an ONNX model as a layer, in order, by the node's name (that of its first output
    where it has none).

    `model` is a path, the bytes of a file, or an onnx.ModelProto. A node of one direction becomes a Recurrent of the
    cell that its equations are (`gru`, say, or one with its own activations), within Reversed where it reads backwards;
    a bidirectional one becomes Bidirectional of two. A layer reads (batch, time, feature), whatever the node's layout;
    `sequence_lens` are its `lengths`, the initial states of the node its `state`.

    Raises FormatError for a damaged file, and ArgumentError for weights that are not constants of the file, and for
    initial states that are, but for zeros.
    """
    source = read_source(model)
    graph = source.graph
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        values = [one.t for one in node.attribute if one.name == "value"]
        if node.op_type == "Constant" and node.output and values:
            constants[node.output[0]] = values[0]
    found: dict[str, Layer] = {}
    for node in graph.node:
        if node.op_type in RECURRENT and node.output and node.domain in ("", "ai.onnx"):
            name = name_of(node.name or node.output[0])
            if name in found:
                raise FormatError(f"two nodes are named '{name}'", expected="a name each")
            found[name] = _layer(node, constants, source)
    return found


def _layer(node: Any, constants: dict[str, Any], source: Source) -> Layer:
    names = [*map(name_of, node.input), *[""] * 8][:8]
    outer = [name for name in (names[1], names[2], names[3], names[7]) if name and name not in constants]
    if outer:
        raise ArgumentError(
            f"{describe(node)} computes its weights: '{outer[0]}'", expected="weights that stand in the file"
        )
    arrays = {name: array_of(constants[name], source.folder) for name in names[1:] if name in constants}
    for name in names[5:7]:
        if name in arrays and np.any(arrays[name]):
            raise ArgumentError(
                f"{describe(node)} begins from '{name}' in the file",
                expected="zeros, or an input",
                advice="Hand over the state yourself, or use recurra.onnx.run",
            )
    W, R, B, P = (arrays.get(name) for name in (names[1], names[2], names[3], names[7]))
    with np.errstate(all="ignore"):
        read = read_node(node.op_type, attributes_of(node, source.folder), [W, R, B, P])
    layers = [_recurrent(direction, read) for direction in read.directions]
    if len(layers) == 2:
        return Bidirectional(layers[0], layers[1])
    return Reversed(layers[0]) if read.directions[0].backwards else layers[0]


def _recurrent(direction: Direction, node: RecurrentNode) -> Recurrent:
    layer = Recurrent(direction.cell, node.input_size, node.hidden_size)
    values = {name: torch.from_numpy(np.array(direction.parameters[name])) for name in layer.state_dict()}
    layer.to(values["W"].dtype).load_state_dict(values)
    return layer
