"""Runs an ONNX model: its recurrent nodes on our engine, the plain ones around them in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError, RecurraError
from recurra.onnx.files import Source, array_of, attributes_of, describe, name_of, read_source
from recurra.onnx.packages import require
from recurra.onnx.plain_operators import PLAIN, Limits
from recurra.onnx.recurrent_nodes import RECURRENT, read_node, run_node

Array = NDArray[Any]

MOST_BYTES = 2**30
"""The largest value that a model may make, in bytes, unless a call says otherwise."""


def run(model: Any, inputs: Mapping[str, Array], *, most_bytes: int = MOST_BYTES) -> dict[str, Array]:
    """The outputs of an ONNX model by name, its RNN, GRU and LSTM nodes run by our engine.

    `model` is a path, the bytes of a file, or an onnx.ModelProto; `inputs` has an array for each input of the graph.
    Around recurrent nodes the plain operators of `recurra.onnx.PLAIN` may stand. No value of more than `most_bytes`
    is made: a file cannot ask for all memory.

    Raises FormatError for a file that is damaged or has something that is not run here, ArgumentError and ShapeError
    for inputs that do not fit, and BackendUnavailable without the package onnx.
    """
    return Prepared(read_source(model), most_bytes).run(inputs)


@dataclass(frozen=True)
class _Node:
    """A node, read: its operator, the names of its inputs (empty where one is left out) and outputs, its attributes,
    and what it is called in an error."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    described: str


class Prepared:
    """A model that is read and checked, ready to run many times."""

    def __init__(self, source: Source, most_bytes: int = MOST_BYTES) -> None:
        graph = source.graph
        self._limits = Limits(source.opset, most_bytes)
        self._constants = {name_of(one.name): array_of(one, source.folder) for one in graph.initializer}
        self._inputs = {name_of(one.name): one.type.tensor_type for one in graph.input}
        self.input_names = [name for name in self._inputs if name not in self._constants]
        self.output_names = [name_of(one.name) for one in graph.output]
        self._nodes = [_read(node, source) for node in graph.node]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `recurra.onnx.run`."""
        values = {**self._constants, **self._given(inputs)}
        for node in self._nodes:
            given = [_look_up(values, name, node) if name else None for name in node.inputs]
            with np.errstate(all="ignore"):
                results = self._run_node(node, given)
            values |= {name: result for name, result in zip(node.outputs, results, strict=False) if name}
        missing = [name for name in self.output_names if name not in values]
        if missing:
            raise FormatError(f"no node makes the output '{missing[0]}'", expected="one that does")
        return {name: values[name] for name in self.output_names}

    def _given(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        unknown = sorted(set(inputs) - set(self._inputs))
        missing = [name for name in self.input_names if name not in inputs]
        if unknown or missing:
            raise ArgumentError(
                f"inputs has no '{missing[0]}'" if missing else f"inputs has '{unknown[0]}'",
                expected=f"an array for each of {', '.join(self.input_names)}",
            )
        given = {name: np.asarray(value) for name, value in inputs.items()}
        for name, value in given.items():
            _check(name, value, self._inputs[name])
        return given

    def _run_node(self, node: _Node, given: Sequence[Array | None]) -> Sequence[Array]:
        try:
            if node.kind in RECURRENT:
                return self._run_recurrent(node, given)
            return PLAIN[node.kind](given, node.attributes, self._limits)
        except RecurraError as error:
            raise type(error)(f"{node.described}: {error}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FormatError(f"{node.described} does not fit its inputs: {error}") from error

    def _run_recurrent(self, node: _Node, given: Sequence[Array | None]) -> Sequence[Array]:
        x, W, R, B, lengths, h, c, P = (*given, *[None] * 8)[:8]
        found = read_node(node.kind, node.attributes, [W, R, B, P])
        if x is None or x.ndim != 3:
            raise FormatError("X of a recurrent node", expected="three dimensions")
        steps = x.shape[0] * x.shape[1] * len(found.directions)
        self._limits.check((steps, len(found.directions[0].parameters["W"])), np.dtype(np.float64))
        y, last = run_node(found, x, lengths, [h, c])
        return [y, *last]


def _read(node: Any, source: Source) -> _Node:
    described = describe(node)
    if node.domain not in ("", "ai.onnx") or (node.op_type not in PLAIN and node.op_type not in RECURRENT):
        raise FormatError(
            f"{described} is not run here",
            expected=f"{', '.join(RECURRENT)}, or a plain operator: {', '.join(PLAIN)}",
            advice="Run the model with onnxruntime, or cut out its recurrent part",
        )
    attributes = attributes_of(node, source.folder)
    if node.op_type == "Split":
        attributes["outputs"] = len(node.output)
    inputs, outputs = (tuple(map(name_of, names)) for names in (node.input, node.output))
    return _Node(node.op_type, inputs, outputs, attributes, described)


def _look_up(values: Mapping[str, Array], name: str, node: _Node) -> Array:
    if name not in values:
        raise FormatError(f"{node.described} reads '{name}'", expected="an input, a weight or an earlier node's output")
    return values[name]


def _check(name: str, value: Array, declared: Any) -> None:
    """Whether an input is what the model says."""
    helper = require("onnx").helper
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(declared.elem_type))
    except KeyError as error:
        raise FormatError(f"input '{name}' has a type that there is not", got=declared.elem_type) from error
    if value.dtype != dtype:
        raise ArgumentError(f"input '{name}' has dtype {value.dtype}", expected=str(dtype))
    if declared.HasField("shape"):
        sizes = [one.dim_value if one.HasField("dim_value") else None for one in declared.shape.dim]
        if len(sizes) != value.ndim or any(
            size not in (None, own) for size, own in zip(sizes, value.shape, strict=True)
        ):
            raise ArgumentError(f"input '{name}' has shape {value.shape}", expected=f"{sizes} (None is any size)")
