"""Runs an ONNX model: its recurrent nodes on our engine, the plain ones and the loops around them in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError
from recurra.onnx.files import Source, name_of, read_source
from recurra.onnx.graph_runner import Call, Graph
from recurra.onnx.operator_inputs import Limits
from recurra.onnx.packages import require

Array = NDArray[Any]

MOST_BYTES = 2**30
"""The largest value that a model may make, in bytes, unless a call says otherwise."""


def run(model: Any, inputs: Mapping[str, Array], *, most_bytes: int = MOST_BYTES) -> dict[str, Array]:
    """The outputs of an ONNX model by name, its RNN, GRU and LSTM nodes run by our engine.

    `model` is a path, the bytes of a file, or an onnx.ModelProto; `inputs` has an array for each input of the graph.
    Around recurrent nodes the plain operators of `recurra.onnx.PLAIN` may stand, and Scan, whose body is run in numpy,
    slowly. No value of more than `most_bytes` is made: a file cannot ask for all memory.

    Raises FormatError for a file that is damaged or has something that is not run here, ArgumentError and ShapeError
    for inputs that do not fit, and BackendUnavailable without the package onnx.
    """
    return Prepared(read_source(model), most_bytes).run(inputs)


class Prepared:
    """A model that is read and checked, ready to run many times."""

    def __init__(self, source: Source, most_bytes: int = MOST_BYTES) -> None:
        self._limits = Limits(source.opset, most_bytes)
        self._graph = graph = Graph(source.graph, source)
        self._inputs = {name_of(one.name): one.type.tensor_type for one in source.graph.input}
        self.input_names = [name for name in self._inputs if name not in graph.constants]
        self.output_names = graph.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As `recurra.onnx.run`."""
        found = self._graph.run(self._given(inputs), {}, Call(self._limits))
        return dict(zip(self.output_names, found, strict=True))

    def _given(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not isinstance(inputs, Mapping):
            raise ArgumentError(
                f"inputs is a {type(inputs).__name__}",
                expected=f"an array for each of {', '.join(self.input_names)}, by name",
                advice=f"Write {{{', '.join(f'{name!r}: ...' for name in self.input_names)}}}",
            )
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
