"""The plain operators that stand around recurrent ones, in numpy.

Each gets its inputs (None for one that is left out), the node's attributes and the limits, and checks the size of what
it makes before it makes it, where that may be larger than what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.errors import FormatError
from recurra.onnx.operator_inputs import Attributes, Limits, Operator, axes_of, present, whole
from recurra.onnx.packages import require
from recurra.onnx.sequence_operators import SEQUENCE
from recurra.program.operations import TABLE

Array = NDArray[Any]


def _pointwise(function: Callable[..., Any], count: int | None = None, bounded: bool = True) -> Operator:
    """An operator on inputs of shapes that broadcast."""

    def run(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
        given = present(inputs)
        if count is not None and len(given) != count:
            raise FormatError(f"{len(given)} inputs", expected=str(count))
        if bounded and len(given) > 1:
            limits.check(np.broadcast_shapes(*(one.shape for one in given)), np.result_type(*given))
        return [np.asarray(function(*given))]

    return run


def _typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose result has the dtype of its first argument."""
    return lambda *given: np.asarray(function(*given)).astype(given[0].dtype, copy=False)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    if not b.all():
        raise FormatError("a division of whole numbers by zero", expected="none")
    # ONNX cuts off towards zero
    return np.where((a < 0) == (b < 0), a // b, -(-a // b)).astype(a.dtype) if a.dtype.kind == "i" else a // b


def _mod(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    function = np.fmod if attributes.get("fmod", 0) else np.mod

    def rest(a: Array, b: Array) -> Array:
        if b.dtype.kind != "f" and not b.all():
            raise FormatError("a rest of a division by zero", expected="none")
        return function(a, b)

    return _pointwise(_typed(rest), 2)(inputs, attributes, limits)


def _softmax(logarithm: bool) -> Operator:
    def run(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
        (x,) = present(inputs)
        axis = attributes.get("axis", -1 if limits.opset >= 13 else 1)
        shaped = x
        if limits.opset < 13:
            axis = axis % x.ndim
            shaped, axis = x.reshape(prod(x.shape[:axis]), -1), 1
        shifted = shaped - shaped.max(axis=axis, keepdims=True)
        total = np.exp(shifted).sum(axis=axis, keepdims=True)
        result = shifted - np.log(total) if logarithm else np.exp(shifted) / total
        return [result.reshape(x.shape)]

    return run


def _matmul(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    a, b = present(inputs)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    limits.check((*lead, *a.shape[-2:-1], *b.shape[-1:]), np.result_type(a, b))
    return [np.asarray(a @ b)]


def _gemm(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    a, b, c = (*inputs, None)[:3]
    a, b = present([a, b])
    if a.ndim != 2 or b.ndim != 2:
        raise FormatError(f"Gemm got shapes {a.shape} and {b.shape}", expected="two matrices")
    a, b = a.T if attributes.get("transA", 0) else a, b.T if attributes.get("transB", 0) else b
    limits.check((a.shape[0], b.shape[1]), a.dtype)
    result = np.asarray(attributes.get("alpha", 1.0), a.dtype) * (a @ b)
    if c is not None:
        result = result + np.asarray(attributes.get("beta", 1.0), a.dtype) * np.broadcast_to(c, result.shape)
    return [result]


def _cast(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,) = present(inputs)
    kinds = require("onnx").TensorProto
    names = ("FLOAT", "DOUBLE", "FLOAT16", "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")
    dtypes = {getattr(kinds, name): name.lower().replace("double", "float64") for name in (*names, "UINT64")}
    dtypes[kinds.FLOAT] = "float32"
    if attributes.get("to") not in dtypes:
        raise FormatError("the type of a Cast", got=attributes.get("to"), expected="that of plain numbers or booleans")
    dtype = np.dtype(dtypes[attributes["to"]])
    limits.check(x.shape, dtype)
    return [x.astype(dtype)]


def _concat(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    given = present(inputs)
    limits.check((sum(one.size for one in given),), np.result_type(*given))
    return [np.concatenate(given, axis=attributes["axis"])]


def _reshape(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, shape = present(inputs)
    sizes = whole(shape)
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    return [x.reshape(sizes)]


def _flatten(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,) = present(inputs)
    axis = attributes.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return [x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))]


def _transpose(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,) = present(inputs)
    return [x.transpose(attributes.get("perm"))]


def _squeeze(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,), axes = present(inputs[:1]), axes_of(inputs, attributes)
    return [np.squeeze(x, None if axes is None else tuple(axes))]


def _unsqueeze(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,), axes = present(inputs[:1]), axes_of(inputs, attributes)
    return [np.expand_dims(x, tuple(axes or ()))]


def _gather(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, places = present(inputs)
    axis = attributes.get("axis", 0)
    if not -x.ndim <= axis < x.ndim or places.dtype.kind not in "iu":
        raise FormatError(f"Gather along axis {axis} of shape {x.shape}", expected="an axis of it, and whole numbers")
    axis = axis % x.ndim
    limits.check((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]), x.dtype)
    return [np.take(x, places, axis=axis)]


def _slice(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,) = present(inputs[:1])
    if limits.opset < 10:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes"), None
    else:
        _, starts, ends, axes, steps = (*inputs, None, None)[:5]
        starts, ends = whole(starts), whole(ends)
        axes, steps = (None if one is None else whole(one) for one in (axes, steps))
    axes = range(len(starts)) if axes is None else axes
    parts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        if step == 0 or not -x.ndim <= axis < x.ndim:
            raise FormatError(f"Slice along axis {axis} by {step}", expected=f"an axis of {x.shape}, and no step of 0")
        # an end far below zero means: down to the first
        parts[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return [x[tuple(parts)]]


def _split(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,), axis = present(inputs[:1]), attributes.get("axis", 0)
    sizes = whole(inputs[1]) if len(inputs) > 1 and inputs[1] is not None else attributes.get("split")
    if sizes is None:
        count = attributes.get("num_outputs", attributes.get("outputs", 1))
        if not 1 <= count <= 10_000:
            raise FormatError("the parts of a Split", got=count, expected="1 to 10000")
        part = -(-x.shape[axis] // count)
        sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    if any(size < 0 for size in sizes) or sum(sizes) != x.shape[axis]:
        raise FormatError("the sizes of a Split", got=sizes, expected=f"parts of {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes[:-1], dtype=np.int64), axis=axis)


def _shape(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    (x,) = present(inputs)
    return [np.array(x.shape[attributes.get("start", 0) : attributes.get("end")], np.int64)]


def _expand(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, shape = present(inputs)
    sizes = whole(shape)
    if any(size < 0 for size in sizes):
        raise FormatError("the shape of an Expand", got=sizes, expected="sizes from 0")
    limits.check(sizes, x.dtype)
    wanted = np.broadcast_shapes(x.shape, tuple(sizes))
    limits.check(wanted, x.dtype)
    return [np.broadcast_to(x, wanted)]


def _constant_of_shape(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    sizes = whole(present(inputs)[0])
    value = attributes.get("value", np.zeros(1, np.float32))
    if value.size != 1 or any(size < 0 for size in sizes):
        raise FormatError(f"ConstantOfShape of {value.size} values and shape {sizes}", expected="one, and sizes from 0")
    limits.check(sizes, value.dtype)
    return [np.full(sizes, value.reshape(()), value.dtype)]


def _constant(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    dtypes = {"value": None, "value_float": np.float32, "value_floats": np.float32}
    dtypes |= {"value_int": np.int64, "value_ints": np.int64}
    found = [np.asarray(attributes[name], dtype) for name, dtype in dtypes.items() if name in attributes]
    if len(found) != 1:
        raise FormatError("the value of a Constant", got=sorted(attributes), expected="one tensor or number")
    return found


def _clip(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, low, high = (*inputs, None, None)[:3]
    (x,) = present([x])
    bounds = [low, high] if limits.opset >= 11 else [attributes.get("min"), attributes.get("max")]
    for bound, limit in zip(bounds, (np.maximum, np.minimum), strict=True):
        if bound is not None:
            x = limit(x, np.asarray(bound, x.dtype).reshape(()))
    return [x]


def _reduce(function: Callable[..., Any]) -> Operator:
    def run(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
        (x,), axes = present(inputs[:1]), axes_of(inputs, attributes)
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return [x]
        along = tuple(axes) if axes else None
        return [np.asarray(function(x, axis=along, keepdims=bool(attributes.get("keepdims", 1)))).astype(x.dtype)]

    return run


def _layer_norm(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, scale, bias = (*inputs, None)[:3]
    x, scale = present([x, scale])
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    y = centred / np.sqrt(variance + np.asarray(attributes.get("epsilon", 1e-5), x.dtype))
    y = y * np.broadcast_to(scale, x.shape)
    return [y if bias is None else y + np.broadcast_to(bias, x.shape)]


def _erf(x: Array) -> Array:
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _first(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    return present(inputs[:1])


PLAIN: dict[str, Operator] = {
    **{name: _pointwise(_typed(TABLE[own].numpy), 1) for name, own in (
        ("Relu", "relu"), ("Tanh", "tanh"), ("Sigmoid", "sigmoid"), ("Softplus", "softplus"), ("Neg", "neg"),
        ("Abs", "abs"), ("Exp", "exp"), ("Log", "log"), ("Sqrt", "sqrt"), ("Floor", "floor"), ("Sign", "sign"),
        ("Sin", "sin"), ("Cos", "cos"),
    )},
    "Reciprocal": _pointwise(_typed(lambda a: 1 / a), 1),
    "Erf": _pointwise(_typed(_erf), 1), "LayerNormalization": _layer_norm,
    "Not": _pointwise(np.logical_not, 1),
    "Add": _pointwise(np.add, 2), "Sub": _pointwise(np.subtract, 2), "Mul": _pointwise(np.multiply, 2),
    "Div": _pointwise(_divide, 2), "Pow": _pointwise(_typed(np.power), 2),
    "Equal": _pointwise(np.equal, 2), "Less": _pointwise(np.less, 2), "Greater": _pointwise(np.greater, 2),
    "LessOrEqual": _pointwise(np.less_equal, 2), "GreaterOrEqual": _pointwise(np.greater_equal, 2),
    "And": _pointwise(np.logical_and, 2), "Or": _pointwise(np.logical_or, 2),
    "Where": _pointwise(np.where, 3), "Mod": _mod,
    "Min": _pointwise(lambda first, *others: _folded(np.minimum, first, others)),
    "Max": _pointwise(lambda first, *others: _folded(np.maximum, first, others)),
    "MatMul": _matmul, "Gemm": _gemm, "Softmax": _softmax(False), "LogSoftmax": _softmax(True),
    "Cast": _cast, "Concat": _concat, "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose,
    "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Gather": _gather, "Slice": _slice, "Split": _split,
    "Shape": _shape, "Expand": _expand, "ConstantOfShape": _constant_of_shape, "Constant": _constant, "Clip": _clip,
    "ReduceSum": _reduce(np.sum), "ReduceMean": _reduce(np.mean), "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min), "Identity": _first, "Dropout": _first,
    **SEQUENCE,
}  # fmt: skip
"""The operators by their names in ONNX."""


def _folded(function: Callable[[Array, Array], Array], first: Array, others: Sequence[Array]) -> Array:
    for other in others:
        first = function(first, other)
    return first
