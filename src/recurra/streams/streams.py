"""Many streams of one model, stepped as one batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from recurra.errors import ArgumentError, ShapeError
from recurra.streams import snapshot
from recurra.streams.checks import Alone, as_array, check_elapsed, check_out, check_pieces, check_rows, check_tokens
from recurra.streams.stateful import Stateful
from recurra.streams.stream import Stream


class Streams:
    """So many streams of one model side by side; each row is one. `model.streams(n)` makes it.

    A tick is one step of all rows, or of those that have something new: a product of matrices instead of many of
    vectors. Rows come and go by being ticked or not; `reset` makes a row new. Not thread-safe: it belongs to one thread
    at a time, and a tick uses all processors itself.
    """

    def __init__(self, stateful: Stateful) -> None:
        self._stateful = stateful
        self._dtype = np.dtype(stateful.dtype)
        self._alone = Alone()

    def __len__(self) -> int:
        return self._stateful.rows

    def tick(self, x: Any, *, rows: Any = None, elapsed: Any = None, out: np.ndarray | None = None) -> np.ndarray:
        """One step.

        Args:
            x: (rows, features); of a model that reads tokens, whole numbers (rows,).
            rows: the number of the stream that each row of x belongs to, each once; None for all of them in order.
            elapsed: (rows,), the time since the step before of that stream, for cells in continuous time.
            out: where the results go, (rows, output_size).

        Returns:
            (rows, output_size).

        Raises:
            ShapeError, ArgumentError: what does not fit.
            StreamInUse: another thread is in a call of these streams.
        """
        stateful = self._stateful
        x = as_array("x", x)
        if stateful.input_size is None:
            frames = check_tokens("x", x, ("rows",), stateful)
        else:
            if x.ndim != 2:
                raise ShapeError(f"x has shape {x.shape}", expected=f"(rows, {stateful.input_size})")
            frames = check_pieces("x", x, ("rows",), stateful.input_size, np.dtype(stateful.input_dtype))
        numbers = None if rows is None else check_rows(rows, stateful.rows)
        count = stateful.rows if numbers is None else len(numbers)
        if len(frames) != count:
            raise ShapeError(f"x has {len(frames)} rows", expected=f"{count}, one for each stream that is stepped")
        times = check_elapsed(elapsed, count, stateful)
        shape = (count, stateful.output_size)
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            check_out(out, shape, self._dtype)
            if np.may_share_memory(out, frames):
                raise ArgumentError("out shares memory with x", expected="an array of its own")
        with self._alone:
            stateful.tick(np.ascontiguousarray(frames), out, numbers, times)
        return out

    def reset(self, rows: Any = None) -> None:
        """These streams forget everything; None for all."""
        numbers = None if rows is None else check_rows(rows, self._stateful.rows)
        with self._alone:
            self._stateful.reset(numbers)

    def take(self, row: int) -> Stream:
        """A stream of its own that goes on from a row."""
        number = int(check_rows([row], self._stateful.rows)[0])
        other = self._stateful.another(1)
        with self._alone:
            other.write([state[number : number + 1] for state in self._stateful.read()])
        return Stream(other)

    def put(self, row: int, stream: Stream) -> None:
        """A row goes on from where a stream of the same model is. Raises ArgumentError for one of another model, and
        ShapeError for one whose memory is of another length."""
        number = int(check_rows([row], self._stateful.rows)[0])
        if not isinstance(stream, Stream):
            raise ArgumentError(
                f"stream is a {type(stream).__name__}",
                expected="a Stream",
                advice="Give what model.stream() or streams.take(row) returned; frames are read by tick",
            )
        if stream._stateful.fingerprint() != self._stateful.fingerprint():
            raise ArgumentError("the stream is of another model", expected="one of this model")
        with self._alone, stream._alone:
            states, given = self._stateful.read(), stream._stateful.read()
            if any(state.shape[1] != of_stream.shape[1] for state, of_stream in zip(states, given, strict=True)):
                raise ShapeError(
                    "the memory of the stream is of another length",
                    expected="one as long as those of the rows",
                    advice="Fill it up, and say how much of it is valid: streams(rows, memory=..., memory_lengths=...)",
                )
            for state, of_stream in zip(states, given, strict=True):
                state[number] = of_stream[0]
            self._stateful.write(states)

    def snapshot(self) -> bytes:
        """What all rows remember, as bytes."""
        with self._alone:
            return snapshot.to_bytes(self._stateful.read(), len(self), self._stateful.fingerprint())

    def restore(self, content: bytes) -> None:
        """Goes on from a snapshot of as many rows. Raises as `Stream.restore` does."""
        with self._alone:
            states = self._stateful.read()
            self._stateful.write(snapshot.from_bytes(content, states, len(self), self._stateful.fingerprint()))
