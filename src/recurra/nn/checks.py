"""Checks of what a user hands to a layer, before anything is computed.

Where torch.compile or torch.export traces, what depends on the values of a tensor is not checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from recurra.errors import ArgumentError, ShapeError
from recurra.nn.layer import Layer
from recurra.ops.select import transform_reason

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_STATE_ADVICE = "Pass what layer.initial_state or an earlier call returned"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def readable(tensor: Tensor) -> bool:
    """Whether its values can be looked at: not while a graph is traced, nor under a transform such as vmap."""
    return not torch.compiler.is_compiling() and not transform_reason() and not tensor.is_meta


def _autocast(tensor: Tensor) -> bool:
    return torch.is_autocast_enabled(tensor.device.type) and tensor.is_floating_point()


def check_like(name: str, tensor: Any, like: Tensor) -> None:
    """The tensor is dense, with the dtype and device of the parameter `like`; under autocast any float will do."""
    if not isinstance(tensor, Tensor):
        raise ShapeError(f"{name} is a {type(tensor).__name__}", expected="a tensor", advice=_advice_for(tensor))
    if tensor.layout is not torch.strided:
        raise ShapeError(
            f"{name} has layout {tensor.layout}", expected="a dense tensor", advice=f"Convert it: {name}.to_dense()"
        )
    if tensor.dtype != like.dtype and not _autocast(tensor):
        raise ShapeError(
            f"{name} has dtype {tensor.dtype}",
            expected=f"{like.dtype}, as the parameters",
            advice=_dtype_advice(name, tensor, like),
        )
    if tensor.device != like.device:
        raise ShapeError(
            f"{name} is on {tensor.device}",
            expected=f"{like.device}, where the parameters are",
            advice=f"Move one of them: {name}.to({str(like.device)!r}), or layer.to({str(tensor.device)!r})",
        )


def _dtype_advice(name: str, tensor: Tensor, like: Tensor) -> str:
    dtype = like.dtype
    if tensor.is_complex():
        return f"Hand over real features, such as torch.cat(({name}.real, {name}.imag), -1)"
    if not tensor.is_floating_point():
        return f"Convert it: {name}.float()" if dtype == torch.float32 else f"Convert it: {name}.to({dtype})"
    # only layers with small weights have a tensor of nothing to go by, and they are of float32 or nothing
    if not like.numel():
        return f"Convert it: {name}.float()"
    return f"Convert one of them: {name}.to({dtype}), or layer.to({tensor.dtype})"


def _advice_for(value: Any) -> str:
    if isinstance(value, PackedSequence):
        return "Unpack it: x, lengths = pad_packed_sequence(x, batch_first=True), then layer(x, lengths=lengths)"
    return "Make it one with torch.as_tensor(...)"


def check_sequence(x: Any, size: int, like: Tensor) -> None:
    """x is (batch, time, size), like the parameter `like`."""
    if (
        isinstance(x, Tensor)
        and x.ndim == 3
        and x.shape[2] == size
        and x.dtype == like.dtype
        and x.device == like.device
        and x.layout is torch.strided
    ):
        return
    check_input("x", x, ("batch", "time"), size, like)


def check_frame(x_t: Any, size: int, like: Tensor) -> None:
    """x_t is (batch, size), like the parameter `like`."""
    check_input("x_t", x_t, ("batch",), size, like)


def check_input(name: str, x: Any, leading: tuple[str, ...], size: int, like: Tensor) -> None:
    """A tensor of these leading dimensions and `size` features, like the parameter `like`."""
    if isinstance(x, Tensor) and (x.ndim != len(leading) + 1 or x.shape[-1] != size):
        expected = f"({', '.join(leading)}, {size})"
        if x.ndim == len(leading) + 1:
            what = "input_size" if name in ("x", "x_t") else f"{name}_size"
            advice = f"The layer was built with {what}={size}; is the feature dimension last?"
        elif x.ndim == len(leading):
            advice = (
                f"A batch of one is {name}[None]" if x.shape[-1] == size else f"A single feature is {name}[..., None]"
            )
        else:
            advice = {"x": "Use layer.step for one step", "x_t": "Use layer(x) for whole sequences"}.get(
                name, f"Bring {name} to these dimensions"
            )
        raise ShapeError(f"{name} has shape {_shape(x)}", expected=expected, advice=advice)
    check_like(name, x, like)


def check_tokens(tokens: Any, leading: tuple[str, ...], count: int, device: torch.device) -> None:
    """Whole numbers from 0 to count - 1 of these leading dimensions."""
    if not isinstance(tokens, Tensor):
        raise ShapeError(f"tokens is a {type(tokens).__name__}", expected="a tensor", advice=_advice_for(tokens))
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ShapeError(
            f"tokens has dtype {tokens.dtype}",
            expected="torch.int64 or torch.int32",
            advice="Convert it: tokens.long()",
        )
    if tokens.ndim != len(leading):
        advice = "A batch of one is tokens[None]" if tokens.ndim == len(leading) - 1 else "A token is one whole number"
        expected = f"({', '.join(leading)}{',' * (len(leading) == 1)})"
        raise ShapeError(f"tokens has shape {_shape(tokens)}", expected=expected, advice=advice)
    _check_device("tokens", tokens, device)
    if tokens.numel() == 0 or not readable(tokens):
        return
    low, high = (int(bound) for bound in tokens.aminmax())
    if low < 0 or high >= count:
        raise ArgumentError(
            f"tokens holds {low if low < 0 else high}",
            expected=f"0 to {count - 1}, the tokens of the vocabulary",
            advice="vocabulary.encode makes them of a text",
        )


def check_structure(state: Any, kind: type | None, count: int) -> None:
    """A nested state is a tuple of `count` parts; a named one carries the names of `kind`."""
    if not isinstance(state, tuple):
        hint = "Put it in a tuple: (h,)" if isinstance(state, Tensor) else _STATE_ADVICE
        raise ShapeError(f"state is a {type(state).__name__}", expected=f"a tuple of {count}", advice=hint)
    names = getattr(state, "_fields", None)
    wanted = getattr(kind, "_fields", None)
    if len(state) != count or (names is not None and names != wanted):
        got = f"({', '.join(names)})" if names is not None else f"{len(state)} parts"
        expected = f"({', '.join(wanted)})" if wanted is not None else f"{count} parts"
        raise ShapeError(f"state has {got}", expected=expected, advice=_STATE_ADVICE)


def check_state(state: Any, kind: type, columns: tuple[int, ...], batch: int, like: Tensor) -> None:
    """The state of one recurrent layer: tensors (batch, columns) by the names of `kind`."""
    if type(state) is not kind:
        check_structure(state, kind, len(columns))
    for k, (tensor, width) in enumerate(zip(state, columns, strict=True)):
        name = f"state.{kind._fields[k]}"  # type: ignore[attr-defined]
        if not isinstance(tensor, Tensor):
            raise ShapeError(f"{name} is a {type(tensor).__name__}", expected="a tensor", advice=_STATE_ADVICE)
        if tensor.ndim != 2 or tensor.shape[0] != batch or tensor.shape[1] != width:
            advice = _STATE_ADVICE
            if tensor.ndim == 2 and tensor.shape[1] == width:
                advice = (
                    f"It is the state of another batch size than x; start with layer.initial_state({batch}), or None"
                )
            raise ShapeError(f"{name} has shape {_shape(tensor)}", expected=f"({batch}, {width})", advice=advice)
        check_like(name, tensor, like)


def check_lengths(lengths: Any, batch: int, time: int, device: torch.device, of: str = "x") -> None:
    """lengths is (batch,), whole numbers from 0 to time, the steps of what `of` names."""
    if not isinstance(lengths, Tensor):
        advice = "Write lengths=torch.tensor([...])"
        raise ShapeError(
            f"lengths is a {type(lengths).__name__}", expected=f"a tensor of {batch} whole numbers", advice=advice
        )
    if lengths.dtype not in INTEGERS:
        raise ShapeError(
            f"lengths has dtype {lengths.dtype}",
            expected="whole numbers such as torch.int64",
            advice="Convert it: lengths.long()",
        )
    if lengths.ndim != 1 or lengths.shape[0] != batch:
        raise ShapeError(
            f"lengths has shape {_shape(lengths)}", expected=f"({batch},), one length a row", advice="Give each row one"
        )
    _check_device("lengths", lengths, device)
    if lengths.numel() == 0 or not readable(lengths):
        return
    low, high = (int(bound) for bound in lengths.aminmax())
    if low < 0 or high > time:
        raise ArgumentError(
            f"lengths holds {low if low < 0 else high}",
            expected=f"0 to {time}, the number of steps of {of}",
            advice="A length counts the valid steps of its row",
        )


def check_reset(reset: Any, batch: int, time: int, device: torch.device) -> None:
    """reset is (batch, time), booleans."""
    if not isinstance(reset, Tensor):
        raise ShapeError(f"reset is a {type(reset).__name__}", expected="a tensor of booleans", advice="Make it one")
    if reset.dtype != torch.bool:
        raise ShapeError(f"reset has dtype {reset.dtype}", expected="torch.bool", advice="Convert it: reset.bool()")
    if reset.ndim != 2 or reset.shape[0] != batch or reset.shape[1] != time:
        advice = "It says for each row and step whether the row starts afresh before it"
        raise ShapeError(f"reset has shape {_shape(reset)}", expected=f"({batch}, {time})", advice=advice)
    _check_device("reset", reset, device)


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ShapeError(
            f"{name} is on {tensor.device}",
            expected=f"{device}, where x is",
            advice=f"Move it: {name}.to({str(device)!r})",
        )


def check_elapsed_wanted(elapsed: Any, wanted: bool) -> None:
    """elapsed is given exactly where a cell in continuous time needs it."""
    if wanted and elapsed is None:
        raise ArgumentError(
            "elapsed is missing",
            expected="the time since the step before, (batch, time) or for a step (batch,)",
            advice="The cell is in continuous time; for evenly spaced steps pass ones",
        )
    if elapsed is not None and not wanted:
        raise ArgumentError(
            "elapsed is given",
            expected="None",
            advice="No cell of this layer reads the time between steps; leave it out",
        )


def check_elapsed(elapsed: Any, shape: tuple[int, ...], lengths: Tensor | None, like: Tensor) -> None:
    """elapsed has this shape, and is nowhere negative, infinite or NaN but in padding."""
    if isinstance(elapsed, Tensor) and tuple(elapsed.shape) != shape:
        advice = "One time a row and step: how long ago the step before was"
        raise ShapeError(f"elapsed has shape {_shape(elapsed)}", expected=str(shape), advice=advice)
    check_like("elapsed", elapsed, like)
    if not readable(elapsed):
        return
    fine = (elapsed >= 0) & (elapsed < torch.inf)
    if lengths is not None:
        fine = fine | (torch.arange(shape[1], device=lengths.device) >= lengths[:, None])
    if not bool(fine.all()):
        worst = float(elapsed[~fine].detach()[0])
        raise ArgumentError(
            f"elapsed holds {worst}",
            expected="0 or more, and finite, at every valid step",
            advice="Sort the steps of each row by time",
        )


def check_counts(what: str, like: Tensor) -> None:
    """`like` has a dtype that counts steps and seeds without a gap."""
    if like.dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            f"{what} has parameters of {like.dtype}",
            expected="torch.float32 or torch.float64 while it trains: its random numbers are counted, which half "
            "precision cannot",
            advice="Train in float32, or under torch.autocast; evaluation runs in half precision too",
        )


def check_batch(batch: Any) -> None:
    """A number of rows."""
    if isinstance(batch, bool) or not isinstance(batch, int | torch.SymInt) or batch < 0:
        raise ArgumentError(
            f"batch is {batch!r}", expected="a whole number from 0", advice="It is the number of rows, x.shape[0]"
        )


def check_size(name: str, size: Any) -> None:
    """A width in columns."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ArgumentError(f"{name} is {size!r}", expected="a whole number from 1", advice="It counts columns")


def check_count(name: str, count: Any, advice: str) -> None:
    """A number of heads, steps and the like, at least one."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"{name} is {count!r}", expected="a whole number from 1", advice=advice)


def check_layer(name: str, layer: Any) -> None:
    """A layer that keeps the contract, to be wrapped."""
    if not isinstance(layer, Layer):
        advice = "Build it with recurra.nn, convert it with recurra.nn.from_torch, or subclass recurra.nn.Layer"
        raise ArgumentError(f"{name} is a {type(layer).__name__}", expected="a layer of recurra", advice=advice)
