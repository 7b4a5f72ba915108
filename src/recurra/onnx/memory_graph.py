"""Matrix memories and window attention as parts of an ONNX graph: their equations, a step at a time, in a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, prod
from typing import Any

import numpy as np
from torch import Tensor, nn

from recurra.nn import GatedDelta, GatedLinearAttention, MatrixLSTM, SelectiveStateSpace, WindowAttention
from recurra.nn.memory.linear_attention import TEMPERATURE
from recurra.onnx.graph_builder import GraphBuilder
from recurra.onnx.program_graph import Signals, Step, run_steps

Result = tuple[str, tuple[str, ...]]
_Memory = MatrixLSTM | GatedDelta | GatedLinearAttention | SelectiveStateSpace | WindowAttention


def _linear(builder: GraphBuilder, x: str, module: nn.Linear, scale: float = 1.0) -> str:
    """A projection, its weight scaled."""
    bias = None if module.bias is None else _numpy(module.bias)
    return builder.linear(x, _numpy(module.weight) * builder.dtype.type(scale), bias)


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().numpy()


def _silu(builder: GraphBuilder, x: str) -> str:
    return builder.op("Mul", x, builder.op("Sigmoid", x))


def _log_sigmoid(builder: GraphBuilder, x: str) -> str:
    return builder.op("Neg", builder.op("Softplus", builder.op("Neg", x)))


def _wide(builder: GraphBuilder, x: str, axis: int) -> str:
    return builder.op("Unsqueeze", x, builder.whole(axis))


def _narrow(builder: GraphBuilder, x: str, axis: int) -> str:
    return builder.op("Squeeze", x, builder.whole(axis))


def _outer(builder: GraphBuilder, rows: str, columns: str) -> str:
    """The products of all pairs of the last dimensions."""
    return builder.op("Mul", _wide(builder, rows, -1), _wide(builder, columns, -2))


def _root_mean_square(builder: GraphBuilder, x: str, norm: nn.RMSNorm, heads: int) -> str:
    """The norm of each head of x (batch, time, heads * columns), in the shape of x."""
    columns = norm.normalized_shape[0]
    parts = builder.reshape(x, 0, 0, heads, columns)
    mean = builder.op("ReduceMean", builder.op("Mul", parts, parts), builder.whole(-1))
    assert norm.eps is not None
    root = builder.op("Sqrt", builder.op("Add", mean, builder.number(norm.eps)))
    parts = builder.op("Mul", builder.op("Div", parts, root), builder.array(_numpy(norm.weight)))
    return builder.reshape(parts, 0, 0, heads * columns)


def _scan(
    builder: GraphBuilder,
    layer: _Memory,
    state: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    sequences: Sequence[tuple[str, tuple[int, ...]]],
    signals: Signals,
    step: Step,
) -> Result:
    """A loop whose states and values have shapes (batch, ...); outside they are flat. `step` gives the next states
    and the output, in any shape."""

    def flat(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        parts = [body.reshape(one, 0, *shape) for one, shape in zip(held, shapes, strict=True)]
        shaped = [body.reshape(one, 0, *shape) for one, (_, shape) in zip(given, sequences, strict=True)]
        after, out = step(body, parts, shaped)
        # sizes are named, for they do not follow from a batch of no rows
        flattened = [body.reshape(one, 0, prod(shape)) for one, shape in zip(after, shapes, strict=True)]
        return flattened, body.reshape(out, 0, layer.hidden_size)

    y, after = run_steps(builder, state, layer.initial_state(1), [name for name, _ in sequences], signals, flat)
    return y, tuple(after)


def write_mlstm(builder: GraphBuilder, layer: MatrixLSTM, x: str, state: Any, signals: Signals) -> Result:
    """Equations 19 to 27 of Beck et al. (2024), stabilised."""
    heads, columns = layer.heads, layer.hidden_size // layer.heads
    by_head = (heads, columns)
    forget = _linear(builder, x, layer.forget_gate)
    sequences = [
        (_linear(builder, x, layer.query), by_head),
        (_linear(builder, x, layer.key, columns**-0.5), by_head),
        (_linear(builder, x, layer.value), by_head),
        (_linear(builder, x, layer.input_gate), (heads,)),
        (_log_sigmoid(builder, forget) if layer.forget == "sigmoid" else forget, (heads,)),
    ]
    most = 0.9 * log(np.finfo(builder.dtype).max)

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        (C, n, m), (q, k, v, log_input, log_forget) = held, given
        old = body.op("Add", log_forget, m)
        after = body.op("Max", old, log_input)
        f = _wide(body, body.op("Exp", body.op("Sub", old, after)), -1)
        i = _wide(body, body.op("Exp", body.op("Sub", log_input, after)), -1)
        written = _outer(body, body.op("Mul", i, v), k)
        C = body.op("Add", body.op("Mul", _wide(body, f, -1), C), written)
        n = body.op("Add", body.op("Mul", f, n), body.op("Mul", i, k))
        read = _narrow(body, body.op("MatMul", C, _wide(body, q, -1)), -1)
        normaliser = body.op("Abs", body.op("ReduceSum", body.op("Mul", n, q), body.whole(-1)))
        least = body.op("Exp", body.op("Min", body.op("Neg", _wide(body, after, -1)), body.number(most)))
        return [C, n, after], body.op("Div", read, body.op("Max", normaliser, least))

    shapes = ((heads, columns, columns), (heads, columns), (heads,))
    read, after = _scan(builder, layer, state, shapes, sequences, signals, step)
    gate = builder.op("Sigmoid", _linear(builder, x, layer.output_gate))
    return signals.masked(builder, builder.op("Mul", gate, read)), after


def write_delta(builder: GraphBuilder, layer: GatedDelta, x: str, state: Any, signals: Signals) -> Result:
    """Equation 10 of Yang et al. (2024)."""
    heads, columns = layer.heads, layer.hidden_size // layer.heads
    by_head = (heads, columns)

    def unit(value: str) -> str:
        parts = builder.reshape(value, 0, 0, heads, columns)
        square = builder.op("ReduceSum", builder.op("Mul", parts, parts), builder.whole(-1))
        length = builder.op("Sqrt", builder.op("Add", square, builder.number(1e-6)))
        return builder.reshape(builder.op("Div", parts, length), 0, 0, heads * columns)

    q, k, v = (_silu(builder, _linear(builder, x, project)) for project in (layer.query, layer.key, layer.value))
    beta = builder.op("Sigmoid", _linear(builder, x, layer.strength))
    beta = builder.op("Mul", beta, builder.number(2.0 if layer.negative_eigenvalues else 1.0))
    rate = builder.array(-_numpy(layer.log_rate.exp()))
    alpha = builder.op("Exp", builder.op("Mul", rate, builder.op("Softplus", _linear(builder, x, layer.decay))))
    sequences = [(unit(q), by_head), (unit(k), by_head), (v, by_head), (beta, (heads, 1)), (alpha, (heads, 1, 1))]

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        (S,), (q, k, v, beta, alpha) = held, given
        S = body.op("Mul", alpha, S)
        known = _narrow(body, body.op("MatMul", S, _wide(body, k, -1)), -1)
        u = body.op("Mul", beta, body.op("Sub", v, known))
        S = body.op("Add", S, _outer(body, u, k))
        return [S], body.op("MatMul", S, _wide(body, q, -1))

    read, after = _scan(builder, layer, state, ((heads, columns, columns),), sequences, signals, step)
    return _gated(builder, layer, x, read, signals), after


def write_linear_attention(
    builder: GraphBuilder, layer: GatedLinearAttention, x: str, state: Any, signals: Signals
) -> Result:
    """Equation 3 of Yang et al. (2023)."""
    heads, columns = layer.heads, layer.hidden_size // layer.heads
    log_alpha = _log_sigmoid(builder, _linear(builder, _linear(builder, x, layer.forget_down), layer.forget_up))
    alpha = builder.op("Exp", builder.op("Div", log_alpha, builder.number(TEMPERATURE)))
    sequences = [
        (_linear(builder, x, layer.query, columns**-0.5), (heads, 1, columns)),
        (_linear(builder, x, layer.key), (heads, columns)),
        (_linear(builder, x, layer.value), (heads, columns)),
        (alpha, (heads, columns, 1)),
    ]

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        (S,), (q, k, v, alpha) = held, given
        S = body.op("Add", body.op("Mul", alpha, S), _outer(body, k, v))
        return [S], body.op("MatMul", q, S)

    read, after = _scan(builder, layer, state, ((heads, columns, columns),), sequences, signals, step)
    return _gated(builder, layer, x, read, signals), after


def _gated(builder: GraphBuilder, layer: GatedDelta | GatedLinearAttention, x: str, read: str, signals: Signals) -> str:
    """What was read, normalised by head, through the output gate."""
    normed = _root_mean_square(builder, read, layer.norm, layer.heads)
    gated = builder.op("Mul", normed, _silu(builder, _linear(builder, x, layer.gate)))
    return signals.masked(builder, _linear(builder, gated, layer.out))


def write_selective(builder: GraphBuilder, layer: SelectiveStateSpace, x: str, state: Any, signals: Signals) -> Result:
    """Algorithm 2 of Gu and Dao (2023)."""
    hidden, size, rank = layer.hidden_size, layer.state_size, layer.delta.in_features
    u = _linear(builder, x, layer.input)
    parts = builder.op("MatMul", u, builder.array(_numpy(layer.select.weight).T))
    low, B, C = (
        builder.slice(parts, start, end, -1) for start, end in ((0, rank), (rank, rank + size), (rank + size, 2**31))
    )
    delta = builder.op("Softplus", _linear(builder, low, layer.delta))
    rate = builder.array(-_numpy(layer.log_a.exp()))
    sequences = [(u, (hidden,)), (delta, (hidden,)), (B, (1, size)), (C, (size, 1))]

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        (h,), (u, delta, B, C) = held, given
        decay = body.op("Exp", body.op("Mul", _wide(body, delta, -1), rate))
        written = body.op("Mul", _wide(body, body.op("Mul", delta, u), -1), B)
        h = body.op("Add", body.op("Mul", decay, h), written)
        read = _narrow(body, body.op("MatMul", h, C), -1)
        return [h], body.op("Add", read, body.op("Mul", builder.array(_numpy(layer.D)), u))

    return _scan(builder, layer, state, ((hidden, size),), sequences, signals, step)


def write_window(builder: GraphBuilder, layer: WindowAttention, x: str, state: Any, signals: Signals) -> Result:
    """Attention over the last steps, which the state holds."""
    heads, columns, before = layer.heads, layer.hidden_size // layer.heads, layer.window - 1
    one_step = (1, heads, columns)
    sequences = [
        (_linear(builder, x, layer.query, columns**-0.5), one_step),
        (_linear(builder, x, layer.key), one_step),
        (_linear(builder, x, layer.value), one_step),
    ]
    # from the oldest step to the present one
    bias = builder.array(_numpy(layer.bias.flip(1)).T)
    lowest = float(np.finfo(builder.dtype).min)

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        (keys, values, seen), (q, k, v) = held, given
        keys, values = body.op("Concat", keys, k, axis=1), body.op("Concat", values, v, axis=1)
        present = body.expand(body.number(1.0), body.size(q, 0), 1)
        seen = body.op("Concat", seen, present, axis=1)
        scores = body.op("ReduceSum", body.op("Mul", keys, q), body.whole(-1), keepdims=0)
        known = _wide(body, body.op("Greater", seen, body.number(0.5)), -1)
        scores = body.op("Where", known, body.op("Add", scores, bias), body.number(lowest))
        weights = body.op("Softmax", scores, axis=1)
        # what was never seen may hold anything
        values = body.op("Where", _wide(body, known, -1), values, body.number(0.0))
        read = body.op("ReduceSum", body.op("Mul", _wide(body, weights, -1), values), body.whole(1), keepdims=0)
        return [body.slice(one, 1, 2**31, 1) for one in (keys, values, seen)], read

    shapes = ((before, heads, columns), (before, heads, columns), (before,))
    read, after = _scan(builder, layer, state, shapes, sequences, signals, step)
    return signals.masked(builder, _linear(builder, read, layer.out)), after
