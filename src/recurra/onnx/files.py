"""ONNX files, read with care: every size is checked before anything is allocated, and no data is read from outside
the folder of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError
from recurra.onnx.packages import require

Array = NDArray[Any]

OPSETS = (7, 28)
"""The versions of ONNX's operator set that are read, first and last."""


@dataclass(frozen=True)
class Source:
    """A model as it was read: its graph, the version of its operator set, and the folder in which its arrays may lie
    (None where it came without one)."""

    graph: Any
    opset: int
    folder: Path | None


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. Raises ArgumentError where there is none, and OSError where it cannot be read."""
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise ArgumentError(
            f"{str(path)!r} is {'a folder' if path.is_dir() else 'not there'}",
            expected="a file",
            advice="Give the path of an ONNX model",
        )
    return path.read_bytes()


def read_source(model: Any) -> Source:
    """Reads a model from a path, from bytes, or as onnx.ModelProto.

    Raises ArgumentError for another kind of argument or a path without a file, FormatError for a damaged file or one
    that this version cannot run, OSError where a file cannot be read, and BackendUnavailable without the package onnx.
    """
    onnx = require("onnx")
    folder = None
    if isinstance(model, str | os.PathLike):
        folder, model = Path(model).parent, read_file(model)
    if isinstance(model, bytes | bytearray | memoryview):
        parsed = onnx.ModelProto()
        try:
            parsed.ParseFromString(bytes(model))
        except require("google.protobuf.message").DecodeError as error:
            raise FormatError(f"this is no ONNX file: {error}", advice="Save the model again") from error
        model = parsed
    if not isinstance(model, onnx.ModelProto):
        raise ArgumentError(
            f"model is a {type(model).__name__}", expected="a path, the bytes of a file, or an onnx.ModelProto"
        )
    if not model.HasField("graph"):
        raise FormatError("this is no ONNX model", expected="a graph in it", advice="Save the model again")
    if model.functions or model.graph.sparse_initializer:
        raise FormatError(
            "the model has functions of its own or sparse weights", expected="neither", advice="Export it without them"
        )
    return Source(model.graph, _opset(model), folder)


def _opset(model: Any) -> int:
    foreign = [one.domain for one in model.opset_import if one.domain not in ("", "ai.onnx", "ai.onnx.ml")]
    versions = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if foreign or len(versions) != 1 or not OPSETS[0] <= versions[0] <= OPSETS[1]:
        raise FormatError(
            "the operator sets of an ONNX model",
            got=[(one.domain, one.version) for one in model.opset_import],
            expected=f"that of ONNX, version {OPSETS[0]} to {OPSETS[1]}",
            advice="Export it for such a version",
        )
    return versions[0]


def array_of(tensor: Any, folder: Path | None) -> Array:
    """The array of a TensorProto. Its data must be as long as its shape says."""
    onnx = require("onnx")
    kinds = onnx.TensorProto
    dtypes = {
        kinds.FLOAT: np.float32, kinds.DOUBLE: np.float64, kinds.FLOAT16: np.float16, kinds.BOOL: np.bool_,
        kinds.INT8: np.int8, kinds.INT16: np.int16, kinds.INT32: np.int32, kinds.INT64: np.int64,
        kinds.UINT8: np.uint8, kinds.UINT16: np.uint16, kinds.UINT32: np.uint32, kinds.UINT64: np.uint64,
    }  # fmt: skip
    name = tensor.name or "a constant"
    if tensor.data_type not in dtypes or tensor.HasField("segment"):
        raise FormatError(f"{name} has data of type {tensor.data_type}", expected="plain numbers or booleans, whole")
    dtype, shape = np.dtype(dtypes[tensor.data_type]), tuple(tensor.dims)
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise FormatError(f"{name} has shape {shape}", expected="no size below zero, at most 32 dimensions")
    count = prod(shape)
    if tensor.data_location == kinds.EXTERNAL:
        raw = _external_data(tensor, folder, count * dtype.itemsize)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
    else:
        return _typed_data(tensor, dtype, shape)
    if len(raw) != count * dtype.itemsize:
        raise FormatError(f"{name} has {len(raw)} bytes", expected=f"{count * dtype.itemsize} for shape {shape}")
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _typed_data(tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
    fields |= {"uint32": "uint64_data", "uint64": "uint64_data"}
    values = getattr(tensor, fields.get(dtype.name, "int32_data"))
    if len(values) != prod(shape):
        raise FormatError(
            f"{tensor.name or 'a constant'} has {len(values)} numbers", expected=f"{prod(shape)} for shape {shape}"
        )
    if dtype == np.float16:
        return np.asarray(values, np.int64).astype(np.uint16).view(np.float16).reshape(shape)
    return np.asarray(values, np.dtype(np.int64) if dtype.kind == "b" else None).astype(dtype).reshape(shape)


def _external_data(tensor: Any, folder: Path | None, wanted: int) -> bytes:
    """The bytes of an array that lies in a file beside the model, never in one outside its folder."""
    entries: Mapping[str, str] = {one.key: one.value for one in tensor.external_data}
    if folder is None:
        raise FormatError(
            f"{tensor.name} lies in a file of its own",
            expected="all data in the model",
            advice="Hand over the model's path",
        )
    home, location = folder.resolve(), Path(entries.get("location", ""))
    path = (home / location).resolve()
    if location.is_absolute() or not path.is_relative_to(home) or not path.is_file():
        raise FormatError(
            f"{tensor.name} lies in another file", got=str(location), expected="a file in the folder of the model"
        )
    places = [entries.get("offset", "0"), entries.get("length", str(wanted))]
    if not all(place.isascii() and place.isdigit() and len(place) < 19 for place in places):
        raise FormatError(f"the place of {tensor.name} in its file", got=places, expected="two whole numbers")
    offset, length = map(int, places)
    if length != wanted or offset + length > path.stat().st_size:
        raise FormatError(
            f"{tensor.name} takes bytes {offset} to {offset + length} of {location}",
            expected=f"{wanted} bytes, within the file's {path.stat().st_size}",
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def attributes_of(node: Any, folder: Path | None, *, graph: str = "") -> dict[str, Any]:
    """The attributes of a node as plain values; a tensor as an array. `graph` names the one that may hold a graph,
    which is given as it is."""
    kinds = require("onnx").AttributeProto
    plain = {
        kinds.FLOAT: "f", kinds.INT: "i", kinds.STRING: "s",
        kinds.FLOATS: "floats", kinds.INTS: "ints", kinds.STRINGS: "strings",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for one in node.attribute:
        if one.ref_attr_name or one.name in found:
            raise FormatError(f"the attribute '{one.name}' of {describe(node)}", expected="a value, and only one")
        if one.type == kinds.GRAPH and one.name == graph:
            if one.g.sparse_initializer:
                raise FormatError(f"the body of {describe(node)} has sparse weights", expected="none")
            found[one.name] = one.g
        elif one.type == kinds.TENSOR and one.name != graph:
            found[one.name] = array_of(one.t, folder)
        elif one.type in plain and one.name != graph:
            value = getattr(one, plain[one.type])
            found[one.name] = value if isinstance(value, int | float | bytes) else list(value)
        else:
            raise FormatError(
                f"the attribute '{one.name}' of {describe(node)} has type {one.type}",
                expected="numbers, text, a tensor, or the body of a Scan: no other control flow is run",
            )
    return found


def describe(node: Any) -> str:
    """A node in an error."""
    return f"node '{node.name or (node.output[0] if node.output else '')}' ({node.op_type})"


def name_of(value: Any) -> str:
    """A name in a model, which protobuf gives as bytes where it is no text. Raises FormatError for such a one."""
    if not isinstance(value, str):
        raise FormatError("a name in the model is no text", got=value, expected="text", advice="Save the model again")
    return value
