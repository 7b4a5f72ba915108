"""Layers as data: any nest of recurrent layers and wrappers as plain JSON, and back. No code is stored or run."""

import json
from typing import Any

from recurra.cells import Cell
from recurra.errors import ArgumentError, FormatError
from recurra.nn import (
    LTC,
    AdditiveAttention,
    AttentionDecoder,
    Bidirectional,
    Dropout,
    GatedDelta,
    GatedLinearAttention,
    Last,
    Layer,
    MaskedBatchNorm,
    MatrixLSTM,
    Mean,
    MultiplicativeAttention,
    Recurrent,
    Residual,
    Reversed,
    SelectiveStateSpace,
    Stack,
    WeightDropout,
    WindowAttention,
)
from recurra.program import Program

_AROUND_ONE = {kind.__name__: kind for kind in (Last, Mean, Residual, Reversed)}
_WITH_PROBABILITY = {kind.__name__: kind for kind in (Dropout, WeightDropout)}
_BY_SETTINGS = (LTC, MatrixLSTM, GatedDelta, GatedLinearAttention, SelectiveStateSpace, WindowAttention)
_ATTENTIONS = (AdditiveAttention, MultiplicativeAttention)
_SETTLED = {kind.__name__: kind for kind in (*_BY_SETTINGS, *_ATTENTIONS)}


def layer_spec(layer: Layer) -> dict[str, Any]:
    """The layer as plain JSON, without its weights. A cell's program is in it, so a user's own cell needs no registry.

    Raises:
        ArgumentError: a layer, here or within, that is no program and none of recurra's wrappers.
    """
    kind = type(layer).__name__
    if isinstance(layer, Recurrent):
        return {
            "kind": "Recurrent",
            "program": json.loads(layer.program.to_json()),
            **({"training_program": json.loads(layer.training_program.to_json())} if layer.training_program else {}),
            "input_size": layer.input_size,
            "hidden_size": layer.hidden_size,
            "widths": layer.widths,
        }
    if isinstance(layer, Stack):
        return {"kind": kind, "layers": [layer_spec(one) for one in layer.layers]}
    if isinstance(layer, Bidirectional):
        return {"kind": kind, "forward": layer_spec(layer.forward_layer), "backward": layer_spec(layer.backward_layer)}
    if isinstance(layer, MaskedBatchNorm):
        return {"kind": kind, "size": layer.input_size, "momentum": layer.momentum, "epsilon": layer.epsilon}
    if isinstance(layer, Dropout | WeightDropout):
        return {"kind": kind, "probability": layer.probability, "layer": layer_spec(layer.layer)}
    if isinstance(layer, Last | Mean | Residual | Reversed):
        return {"kind": kind, "layer": layer_spec(layer.layer)}
    if isinstance(layer, _BY_SETTINGS):
        return _settings(layer)
    if isinstance(layer, AttentionDecoder):
        return {"kind": kind, "layer": layer_spec(layer.layer), "attention": _settings(layer.attention)}
    raise ArgumentError(
        f"a layer of class {kind} cannot be saved as data",
        expected="recurra.nn.Recurrent and the wrappers of recurra.nn",
        advice="Save its state_dict with torch.save.",
    )


def _settings(module: Any) -> dict[str, Any]:
    """A module that its constructor's settings describe."""
    return {"kind": type(module).__name__, **{name: getattr(module, name) for name in module.settings}}


def build_layer(spec: Any) -> Layer:
    """The layer that `layer_spec` described, its weights drawn anew.

    Raises:
        FormatError: the data describe no layer.
        RecurraError: they describe one that cannot be built, such as layers that do not fit on one another.
    """
    try:
        return _build(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"a layer in a model file is malformed ({type(error).__name__}: {error})") from None


def _build(spec: Any) -> Any:
    kind = spec["kind"]
    if kind == "Recurrent":
        program = Program.from_json(json.dumps(spec["program"]))
        training = spec.get("training_program")
        cell = Cell(program, None if training is None else Program.from_json(json.dumps(training)))
        return Recurrent(cell, spec["input_size"], spec["hidden_size"], widths=spec["widths"])
    if kind == "Stack":
        return Stack([_build(one) for one in spec["layers"]])
    if kind == "Bidirectional":
        return Bidirectional(_build(spec["forward"]), _build(spec["backward"]))
    if kind == "MaskedBatchNorm":
        return MaskedBatchNorm(spec["size"], momentum=spec["momentum"], epsilon=spec["epsilon"])
    if kind in _WITH_PROBABILITY:
        return _WITH_PROBABILITY[kind](_build(spec["layer"]), spec["probability"])
    if kind in _AROUND_ONE:
        return _AROUND_ONE[kind](_build(spec["layer"]))
    if kind == "AttentionDecoder":
        return AttentionDecoder(_build(spec["layer"]), _build(spec["attention"]))
    if kind in _SETTLED:
        return _SETTLED[kind](**{name: value for name, value in spec.items() if name != "kind"})
    raise FormatError("the kind of a layer in a model file", got=kind, expected="one of recurra.nn's")
