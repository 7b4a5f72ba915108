"""RNN, GRU and LSTM nodes: what the standard allows in them, read, checked, and run by our engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra import ops
from recurra.cells import Cell
from recurra.errors import FormatError
from recurra.nn import reverse
from recurra.onnx.activations import Activation, read_activations
from recurra.onnx.node_cells import gru_cell, lstm_cell, rnn_cell

Array = NDArray[Any]

# The gates of each operator, in our order, by their places in ONNX's: LSTM is (i, o, f, c) there, GRU (z, r, h).
_GATES = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
_PEEPHOLES = (0, 2, 1)
_ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

RECURRENT = tuple(_GATES)
"""The operators that this module runs."""


@dataclass(frozen=True)
class Direction:
    """One direction of a node: its cell, its parameters by their names in the cell, and whether it reads backwards."""

    cell: Cell
    parameters: dict[str, Array]
    backwards: bool


@dataclass(frozen=True)
class RecurrentNode:
    """A node, checked: its directions, its sizes, and whether the batch comes first in its arrays."""

    directions: tuple[Direction, ...]
    input_size: int
    hidden_size: int
    batch_first: bool


def read_node(kind: str, attributes: Mapping[str, Any], weights: Sequence[Array | None]) -> RecurrentNode:
    """A node of one of `RECURRENT`, given its attributes and its weights W, R, B and, of an LSTM, P (None where there
    are none). Raises FormatError for what the standard does not allow."""
    backwards = _DIRECTIONS.get(_text(attributes.get("direction", "forward")))
    if backwards is None:
        raise FormatError(
            "the direction of a recurrent node", got=attributes["direction"], expected=", ".join(_DIRECTIONS)
        )
    W, R, B, P = (*weights, None)[:4]
    gates, count = len(_GATES[kind]), len(backwards)
    if W is None or R is None or W.ndim != 3 or R.ndim != 3:
        raise FormatError(f"the weights W and R of a node {kind}", expected="two arrays of three dimensions")
    hidden, size = R.shape[2], W.shape[2]
    _check("W", W, (count, gates * hidden, size))
    _check("R", R, (count, gates * hidden, hidden))
    _check("B", B, (count, 2 * gates * hidden))
    _check("P", P, (count, 3 * hidden))
    if hidden < 1 or size < 1 or attributes.get("hidden_size", hidden) != hidden:
        raise FormatError(
            f"a node {kind} has input size {size} and hidden_size {attributes.get('hidden_size', hidden)}",
            expected=f"sizes from 1, and hidden_size {hidden} as in R",
        )
    found = _activations(kind, attributes, count)
    directions = tuple(
        Direction(
            _cell(kind, attributes, found[d], P is not None),
            _parameters(kind, attributes, [None if one is None else one[d] for one in (W, R, B, P)]),
            backwards[d],
        )
        for d in range(count)
    )
    return RecurrentNode(directions, size, hidden, bool(attributes.get("layout", 0)))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _check(name: str, value: Array | None, shape: tuple[int, ...]) -> None:
    if value is not None and (value.shape != shape or value.dtype.kind != "f"):
        raise FormatError(
            f"{name} of a recurrent node has shape {value.shape} of {value.dtype}", expected=f"floats of shape {shape}"
        )


def _activations(kind: str, attributes: Mapping[str, Any], directions: int) -> list[tuple[Activation, ...]]:
    """The activations of each direction."""
    usual = _ACTIVATIONS[kind]
    names = [_text(name) for name in attributes.get("activations", [])] or [*usual] * directions
    if len(names) != len(usual) * directions:
        raise FormatError(
            f"a node {kind} has {len(names)} activations", expected=f"{len(usual)} for each of {directions} directions"
        )
    bound = attributes.get("clip")
    if bound is not None and not bound > 0:
        raise FormatError("the clip of a recurrent node", got=bound, expected="a positive number")
    alphas, betas = attributes.get("activation_alpha", []), attributes.get("activation_beta", [])
    found = read_activations(names, alphas, betas, bound)
    return [tuple(found[d * len(usual) : (d + 1) * len(usual)]) for d in range(directions)]


def _cell(kind: str, attributes: Mapping[str, Any], activations: tuple[Activation, ...], peepholes: bool) -> Cell:
    if kind == "RNN":
        return rnn_cell(activations)
    if kind == "GRU":
        return gru_cell(activations, bool(attributes.get("linear_before_reset", 0)))
    return lstm_cell(activations, bool(attributes.get("input_forget", 0)), peepholes)


def _parameters(kind: str, attributes: Mapping[str, Any], weights: Sequence[Array | None]) -> dict[str, Array]:
    """The parameters of one direction by their names in the cell."""
    W, R, B, P = weights
    assert W is not None
    assert R is not None
    order = _GATES[kind]
    hidden = R.shape[1]
    W, R = _reordered(W, order, hidden), _reordered(R, order, hidden)
    halves = np.zeros((2, len(order) * hidden), W.dtype) if B is None else B.reshape(2, -1)
    of_x, of_h = (_reordered(half, order, hidden) for half in halves)
    found = {"W": W, "U": R, "b": of_x + of_h}
    if kind == "GRU" and attributes.get("linear_before_reset", 0):
        # the reset gate multiplies the candidate's recurrent bias, so that one stays by itself
        found["b"] = np.concatenate((of_x[: 2 * hidden] + of_h[: 2 * hidden], of_x[2 * hidden :]))
        found["b_n"] = of_h[2 * hidden :]
    elif kind == "GRU":
        found |= {"U": R[: 2 * hidden], "U_n": R[2 * hidden :]}
    elif P is not None:
        peepholes = _reordered(P, _PEEPHOLES, hidden)
        found |= {"p": peepholes, **dict(zip(("p_i", "p_f", "p_o"), np.split(peepholes, 3), strict=True))}
    return found


def _reordered(weights: Array, order: Sequence[int], hidden: int) -> Array:
    return np.concatenate([weights[k * hidden : (k + 1) * hidden] for k in order])


def run_node(
    node: RecurrentNode, x: Array, lengths: Array | None, initial: Sequence[Array | None]
) -> tuple[Array, list[Array]]:
    """Y, and the last value of each state, as ONNX lays them out.

    x (time, batch, input); lengths (batch,); initial (direction, batch, hidden), one a state, None for zeros. With
    `batch_first` the batch comes first in all of them. Computes in the dtype of x, in single precision where that is
    float16. Raises FormatError when they do not fit.
    """
    if x.ndim != 3 or x.shape[2] != node.input_size or x.dtype.kind != "f":
        raise FormatError(
            f"X of a recurrent node has shape {x.shape} of {x.dtype}",
            expected=f"three dimensions of floats, the last {node.input_size}",
        )
    dtype = np.promote_types(x.dtype, np.float32)
    rows = _tensor(x if node.batch_first else x.transpose(1, 0, 2), dtype)
    batch, time = rows.shape[:2]
    ends = _lengths(lengths, batch, time)
    states = _initial(initial, node, batch, dtype)
    outputs, finals = [], []
    with torch.no_grad():
        for d, direction in enumerate(node.directions):
            y, final = _run_direction(direction, rows, ends, [state[d] for state in states])
            outputs.append(y.numpy())
            finals.append([one.numpy() for one in final])
    # the direction stands before the units
    y = np.stack(outputs, axis=2)
    last = [np.stack([final[k] for final in finals], axis=1) for k in range(len(states))]
    if not node.batch_first:
        y, last = y.transpose(1, 2, 0, 3), [one.transpose(1, 0, 2) for one in last]
    return y.astype(x.dtype, copy=False), [one.astype(x.dtype, copy=False) for one in last]


def _tensor(array: Array, dtype: np.dtype[Any]) -> Tensor:
    # torch does not know read-only arrays, and those of a file may be
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _lengths(lengths: Array | None, batch: int, time: int) -> Tensor | None:
    if lengths is None:
        return None
    fits = lengths.shape == (batch,) and lengths.dtype.kind in "iu"
    if not fits or bool(((lengths < 0) | (lengths > time)).any()):
        raise FormatError("sequence_lens of a recurrent node", expected=f"{batch} whole numbers from 0 to {time}")
    return torch.from_numpy(lengths.astype(np.int64))


def _initial(
    initial: Sequence[Array | None], node: RecurrentNode, batch: int, dtype: np.dtype[Any]
) -> list[list[Tensor]]:
    """The first value of each state in each direction."""
    count, hidden = len(node.directions), node.hidden_size
    found = []
    for one in (*initial, None, None)[: len(node.directions[0].cell.program.states)]:
        shape = (batch, count, hidden) if node.batch_first else (count, batch, hidden)
        if one is None:
            one = np.zeros(shape, dtype)
        if one.shape != shape or one.dtype.kind != "f":
            raise FormatError(
                f"an initial state of a recurrent node has shape {one.shape} of {one.dtype}",
                expected=f"{shape}, floats",
            )
        by_direction = one.transpose(1, 0, 2) if node.batch_first else one
        found.append([_tensor(value, dtype) for value in by_direction])
    return found


def _run_direction(
    direction: Direction, rows: Tensor, lengths: Tensor | None, states: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    program = direction.cell.program
    given = [
        _tensor(array, array.dtype).to(rows.dtype)
        for array in (direction.parameters[spec.name] for spec in program.parameters)
    ]
    x = reverse(rows, lengths) if direction.backwards else rows
    y, final = ops.scan(program, x, states, given, lengths=lengths)
    return (reverse(y, lengths) if direction.backwards else y), final
