"""A recurrent layer that reads a memory by attention at every step."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from recurra.errors import ArgumentError, ShapeError
from recurra.nested import build_like, restart
from recurra.nn import checks
from recurra.nn.attention import AttendedMemory, Attention, is_attention
from recurra.nn.layer import Layer, State
from recurra.nn.plain import linear
from recurra.nn.sequence import valid_steps
from recurra.nn.small import float_like
from recurra.nn.state import state_type
from recurra.streams.memory import ATTENDED, MEMORY

_STATE_ADVICE = "Begin with layer.attend(memory, lengths), or with layer.initial_state for an empty memory"


@final
class AttentionDecoder(Layer):
    """A decoder that attends, with input feeding (Luong et al. 2015, eq. 5 and section 3.3). At each step:

        s'       = layer([x, a], s)                     a: the attentional vector of the step before
        context  = attention(s', memory)
        a' = y   = tanh(W [context, s'])

    `layer` is any causal layer. It reads x and a side by side, so its input_size is that of x plus its output_size:
    ``AttentionDecoder(GRU(8 + 32, 32), AdditiveAttention(32, 48, 16))`` reads x of 8 columns.

    The memory is part of the state. `state = decoder.attend(memory, lengths)` begins a sequence, and the state is
    handed on as that of any layer: whoever picks rows of it (beam search) picks those of the memory too. It is
    (layer, attentional, weights, keys, values, valid), `weights` those of the last step. `initial_state` is that of
    an empty memory, whose context is zero. A row that is reset starts afresh on the same memory.

    On a stream the memory is given once: ``decoder.stream(memory=memory)``. Within another layer it is that layer's
    `attend` and `stream(memory=...)` which hand the memory to the decoder.
    """

    attends = True

    def __init__(self, layer: Layer, attention: Attention) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        is_attention("attention", attention)
        if not layer.causal or layer.pools or layer.uses_elapsed:
            raise ArgumentError(
                f"layer is {type(layer).__name__}, which cannot step, pools, or needs the time between steps",
                expected="a layer that puts out a vector each step",
                advice="Take for example GRU or a Stack of them",
            )
        if attention.query_size != layer.output_size:
            raise ShapeError(
                f"attention has query_size {attention.query_size}",
                expected=f"{layer.output_size}, the output_size of the layer",
                advice="What the layer puts out is the query",
            )
        if layer.input_size <= layer.output_size:
            raise ShapeError(
                f"layer has input_size {layer.input_size}",
                expected=f"the columns of x plus {layer.output_size}, its output_size",
                advice="It reads x and the attentional vector side by side",
            )
        self.layer = layer
        self.attention = attention
        self.input_size = layer.input_size - layer.output_size
        self.output_size = layer.output_size
        self.combine = linear(attention.memory_size + layer.output_size, layer.output_size, bias=False)
        self._state_type = state_type(ATTENDED, kept=MEMORY)

    def attend(self, memory: Tensor, lengths: Tensor | None = None) -> State:
        """The state of rows that have read nothing and see this memory (batch, source time, memory_size), valid up to
        `lengths` (batch,)."""
        prepared = self.attention.prepare(memory, lengths)
        batch = memory.shape[0]
        valid = prepared.valid.to(float_like(self.combine).dtype)
        return self._state_type(
            self.layer.initial_state(batch),
            memory.new_zeros(batch, self.output_size, dtype=valid.dtype),
            torch.zeros_like(valid),
            prepared.keys.flatten(1),
            prepared.values.flatten(1),
            valid,
        )

    def initial_state(self, batch: int) -> State:
        checks.check_batch(batch)
        return self.attend(float_like(self.combine).new_zeros(batch, 0, self.attention.memory_size))

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        checks.check_sequence(x, self.input_size, float_like(self.combine))
        checks.check_elapsed_wanted(elapsed, False)
        batch, time = x.shape[:2]
        if state is None:
            state = self.initial_state(batch)
        memory = self._memory(state, batch)
        valid = None
        if lengths is not None:
            checks.check_lengths(lengths, batch, time, x.device)
            valid = valid_steps(lengths, time)
            x = torch.where(valid[..., None], x, torch.zeros_like(x))
        if reset is not None:
            checks.check_reset(reset, batch, time, x.device)
            reset = reset if valid is None else reset & valid
        moving = tuple(state[:3])
        initial = self.layer.initial_state(batch)
        outputs = [x.new_zeros(batch, 0, self.output_size)]
        for t, x_t in enumerate(x.unbind(1)):
            if reset is not None:
                fresh = restart(moving[0], initial), *(torch.zeros_like(part) for part in moving[1:])
                moving = _choose(reset[:, t], fresh, moving)
            y_t, after = self._read(x_t, moving, memory)
            if valid is None:
                moving = after
            else:
                moving = _choose(valid[:, t], after, moving)
                y_t = torch.where(valid[:, t, None], y_t, torch.zeros_like(y_t))
            outputs.append(y_t[:, None])
        return torch.cat(outputs, dim=1), self._state_type(*moving, *state[3:])

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        checks.check_frame(x_t, self.input_size, float_like(self.combine))
        checks.check_elapsed_wanted(elapsed, False)
        memory = self._memory(state, x_t.shape[0])
        y_t, moving = self._read(x_t, tuple(state[:3]), memory)
        return y_t, self._state_type(*moving, *state[3:])

    def _read(self, x_t: Tensor, moving: State, memory: AttendedMemory) -> tuple[Tensor, State]:
        inner, attentional, _ = moving
        query, inner = self.layer.step(torch.cat((x_t, attentional), dim=-1), inner)
        context, weights = self.attention(query, memory)
        y_t = torch.tanh(self.combine(torch.cat((context, query), dim=-1)))
        return y_t, (inner, y_t, weights)

    def _memory(self, state: Any, batch: int) -> AttendedMemory:
        """The memory within a state, once the state fits."""
        if type(state) is not self._state_type:
            checks.check_structure(state, self._state_type, len(ATTENDED))
        source = state.valid.shape[-1] if isinstance(state.valid, Tensor) else 0
        widths = {
            "attentional": self.output_size,
            "weights": source,
            "keys": source * self.attention.key_size,
            "values": source * self.attention.memory_size,
            "valid": source,
        }
        for name, width in widths.items():
            part = getattr(state, name)
            shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            if shape != (batch, width):
                raise ShapeError(f"state.{name} has shape {shape}", expected=str((batch, width)), advice=_STATE_ADVICE)
            checks.check_like(f"state.{name}", part, float_like(self.combine))
        return AttendedMemory(
            state.keys.reshape(batch, source, self.attention.key_size),
            state.values.reshape(batch, source, self.attention.memory_size),
            state.valid > 0.5,
        )


def _choose(condition: Tensor, first: State, second: State) -> State:
    """Row by row, the one nested state or the other."""
    parts = [
        _choose(condition, a, b) if isinstance(a, tuple) else torch.where(condition[:, None], a, b)
        for a, b in zip(first, second, strict=True)
    ]
    return build_like(first, parts)
