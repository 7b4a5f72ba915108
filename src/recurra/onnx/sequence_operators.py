"""The plain operators of sequences: places in time, sums over time, reversing, padding."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

import numpy as np

from recurra.errors import FormatError
from recurra.onnx.operator_inputs import Array, Attributes, Limits, Operator, present, whole


def _range(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    start, limit, delta = present(inputs)
    first, end, step = (one.reshape(()).item() for one in (start, limit, delta))
    if not step:
        raise FormatError("the step of a Range", got=step, expected="another number than zero")
    # of whole numbers without a detour over floats, which cannot count that far
    exact = all(isinstance(one, int) for one in (first, end, step))
    count = max(-((first - end) // step) if exact else ceil((end - first) / step), 0)
    limits.check((count,), np.dtype(np.float64))
    return [(first + np.arange(count) * step).astype(start.dtype)]


def _cumulative_sum(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, place = present(inputs)
    (axis,) = whole(place)
    turned = np.flip(x, axis) if attributes.get("reverse", 0) else x
    total = np.cumsum(turned, axis, dtype=x.dtype)
    if attributes.get("exclusive", 0):
        total = total - turned
    return [np.flip(total, axis) if attributes.get("reverse", 0) else total]


def _reverse_sequence(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, lengths = present(inputs)
    by_axis = {attributes.get("batch_axis", 1): "batch", attributes.get("time_axis", 0): "time"}
    if by_axis.keys() != {0, 1} or x.ndim < 2:
        raise FormatError("the axes of a ReverseSequence", got=sorted(by_axis), expected="0 and 1, for batch and time")
    rows = x if by_axis[0] == "batch" else x.swapaxes(0, 1)
    batch, time = rows.shape[:2]
    fits = lengths.shape == (batch,) and lengths.dtype.kind in "iu"
    if not fits or bool(((lengths < 0) | (lengths > time)).any()):
        raise FormatError("the lengths of a ReverseSequence", expected=f"{batch} whole numbers from 0 to {time}")
    steps, ends = np.arange(time), lengths[:, None].astype(np.int64)
    order = np.where(steps < ends, ends - 1 - steps, steps)
    turned = rows[np.arange(batch)[:, None], order]
    return [turned if by_axis[0] == "batch" else turned.swapaxes(0, 1)]


def _pad(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, sizes, value, axes = (*inputs, None, None, None)[:4]
    (x,) = present([x])
    pads = attributes.get("pads") if limits.opset < 11 else whole(sizes)
    filling = attributes.get("value", 0.0) if limits.opset < 11 else value
    along = [axis % x.ndim for axis in whole(axes, range(x.ndim))]
    if attributes.get("mode", b"constant") != b"constant" or pads is None or min(pads, default=0) < 0:
        raise FormatError("a Pad", expected="the mode 'constant', and no size below zero")
    if len(pads) != 2 * len(along) or len(set(along)) != len(along):
        raise FormatError("the sizes of a Pad", got=pads, expected=f"two for each of {len(along)} axes")
    around = [(0, 0)] * x.ndim
    for axis, before, after in zip(along, pads[: len(along)], pads[len(along) :], strict=True):
        around[axis] = (before, after)
    limits.check([size + sum(more) for size, more in zip(x.shape, around, strict=True)], x.dtype)
    constant = np.zeros((), x.dtype) if filling is None else np.asarray(filling, x.dtype).reshape(())
    return [np.pad(x, around, constant_values=constant)]


def _gather_nd(inputs: Sequence[Array | None], attributes: Attributes, limits: Limits) -> Sequence[Array]:
    x, places = present(inputs)
    lead = attributes.get("batch_dims", 0)
    fits = 0 <= lead < min(x.ndim, places.ndim) and places.dtype.kind in "iu"
    if not fits or x.shape[:lead] != places.shape[:lead] or not 1 <= places.shape[-1] <= x.ndim - lead:
        raise FormatError(f"GatherND of shapes {x.shape} and {places.shape}", expected="places within the first")
    rows, depth = prod(x.shape[:lead]), places.shape[-1]
    kept, rest = places.shape[lead:-1], x.shape[lead + depth :]
    shape = (*x.shape[:lead], *kept, *rest)
    limits.check(shape, x.dtype)
    index = places.reshape(rows, prod(kept), depth)
    found = x.reshape(rows, *x.shape[lead:])[(np.arange(rows)[:, None], *(index[..., k] for k in range(depth)))]
    return [found.reshape(shape)]


SEQUENCE: dict[str, Operator] = {
    "CumSum": _cumulative_sum,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "ReverseSequence": _reverse_sequence,
}
"""The operators by their names in ONNX."""
