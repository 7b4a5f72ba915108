"""Layers of Keras models as layers of recurra, with their weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recurra.cells import Cell
from recurra.convert.keras_files import KerasFile, KerasLayer, described, open_keras
from recurra.errors import ArgumentError, FormatError
from recurra.nn import Bidirectional, Last, Layer, Recurrent, Reversed
from recurra.onnx.activations import Activation
from recurra.onnx.node_cells import gru_cell, lstm_cell, rnn_cell

Array = NDArray[Any]

_WITHOUT_WEIGHTS = ("InputLayer", "Dropout", "SpatialDropout1D", "GaussianNoise", "GaussianDropout", "Masking")
_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
_ACTIVATIONS = {
    "linear": Activation("affine", 1.0, 0.0),
    "sigmoid": Activation("sigmoid"),
    "tanh": Activation("tanh"),
    "relu": Activation("relu"),
    "softplus": Activation("softplus"),
    "softsign": Activation("softsign"),
    "hard_sigmoid": Activation("hardsigmoid", 1 / 6, 0.5),
}
_OF_DENSE = {"linear": None, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
_MOST_UNITS = 10**6


def from_keras(path: str | os.PathLike[str], *, layers: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The layers of a saved Keras model by their names, in its order, with their weights; Keras is not needed.

    LSTM, GRU (with `reset_after` or without) and SimpleRNN become `recurra.nn` layers, within Last where they return
    the last output only; Bidirectional becomes Bidirectional; Embedding becomes torch.nn.Embedding, Dense a
    torch.nn.Sequential of a Linear and its activation. Layers that do nothing in evaluation (Dropout, Masking, ...) are
    left out: padding is given by `lengths` here. `layers` names those that are wanted, of a model with others in it.

    `path` is a `.keras` or an `.h5` file of a whole model. Nothing in it is run.

    Raises ArgumentError for a layer of another class, or one with settings that have no counterpart here (other merge
    modes, `go_backwards` with all outputs), FormatError for a damaged file, BackendUnavailable without the package
    h5py.
    """
    with open_keras(Path(path)) as file:
        chosen = _chosen(file, layers)
        found: dict[str, nn.Module] = {}
        for layer in chosen:
            try:
                made = _made(file, layer)
            except (KeyError, TypeError, AttributeError) as error:
                raise FormatError(
                    f"layer '{layer.name}' in {str(path)!r} is malformed: {type(error).__name__}: {error}"
                ) from error
            if made is not None:
                found[layer.name] = made.eval()
    return found


def _chosen(file: KerasFile, layers: Iterable[str] | None) -> list[KerasLayer]:
    names = [layer.name for layer in file.layers]
    if layers is None:
        return file.layers
    wanted = list(layers)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ArgumentError(f"the model has no layer '{unknown[0]}'", expected=", ".join(names))
    return [layer for layer in file.layers if layer.name in wanted]


def _made(file: KerasFile, layer: KerasLayer) -> nn.Module | None:
    if layer.kind in _WITHOUT_WEIGHTS:
        return None
    if layer.kind in _GATES:
        size = file.input_size(layer, ["cell"])
        return _filled(layer, size, file.arrays(layer, ["cell"], _shapes(layer, size)))
    if layer.kind == "Bidirectional":
        return _bidirectional(file, layer)
    if layer.kind == "Embedding":
        shape = (_size(layer, "input_dim"), _size(layer, "output_dim"))
        return nn.Embedding.from_pretrained(_tensor(file.arrays(layer, [""], [shape])[0]), freeze=False)
    if layer.kind == "Dense":
        return _dense(file, layer)
    raise ArgumentError(
        f"layer '{layer.name}' is a {layer.kind}",
        expected="LSTM, GRU, SimpleRNN, Bidirectional, Embedding or Dense",
        advice="Name the layers that you want: from_keras(path, layers=[...])",
    )


def _bidirectional(file: KerasFile, layer: KerasLayer) -> Bidirectional:
    forward = described(layer.config["layer"])
    given = layer.config.get("backward_layer")
    backward = forward if given is None else described(given)
    if layer.config.get("merge_mode", "concat") != "concat":
        raise ArgumentError(
            f"layer '{layer.name}' has merge_mode {layer.config['merge_mode']!r}",
            expected="'concat'",
            advice="Split the output of a Bidirectional and join the parts yourself",
        )
    if forward.kind not in _GATES or backward.kind not in _GATES:
        raise ArgumentError(f"layer '{layer.name}' is of {forward.kind} layers", expected=" or ".join(_GATES))
    parts = ["forward_layer/cell", "backward_layer/cell"]
    size = file.input_size(layer, parts)
    first, second = _shapes(forward, size), _shapes(backward, size)
    arrays = file.arrays(layer, parts, [*first, *second])
    return Bidirectional(
        _filled(forward, size, arrays[: len(first)]),
        _filled(backward, size, arrays[len(first) :], backwards=True),
    )


def _dense(file: KerasFile, layer: KerasLayer) -> nn.Sequential:
    size, units = file.input_size(layer, [""]), _size(layer, "units")
    kernel, *bias = file.arrays(layer, [""], [(size, units), *([(units,)] if layer.config["use_bias"] else [])])
    linear = nn.Linear(size, units, bias=bool(bias))
    with torch.no_grad():
        linear.weight.copy_(_tensor(kernel.T))
        if bias:
            linear.bias.copy_(_tensor(bias[0]))
    name = _activation_name(layer, "activation")
    if name == "softmax":
        return nn.Sequential(linear, nn.Softmax(dim=-1))
    if name not in _OF_DENSE:
        raise ArgumentError(
            f"layer '{layer.name}' has the activation {name}", expected=", ".join([*_OF_DENSE, "softmax"])
        )
    kind = _OF_DENSE[name]
    return nn.Sequential(linear) if kind is None else nn.Sequential(linear, kind())


def _size(layer: KerasLayer, name: str) -> int:
    value = layer.config[name]
    if type(value) is not int or not 1 <= value <= _MOST_UNITS:
        raise FormatError(f"{name} of layer '{layer.name}'", got=value, expected=f"a whole number to {_MOST_UNITS:,}")
    return value


def _activation_name(layer: KerasLayer, name: str) -> str:
    value = layer.config[name]
    if not isinstance(value, str):
        raise ArgumentError(
            f"layer '{layer.name}' has an activation that is no name", expected=f"one of {', '.join(_ACTIVATIONS)}"
        )
    return value


def _activation(layer: KerasLayer, name: str) -> Activation:
    value = _activation_name(layer, name)
    if value not in _ACTIVATIONS:
        raise ArgumentError(f"layer '{layer.name}' has {name} {value!r}", expected=f"one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[value]


def _shapes(layer: KerasLayer, size: int) -> list[tuple[int, ...]]:
    """The shapes of kernel, recurrent kernel and bias."""
    units, columns = _size(layer, "units"), _GATES[layer.kind] * _size(layer, "units")
    bias = (2, columns) if layer.kind == "GRU" and layer.config.get("reset_after", False) else (columns,)
    return [(size, columns), (units, columns), *([bias] if layer.config["use_bias"] else [])]


def _cell(layer: KerasLayer) -> Cell:
    content = _activation(layer, "activation")
    if layer.kind == "SimpleRNN":
        return rnn_cell((content,))
    gate = _activation(layer, "recurrent_activation")
    if layer.kind == "GRU":
        return gru_cell((gate, content), bool(layer.config.get("reset_after", False)))
    return lstm_cell((gate, content, content), False, False)


def _filled(layer: KerasLayer, size: int, arrays: Sequence[Array], *, backwards: bool = False) -> Layer:
    """The layer with its weights. Keras has the gates of an LSTM in our order, those of a GRU as (z, r, h)."""
    turned = layer.config.get("go_backwards", False) and not backwards
    if turned and layer.config.get("return_sequences", False):
        raise ArgumentError(
            f"layer '{layer.name}' has go_backwards and puts out its steps in that order",
            expected="its last output only, or Bidirectional",
        )
    units, gates = _size(layer, "units"), _GATES[layer.kind]
    made = Recurrent(_cell(layer), size, units)
    kernel, recurrent, *biases = arrays
    bias = biases[0].reshape(-1, gates * units) if biases else np.zeros((1, gates * units))

    def ordered(value: Array) -> Array:
        parts = np.split(value, gates)
        return np.concatenate([parts[1], parts[0], parts[2]]) if layer.kind == "GRU" else value

    own = {"W": ordered(kernel.T), "U": ordered(recurrent.T), "b": ordered(bias[0])}
    if layer.kind == "GRU" and len(bias) == 2:
        of_h = ordered(bias[1])
        own["b"] = np.concatenate([own["b"][: 2 * units] + of_h[: 2 * units], own["b"][2 * units :]])
        own["b_n"] = of_h[2 * units :]
    elif layer.kind == "GRU" and "U_n" in made.state_dict():
        own |= {"U": own["U"][: 2 * units], "U_n": own["U"][2 * units :]}
    elif layer.kind == "GRU":
        own["b_n"] = np.zeros(units)
    _copy(made, own)
    if layer.config.get("return_sequences", False):
        return made
    return Reversed(Last(made)) if turned else Last(made)


def _copy(layer: Recurrent, values: Mapping[str, Array]) -> None:
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.copy_(_tensor(values[name]))


def _tensor(value: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
