"""The attention decoder as part of an ONNX graph: its layer, a step at a time, in a loop around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import AdditiveAttention, AttentionDecoder
from recurra.nn.attention import Attention
from recurra.onnx.graph_builder import GraphBuilder
from recurra.onnx.program_graph import Signals, run_steps
from recurra.onnx.state_names import afresh, flattened, nested_as

NESTED = "an AttentionDecoder within another one has no form in ONNX: only the outer one is handed the memory"
"""Why one must not stand within another."""

WriteLayer = Callable[[GraphBuilder, Any, str, Any, Signals], tuple[str, Any]]


def write_decoder(
    builder: GraphBuilder, layer: AttentionDecoder, x: str, state: Any, signals: Signals, write_layer: WriteLayer
) -> tuple[str, Any]:
    """Luong et al. (2015), equation 5 and section 3.3. The memory of the graph's input is put behind that which the
    state has. Raises ArgumentError in a graph without one."""
    if signals.memory is None:
        raise ArgumentError(NESTED, advice="Put them side by side, as in Stack")
    inner, attentional, weights, keys, values, valid = state
    keys, values = _memory(builder, layer.attention, (keys, values, valid), signals.memory, signals)
    present = builder.cast(signals.memory[1])
    nothing = builder.op("Mul", present, builder.number(0.0))
    weights, valid = builder.op("Concat", weights, nothing, axis=1), builder.op("Concat", valid, present, axis=1)
    # a step of padding more: there is always one to attend to
    zero, axes = builder.number(0.0), builder.whole(0, 0, 0, 0, 1, 0)
    all_keys, all_values = (builder.op("Pad", one, axes, zero) for one in (keys, values))
    known = builder.op("Greater", builder.op("Pad", valid, builder.whole(0, 0, 0, 1), zero), builder.number(0.5))
    one_step = _one_step(builder, signals)

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        *parts, fed, _ = held
        read = body.op("Unsqueeze", body.op("Concat", *given, fed, axis=-1), body.whole(1))
        query, after = write_layer(body, layer.layer, read, nested_as(inner, iter(parts)), one_step)
        query = body.op("Squeeze", query, body.whole(1))
        scores = _scores(body, layer.attention, query, all_keys)
        scores = body.op("Where", known, scores, body.number(float(np.finfo(body.dtype).min)))
        attended = body.op("Where", known, body.op("Softmax", scores, axis=1), body.number(0.0))
        context = body.op("MatMul", body.op("Unsqueeze", attended, body.whole(1)), all_values)
        context = body.op("Squeeze", context, body.whole(1))
        y = body.op("Tanh", body.linear(body.op("Concat", context, query, axis=-1), _numpy(layer.combine.weight)))
        return [*flattened(after), y, body.slice(attended, 0, -1, 1)], y

    none = torch.zeros(1, 1, dtype=layer.combine.weight.dtype)
    initial = [*afresh(layer.layer.initial_state(1)), none, none]
    y, (*finals, fed, weights) = run_steps(
        builder, [*flattened(inner), attentional, weights], initial, [x], signals, step
    )
    keys, values = (builder.op("Flatten", one, axis=1) for one in (keys, values))
    return y, (nested_as(inner, iter(finals)), fed, weights, keys, values, valid)


def _memory(
    builder: GraphBuilder, attention: Attention, held: tuple[str, str, str], new: tuple[str, str], signals: Signals
) -> tuple[str, str]:
    """The keys and values (batch, source time, columns) of the state and of the new memory behind one another."""
    memory, present = new
    keys, values, valid = held
    # in padding may stand anything
    memory = builder.op("Where", builder.op("Unsqueeze", present, builder.whole(2)), memory, builder.number(0.0))
    weight = getattr(attention.key, "weight", None)
    new_keys = memory if weight is None else builder.linear(memory, _numpy(weight))
    seen = builder.size(valid, 1)

    def joined(one: str, columns: int, other: str) -> str:
        shape = builder.op("Concat", signals.batch, seen, builder.whole(columns), axis=0)
        return builder.op("Concat", builder.op("Reshape", one, shape, allowzero=1), other, axis=1)

    return joined(keys, attention.key_size, new_keys), joined(values, attention.memory_size, memory)


def _scores(body: GraphBuilder, attention: Attention, query: str, keys: str) -> str:
    """The score of each step of the memory (batch, source time)."""
    if isinstance(attention, AdditiveAttention):
        bias = None if attention.query.bias is None else _numpy(attention.query.bias)
        asked = body.op("Unsqueeze", body.linear(query, _numpy(attention.query.weight), bias), body.whole(1))
        active = body.op("Tanh", body.op("Add", asked, keys))
        return body.op("Squeeze", body.linear(active, _numpy(attention.score.weight)), body.whole(-1))
    return body.op("Squeeze", body.op("MatMul", keys, body.op("Unsqueeze", query, body.whole(2))), body.whole(2))


def _one_step(builder: GraphBuilder, signals: Signals) -> Signals:
    """Of rows that have one step each."""
    lengths = builder.expand(builder.whole(1), signals.batch)
    valid = builder.op("Unsqueeze", builder.op("Greater", lengths, builder.whole(0)), builder.whole(1, 2))
    return Signals(signals.batch, lengths, valid, None, None)


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().numpy()
