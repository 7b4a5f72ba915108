"""Layers that attend, in numpy. `recurra.nn` has their equations and sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recurra.errors import ShapeError
from recurra.nested import restart
from recurra.runtime.layer import Layer
from recurra.runtime.plain import Parts, Plain, by_heads, masked_softmax
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, choose, state_type
from recurra.runtime.weights import Linear, Weights
from recurra.streams.memory import ATTENDED, MEMORY


class WindowAttention(Plain):
    """As `recurra.nn.WindowAttention`."""

    def __init__(self, weights: Weights, *, input_size: int, hidden_size: int, heads: int, window: int) -> None:
        before = (window - 1, heads, hidden_size // heads)
        shapes = {"keys": before, "values": before, "seen": (window - 1,)}
        super().__init__((input_size, hidden_size), weights.dtype, shapes)
        self._heads = heads
        self._query, self._key, self._value = (
            Linear(weights.of(name), input_size, hidden_size, bias=False) for name in ("query", "key", "value")
        )
        self._out = Linear(weights.of("out"), hidden_size, hidden_size, bias=False)
        self._bias = weights.take("bias", (heads, window))[:, ::-1]
        self._scale = self.dtype.type((hidden_size // heads) ** -0.5)

    def project(self, x: np.ndarray) -> Parts:
        q, k, v = (by_heads(linear(x), self._heads) for linear in (self._query, self._key, self._value))
        return q, k, v

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        q, k, v = values
        keys = np.concatenate((parts[0], k[:, None]), axis=1)
        held = np.concatenate((parts[1], v[:, None]), axis=1)
        seen = np.concatenate((parts[2], np.ones((len(q), 1), self.dtype)), axis=1)
        scores = np.einsum("bhc,bwhc->bhw", q, keys) * self._scale + self._bias
        there = seen > 0.5
        weights = masked_softmax(scores, there[:, None])
        # a masked NaN times zero is NaN
        read = np.einsum("bhw,bwhc->bhc", weights, np.where(there[..., None, None], held, 0))
        return read.reshape(len(q), self.output_size), (keys[:, 1:], held[:, 1:], seen[:, 1:])

    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        return self._out(read)


class Attention:
    """As the attentions of `recurra.nn`: a score of a query with each step of a memory."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        keys: Callable[[np.ndarray], np.ndarray],
        scores: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> None:
        self.query_size, self.memory_size, self.key_size = sizes
        self.keys = keys
        self.scores = scores


def additive(weights: Weights, *, query_size: int, memory_size: int, hidden_size: int) -> Attention:
    """v . tanh(W q + U memory)."""
    query = Linear(weights.of("query"), query_size, hidden_size)
    key = Linear(weights.of("key"), memory_size, hidden_size, bias=False)
    score = Linear(weights.of("score"), hidden_size, 1, bias=False)
    return Attention(
        (query_size, memory_size, hidden_size), key, lambda q, keys: score(np.tanh(query(q)[:, None] + keys))[..., 0]
    )


def multiplicative(weights: Weights, *, query_size: int, memory_size: int, score: str) -> Attention:
    """q . memory, or q . W memory."""
    general = Linear(weights.of("key"), memory_size, query_size, bias=False) if score == "general" else None
    return Attention(
        (query_size, memory_size, query_size),
        general or (lambda memory: memory),
        lambda q, keys: (keys @ q[..., None])[..., 0],
    )


class AttentionDecoder(Layer):
    """As `recurra.nn.AttentionDecoder`: `attend` begins a sequence over a memory."""

    attends = True

    def __init__(self, layer: Layer, attention: Attention, weights: Weights) -> None:
        self.layer = layer
        self.attention = attention
        self.memory_size = attention.memory_size
        self.dtype = layer.dtype
        self.input_size = layer.input_size - layer.output_size
        self.output_size = layer.output_size
        self._combine = Linear(
            weights.of("combine"), attention.memory_size + layer.output_size, layer.output_size, bias=False
        )
        self._state_type = state_type(ATTENDED, kept=MEMORY)

    def attend(self, memory: np.ndarray, lengths: Any = None) -> State:
        """The state of rows that have read nothing and see this memory (batch, source time, memory_size), valid up to
        `lengths` (batch,). Raises ShapeError for a memory of another shape or dtype."""
        size = self.attention.memory_size
        if memory.ndim != 3 or memory.shape[2] != size or memory.dtype != self.dtype:
            raise ShapeError(
                f"memory has shape {memory.shape} of {memory.dtype}",
                expected=f"(batch, source time, {size}) of {self.dtype}",
            )
        batch, time = memory.shape[:2]
        rows = Rows() if lengths is None else Rows(lengths=np.asarray(lengths, dtype=np.int64).reshape(batch))
        valid = rows.valid(time)
        valid = np.ones((batch, time), self.dtype) if valid is None else valid.astype(self.dtype)
        memory = rows.masked(memory, 0.0)
        return self._state_type(
            self.layer.initial_state(batch),
            np.zeros((batch, self.output_size), self.dtype),
            np.zeros_like(valid),
            self.attention.keys(memory).reshape(batch, time * self.attention.key_size),
            memory.reshape(batch, time * size),
            valid,
        )

    def initial_state(self, batch: int) -> State:
        return self.attend(np.zeros((batch, 0, self.attention.memory_size), self.dtype))

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        batch, time = x.shape[:2]
        valid, reset, x = rows.valid(time), rows.valid_reset(time), rows.masked(x, 0.0)
        moving, memory = tuple(state[:3]), tuple(state[3:])
        initial = self.layer.initial_state(batch)
        y = np.zeros((batch, time, self.output_size), self.dtype)
        for t in range(time):
            if reset is not None:
                fresh = (restart(moving[0], initial), *(np.zeros_like(part) for part in moving[1:]))
                moving = choose(reset[:, t], fresh, moving)
            y_t, after = self._read(x[:, t], moving, memory)
            moving = after if valid is None else choose(valid[:, t], after, moving)
            y[:, t] = y_t
        return rows.masked(y, 0.0), self._state_type(*moving, *memory)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y_t, moving = self._read(x_t, tuple(state[:3]), tuple(state[3:]))
        return y_t, self._state_type(*moving, *state[3:])

    def _read(self, x_t: np.ndarray, moving: State, memory: Parts) -> tuple[np.ndarray, State]:
        inner, attentional, _ = moving
        query, inner = self.layer.advance(np.concatenate((x_t, attentional), axis=-1), inner, None)
        batch, time = memory[2].shape
        keys = memory[0].reshape(batch, time, self.attention.key_size)
        values = memory[1].reshape(batch, time, self.attention.memory_size)
        weights = masked_softmax(self.attention.scores(query, keys), memory[2] > 0.5).astype(self.dtype)
        context = (weights[:, None] @ values)[:, 0]
        y_t = np.tanh(self._combine(np.concatenate((context, query), axis=-1)))
        return y_t, (inner, y_t, weights)
