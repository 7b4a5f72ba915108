"""What every layer of the runtime does: the contract of `recurra.nn.Layer`, on numpy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from recurra.errors import ArgumentError
from recurra.nested import leaves
from recurra.runtime import checks
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, check_state, from_arrays, map_state
from recurra.streams import Stateful, Stream, Streams
from recurra.streams.checks import (
    as_array,
    check_memory,
    check_memory_lengths,
    check_memory_wanted,
    check_stream_count,
    one_memory,
)
from recurra.streams.memory import attended_parts, begun_again, with_attended


class Layer(ABC):
    """A layer with frozen weights. Thread-safe: a call changes nothing in it.

    A subclass defines `run`, `advance` and `initial_state`, on arguments that are checked.
    """

    input_size: int
    output_size: int
    dtype: np.dtype
    """Of what is put out."""
    input_dtype: np.dtype | None = None
    """Of what is read, where that is another one."""
    causal = True
    pools = False
    uses_elapsed = False
    attends = False
    """Whether the layer itself attends to a memory in its state."""
    memory_size = 0
    """How many columns that memory has."""
    tokens: int | None = None
    """How many tokens there are, where x holds tokens and not features."""
    identity: Callable[[], bytes] = staticmethod(lambda: bytes(32))
    """32 bytes that tell the whole model from others; whoever builds one sets it."""

    @abstractmethod
    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        """As a call."""

    @abstractmethod
    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        """As a step."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state of `batch` rows that have seen nothing."""

    def __call__(
        self,
        x: np.ndarray,
        state: State | None = None,
        *,
        lengths: Any = None,
        reset: Any = None,
        elapsed: Any = None,
    ) -> tuple[np.ndarray, State]:
        """Runs a batch of sequences.

        Args:
            x: (batch, time, input_size), of the dtype of the weights; of a model that reads tokens (batch, time).
            state: what an earlier call returned; None to begin.
            lengths: (batch,), whole numbers up to time: steps beyond are padding, which changes nothing.
            reset: (batch, time), booleans: where true, the row starts afresh before that step.
            elapsed: (batch, time), the time since the step before, for cells in continuous time only.

        Returns:
            y (batch, time, output_size), zero in padding, or (batch, output_size) of a model that pools; and the state
            at each row's true end.

        Raises:
            ShapeError, ArgumentError: what does not fit.
        """
        x = checks.check_sequence(x, self)
        batch, time = x.shape[:2]
        start = self.initial_state(batch) if state is None else state
        if state is not None:
            self.check_state(state, batch)
        rows = checks.check_rows(lengths, reset, elapsed, (batch, time), self)
        return self.run(x, start, rows)

    def step(self, x_t: np.ndarray, state: State, *, elapsed: Any = None) -> tuple[np.ndarray, State]:
        """One step: x_t (batch, input_size), elapsed (batch,). Returns y_t (batch, output_size) and the next state."""
        self._check_causal("step")
        x_t = checks.check_frame(x_t, self)
        self.check_state(state, x_t.shape[0])
        return self.advance(x_t, state, checks.check_times(elapsed, (x_t.shape[0],), None, self))

    def check_state(self, state: State, batch: int) -> None:
        """Raises ShapeError unless the state is one of so many rows; its memories may have any length."""
        like, held = self.initial_state(batch), list(attended_parts(state))
        # the layers are gone through only for a state with a memory: this runs at every step
        readers = list(memory_readers(self)) if held else []
        if held and len(readers) == len(held):
            times = [np.shape(part.valid)[-1] if np.ndim(part.valid) else 0 for part in held]
            empty = (
                reader.attend(np.zeros((batch, time, reader.memory_size), self.dtype))
                for reader, time in zip(readers, times, strict=True)
            )
            like = with_attended(like, empty)
        check_state(state, like)

    def attend(self, memory: np.ndarray, lengths: Any = None) -> State:
        """The state of rows that have read nothing, in which every attention decoder within the model sees this memory
        (batch, source time, memory_size), valid up to `lengths` (batch,). Raises ArgumentError where there is no
        decoder, ShapeError for a memory that does not fit."""
        readers = list(memory_readers(self))
        if not readers:
            raise ArgumentError("the model attends to no memory", expected="an AttentionDecoder within it")
        memory = as_array("memory", memory)
        begins = [reader.attend(memory, lengths) for reader in readers]
        return with_attended(self.initial_state(len(memory)), iter(begins))

    def stream(self, state: State | None = None, *, memory: Any = None) -> Stream:
        """A stream that begins now, or goes on from a state of one row.

        `memory` (source time, memory_size) is what every attention decoder within the model attends to, also after a
        reset. Raises ArgumentError when the model needs the future, and for a memory that is missing or not read;
        ShapeError for a state or memory that does not fit.
        """
        self._check_causal("stream")
        if state is None:
            state = self._attended(1, one_memory(memory), None)
        elif memory is not None:
            raise ArgumentError("both a state and a memory are given", expected="one", advice="The state has a memory")
        else:
            self.check_state(state, 1)
        stateful = self.stateful(1)
        if state is not None:
            stateful.write(leaves(state))
        return Stream(stateful)

    def streams(self, rows: int, *, memory: Any = None, memory_lengths: Any = None) -> Streams:
        """So many streams, stepped as one batch, each row on its own `memory` (rows, source time, memory_size), valid
        up to `memory_lengths` (rows,). Raises as `stream` does."""
        self._check_causal("stream")
        check_stream_count(rows)
        state = self._attended(rows, memory, memory_lengths)
        stateful = self.stateful(rows)
        if state is not None:
            stateful.write(leaves(state))
        return Streams(stateful)

    def _attended(self, rows: int, memory: Any, lengths: Any) -> State | None:
        """The state of so many rows on a memory, where the model attends to one."""
        reader = next(memory_readers(self), None)
        check_memory_wanted(memory, lengths, wanted=reader is not None, name="the model")
        if reader is None:
            return None
        memory = check_memory(memory, rows, reader.memory_size, self.dtype)
        return self.attend(memory, check_memory_lengths(lengths, rows, memory.shape[1]))

    def stateful(self, rows: int) -> Stateful:
        """Rows that carry their states, in arrays that are used again where the layer can do that."""
        return Carried(self, rows)

    def _check_causal(self, what: str) -> None:
        if not self.causal:
            raise ArgumentError(
                f"the model cannot {what}", expected="whole sequences", advice="It reads backwards, from the future"
            )


def memory_readers(layer: Layer) -> Iterator[Layer]:
    """The attention decoders within a layer, or the layer itself, in the order of their states; none of those within a
    decoder."""
    if layer.attends:
        yield layer
        return
    for part in vars(layer).values():
        for one in part if isinstance(part, tuple) else (part,):
            if isinstance(one, Layer):
                yield from memory_readers(one)


class Carried:
    """Rows of any layer with their states, by its calls and steps."""

    checks_out = False
    refuses_threads = False

    def __init__(self, layer: Layer, rows: int) -> None:
        self.layer = layer
        self.rows = rows
        self.input_size = None if layer.tokens is not None else layer.input_size
        self.output_size = layer.output_size
        self.dtype = layer.dtype
        self.input_dtype = np.dtype(np.int64) if layer.tokens is not None else layer.input_dtype or layer.dtype
        self.pools = layer.pools
        self.uses_elapsed = layer.uses_elapsed
        self._state = layer.initial_state(rows)

    def push(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        """Steps of the one row."""
        time = None if elapsed is None else elapsed[None]
        x = checks.check_sequence(x[None], self.layer)
        y[...] = self._take(self.layer.run(x, self._state, Rows(elapsed=time)))[0]

    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these."""
        x = checks.check_frame(x, self.layer)
        if rows is None:
            y[...] = self._take(self.layer.advance(x, self._state, elapsed))
            return
        y[...], after = self.layer.advance(x, map_state(lambda s: s[rows], self._state), elapsed)
        self._put(rows, after)

    def _take(self, result: tuple[np.ndarray, State]) -> np.ndarray:
        y, self._state = result
        return y

    def _put(self, rows: np.ndarray, values: State) -> None:
        def put(state: np.ndarray, value: np.ndarray) -> np.ndarray:
            # a state is a value that others may hold
            changed = state.copy()
            changed[rows] = value
            return changed

        self._state = map_state(put, self._state, values)

    def reset(self, rows: np.ndarray | None) -> None:
        """All rows, or these, are as if they had seen nothing but their memory."""
        if rows is None:
            self._state = begun_again(self._state, self.layer.initial_state(self.rows), np.zeros_like)
        else:
            own = map_state(lambda s: s[rows], self._state)
            self._put(rows, begun_again(own, self.layer.initial_state(len(rows)), np.zeros_like))

    def read(self) -> list[np.ndarray]:
        """Copies of all states."""
        return [state.copy() for state in leaves(self._state)]

    def write(self, states: Sequence[np.ndarray]) -> None:
        """Puts in what `read` gave."""
        self._state = from_arrays(self._state, [state.copy() for state in states])

    def another(self, rows: int) -> Carried:
        """The same model with rows that have seen nothing."""
        return type(self)(self.layer, rows)

    def fingerprint(self) -> bytes:
        """That of the model."""
        return self.layer.identity()
