"""`recurra stream`: a saved model reads standard input and writes what is new, as it comes. No torch is loaded."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recurra import onnx, runtime
from recurra.cli.opening import open_model
from recurra.decode import Reader
from recurra.errors import ArgumentError, ShapeError

_MOST_BYTES = 1 << 16


def stream(path: Path) -> None:
    """Lines for a language model: of each the bits a token, given all lines before it, a tab, and the line. Raw frames,
    float32 little endian, for other models: the outputs of each frame, likewise. The model is a saved one, or an ONNX
    file that recurra wrote.

    Raises:
        ArgumentError, FormatError, BackendUnavailable: as `open_model`; and for a model in continuous time, or one of
            tokens without a vocabulary, and where standard input or output is closed.
        ShapeError: the input ends within a frame.
    """
    # Python has none where the shell has closed them: `recurra stream RUN <&-`
    for name, pipe in (("input", sys.stdin), ("output", sys.stdout)):
        if pipe is None:
            raise ArgumentError(f"standard {name} is closed", expected="a pipe, a file or a terminal")
    model = open_model(path)
    if isinstance(model, runtime.LanguageModel | onnx.LanguageModel):
        _lines(model.reader(), sys.stdin.buffer, sys.stdout.buffer)
    else:
        _frames(model, sys.stdin.buffer, sys.stdout.buffer)


def _lines(reader: Reader, source: BinaryIO, target: BinaryIO) -> None:
    for line in iter(source.readline, b""):
        # as in the texts that models are trained on, whose lines end with \n
        text = line.decode("utf-8", errors="replace").replace("\r\n", "\n")
        nats, tokens = reader.read(text)
        bits = nats / max(tokens, 1) / math.log(2)
        ended = line if line.endswith(b"\n") else line + b"\n"
        target.write(f"{bits:.3f}\t".encode() + ended)
        target.flush()


def _frames(model: runtime.Layer | onnx.Model, source: BinaryIO, target: BinaryIO) -> None:
    dtype, columns = model.input_dtype or model.dtype, model.input_size
    if columns is None:
        raise ArgumentError(
            "the model reads tokens, and its file has no vocabulary",
            expected="a language model, or one that reads frames",
            advice="Stream it in Python: recurra.onnx.load(file).stream()",
        )
    if model.uses_elapsed or dtype not in (np.float32, np.float64):
        raise ArgumentError("the model reads the time between steps", expected="one that reads frames alone")
    stream, size = model.stream(), 4 * columns
    rest = b""
    # read1 gives what is there: a frame is answered when it has come, not when a buffer is full
    read = getattr(source, "read1", source.read)
    for piece in iter(lambda: read(_MOST_BYTES), b""):
        rest += piece
        count = len(rest) // size
        if count:
            frames = np.frombuffer(rest, "<f4", count * columns).reshape(count, columns)
            frames = frames.astype(dtype)
            # a model that pools puts out one result for what it is handed
            y = np.stack([stream.push(frame) for frame in frames]) if model.pools else stream.push(frames)
            target.write(y.astype("<f4").tobytes())
            target.flush()
            rest = rest[count * size :]
    if rest:
        raise ShapeError(
            f"the input ends within a frame, after {len(rest)} of its bytes",
            expected=f"frames of {size} bytes, float32",
        )
