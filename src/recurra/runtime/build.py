"""From the data of a model file to layers. What does not fit is refused before anything is computed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from recurra.errors import FormatError
from recurra.program import Program
from recurra.program.matrices import product_parameters
from recurra.runtime import attention, memories
from recurra.runtime.layer import Layer
from recurra.runtime.pooling import Last, Mean
from recurra.runtime.recurrent import Recurrent
from recurra.runtime.weights import Weights
from recurra.runtime.wrappers import BatchNorm, Bidirectional, Kept, Residual, Reversed, Stack

_MOST_COLUMNS = 1 << 24
_DEEPEST = 64

_PLAIN: dict[str, tuple[Callable[..., Layer], tuple[str, ...]]] = {
    "MatrixLSTM": (memories.MatrixLSTM, ("input_size", "hidden_size", "heads", "forget")),
    "GatedDelta": (memories.GatedDelta, ("input_size", "hidden_size", "heads", "negative_eigenvalues")),
    "GatedLinearAttention": (memories.GatedLinearAttention, ("input_size", "hidden_size", "heads")),
    "SelectiveStateSpace": (memories.SelectiveStateSpace, ("input_size", "hidden_size", "state_size")),
    "LTC": (memories.LTC, ("input_size", "hidden_size", "unfolds")),
    "WindowAttention": (attention.WindowAttention, ("input_size", "hidden_size", "heads", "window")),
}
_ATTENTIONS: dict[str, tuple[Callable[..., attention.Attention], tuple[str, ...]]] = {
    "AdditiveAttention": (attention.additive, ("query_size", "memory_size", "hidden_size")),
    "MultiplicativeAttention": (attention.multiplicative, ("query_size", "memory_size", "score")),
}
_WORDS = {"forget": ("sigmoid", "exponential"), "score": ("general", "dot")}
_IN_TRAINING_ONLY = ("chunk_size",)

# What building a layer of hostile data may raise besides RecurraError; a file is to blame for all of it.
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError)


def build(spec: Any, weights: Weights, depth: int = 0) -> Layer:
    """The layer that `recurra.models.layer_spec` described, with its weights.

    Raises:
        FormatError, ShapeError: the data describe no layer, or the weights do not fit. Anything in `MALFORMED` can be
            raised too, by data that no version of recurra has written.
    """
    if not isinstance(spec, dict) or depth > _DEEPEST:
        raise FormatError("a layer in a model file", got=type(spec).__name__, expected="a layer")
    kind = spec.get("kind")
    if kind == "Recurrent":
        return _recurrent(spec, weights)
    if kind == "MaskedBatchNorm":
        return _batch_norm(spec, weights)
    if kind in _PLAIN:
        made, names = _PLAIN[kind]
        return made(weights, **_settings(spec, names))
    if kind in _NESTS:
        return _NESTS[kind](spec, weights, depth + 1)
    known = sorted(["Recurrent", "MaskedBatchNorm", *_PLAIN, *_NESTS])
    raise FormatError("the kind of a layer in a model file", got=kind, expected=f"one of {', '.join(known)}")


def programs(spec: Any, name: str) -> Iterator[tuple[str, str]]:
    """The program of each cell within a layer that could be built, as JSON, by the cell's name within the model."""
    if spec["kind"] == "Recurrent":
        yield name, read_program(spec["program"]).json
    inner = {"forward_layer": spec.get("forward"), "backward_layer": spec.get("backward"), "layer": spec.get("layer")}
    inner |= {str(number): layer for number, layer in enumerate(spec.get("layers", ()))}
    for part, layer in inner.items():
        if layer is not None:
            yield from programs(layer, f"{name}.{part}" if name else part)


def read_program(spec: Any) -> Program:
    """The program of a cell in a model file. Raises FormatError."""
    return Program.from_json(json.dumps(spec))


def _recurrent(spec: Mapping[str, Any], weights: Weights) -> Layer:
    program = read_program(spec["program"])
    widths = spec["widths"]
    if not isinstance(widths, dict) or set(widths) != program.width_names:
        raise FormatError(
            "the widths of a layer in a model file", got=widths, expected=str(sorted(program.width_names))
        )
    sizes = {"input": spec["input_size"], "hidden": spec["hidden_size"], **widths}
    for name, size in sizes.items():
        _check_size(name, size)
    if not program.parameters:
        raise FormatError(f"the cell '{program.name}' in a model file has no parameters")
    columns = [spec.columns(sizes) for spec in program.states] + [program.output_width.size(sizes)]
    if sum(columns) > _MOST_COLUMNS:
        raise FormatError("the states of a layer in a model file", got=sum(columns), expected="fewer columns")
    multiplied = product_parameters(program)
    taken = [
        (weights.matrix if p.name in multiplied else weights.take)(p.name, p.shape(sizes)) for p in program.parameters
    ]
    return Recurrent(program, sizes, taken)


def _check_size(name: str, size: Any) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _MOST_COLUMNS:
        raise FormatError(f"the size '{name}' in a model file", got=size, expected="a whole number from 1")


def _settings(spec: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    given = {name: value for name, value in spec.items() if name != "kind" and name not in _IN_TRAINING_ONLY}
    if set(given) != set(names):
        raise FormatError(f"the settings of {spec['kind']} in a model file", got=sorted(given), expected=str(names))
    for name, value in given.items():
        if name in _WORDS:
            if value not in _WORDS[name]:
                raise FormatError(f"'{name}' in a model file", got=value, expected=" or ".join(_WORDS[name]))
        elif name == "negative_eigenvalues":
            if not isinstance(value, bool):
                raise FormatError(f"'{name}' in a model file", got=value, expected="true or false")
        else:
            _check_size(name, value)
    if given.get("heads") and given["hidden_size"] % given["heads"]:
        raise FormatError("heads in a model file", got=given["heads"], expected="a divisor of hidden_size")
    return given


def _batch_norm(spec: Mapping[str, Any], weights: Weights) -> Layer:
    _check_size("size", spec["size"])
    epsilon = spec["epsilon"]
    if not isinstance(epsilon, float | int) or not 0 < epsilon <= 1:
        raise FormatError("the epsilon of a batch norm in a model file", got=epsilon, expected="above 0, at most 1")
    names = ("weight", "bias", "running_mean", "running_variance")
    weight, bias, mean, variance = (weights.take(name, (spec["size"],)) for name in names)
    with np.errstate(all="ignore"):
        return BatchNorm(mean, weight / np.sqrt(variance + weights.dtype.type(epsilon)), bias)


def _stack(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
    layers = [build(one, weights.of(str(number)), depth) for number, one in enumerate(spec["layers"])]
    if not layers:
        raise FormatError("a stack in a model file has no layers")
    for below, above in itertools.pairwise(layers):
        if below.pools or below.output_size != above.input_size:
            raise FormatError(
                "the layers of a stack in a model file do not fit on one another",
                got=below.output_size,
                expected=f"{above.input_size} columns a step",
            )
    return Stack(layers)


def _bidirectional(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
    one = build(spec["forward"], weights.of("forward_layer"), depth)
    other = build(spec["backward"], weights.of("backward_layer"), depth)
    if one.input_size != other.input_size or one.pools != other.pools:
        raise FormatError("the two directions of a layer in a model file do not fit")
    return Bidirectional(one, other)


def _inner(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
    return build(spec["layer"], weights.of("layer"), depth)


def _residual(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
    layer = _inner(spec, weights, depth)
    if layer.pools or layer.input_size != layer.output_size:
        raise FormatError("a residual layer in a model file", got=layer.output_size, expected=f"{layer.input_size}")
    return Residual(layer)


def _pool(kind: type[Last] | type[Mean]) -> Callable[..., Layer]:
    def made(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
        layer = _inner(spec, weights, depth)
        if layer.pools:
            raise FormatError("a layer in a model file pools twice")
        return kind(layer)

    return made


def _decoder(spec: Mapping[str, Any], weights: Weights, depth: int) -> Layer:
    layer = _inner(spec, weights, depth)
    given = spec["attention"]
    if not isinstance(given, dict) or given.get("kind") not in _ATTENTIONS:
        raise FormatError("the attention in a model file", got=given, expected=" or ".join(_ATTENTIONS))
    made, names = _ATTENTIONS[given["kind"]]
    over = made(weights.of("attention"), **_settings(given, names))
    fits = layer.causal and not layer.pools and not layer.uses_elapsed and layer.input_size > layer.output_size
    if not fits or over.query_size != layer.output_size:
        raise FormatError("the layer of an attention decoder in a model file does not fit its attention")
    return attention.AttentionDecoder(layer, over, weights)


_NESTS: dict[str, Callable[[Mapping[str, Any], Weights, int], Layer]] = {
    "Stack": _stack,
    "Bidirectional": _bidirectional,
    # in evaluation nothing is dropped
    "Dropout": _inner,
    "WeightDropout": lambda spec, weights, depth: Kept(_inner(spec, weights, depth)),
    "Residual": _residual,
    "Reversed": lambda spec, weights, depth: Reversed(_inner(spec, weights, depth)),
    "Last": _pool(Last),
    "Mean": _pool(Mean),
    "AttentionDecoder": _decoder,
}
