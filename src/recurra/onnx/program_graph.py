"""A program as operators of ONNX: what does not depend on a state stands before the loop, the rest in the body of a
Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import Recurrent
from recurra.onnx.graph_builder import GraphBuilder
from recurra.ops import reference
from recurra.program import Program
from recurra.program.graph import PRODUCTS, Node, ancestors, descendants
from recurra.program.operations import EPSILON, TABLE, onnx_form

_BOOL = 9
"""The type of booleans in ONNX."""


@dataclass(frozen=True)
class Signals:
    """What every layer of a graph reads beside its input: how many rows, the length of each row (batch,), which steps
    are valid (batch, time, 1), the elapsed time (batch, time) or None, at which valid steps a row starts afresh
    (batch, time, 1) or None, and the memory (batch, source time, columns) with its valid steps (batch, source time) of
    a graph that has one."""

    batch: str
    lengths: str
    valid: str
    elapsed: str | None
    reset: str | None
    memory: tuple[str, str] | None = None

    def masked(self, builder: GraphBuilder, value: str) -> str:
        """A sequence with zeros in its padding."""
        return builder.op("Where", self.valid, value, builder.number(0.0))


Step = Callable[[GraphBuilder, list[str], list[str]], tuple[list[str], str]]
"""One step in the body of a loop: from the states and the values that it reads to the next states and the output."""


def run_steps(
    builder: GraphBuilder,
    states: Sequence[str],
    initial: Sequence[Tensor | None],
    sequences: Sequence[str],
    signals: Signals,
    step: Step,
) -> tuple[str, list[str]]:
    """A Scan over the steps of all rows. In padding the output is zero and a state stays; a reset puts `initial`
    (1, columns) in its place, None for a state that it leaves alone. Returns y and the last states."""
    flags = [signals.valid] if signals.reset is None else [signals.valid, signals.reset]

    def masked(body: GraphBuilder, held: list[str], values: list[str]) -> tuple[list[str], list[str]]:
        valid, start = values[0], held
        if signals.reset is not None:
            start = [
                old if first is None else body.op("Where", values[1], body.array(first.detach().numpy()), old)
                for first, old in zip(initial, held, strict=True)
            ]
        after, y = step(body, list(start), values[len(flags) :])
        kept = [body.op("Where", valid, new, old) for new, old in zip(after, held, strict=True)]
        return kept, [body.op("Where", valid, y, body.number(0.0))]

    finals, (y,) = builder.loop(states, flags, sequences, masked)
    return y, finals


@dataclass(frozen=True)
class _Prepared:
    """A program, and what is known of it before any input: the values of its parameters and of sizes."""

    program: Program
    fixed: dict[int, Tensor]


def _prepare(layer: Recurrent) -> _Prepared:
    program = layer.program
    parameters = [getattr(layer, spec.name).detach() for spec in program.parameters]
    sizes = {"input": layer.input_size, "hidden": layer.hidden_size, **layer.widths}
    core = reference.core_values(program, parameters)
    return _Prepared(program, reference.fixed_values(program, core, sizes, parameters[0]))


class _Writer:
    """Writes nodes of a program into a graph.

    `names` has the values that are known by their node's number, `lead` how many dimensions stand before the columns:
    one in a step, two in a sequence.
    """

    def __init__(self, layer: _Prepared, builder: GraphBuilder, names: dict[int, str], lead: int) -> None:
        self.program, self.fixed, self.builder = layer.program, layer.fixed, builder
        self.names, self._lead = names, lead
        self._split: dict[int, list[str]] = {}

    def value(self, number: int) -> str:
        """The name of a value, written now if need be."""
        if number not in self.names:
            if number in self.fixed:
                self.names[number] = self.builder.array(self.fixed[number].numpy())
            else:
                self.names[number] = self._write(self.program.nodes[number])
        return self.names[number]

    def rows(self, number: int, columns: int, batch: str) -> str:
        """A value with a row for each row of the batch, also where it is the same for all."""
        value = self.value(number)
        return self.builder.expand(value, batch, columns) if number in self.fixed else value

    def _write(self, node: Node) -> str:
        builder = self.builder
        if node.operation in TABLE:
            return self._form(onnx_form(node.operation), node)
        if node.operation in PRODUCTS:
            return self._product(node)
        if node.operation == "gate":
            return self._gate(node)
        value = self.value(node.inputs[0])
        last = builder.whole(-1)
        if node.operation == "normalise":
            if node.attribute == "layer":
                value = builder.op("Sub", value, builder.op("ReduceMean", value, last))
            square = builder.op("ReduceMean", builder.op("Mul", value, value), last)
            deviation = builder.op("Sqrt", builder.op("Add", square, builder.number(EPSILON)))
            return builder.op("Div", value, deviation)
        if node.operation == "dot":
            value = builder.op("Mul", value, self.value(node.inputs[1]))
        kinds = {"sum": "ReduceSum", "dot": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}
        return builder.op(kinds[node.operation], value, last)

    def _form(self, form: Any, node: Node) -> str:
        """A nested form of the table of operations; comparisons become floats again."""
        if isinstance(form, int):
            return self.value(node.inputs[form])
        if isinstance(form, float):
            return self.builder.number(form)
        kind, *arguments = form
        values = [self._form(one, node) for one in arguments]
        if kind == "Cast":
            return self.builder.op("Cast", values[0], to=_BOOL)
        if kind == "Clip":
            # the operator wants its bounds to be scalars
            return self.builder.op("Min", self.builder.op("Max", values[0], values[1]), values[2])
        # of floats; without it, of whole numbers
        result = self.builder.op(kind, *values, **({"fmod": 1} if kind == "Mod" else {}))
        return self.builder.cast(result) if TABLE[node.operation].boolean and form is _top(node) else result

    def _gate(self, node: Node) -> str:
        source = node.inputs[0]
        if source not in self._split:
            count = self.program.nodes[source].width.count
            self._split[source] = self.builder.ops("Split", [self.value(source)], count, axis=-1, num_outputs=count)
        return self._split[source][node.attribute]

    def _product(self, node: Node) -> str:
        number, vector = node.inputs
        if number not in self.fixed:
            raise ArgumentError(f"cell '{self.program.name}' has a matrix that changes with the steps", expected="none")
        rows, columns = self.program.nodes[number].shape
        matrix, transposed = self.fixed[number].numpy(), node.operation == "matmul_transposed"
        if columns.parts > 1:
            return self._product_by_heads(matrix, vector, rows.count, columns.parts, transposed)
        return self.builder.linear(self.value(vector), matrix.T if transposed else matrix)

    def _product_by_heads(self, matrix: np.ndarray, vector: int, gates: int, heads: int, transposed: bool) -> str:
        """Each head's rows of each gate times that head's columns, as one product of a batch of matrices."""
        builder, value = self.builder, self.value(vector)
        lead, axes = [0] * self._lead, range(self._lead)
        swap = [*axes, self._lead + 1, self._lead, self._lead + 2]
        rows, columns = matrix.shape
        height = rows // (gates * heads)
        # a matrix for each head, which gives all gates of it
        blocks = matrix.reshape(gates, heads, height, columns).transpose(1, 3, 0, 2).reshape(heads, columns, -1)
        if transposed:
            value = builder.reshape(value, *lead, gates, heads, height)
            value = builder.reshape(builder.op("Transpose", value, perm=swap), *lead, heads, 1, gates * height)
            value = builder.op("MatMul", value, builder.array(blocks.transpose(0, 2, 1)))
            return builder.reshape(value, *lead, heads * columns)
        value = builder.op("MatMul", builder.reshape(value, *lead, heads, 1, columns), builder.array(blocks))
        value = builder.op("Transpose", builder.reshape(value, *lead, heads, gates, height), perm=swap)
        return builder.reshape(value, *lead, rows)


def _top(node: Node) -> Any:
    return TABLE[node.operation].onnx


def write_program(
    builder: GraphBuilder, layer: Recurrent, x: str, states: Sequence[str], signals: Signals
) -> tuple[str, list[str]]:
    """A layer of any cell as a Scan: x (batch, time, input), states (batch, columns) each. Returns y, zero in padding,
    and the states after each row's last valid step."""
    prepared = _prepare(layer)
    program, fixed, nodes = layer.program, prepared.fixed, layer.program.nodes
    known = {i: x for i, node in enumerate(nodes) if node.operation == "input"}
    if signals.elapsed is not None and layer.uses_elapsed:
        times = builder.op("Unsqueeze", signals.elapsed, builder.whole(-1))
        known |= {i: times for i, node in enumerate(nodes) if node.operation == "elapsed"}
    before = _Writer(prepared, builder, known, lead=2)
    handed = _handed(program, set(fixed))
    sequences = [before.value(i) for i in handed]
    initial = list(layer.initial_state(1))
    afresh = [None if spec.kept else first for spec, first in zip(program.states, initial, strict=True)]

    def step(body: GraphBuilder, held: list[str], given: list[str]) -> tuple[list[str], str]:
        names = dict(zip(handed, given, strict=True))
        names |= {i: held[node.attribute] for i, node in enumerate(nodes) if node.operation == "state"}
        writer = _Writer(prepared, body, names, lead=1)
        after = [
            writer.rows(i, first.shape[1], signals.batch) for i, first in zip(program.next_states, initial, strict=True)
        ]
        return after, writer.rows(program.output, layer.output_size, signals.batch)

    return run_steps(builder, states, afresh, sequences, signals, step)


def _handed(program: Program, fixed: set[int]) -> list[int]:
    """The values that a step reads and that no state decides, so that they are computed for all steps at once."""
    nodes = program.nodes
    cut = [Node(n.operation, () if i in fixed else n.inputs, n.shape) for i, n in enumerate(nodes)]
    recurrent = descendants(nodes, [i for i, node in enumerate(nodes) if node.operation == "state"])
    needed = ancestors(cut, program.results)
    read = {j for i in needed & recurrent for j in nodes[i].inputs} | set(program.results)
    return sorted(i for i in read if i not in recurrent and i not in fixed)
