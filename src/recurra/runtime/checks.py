"""Checks of what a user hands to a model of the runtime, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recurra.errors import ArgumentError, ShapeError
from recurra.runtime.rows import Rows
from recurra.streams.checks import as_array

if TYPE_CHECKING:
    from recurra.runtime.layer import Layer


def check_sequence(x: Any, layer: Layer) -> np.ndarray:
    """x (batch, time, input_size) of the layer's dtype, or tokens (batch, time)."""
    return _check_input("x", x, ("batch", "time"), layer)


def check_frame(x_t: Any, layer: Layer) -> np.ndarray:
    """x_t (batch, input_size) of the layer's dtype, or tokens (batch,)."""
    return _check_input("x_t", x_t, ("batch",), layer)


def _check_input(name: str, x: Any, leading: tuple[str, ...], layer: Layer) -> np.ndarray:
    if not isinstance(x, np.ndarray):
        raise ShapeError(f"{name} is a {type(x).__name__}", expected="a numpy array", advice="Make it one")
    if layer.tokens is not None:
        return _check_tokens(name, x, leading, layer.tokens)
    if x.ndim != len(leading) + 1 or x.shape[-1] != layer.input_size:
        advice = {"x": "Use step for one step", "x_t": "Use a call for whole sequences"}[name]
        raise ShapeError(
            f"{name} has shape {x.shape}",
            expected=f"({', '.join(leading)}, {layer.input_size})",
            advice="" if x.ndim == len(leading) + 1 else advice,
        )
    wanted = layer.input_dtype or layer.dtype
    if x.dtype != wanted:
        raise ShapeError(
            f"{name} has dtype {x.dtype}",
            expected=f"{wanted}, as the weights",
            advice=f"Convert it: {name}.astype(np.{wanted})",
        )
    return x


def _check_tokens(name: str, x: np.ndarray, leading: tuple[str, ...], count: int) -> np.ndarray:
    if x.ndim != len(leading) or x.dtype.kind not in "iu":
        raise ShapeError(f"{name} has shape {x.shape} of {x.dtype}", expected=f"whole numbers ({', '.join(leading)})")
    if x.size and not (0 <= x.min() and x.max() < count):
        raise ArgumentError(f"{name} holds {x.min()} to {x.max()}", expected=f"tokens from 0 to {count - 1}")
    return x


def check_rows(lengths: Any, reset: Any, elapsed: Any, shape: tuple[int, int], layer: Layer) -> Rows:
    """What a call says of its rows, as the engine reads it."""
    batch, time = shape
    if lengths is not None:
        lengths = as_array("lengths", lengths)
        # numpy makes an empty list one of float64
        if (lengths.dtype.kind not in "iu" and batch) or lengths.shape != (batch,):
            raise ShapeError(f"lengths has shape {lengths.shape} of {lengths.dtype}", expected=f"({batch},) integers")
        if batch and not (0 <= lengths.min() and lengths.max() <= time):
            raise ArgumentError(f"lengths holds {lengths.min()} to {lengths.max()}", expected=f"0 to {time}")
        lengths = np.ascontiguousarray(lengths, dtype=np.int64)
    if reset is not None:
        reset = as_array("reset", reset)
        if reset.dtype != np.bool_ or reset.shape != shape:
            raise ShapeError(f"reset has shape {reset.shape} of {reset.dtype}", expected=f"{shape} of bool")
        reset = np.ascontiguousarray(reset)
    return Rows(lengths, reset, check_times(elapsed, shape, lengths, layer))


def check_times(elapsed: Any, shape: tuple[int, ...], lengths: np.ndarray | None, layer: Layer) -> np.ndarray | None:
    """The time between steps, where the layer reads it."""
    if not layer.uses_elapsed:
        if elapsed is not None:
            raise ArgumentError("elapsed is given", expected="None", advice="No cell of this model reads the time")
        return None
    if elapsed is None:
        raise ArgumentError(
            "elapsed is missing",
            expected="the time since the step before, (batch, time) or for a step (batch,)",
            advice="The cell is in continuous time; for evenly spaced steps pass ones",
        )
    times = as_array("elapsed", elapsed)
    if times.shape != shape or times.dtype != (layer.input_dtype or layer.dtype):
        wanted = layer.input_dtype or layer.dtype
        raise ShapeError(f"elapsed has shape {times.shape} of {times.dtype}", expected=f"{shape} of {wanted}")
    fine = (times >= 0) & (times < np.inf)
    if lengths is not None:
        fine = fine | (np.arange(shape[1]) >= lengths[:, None])
    if not fine.all():
        raise ArgumentError(f"elapsed holds {times[~fine][0]}", expected="0 or more, and finite, at every valid step")
    return times
