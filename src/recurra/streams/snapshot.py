"""The states of a stream as bytes: versioned, bound to their model, checked, and no pickle.

    magic "recurras", version (4 bytes), fingerprint of the model (32), rows (4), number of states (4)
    of each state: columns (8), type of its numbers (1: float32, 2: float64, 3: float16)
    the states, row after row
    SHA-256 of all that (32)

All numbers little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from recurra.errors import FormatError, ShapeError

SNAPSHOT_VERSION = 1
_MAGIC = b"recurras"
_HEAD = struct.Struct("<8sI32sII")
_STATE = struct.Struct("<QB")
_TYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<f2")}
_CODES = {dtype: code for code, dtype in _TYPES.items()}
_DIGEST = 32


def to_bytes(states: Sequence[np.ndarray], rows: int, fingerprint: bytes) -> bytes:
    """The states, each (rows, columns), as bytes."""
    head = _HEAD.pack(_MAGIC, SNAPSHOT_VERSION, fingerprint, rows, len(states))
    shapes = b"".join(_STATE.pack(state.shape[1], _CODES[state.dtype.newbyteorder("<")]) for state in states)
    content = head + shapes + b"".join(state.astype(state.dtype.newbyteorder("<")).tobytes() for state in states)
    return content + hashlib.sha256(content).digest()


def from_bytes(content: Any, like: Sequence[np.ndarray], rows: int, fingerprint: bytes) -> list[np.ndarray]:
    """The states out of what `to_bytes` made; `like` are states of the same model.

    Raises:
        ShapeError: the content is no bytes.
        FormatError: no snapshot, a damaged one, or one of another version, model or number of rows.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise ShapeError(
            f"the snapshot is a {type(content).__name__}", expected="bytes", advice="Give what snapshot() returned"
        )
    content = bytes(content)
    if len(content) < _HEAD.size + _DIGEST or not content.startswith(_MAGIC):
        raise FormatError("these bytes are no snapshot of a stream", advice="Give what snapshot() returned")
    _, version, owner, count, states = _HEAD.unpack_from(content)
    if version != SNAPSHOT_VERSION:
        raise FormatError(f"the snapshot has version {version}, this recurra reads {SNAPSHOT_VERSION}")
    if hashlib.sha256(content[:-_DIGEST]).digest() != content[-_DIGEST:]:
        raise FormatError("the snapshot is damaged: its checksum does not match its content")
    if owner != fingerprint:
        raise FormatError("the snapshot is of another model", advice="Open the model that it was taken of")
    shapes = _shapes(content, states)
    wanted = [(state.shape[1], _CODES[state.dtype.newbyteorder("<")]) for state in like]
    if count != rows or shapes != wanted:
        raise FormatError(
            f"the snapshot is of {_described(count, shapes)}",
            expected=_described(rows, wanted),
            advice="Give it to as many streams, of the same precision, on a memory as long, as it was taken of",
        )
    position = _HEAD.size + states * _STATE.size
    if len(content) != position + sum(state.nbytes for state in like) + _DIGEST:
        raise FormatError("the snapshot is damaged: its states are shorter or longer than it says")
    found = []
    for state in like:
        dtype = state.dtype.newbyteorder("<")
        values = np.frombuffer(content, dtype, count=state.size, offset=position)
        found.append(values.reshape(state.shape).astype(state.dtype))
        position += values.nbytes
    return found


def _described(rows: int, shapes: Sequence[tuple[int, int]]) -> str:
    """Rows, and columns and types of states, in words."""
    states = (f"{columns} {_TYPES[code].name if code in _TYPES else f'of type {code}'}" for columns, code in shapes)
    return f"{rows} {'row' if rows == 1 else 'rows'} of ({', '.join(states)})"


def _shapes(content: bytes, states: int) -> list[tuple[int, int]]:
    end = _HEAD.size + states * _STATE.size
    return [] if end > len(content) else list(_STATE.iter_unpack(content[_HEAD.size : end]))
