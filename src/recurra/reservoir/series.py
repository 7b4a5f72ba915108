"""Sequences as they are handed over, checked; and a layer's outputs over them, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recurra.errors import ArgumentError, ShapeError
from recurra.nested import build_like
from recurra.nn import Layer, map_state
from recurra.nn.layer import State

Array = NDArray[np.floating]
Doubles = NDArray[np.float64]

# Sequences that run side by side, and how many numbers the outputs of one piece have: memory does not grow with either
# the number of sequences or their length.
_ROWS = 32
_NUMBERS = 2**20


@dataclass(frozen=True)
class Sequences:
    """Some sequences (time, columns), and in which form they came: "one" array, an array of a "batch", or a "list"."""

    rows: list[Array]
    form: str
    padded: int = 0
    """The steps of a batch, padding included."""

    @property
    def columns(self) -> int:
        return self.rows[0].shape[1]

    def like(self, rows: Sequence[Array]) -> Any:
        """Other sequences of the same lengths in the form in which these came; zeros in the place of padding."""
        if self.form == "one":
            return rows[0]
        if self.form == "list":
            return list(rows)
        whole = np.zeros((len(rows), self.padded, *rows[0].shape[1:]), rows[0].dtype)
        for target, row in zip(whole, rows, strict=True):
            target[: len(row)] = row
        return whole


def read_sequences(name: str, given: Any, *, lengths: Any = None, columns: int | None = None) -> Sequences:
    """The sequences of an argument: (time, features), (batch, time, features), or a list of (time, features).

    `lengths` (batch,) says how many steps of each row of a batch are valid. Raises ShapeError and ArgumentError for
    another shape or dtype, for no sequence or none with a step, and for NaN or infinity in a valid step.
    """
    found = _rows(name, given, lengths)
    for place, row in _places(name, found):
        if columns is not None and row.shape[1] != columns:
            raise ShapeError(f"{place} has {row.shape[1]} features", expected=f"{columns}, as many as the layer reads")
        if row.shape[1] != found.columns or row.shape[1] == 0:
            raise ShapeError(f"{place} has {row.shape[1]} features", expected=f"{found.columns or 'one or more'}")
        _check_finite(place, row)
    return found


def read_targets(given: Any, x: Sequences, *, lengths: Any = None) -> tuple[Sequences, bool]:
    """The targets of each step of x, in the same form, and whether they came without a dimension for outputs.

    Raises ShapeError and ArgumentError as `read_sequences` does, and where they do not fit x.
    """
    found = _rows("y", given, lengths, targets_of=x)
    if found.form != x.form or len(found.rows) != len(x.rows):
        raise ShapeError(
            f"y is {_form(found)}", expected=f"{_form(x)}, as x is", advice="Give a target for each step of x"
        )
    flat = found.rows[0].ndim == 1
    rows = []
    for (place, row), steps in zip(_places("y", found), x.rows, strict=True):
        if (row.ndim == 1) != flat or len(row) != len(steps):
            raise ShapeError(f"{place} has shape {row.shape}", expected=f"a target for each of {len(steps)} steps")
        rows.append(row[:, None] if flat else row)
        if rows[-1].shape[1] != rows[0].shape[1] or rows[-1].shape[1] == 0:
            raise ShapeError(
                f"{place} has {rows[-1].shape[1]} outputs", expected=f"{rows[0].shape[1] or 'one or more'}"
            )
        _check_finite(place, rows[-1])
    return Sequences(rows, found.form, found.padded), flat


def check_washout(washout: Any, x: Sequences) -> int:
    """A number of steps that leaves some of every sequence."""
    if isinstance(washout, bool) or not isinstance(washout, int | np.integer) or washout < 0:
        raise ArgumentError(f"washout is {washout!r}", expected="a whole number of steps from 0")
    for place, row in _places("x", x):
        if washout >= len(row):
            raise ArgumentError(
                f"washout is {washout}, and {place} has {len(row)} steps",
                expected="a washout shorter than every sequence",
                advice="Give it fewer steps, or leave short sequences out",
            )
    return int(washout)


def _form(found: Sequences) -> str:
    return {"one": "one sequence", "batch": f"a batch of {len(found.rows)}", "list": f"a list of {len(found.rows)}"}[
        found.form
    ]


def _places(name: str, found: Sequences) -> Iterator[tuple[str, Array]]:
    for k, row in enumerate(found.rows):
        yield name if found.form == "one" else f"{name}, row {k},", row


def _rows(name: str, given: Any, lengths: Any, targets_of: Sequences | None = None) -> Sequences:
    """The sequences; those of targets may lack the last dimension, and are told apart by the form of x."""
    least = 2 if targets_of is None else 1
    if isinstance(given, list | tuple):
        if not given:
            raise ShapeError(f"{name} is an empty {type(given).__name__}", expected="one sequence or more")
        if lengths is not None:
            raise ArgumentError("lengths is given with a list of sequences", expected="None: each has its own length")
        rows = [_array(f"{name}, row {k},", row) for k, row in enumerate(given)]
        for k, row in enumerate(rows):
            if not least <= row.ndim <= 2:
                raise ShapeError(f"{name}, row {k}, has shape {row.shape}", expected="(time, features)")
        return Sequences(rows, "list")
    array = _array(name, given)
    if array.ndim == 3 or (array.ndim == 2 and targets_of is not None and targets_of.form == "batch"):
        return _batch(name, array, lengths)
    if least <= array.ndim <= 2:
        if lengths is not None:
            raise ArgumentError("lengths is given with one sequence", expected="None", advice="Cut it: x[:length]")
        return Sequences([array], "one")
    advice = f"A single feature is {name}[:, None]" if array.ndim == 1 else ""
    expected = "(time, features), (batch, time, features), or a list of (time, features)"
    raise ShapeError(f"{name} has shape {array.shape}", expected=expected, advice=advice)


def _batch(name: str, array: Array, lengths: Any) -> Sequences:
    batch, time = array.shape[:2]
    if batch == 0:
        raise ShapeError(f"{name} has shape {array.shape}", expected="one sequence or more")
    if lengths is None:
        return Sequences(list(array), "batch", time)
    counts = np.asarray(lengths)
    if counts.shape != (batch,) or counts.dtype.kind not in "iu":
        raise ShapeError(
            f"lengths has shape {counts.shape} and dtype {counts.dtype}", expected=f"({batch},), whole numbers"
        )
    if counts.min() < 1 or counts.max() > time:
        wrong = counts.min() if counts.min() < 1 else counts.max()
        raise ArgumentError(f"lengths holds {wrong}", expected=f"1 to {time}, the number of steps of {name}")
    return Sequences([row[:n] for row, n in zip(array, counts, strict=True)], "batch", time)


def _array(place: str, given: Any) -> Array:
    array = np.asarray(given.detach() if isinstance(given, torch.Tensor) else given)
    if array.dtype.kind in "iu":
        array = array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise ShapeError(f"{place} has dtype {array.dtype}", expected="float32, float64 or whole numbers")
    return array


def _check_finite(place: str, row: Array) -> None:
    if len(row) == 0:
        raise ShapeError(f"{place} has no steps", expected="one or more")
    wrong = ~np.isfinite(row)
    if wrong.any():
        step, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ArgumentError(
            f"{place} holds {row[step, column]} at step {step}, column {column}",
            expected="finite numbers",
            advice="Fill missing values before, or cut the sequence there",
        )


@dataclass(frozen=True)
class Piece:
    """The features of some steps of some sequences, side by side."""

    first_row: int
    start: int
    """The number of the first step."""
    features: list[Doubles] = field(repr=False)
    """For each row (steps, input + units) in float64: the input, then what the layer puts out. Rows that have ended
    have fewer steps, or none."""
    state: State
    """After each row's last step."""


def layer_dtype(layer: Layer) -> torch.dtype:
    """The dtype of a layer's weights, trained or fixed."""
    return next(iter(layer.state_dict().values())).dtype


def walk(layer: Layer, x: Sequences, state: State | None = None) -> Iterator[Piece]:
    """The features of all sequences, in pieces whose memory depends on neither their number nor their length."""
    dtype = layer_dtype(layer)
    for first in range(0, len(x.rows), _ROWS):
        rows = x.rows[first : first + _ROWS]
        lengths = np.array([len(row) for row in rows])
        steps = max(1, _NUMBERS // (len(rows) * layer.output_size))
        rows_of = slice(first, first + len(rows))
        after = layer.initial_state(len(rows)) if state is None else map_state(lambda s, at=rows_of: s[at], state)
        for start in range(0, int(lengths.max()), steps):
            left = np.clip(lengths - start, 0, steps)
            padded = torch.zeros(len(rows), int(left.max()), x.columns, dtype=dtype)
            for target, row, count in zip(padded, rows, left, strict=True):
                target[:count] = torch.as_tensor(np.ascontiguousarray(row[start : start + count]))
            with torch.no_grad():
                y, after = layer(padded, after, lengths=None if (left == left[0]).all() else torch.as_tensor(left))
            features = torch.cat([padded, y], dim=2).double().numpy()
            yield Piece(first, start, [z[:count] for z, count in zip(features, left, strict=True)], after)


def examples(
    layer: Layer, x: Sequences, targets: Sequences, washout: int, state: State | None = None
) -> Iterator[tuple[Piece, Doubles, Doubles]]:
    """A walk with targets: of each row of each piece the features (steps, input + units) and the targets
    (steps, outputs), both in float64, without the washout."""
    for piece in walk(layer, x, state):
        first = max(0, washout - piece.start)
        for k, z in enumerate(piece.features):
            y = targets.rows[piece.first_row + k][piece.start + first : piece.start + len(z)]
            yield piece, z[first:], y.astype(np.float64)


def in_order(states: Mapping[int, State]) -> State:
    """The state of all sequences, out of those of the groups that ran side by side, by their first row."""
    return join_states([states[row] for row in sorted(states)])


def join_states(states: Sequence[State]) -> State:
    """The states of several batches as that of one."""
    first, *others = states
    if not others:
        return first
    parts = []
    for k, part in enumerate(first):
        same = [state[k] for state in states]
        parts.append(join_states(same) if isinstance(part, tuple) else torch.cat(same))
    return build_like(first, parts)
