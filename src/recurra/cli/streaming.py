"""`recurra stream`: a saved model reads standard input and writes what is new, as it comes. No torch is loaded."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recurra import runtime
from recurra.errors import ArgumentError, ShapeError

_MOST_BYTES = 1 << 16


def stream(folder: Path) -> None:
    """Lines for a language model: of each the bits a token, given all lines before it, a tab, and the line. Raw frames,
    float32 little endian, for other models: the outputs of each frame, likewise.

    Raises:
        ArgumentError, FormatError: as `recurra.runtime.load`; and for a model in double precision or continuous time.
        ShapeError: the input ends within a frame.
    """
    model = runtime.load(folder)
    answer = _lines if isinstance(model, runtime.LanguageModel) else _frames
    answer(model, sys.stdin.buffer, sys.stdout.buffer)


def _lines(model: Any, source: BinaryIO, target: BinaryIO) -> None:
    reader = model.reader()
    for line in iter(source.readline, b""):
        text = line.decode("utf-8", errors="replace")
        nats, tokens = reader.read(text)
        bits = nats / max(tokens, 1) / math.log(2)
        ended = line if line.endswith(b"\n") else line + b"\n"
        target.write(f"{bits:.3f}\t".encode() + ended)
        target.flush()


def _frames(model: runtime.Layer, source: BinaryIO, target: BinaryIO) -> None:
    dtype = model.input_dtype or model.dtype
    if model.uses_elapsed or dtype not in (np.float32, np.float64):
        raise ArgumentError("the model reads the time between steps", expected="one that reads frames alone")
    stream, size = model.stream(), 4 * model.input_size
    rest = b""
    # read1 gives what is there: a frame is answered when it has come, not when a buffer is full
    read = getattr(source, "read1", source.read)
    for piece in iter(lambda: read(_MOST_BYTES), b""):
        rest += piece
        count = len(rest) // size
        if count:
            frames = np.frombuffer(rest, "<f4", count * model.input_size).reshape(count, model.input_size)
            frames = frames.astype(dtype)
            # a model that pools puts out one result for what it is handed
            y = np.stack([stream.push(frame) for frame in frames]) if model.pools else stream.push(frames)
            target.write(y.astype("<f4").tobytes())
            target.flush()
            rest = rest[count * size :]
    if rest:
        raise ShapeError(f"the input ends with {len(rest)} bytes", expected=f"frames of {size} bytes, float32")
