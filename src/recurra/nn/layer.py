"""What every layer promises: one call over a batch of sequences, one call a step, and a state that is a value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn.state import State as State
from recurra.nn.streaming import Carried, memory_readers
from recurra.streams import Stream, Streams
from recurra.streams.checks import check_memory_wanted, check_stream_count, one_memory
from recurra.streams.memory import with_attended


class Layer(nn.Module, ABC):
    """The contract of every recurrent layer and wrapper; `recurra.testing.check_laws` tells whether a layer keeps it.

    A subclass sets `input_size` and `output_size`, and defines `forward`, `step` and `initial_state`. A cell that is
    no program becomes a layer by subclassing this class.
    """

    input_size: int
    output_size: int
    causal: bool = True
    """Whether an output depends on no later input. Only then can the layer step."""
    pools: bool = False
    """Whether the layer puts out one vector a row, (batch, output_size), instead of one a step."""
    uses_elapsed: bool = False
    """Whether the layer needs the time between steps."""
    attends: bool = False
    """Whether the layer itself attends to a memory in its state."""
    seeded: bool = False
    """Whether training draws random numbers that follow from the state, so that equal calls give equal results."""
    lawless_in_training: str = ""
    """Why a sequence in training is more than its steps, its chunks and its rows; empty where it is not."""

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Runs a batch of sequences.

        x (batch, time, input_size). `state` is what an earlier call returned; None means `initial_state`. `lengths`
        (batch,), whole numbers from 0 to time: the steps of a row beyond its length are padding, which changes
        nothing, whatever it holds. `reset` (batch, time), booleans: where true, the row starts afresh before that
        step. `elapsed` (batch, time): the time since the step before, for cells in continuous time only.

        Returns y (batch, time, output_size), zero beyond each row's length, and the state at each row's true end.
        Raises recurra.errors.RecurraError when an argument does not fit.
        """

    @abstractmethod
    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        """One step: x_t (batch, input_size), elapsed (batch,). Returns y_t (batch, output_size) and the next state."""

    @abstractmethod
    def initial_state(self, batch: int) -> State:
        """The state of `batch` rows that have seen nothing, with the dtype and device of the parameters."""

    def attend(self, memory: Tensor, lengths: Tensor | None = None) -> State:
        """The state of rows that have read nothing, in which every AttentionDecoder within the layer sees this memory
        (batch, source time, memory_size), valid up to `lengths` (batch,). Raises ArgumentError where there is no
        decoder, ShapeError for a memory that does not fit."""
        readers = list(memory_readers(self))
        if not readers:
            raise ArgumentError(f"{type(self).__name__} attends to no memory", expected="an AttentionDecoder within it")
        begins = [reader.attend(memory, lengths) for reader in readers]
        return with_attended(self.initial_state(len(memory)), iter(begins))

    def stream(self, *, memory: Any = None) -> Stream:
        """The layer on a stream, which takes pieces of any size: `push`, `snapshot`, `restore`, `fork`, `reset`.

        `memory` (source time, memory_size), a numpy array, is what every AttentionDecoder within the layer attends to,
        also after a reset. numpy goes in and out, and nothing has a gradient. Raises ArgumentError for a layer that
        needs the future or is in training, and for a memory that is missing or not read; ShapeError for one that does
        not fit. A stream belongs to one thread at a time. `recurra.runtime` has the same, in microseconds a step.
        """
        carried = self._carried(1)
        check_memory_wanted(memory, wanted=any(memory_readers(self)), name=type(self).__name__)
        return Stream(carried if memory is None else carried.attending(one_memory(memory), None))

    def streams(self, rows: int, *, memory: Any = None, memory_lengths: Any = None) -> Streams:
        """So many streams of the layer, stepped as one batch, each row on its own `memory` (rows, source time,
        memory_size), valid up to `memory_lengths` (rows,). Raises as `stream` does, and ArgumentError for another
        number of rows than 1 to 2**24."""
        check_stream_count(rows)
        carried = self._carried(rows)
        check_memory_wanted(memory, memory_lengths, wanted=any(memory_readers(self)), name=type(self).__name__)
        return Streams(carried if memory is None else carried.attending(memory, memory_lengths))

    def _carried(self, rows: int) -> Carried:
        if not self.causal:
            raise ArgumentError(
                f"{type(self).__name__} cannot stream",
                expected="a layer that reads forwards",
                advice="It needs the future",
            )
        return Carried(self, rows, columns=self.input_size, output_size=self.output_size)
