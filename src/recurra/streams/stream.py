"""One stream: a row that remembers, fed in pieces of any size."""

from __future__ import annotations

from typing import Any

import numpy as np

from recurra.errors import ArgumentError
from recurra.streams import snapshot
from recurra.streams.checks import Alone, as_array, check_elapsed, check_out, check_pieces, check_tokens, shared
from recurra.streams.stateful import Stateful


class Stream:
    """A model that reads what arrives and remembers what it has read, in constant memory.

    Pieces of any size give what one call over all of them gives. It is made by `model.stream()`. Not thread-safe: a
    stream belongs to one thread at a time, and refuses a second one. Several streams of one model may run in several
    threads.
    """

    def __init__(self, stateful: Stateful) -> None:
        self._stateful = stateful
        self._alone = Alone()
        self._push = stateful.push if stateful.refuses_threads else self._push_alone
        self._dtype = np.dtype(stateful.dtype)
        self._input_dtype = np.dtype(stateful.input_dtype)
        self._columns = stateful.input_size
        self._output_size = stateful.output_size
        self._checks_out = stateful.checks_out
        self._plain = stateful.input_size is not None and not stateful.uses_elapsed and not stateful.pools

    def push(self, chunk: Any, *, elapsed: Any = None, out: np.ndarray | None = None) -> np.ndarray:
        """Reads a piece and returns what is new.

        Args:
            chunk: (time, features), or one frame (features,), of the dtype of the model; of a model that reads tokens
                whole numbers (time,), or one.
            elapsed: (time,), or one number for a frame: the time since the step before, for cells in continuous time.
            out: where the results go, of the shape that would be returned; then no results are allocated.

        Returns:
            (time, output_size), for one frame (output_size,). Of a model that pools, the result so far (output_size,).

        Raises:
            ShapeError: a chunk, times or `out` of another shape or dtype.
            ArgumentError: tokens that the model does not have; `elapsed` missing, negative or not wanted.
            StreamInUse: another thread is in a call of this stream.
        """
        if self._plain and elapsed is None and type(chunk) is np.ndarray and chunk.dtype == self._input_dtype:
            # most of the time of a small step is spent outside the engine, so what fits is passed on at once
            shape = chunk.shape
            if len(shape) == 2 and shape[1] == self._columns and (out is None or self._checks_out):
                y = np.empty((shape[0], self._output_size), self._dtype) if out is None else out
                try:
                    self._push(chunk, y, None)
                except (ValueError, TypeError):
                    # nothing has happened: whoever computes checks first. This finds better words, or another layout
                    return self._checked_push(chunk, None, out)
                except RuntimeError as error:
                    raise shared(error) from None
                return y
        return self._checked_push(chunk, elapsed, out)

    def _checked_push(self, chunk: Any, elapsed: Any, out: np.ndarray | None) -> np.ndarray:
        stateful = self._stateful
        chunk = as_array("chunk", chunk)
        if self._columns is None:
            single = chunk.ndim == 0
            steps = check_tokens("chunk", chunk, ("time",), stateful)
        else:
            single = chunk.ndim == 1
            steps = check_pieces("chunk", chunk, ("time",), self._columns, self._input_dtype)
        times = check_elapsed(elapsed, len(steps), stateful)
        shape = (self._output_size,) if single or stateful.pools else (len(steps), self._output_size)
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            check_out(out, shape, self._dtype)
            if np.may_share_memory(out, steps):
                raise ArgumentError("out shares memory with the chunk", expected="an array of its own")
        try:
            self._push(np.ascontiguousarray(steps), out[None] if out.ndim == 1 else out, times)
        except RuntimeError as error:
            raise shared(error) from None
        return out

    def _push_alone(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        self._alone.take()
        try:
            self._stateful.push(x, y, elapsed)
        finally:
            self._alone.release()

    def reset(self) -> None:
        """Forgets everything, as a new stream."""
        with self._alone:
            self._stateful.reset(None)

    def fork(self) -> Stream:
        """A second stream that goes on from here; neither knows of the other from now on."""
        other = self._stateful.another(1)
        with self._alone:
            other.write(self._stateful.read())
        return Stream(other)

    def snapshot(self) -> bytes:
        """What the stream remembers, as bytes: for `restore`, in this process or another one."""
        with self._alone:
            return snapshot.to_bytes(self._stateful.read(), 1, self._stateful.fingerprint())

    def restore(self, content: bytes) -> None:
        """Goes on from a snapshot, whatever was read meanwhile.

        Raises:
            ShapeError: no bytes.
            FormatError: no snapshot, a damaged one, or one of another model or version. The stream is as it was then.
        """
        with self._alone:
            states = self._stateful.read()
            self._stateful.write(snapshot.from_bytes(content, states, 1, self._stateful.fingerprint()))
