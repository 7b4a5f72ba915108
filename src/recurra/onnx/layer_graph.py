"""Layers and wrappers as parts of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import (
    LTC,
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
    Recurrent,
    Residual,
    Reversed,
    SelectiveStateSpace,
    Stack,
    WeightDropout,
    WindowAttention,
)
from recurra.nn.streaming import memory_readers
from recurra.onnx.decoder_graph import NESTED, write_decoder
from recurra.onnx.graph_builder import GraphBuilder
from recurra.onnx.memory_graph import (
    write_delta,
    write_linear_attention,
    write_mlstm,
    write_selective,
    write_window,
)
from recurra.onnx.program_graph import Signals, run_steps, write_program
from recurra.onnx.standard_operators import standard_operator, write_standard
from recurra.program.operations import TABLE

Names = Any
"""The names of a state's values, nested as the state is."""

_TO_THE_END = 2**62

Result = tuple[str, Names]
_Write = Callable[[GraphBuilder, Any, str, Names, Signals], Result]


def write_layer(builder: GraphBuilder, layer: Layer, x: str, state: Names, signals: Signals) -> Result:
    """A layer in evaluation: x (batch, time, input), each value of the state (batch, columns). Returns y and the next
    state. Raises ArgumentError for a layer that has no form in ONNX yet."""
    write = _writer(layer)
    if write is None:
        raise ArgumentError(_refusal(layer), advice="Layers of other classes run in torch and in recurra.runtime")
    return write(builder, layer, x, state, signals)


def refusal(layer: Layer) -> str:
    """Why a layer has no form in ONNX; empty when it has one."""
    inner = [one for one in layer.modules() if isinstance(one, Layer) and one is not layer]
    readers = list(memory_readers(layer))
    if any(isinstance(one, AttentionDecoder) for reader in readers for one in reader.layer.modules()):
        return NESTED
    sizes = sorted({reader.attention.memory_size for reader in readers})
    if len(sizes) > 1:
        named = " and ".join(map(str, sizes))
        return f"decoders that attend to memories of {named} columns have no form in ONNX together"
    return next(filter(None, map(_refusal, [layer, *inner])), "")


def _refusal(layer: Layer) -> str:
    """As `refusal`, of a layer alone."""
    write = _writer(layer)
    if write is None:
        known = ", ".join(sorted(kind.__name__ for kind in _WRITERS))
        return f"a layer of class {type(layer).__name__} has no form in ONNX; those that have one are {known}"
    if isinstance(layer, Recurrent):
        used = {layer.program.nodes[i].operation for i in layer.program.live} & TABLE.keys()
        for name in sorted(used):
            if isinstance(reason := TABLE[name].onnx, str):
                return f"'{name}' has no form in ONNX: {reason}"
    return ""


def _writer(layer: Layer) -> _Write | None:
    return next((write for kind, write in _WRITERS.items() if isinstance(layer, kind)), None)


def _recurrent(builder: GraphBuilder, layer: Recurrent, x: str, state: Names, signals: Signals) -> Result:
    # none of ONNX's operators starts a row afresh between two steps
    write = write_standard if signals.reset is None and standard_operator(layer) else write_program
    y, after = write(builder, layer, x, state, signals)
    return y, tuple(after)


def _stack(builder: GraphBuilder, layer: Stack, x: str, state: Names, signals: Signals) -> Result:
    after = []
    for one, own in zip(layer.layers, state, strict=True):
        x, following = write_layer(builder, one, x, own, signals)
        after.append(following)
    return x, tuple(after)


def _residual(builder: GraphBuilder, layer: Residual, x: str, state: Names, signals: Signals) -> Result:
    y, after = write_layer(builder, layer.layer, x, state, signals)
    return builder.op("Add", signals.masked(builder, x), y), after


def _inner(builder: GraphBuilder, layer: Dropout, x: str, state: Names, signals: Signals) -> Result:
    """What is dropped in training is not dropped here."""
    return write_layer(builder, layer.layer, x, state, signals)


def _weight_dropout(builder: GraphBuilder, layer: WeightDropout, x: str, state: Names, signals: Signals) -> Result:
    inner, seed = state
    y, after = write_layer(builder, layer.layer, x, inner, signals)
    return y, (after, seed)


def _batch_norm(builder: GraphBuilder, layer: MaskedBatchNorm, x: str, state: Names, signals: Signals) -> Result:
    scale = layer.weight / (layer.running_variance + layer.epsilon).sqrt()
    shifted = builder.op("Sub", x, _array(builder, layer.running_mean))
    y = builder.op("Add", builder.op("Mul", shifted, _array(builder, scale)), _array(builder, layer.bias))
    return signals.masked(builder, y), ()


def _last(builder: GraphBuilder, layer: Last, x: str, state: Names, signals: Signals) -> Result:
    inner, last = state
    y, after = write_layer(builder, layer.layer, x, inner, signals)
    # what was last before stands first, so that a row without a step keeps it
    steps = builder.op("Concat", builder.op("Unsqueeze", last, builder.whole(1)), y, axis=1)
    place = builder.op("Unsqueeze", signals.lengths, builder.whole(1))
    last = builder.op("GatherND", steps, place, batch_dims=1)
    return last, (after, last)


def _mean(builder: GraphBuilder, layer: Mean, x: str, state: Names, signals: Signals) -> Result:
    inner, total, count = state
    y, after = write_layer(builder, layer.layer, x, inner, signals)
    steps = builder.op("Unsqueeze", builder.cast(signals.lengths), builder.whole(1))
    if signals.reset is not None:
        y, steps, afresh = _since_reset(builder, y, signals, signals.reset)
        total, count = (builder.op("Where", afresh, builder.number(0.0), one) for one in (total, count))
    total = builder.op("Add", total, builder.op("ReduceSum", y, builder.whole(1), keepdims=0))
    count = builder.op("Add", count, steps)
    return builder.op("Div", total, builder.op("Max", count, builder.number(1.0))), (after, total, count)


def _since_reset(builder: GraphBuilder, y: str, signals: Signals, reset: str) -> tuple[str, str, str]:
    """Outputs with zeros before each row's last reset, how many steps are left (batch, 1), and which rows were reset
    (batch, 1)."""
    zero, time = builder.number(0.0), builder.whole(1)
    borders = builder.cast(reset)
    later = builder.op("CumSum", borders, builder.array(np.array(1)), exclusive=1, reverse=1)
    counted = builder.op("And", signals.valid, builder.op("Equal", later, zero))
    steps = builder.op("ReduceSum", builder.cast(counted), time, keepdims=0)
    afresh = builder.op("Greater", builder.op("ReduceSum", borders, time, keepdims=0), zero)
    return builder.op("Where", counted, y, zero), steps, afresh


def _bidirectional(builder: GraphBuilder, layer: Bidirectional, x: str, state: Names, signals: Signals) -> Result:
    y, after = write_layer(builder, layer.forward_layer, x, state[0], signals)
    y_back, after_back = _read_backwards(builder, layer.backward_layer, x, state[1], signals)
    return builder.op("Concat", y, y_back, axis=-1), (after, after_back)


def _reversed(builder: GraphBuilder, layer: Reversed, x: str, state: Names, signals: Signals) -> Result:
    return _read_backwards(builder, layer.layer, x, state, signals)


def _read_backwards(builder: GraphBuilder, layer: Layer, x: str, state: Names, signals: Signals) -> Result:
    """A layer over the valid part of each row turned around, its outputs turned back."""

    def reverse(value: str) -> str:
        return builder.op("ReverseSequence", value, signals.lengths, batch_axis=0, time_axis=1)

    elapsed = reset = border = None
    if signals.reset is not None:
        # backwards, a row starts afresh behind the step that it did so before
        flags = builder.cast(builder.op("Squeeze", signals.reset, builder.whole(2)))
        border = builder.op("Greater", _of_next(builder, flags, signals), builder.number(0.0))
        reset = builder.op("Unsqueeze", reverse(border), builder.whole(2))
    if signals.elapsed is not None and layer.uses_elapsed:
        gap = _of_next(builder, signals.elapsed, signals)
        elapsed = reverse(gap if border is None else builder.op("Where", border, builder.number(0.0), gap))
    y, after = write_layer(builder, layer, reverse(x), state, replace(signals, elapsed=elapsed, reset=reset))
    return (y if layer.pools else reverse(y)), after


def _of_next(builder: GraphBuilder, value: str, signals: Signals) -> str:
    """What stood at step t + 1, now at t; zero at the last valid step (batch, time)."""
    zero = builder.number(0.0)

    def later(one: str) -> str:
        return builder.slice(builder.op("Pad", one, builder.whole(0, 0, 0, 1), zero), 1, _TO_THE_END, 1)

    following = builder.op("Greater", later(builder.cast(builder.op("Squeeze", signals.valid, builder.whole(2)))), zero)
    return builder.op("Where", following, later(value), zero)


def _ltc(builder: GraphBuilder, layer: LTC, x: str, state: Names, signals: Signals) -> Result:
    assert signals.elapsed is not None
    own = {name: value.detach() for name, value in layer.named_parameters()}
    for name in ("input_w", "w", "g", "c"):
        own[name] = own[name].exp().log1p()
    values = {name: _array(builder, value) for name, value in own.items()}
    values["rest"] = _array(builder, own["g"] * own["v_leak"])
    values["pace"] = _array(builder, 1 / (layer.unfolds * own["c"]))
    times = builder.op("Unsqueeze", signals.elapsed, builder.whole(-1))

    def synapses(body: GraphBuilder, sources: str, prefix: str) -> tuple[str, str]:
        """The conductance into each unit, and what it drives the unit by."""
        shifted = body.op("Sub", body.op("Unsqueeze", sources, body.whole(2)), values[f"{prefix}mu"])
        active = body.op("Sigmoid", body.op("Mul", values[f"{prefix}gamma"], shifted))
        open_ = body.op("Mul", values[f"{prefix}w"], active)
        driven = body.op("Mul", open_, values[f"{prefix}E"])
        open_, driven = (body.op("ReduceSum", one, body.whole(1), keepdims=0) for one in (open_, driven))
        return open_, driven

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        x_t, elapsed = given
        rate = body.op("Mul", elapsed, values["pace"])
        open_x, driven_x = synapses(body, x_t, "input_")
        open_x, driven_x = body.op("Add", values["g"], open_x), body.op("Add", values["rest"], driven_x)
        (v,) = held
        for _ in range(layer.unfolds):
            open_v, driven_v = synapses(body, v, "")
            above = body.op("Add", v, body.op("Mul", rate, body.op("Add", driven_x, driven_v)))
            below = body.op("Mul", rate, body.op("Add", open_x, open_v))
            v = body.op("Div", above, body.op("Add", body.number(1.0), below))
        return [v], v

    y, after = run_steps(builder, state, layer.initial_state(1), [x, times], signals, step)
    return y, tuple(after)


def _decoder(builder: GraphBuilder, layer: AttentionDecoder, x: str, state: Names, signals: Signals) -> Result:
    return write_decoder(builder, layer, x, state, signals, write_layer)


def _array(builder: GraphBuilder, value: Tensor) -> str:
    return builder.array(value.detach().numpy())


_WRITERS: dict[type[Layer], _Write] = {
    Recurrent: _recurrent,
    Stack: _stack,
    Bidirectional: _bidirectional,
    Residual: _residual,
    Reversed: _reversed,
    Dropout: _inner,
    WeightDropout: _weight_dropout,
    MaskedBatchNorm: _batch_norm,
    Last: _last,
    Mean: _mean,
    LTC: _ltc,
    MatrixLSTM: write_mlstm,
    GatedDelta: write_delta,
    GatedLinearAttention: write_linear_attention,
    SelectiveStateSpace: write_selective,
    WindowAttention: write_window,
    AttentionDecoder: _decoder,
}
