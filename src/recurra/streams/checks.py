"""Checks of what a stream is handed."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import numpy as np

from recurra.errors import ArgumentError, ShapeError, StreamInUse
from recurra.streams.stateful import Stateful

IN_USE = "a stream is in use by another thread"
"""As the engine says it."""


MOST_STREAMS = 2**24


def check_stream_count(rows: Any) -> None:
    """A number of streams side by side, which the engine can count."""
    if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= MOST_STREAMS:
        raise ArgumentError(
            f"rows is {rows!r}", expected=f"a whole number from 1 to {MOST_STREAMS}", advice="It counts streams"
        )


def one_memory(memory: Any) -> Any:
    """The memory of a single stream as that of one row; None stays None. Raises ShapeError for what is no array."""
    return None if memory is None else as_array("memory", memory)[None]


def check_memory_wanted(memory: Any, lengths: Any = None, *, wanted: bool, name: str) -> None:
    """Raises ArgumentError unless there is a memory where the model attends to one, and neither that nor lengths of it
    where it does not."""
    if wanted and memory is None:
        raise ArgumentError(
            f"{name} attends to a memory, and none is given",
            expected="a memory, which stays",
            advice="Write stream(memory=...), (source time, memory_size), or streams(rows, memory=...)",
        )
    if not wanted and (memory is not None or lengths is not None):
        given = "memory is" if memory is not None else "memory_lengths are"
        raise ArgumentError(f"{given} given, and {name} attends to no memory", expected="none")


def check_memory(memory: Any, rows: int, size: int, dtype: np.dtype) -> np.ndarray:
    """A memory of all rows (rows, source time, memory_size), of the dtype of the model."""
    memory = as_array("memory", memory)
    if memory.ndim != 3 or memory.shape[0] != rows or memory.shape[2] != size or memory.dtype != dtype:
        # one row is given without its batch
        got, wanted = (memory.shape[1:], "") if rows == 1 and memory.ndim else (memory.shape, f"{rows}, ")
        raise ShapeError(
            f"memory has shape {got} of {memory.dtype}", expected=f"({wanted}source time, {size}) of {dtype}"
        )
    return memory


def check_memory_lengths(lengths: Any, rows: int, time: int) -> np.ndarray:
    """How much of each row's memory is valid, (rows,); None for all."""
    found = np.full(rows, time) if lengths is None else as_array("memory_lengths", lengths)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise ShapeError(
            f"memory_lengths has shape {found.shape} of {found.dtype}", expected=f"whole numbers, ({rows},)"
        )
    if found.size and not (0 <= found.min() and found.max() <= time):
        raise ArgumentError(f"memory_lengths holds {found.min()} to {found.max()}", expected=f"0 to {time}")
    return found.astype(np.int64)


def shared(error: RuntimeError) -> RuntimeError:
    """What to raise for an error of a stream: `StreamInUse` where two threads were in calls of it."""
    if IN_USE not in str(error):
        return error
    return StreamInUse(
        f"{IN_USE}: expected one thread at a time. Give each thread a stream of its own: model.stream() begins one, "
        "stream.fork() goes on from here"
    )


class Alone:
    """One thread at a time is within it. A second one is refused with StreamInUse, and nothing has happened then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> None:
        """Goes within, until `release`: what `with` does, in less time."""
        if not self._lock.acquire(blocking=False):
            raise shared(RuntimeError(IN_USE))

    def release(self) -> None:
        """Leaves."""
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()
        if isinstance(error, RuntimeError) and IN_USE in str(error):
            raise shared(error) from None


def as_array(name: str, value: Any) -> np.ndarray:
    """What a user hands over as an array. Raises ShapeError for what is none, such as lists of unequal lengths."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise ShapeError(f"{name} is no array ({error})", expected="an array, or lists of equal lengths") from None


def check_pieces(name: str, x: np.ndarray, leading: tuple[str, ...], columns: int, dtype: np.dtype) -> np.ndarray:
    """x (leading, columns), or one frame of it (columns,), as (leading, columns)."""
    if x.ndim not in (1, 2) or x.shape[-1] != columns:
        raise ShapeError(
            f"{name} has shape {x.shape}", expected=f"({', '.join(leading)}, {columns}), or one frame ({columns},)"
        )
    if x.dtype != dtype:
        raise ShapeError(
            f"{name} has dtype {x.dtype}",
            expected=f"{dtype}, as the weights",
            advice=f"Convert it: {name}.astype(np.{dtype})",
        )
    return x[None] if x.ndim == 1 else x


def check_tokens(name: str, x: np.ndarray, leading: tuple[str, ...], stateful: Stateful) -> np.ndarray:
    """Whole numbers (leading,), or one."""
    if x.dtype.kind not in "iu" and x.size:
        raise ShapeError(f"{name} has dtype {x.dtype}", expected="whole numbers, the tokens")
    if x.ndim > 1:
        raise ShapeError(f"{name} has shape {x.shape}", expected=f"({', '.join(leading)},), or one token")
    return np.atleast_1d(x).astype(stateful.input_dtype)


def check_elapsed(elapsed: Any, count: int, stateful: Stateful) -> np.ndarray | None:
    """Times (count,), where the model reads them."""
    if not stateful.uses_elapsed:
        if elapsed is not None:
            raise ArgumentError("elapsed is given", expected="None", advice="The model does not read the time")
        return None
    if elapsed is None:
        raise ArgumentError(
            "elapsed is missing", expected="the time since the step before", advice="For even steps pass ones"
        )
    dtype = stateful.dtype if stateful.input_size is None else stateful.input_dtype
    times = np.atleast_1d(as_array("elapsed", elapsed))
    if times.shape != (count,) or times.dtype.kind not in "fiu":
        raise ShapeError(
            f"elapsed has shape {times.shape} of {times.dtype}", expected=f"numbers ({count},), one for each step"
        )
    times = times.astype(dtype)
    fine = (times >= 0) & (times < np.inf)
    if not fine.all():
        raise ArgumentError(f"elapsed holds {times[~fine][0]}", expected="0 or more, and finite")
    return times


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """`out` is an array that takes results of this shape."""
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype
    if not fits or not out.flags.writeable or not out.flags.c_contiguous:
        got = f"{out.shape} of {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ShapeError(f"out is {got}", expected=f"a contiguous, writeable array {shape} of {dtype}")


def check_rows(rows: Any, capacity: int) -> np.ndarray:
    """Numbers of rows, each there and given once."""
    numbers = as_array("rows", rows)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size):
        raise ShapeError(f"rows has shape {numbers.shape} of {numbers.dtype}", expected="whole numbers, (rows,)")
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    if numbers.size and not (0 <= numbers.min() and numbers.max() < capacity):
        raise ArgumentError(f"rows holds {numbers.min()} to {numbers.max()}", expected=f"0 to {capacity - 1}")
    if len(np.unique(numbers)) != len(numbers):
        raise ArgumentError("rows holds a row twice", expected="each row once")
    return numbers
