"""Exported files as models: what they say of themselves, and ONNX Runtime, which runs them. Knows no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError
from recurra.onnx.carried import Carried
from recurra.onnx.sessions import Binding, run_session
from recurra.streams import Stream, Streams
from recurra.streams.checks import (
    check_memory,
    check_memory_lengths,
    check_memory_wanted,
    check_stream_count,
    one_memory,
)
from recurra.streams.memory import MEMORY

Array = NDArray[Any]

_DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(double)": np.dtype(np.float64)}
_ADVICE = "Write it with recurra.onnx.export; a file of others runs by recurra.onnx.run"


class Model:
    """A model in an ONNX file, to be streamed. Thread-safe: nothing changes in it.

    `input_size` is None where it reads tokens (`tokens` says how many there are), `input_dtype` and `dtype` are those
    of what is read and put out,
    `states` has the (input, output) name of each value of the state, `about` what the file says of itself.
    """

    def __init__(self, session: Any, content: bytes) -> None:
        """Of a session of ONNX Runtime, and the bytes that it was opened of; raises as `load`."""
        self._session = session
        self.about: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        needed = {one.name: one for one in session.get_inputs()}
        optional = {one.name: one for one in session.get_overridable_initializers()}
        outputs = {one.name: one for one in session.get_outputs()}
        source = next((name for name in ("x", "tokens") if name in needed), "")
        self._outputs = [name for name in outputs if not name.startswith("next")]
        after = [name for name in outputs if name.startswith("next")]
        self.states = tuple((f"state{name.removeprefix('next')}", name) for name in after)
        ours = self.about.get("written_by") == "recurra" and "lengths" in optional and len(self._outputs) == 1
        if not ours or not source or not all(own in optional for own, _ in self.states):
            raise FormatError(
                f"the states of this file cannot be told: it has inputs {', '.join((*needed, *optional))} and outputs "
                f"{', '.join(outputs)}",
                expected="a file that recurra wrote",
                advice=_ADVICE,
            )
        result = outputs[self._outputs[0]]
        if result.type not in _DTYPES:
            raise FormatError(f"the file puts out {result.type}", expected=" or ".join(_DTYPES), advice=_ADVICE)
        self._source = source
        self.dtype = _DTYPES[result.type]
        self.input_size = _columns(needed["x"], 3) if source == "x" else None
        self.input_dtype = self.dtype if source == "x" else np.dtype(np.int64)
        self.pools = len(result.shape) == 2
        self.output_size = _columns(result, 2 if self.pools else 3)
        self.uses_elapsed = "elapsed" in needed
        self.tokens = _number(self.about, "tokens") if source == "tokens" else 0
        self.memory_size = _columns(optional["memory"], 3) if "memory" in optional else None
        self._identity = _identity(self.about, content)
        self._initial = self._begin([self._state_columns(optional[own]) for own, _ in self.states])

    def stream(self, *, memory: Any = None) -> Stream:
        """A stream that begins now; a model with attention decoders attends to `memory` (source time, memory_size),
        also after a reset. Raises ArgumentError when the model needs the future, and for a memory that is missing or
        not read; ShapeError for one that does not fit."""
        return Stream(self._carried(1, one_memory(memory), None))

    def streams(self, rows: int, *, memory: Any = None, memory_lengths: Any = None) -> Streams:
        """So many streams, stepped as one batch, each row on its own `memory` (rows, source time, memory_size), valid
        up to `memory_lengths` (rows,). Raises as `stream` does."""
        check_stream_count(rows)
        return Streams(self._carried(rows, memory, memory_lengths))

    def initial_state(self, rows: int) -> list[Array]:
        """Each value of the state (rows, columns) of rows that have seen nothing, not even a memory."""
        return [np.repeat(one, rows, axis=0) for one in self._initial]

    def begun_again(self, states: Sequence[Array]) -> list[Array]:
        """The states of rows that have seen nothing but the memory in these."""
        fresh = self.initial_state(len(states[0])) if states else []
        return [
            (held if _is_memory(own) else np.zeros_like(held)) if held.shape[1] != first.shape[1] else first
            for (own, _), held, first in zip(self.states, states, fresh, strict=True)
        ]

    def run(
        self,
        x: Array,
        states: Sequence[Array] | None,
        *,
        elapsed: Array | None = None,
        lengths: Array | None = None,
        memory: tuple[Array, Array] | None = None,
    ) -> tuple[Array, list[Array]]:
        """A batch of sequences of one step or more: x (batch, time, input_size), or tokens (batch, time), and the
        other inputs of the file; without states from the beginning. Returns y and each value of the next state."""
        given = {self._source: np.ascontiguousarray(x)}
        if states is not None:
            given |= {own: state for (own, _), state in zip(self.states, states, strict=True)}
        if elapsed is not None:
            given["elapsed"] = np.ascontiguousarray(elapsed)
        if lengths is not None:
            given["lengths"] = lengths
        if memory is not None:
            given["memory"], given["memory_lengths"] = memory
        y, *after = run_session(self._session, [*self._outputs, *(name for _, name in self.states)], given)
        return y, after

    def binding(self, x: Array, elapsed: Array, y: Array, states: Sequence[Array], after: Sequence[Array]) -> Binding:
        """The call of `run` that reads and writes these arrays in place; `elapsed` stands unread where the model does
        not need it."""
        inputs, outputs = {self._source: x}, {self._outputs[0]: y}
        if self.uses_elapsed:
            inputs["elapsed"] = elapsed
        for (own, following), before, value in zip(self.states, states, after, strict=True):
            # the session knows no input without a value, and needs none
            if before.size:
                inputs[own], outputs[following] = before, value
        return Binding(self._session, inputs, outputs)

    def nothing(
        self, states: Sequence[Array] | None, *, rows: int = 1, memory: tuple[Array, Array] | None = None
    ) -> tuple[Array, list[Array]]:
        """What `run` gives for rows of no steps, which the kernels of ONNX Runtime do not bear: one of padding."""
        shape = (rows, 1) if self.input_size is None else (rows, 1, self.input_size)
        x = np.zeros(shape, self.input_dtype)
        elapsed = np.ones((rows, 1), self.dtype) if self.uses_elapsed else None
        return self.run(x, states, elapsed=elapsed, lengths=np.zeros(rows, np.int64), memory=memory)

    def fingerprint(self) -> bytes:
        """32 bytes that tell the model from others: those of the model in torch, where it was exported whole."""
        return self._identity

    def _state_columns(self, info: Any) -> int | None:
        """How many columns a value of the state has; None where that depends on the memory."""
        free = len(info.shape) == 2 and isinstance(info.shape[1], str)
        return None if free and self.memory_size is not None else _columns(info, 2)

    def _begin(self, columns: Sequence[int | None]) -> list[Array]:
        # the file has it, where no session shows it; a row without a step hands it on
        _, found = self.nothing(None)
        for (name, _), value, size in zip(self.states, found, columns, strict=True):
            if value.shape != (1, size or 0) or value.dtype != self.dtype:
                raise FormatError(f"{name} begins as {value.shape} of {value.dtype}", expected=f"(1, {size})")
        return found

    def _carried(self, rows: int, memory: Any, lengths: Any) -> Carried:
        if self.about.get("causal") != "yes":
            raise ArgumentError(
                "the model cannot stream", expected="whole sequences", advice="It reads backwards, from the future"
            )
        check_memory_wanted(memory, lengths, wanted=self.memory_size is not None, name="the model")
        carried = Carried(self, rows)
        if self.memory_size is not None:
            memory = check_memory(memory, rows, self.memory_size, self.dtype)
            given = np.ascontiguousarray(memory), check_memory_lengths(lengths, rows, memory.shape[1])
            carried.write(self.nothing(None, rows=rows, memory=given)[1])
        return carried


def _columns(info: Any, rank: int) -> int:
    """How many columns an input or output has."""
    if len(info.shape) != rank or not isinstance(info.shape[-1], int):
        raise FormatError(f"'{info.name}' has shape {info.shape}", expected=f"{rank} sizes, the last of them fixed")
    return info.shape[-1]


def _is_memory(name: str) -> bool:
    """Whether a value of the state is part of a decoder's memory, which a reset leaves alone."""
    return name.rpartition(".")[2] in MEMORY


def _number(about: dict[str, str], name: str) -> int:
    text = about.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise FormatError(f"what the file says of its {name}", got=text, expected="a whole number", advice=_ADVICE)
    return int(text)


def _identity(about: dict[str, str], content: bytes) -> bytes:
    text = about.get("fingerprint", "")
    if not text:
        return hashlib.sha256(content).digest()
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise FormatError("what the file says of its fingerprint", got=text, expected="32 bytes as hexadecimal digits")
    return bytes.fromhex(text)
