"""Runs a program in numpy, an operation at a time: what runs without the engine, and an oracle for it. Slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from recurra import bfloat16, int8
from recurra.bfloat16 import ROUNDING, is_bfloat16
from recurra.int8 import Int8Matrix
from recurra.int8 import product_by_heads as int8_product
from recurra.program import Program
from recurra.program.graph import PRODUCTS, Node, ancestors, descendants
from recurra.program.matrices import product_matrices
from recurra.program.operations import EPSILON, TABLE
from recurra.program.widths import Width
from recurra.runtime.rows import Rows

Values = dict[int, Any]
Matrix = np.ndarray | Int8Matrix
"""Of float32, float64 or `bfloat16.BFLOAT16` or `ROUNDING`; or int8."""


class _Rounding(NamedTuple):
    """A matrix of float32 in whose products vectors are rounded to bfloat16."""

    values: np.ndarray


_REDUCTIONS = {"sum": np.sum, "max": np.max, "min": np.min}


def shape_of(matrix: Matrix) -> tuple[int, ...]:
    """The shape of a matrix in any form."""
    return matrix.values.shape if isinstance(matrix, Int8Matrix) else matrix.shape


def dtype_of(parameters: Sequence[Matrix]) -> np.dtype:
    """What a product with these is computed in."""
    return next((p.dtype for p in parameters if not _is_small(p)), np.dtype(np.float32))  # type: ignore[union-attr]


def _is_small(matrix: Matrix) -> bool:
    return isinstance(matrix, Int8Matrix) or is_bfloat16(matrix)


def _evaluate(program: Program, node: Node, inputs: list[Any], dtype: Any) -> Any:
    if node.operation in TABLE:
        extra = [] if node.attribute is None else [node.attribute]
        return np.asarray(TABLE[node.operation].numpy(*inputs, *extra), dtype=dtype)
    if node.operation in PRODUCTS:
        rows, columns = program.nodes[node.inputs[0]].shape
        if isinstance(inputs[0], Int8Matrix):
            return int8_product(inputs[0], inputs[1], rows.count, columns.parts)
        if isinstance(inputs[0], _Rounding):
            inputs = [inputs[0].values, bfloat16.nearest(inputs[1])]
        if columns.parts > 1:
            return _product_by_heads(node.operation, inputs[0], inputs[1], rows.count, columns.parts)
        return inputs[1] @ (inputs[0].T if node.operation == "matmul" else inputs[0])
    if node.operation == "transpose":
        return inputs[0].T
    if node.operation == "gate":
        columns = inputs[0].shape[-1] // program.nodes[node.inputs[0]].width.count
        return inputs[0][..., node.attribute * columns : (node.attribute + 1) * columns]
    if node.operation == "normalise":
        centred = inputs[0]
        if node.attribute == "layer":
            centred = centred - centred.mean(-1, keepdims=True, dtype=dtype)
        return np.asarray(centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + dtype.type(EPSILON)), dtype)
    if node.operation == "dot":
        return (inputs[0] * inputs[1]).sum(-1, keepdims=True)
    return _REDUCTIONS[node.operation](inputs[0], axis=-1, keepdims=True)


def _product_by_heads(operation: str, matrix: Any, vector: Any, gates: int, heads: int) -> Any:
    rows, columns = matrix.shape
    blocks = matrix.reshape(gates, heads, rows // (gates * heads), columns)
    if operation == "matmul":
        parts = vector.reshape(*vector.shape[:-1], heads, columns)
        return np.einsum("ghij,...hj->...ghi", blocks, parts).reshape(*vector.shape[:-1], rows)
    parts = vector.reshape(*vector.shape[:-1], gates, heads, rows // (gates * heads))
    return np.einsum("ghij,...ghi->...hj", blocks, parts).reshape(*vector.shape[:-1], heads * columns)


def _extend(program: Program, values: Values, numbers: Sequence[int], dtype: Any) -> None:
    for i in numbers:
        if i not in values:
            node = program.nodes[i]
            values[i] = _evaluate(program, node, [values[j] for j in node.inputs], dtype)


def _leaves(program: Program, *operations: str) -> list[int]:
    return [i for i, node in enumerate(program.nodes) if node.operation in operations]


def _constants(program: Program, sizes: Mapping[str, int], dtype: Any) -> Values:
    values: Values = {i: np.asarray(program.nodes[i].attribute, dtype) for i in _leaves(program, "constant")}
    for i in _leaves(program, "columns"):
        values[i] = np.asarray(Width.parse(program.nodes[i].attribute).size(sizes), dtype)
    for i in _leaves(program, "unit"):
        values[i] = np.arange(Width.parse(program.nodes[i].attribute).size(sizes), dtype=dtype)
    return values


def core_values(program: Program, parameters: Sequence[np.ndarray], sizes: Mapping[str, int]) -> list[np.ndarray]:
    """The values of the core parameters: each a parameter as it is, or computed from parameters only."""
    nodes = program.nodes
    dtype = parameters[0].dtype if parameters else np.dtype(np.float32)
    values: Values = {i: parameters[nodes[i].attribute] for i in _leaves(program, "parameter")}
    values.update(_constants(program, sizes, dtype))
    with np.errstate(all="ignore"):
        _extend(program, values, sorted(ancestors(nodes, program.core_parameters)), dtype)
    # a value of a matrix may be a view of another one
    return [np.ascontiguousarray(values[i]) for i in program.core_parameters]


def small_core(program: Program, parameters: Sequence[Matrix], sizes: Mapping[str, int]) -> list[Matrix]:
    """`core_values` where parameters may be int8, or bfloat16: then what is computed from others and stands in products
    is, too."""
    small = next((p for p in parameters if _is_small(p)), None)
    if small is None:
        return list(core_values(program, cast(Sequence[np.ndarray], parameters), sizes))
    rounded: Callable[[np.ndarray], Matrix] = int8.rounded
    if not isinstance(small, Int8Matrix):
        kind = small.dtype
        rounded = lambda value: bfloat16.rounded(value).view(kind)  # noqa: E731
    # of those that are small, computed values read no more than the shape
    nothing = np.zeros((), np.float32)
    floats = [np.broadcast_to(nothing, shape_of(p)) if _is_small(p) else cast(np.ndarray, p) for p in parameters]
    core: list[Matrix] = []
    computed = core_values(program, floats, sizes)
    for number, rounds, value in zip(program.core_parameters, product_matrices(program), computed, strict=True):
        node = program.nodes[number]
        if node.operation == "parameter":
            core.append(parameters[node.attribute])
        else:
            core.append(rounded(value) if rounds else value)
    return core


def _in_products(matrix: Matrix) -> Any:
    if isinstance(matrix, Int8Matrix):
        return matrix
    values = bfloat16.widened(matrix)
    return _Rounding(values) if matrix.dtype == ROUNDING else values


class Interpreter:
    """A program with its parameters, in numpy."""

    def __init__(self, program: Program, core: Sequence[Matrix], sizes: Mapping[str, int]) -> None:
        self.program = program
        self.dtype = dtype_of(core)
        values = [_in_products(p) for p in core]
        self.output_columns = program.output_width.size(sizes)
        fixed: Values = dict(zip(program.core_parameters, values, strict=True)) | _constants(program, sizes, self.dtype)
        known = set(fixed)
        for i in sorted(program.live):
            if program.nodes[i].inputs and known.issuperset(program.nodes[i].inputs):
                known.add(i)
        with np.errstate(all="ignore"):
            _extend(program, fixed, sorted((known & program.live) - fixed.keys()), self.dtype)
        self._fixed = fixed
        cut = [n if i not in fixed else Node(n.operation, (), n.shape) for i, n in enumerate(program.nodes)]
        needed = sorted(ancestors(cut, program.results))
        recurrent = descendants(program.nodes, _leaves(program, "state"))
        self._before = [i for i in needed if i not in recurrent]
        self._loop = [i for i in needed if i in recurrent]

    def forward(self, x: np.ndarray, states: Sequence[np.ndarray], rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
        """x (batch, time, input), each state (batch, columns). Returns y (batch, time, output) and the states after."""
        program = self.program
        batch, time = x.shape[:2]
        valid, reset = rows.valid(time), rows.valid_reset(time)
        sequence = {**self._fixed, **{i: rows.masked(x, 1.0) for i in _leaves(program, "input")}}
        if rows.elapsed is not None:
            sequence |= {i: rows.masked(rows.elapsed[..., None], 1.0) for i in _leaves(program, "elapsed")}
        y = np.zeros((batch, time, self.output_columns), self.dtype)
        state = [np.array(s) for s in states]
        with np.errstate(all="ignore"):
            _extend(program, sequence, self._before, self.dtype)
            varying = [i for i in sequence if i not in self._fixed]
            for t in range(time):
                if reset is not None:
                    state = [
                        s if spec.kept else np.where(reset[:, t, None], s.dtype.type(spec.initial), s)
                        for s, spec in zip(state, program.states, strict=True)
                    ]
                values = {**self._fixed, **{i: sequence[i][:, t] for i in varying}}
                values |= {i: state[program.nodes[i].attribute] for i in _leaves(program, "state")}
                _extend(program, values, self._loop, self.dtype)
                output = values[program.output]
                after = [np.broadcast_to(values[i], s.shape) for i, s in zip(program.next_states, state, strict=True)]
                if valid is not None:
                    now = valid[:, t, None]
                    after = [np.where(now, new, old) for new, old in zip(after, state, strict=True)]
                    output = np.where(now, output, self.dtype.type(0))
                state = [np.array(s, self.dtype) for s in after]
                y[:, t] = output
        return y, state
