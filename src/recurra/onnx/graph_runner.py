"""The nodes of an ONNX graph in their order, and of the body of a Scan within it: recurrent ones on our engine, plain
ones and loops in numpy."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, FormatError, RecurraError
from recurra.onnx.files import Source, array_of, attributes_of, describe, name_of
from recurra.onnx.operator_inputs import Limits, present
from recurra.onnx.plain_operators import PLAIN
from recurra.onnx.recurrent_nodes import RECURRENT, read_node, run_node

Array = NDArray[Any]
Values = Mapping[str, Array]

SCAN = "Scan"
"""The one operator of loops that is run."""

MOST_NODES = 2**24
"""How many nodes the loops of a model may run in one call, in all their steps: a file cannot ask for all time."""


@dataclass
class Call:
    """One call of a model: its limits, and how many nodes its loops may still run."""

    limits: Limits
    nodes_left: int = MOST_NODES

    def spend(self, nodes: int) -> None:
        """Raises ArgumentError when the loops of a call have run too many nodes."""
        self.nodes_left -= nodes
        if self.nodes_left < 0:
            raise ArgumentError(
                f"the loops of the model run more than {MOST_NODES} nodes",
                expected="fewer",
                advice="Give it shorter sequences, or run it with onnxruntime",
            )


@dataclass(frozen=True)
class Node:
    """A node, read: its operator, the names of its inputs (empty where one is left out) and outputs, its attributes,
    what it is called in an error, and the body of a Scan."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    described: str
    body: Graph | None


class Graph:
    """A graph that is read and checked."""

    def __init__(self, graph: Any, source: Source) -> None:
        """`graph` is a GraphProto of the source. Raises FormatError for a node that is not run here."""
        self.constants = {name_of(one.name): array_of(one, source.folder) for one in graph.initializer}
        self.input_names = [name_of(one.name) for one in graph.input]
        self.output_names = [name_of(one.name) for one in graph.output]
        self._nodes = [_read(node, source) for node in graph.node]

    def run(self, given: Values, outer: Values, call: Call) -> list[Array]:
        """The outputs in order. `given` has the inputs, `outer` what stands around a body."""
        values = ChainMap(dict(given), self.constants, outer)  # type: ignore[arg-type]
        for node in self._nodes:
            read = [_look_up(values, name, node.described) if name else None for name in node.inputs]
            with np.errstate(all="ignore"):
                results = _run_node(node, read, values, call)
            values.update({name: one for name, one in zip(node.outputs, results, strict=False) if name})
        missing = [name for name in self.output_names if name not in values]
        if missing:
            raise FormatError(f"no node makes the output '{missing[0]}'", expected="one that does")
        return [values[name] for name in self.output_names]

    @property
    def cost(self) -> int:
        """How many nodes one step runs, those of loops within it aside."""
        return len(self._nodes) + 1


def _read(node: Any, source: Source) -> Node:
    described = describe(node)
    if node.domain not in ("", "ai.onnx") or not (node.op_type in PLAIN or node.op_type in (*RECURRENT, SCAN)):
        raise FormatError(
            f"{described} is not run here",
            expected=f"{', '.join((*RECURRENT, SCAN))}, or a plain operator: {', '.join(PLAIN)}",
            advice="Run the model with onnxruntime, or cut out its recurrent part",
        )
    attributes = attributes_of(node, source.folder, graph="body" if node.op_type == SCAN else "")
    body = None
    if node.op_type == SCAN:
        if source.opset < 9 or "body" not in attributes:
            raise FormatError(f"{described} of opset {source.opset}", expected="one from 9, with a body")
        body = Graph(attributes.pop("body"), source)
    if node.op_type == "Split":
        attributes["outputs"] = len(node.output)
    inputs, outputs = (tuple(map(name_of, names)) for names in (node.input, node.output))
    return Node(node.op_type, inputs, outputs, attributes, described, body)


def _look_up(values: Values, name: str, described: str) -> Array:
    if name not in values:
        raise FormatError(f"{described} reads '{name}'", expected="an input, a weight or an earlier node's output")
    return values[name]


def _run_node(node: Node, given: Sequence[Array | None], around: Values, call: Call) -> Sequence[Array]:
    try:
        if node.body is not None:
            return _run_scan(node.body, node.attributes, present(given), around, call)
        if node.kind in RECURRENT:
            return _run_recurrent(node, given, call)
        return PLAIN[node.kind](given, node.attributes, call.limits)
    except RecurraError as error:
        raise type(error)(f"{node.described}: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{node.described} does not fit its inputs: {error}") from error


def _run_recurrent(node: Node, given: Sequence[Array | None], call: Call) -> Sequence[Array]:
    x, W, R, B, lengths, h, c, P = (*given, *[None] * 8)[:8]
    found = read_node(node.kind, node.attributes, [W, R, B, P])
    if x is None or x.ndim != 3:
        raise FormatError("X of a recurrent node", expected="three dimensions")
    steps = x.shape[0] * x.shape[1] * len(found.directions)
    call.limits.check((steps, len(found.directions[0].parameters["W"])), np.dtype(np.float64))
    y, last = run_node(found, x, lengths, [h, c])
    return [y, *last]


def _run_scan(
    body: Graph, attributes: Mapping[str, Any], given: Sequence[Array], around: Values, call: Call
) -> list[Array]:
    """The last states, and what the body puts out, a step after the other along an axis."""
    count = attributes.get("num_scan_inputs", 0)
    states, sequences = list(given[: len(given) - count]), given[len(given) - count :]
    made = len(body.output_names) - len(states)
    if not 1 <= count <= len(given) or len(body.input_names) != len(given) or made < 0:
        raise FormatError(
            f"a Scan of {len(given)} inputs, {count} of them sequences, whose body has {len(body.input_names)} inputs "
            f"and {len(body.output_names)} outputs",
            expected="a body that fits",
        )
    turned = _time_first(sequences, attributes)
    steps = len(turned[0])
    if any(len(one) != steps for one in turned):
        raise FormatError("the sequences of a Scan", got=[len(one) for one in turned], expected="equally many steps")
    first = states
    collected: list[list[Array]] = [[] for _ in range(made)]
    for t in range(steps):
        states, out = _step(body, states, [one[t] for one in turned], around, call)
        _check_same("a state", states, first)
        for kept, value in zip(collected, out, strict=True):
            _check_same("an output", [value], kept[:1] or [value])
            if not kept:
                call.limits.check((steps, *value.shape), value.dtype)
            kept.append(value)
    if steps:
        stacked = [np.stack(one) for one in collected]
    else:
        # what a step would put out says of which shape nothing is
        slices = [np.zeros(one.shape[1:], one.dtype) for one in turned]
        _, out = _step(body, states, slices, around, call)
        stacked = [np.zeros((0, *one.shape), one.dtype) for one in out]
    return [*states, *_in_place(stacked, attributes)]


def _step(
    body: Graph, states: Sequence[Array], slices: Sequence[Array], around: Values, call: Call
) -> tuple[list[Array], list[Array]]:
    call.spend(body.cost)
    results = body.run(dict(zip(body.input_names, [*states, *slices], strict=True)), around, call)
    return results[: len(states)], results[len(states) :]


def _check_same(what: str, found: Sequence[Array], wanted: Sequence[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise FormatError(
                f"{what} of a Scan becomes {one.shape} of {one.dtype}",
                expected=f"{other.shape} of {other.dtype}, as before",
            )


def _axes(attributes: Mapping[str, Any], kind: str, count: int) -> tuple[list[int], list[int]]:
    """The axis and the direction of each sequence."""
    found = [list(attributes.get(f"scan_{kind}_{name}", [0] * count)) for name in ("axes", "directions")]
    if any(len(one) != count for one in found) or not set(found[1]) <= {0, 1}:
        raise FormatError(f"the axes and directions of the {kind}s of a Scan", got=found, expected=f"{count} of each")
    return found[0], found[1]


def _time_first(sequences: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
    """Sequences read, time first, in the direction of the loop."""
    axes, backwards = _axes(attributes, "input", len(sequences))
    turned = [np.moveaxis(one, axis, 0) for one, axis in zip(sequences, axes, strict=True)]
    return [one[::-1] if back else one for one, back in zip(turned, backwards, strict=True)]


def _in_place(stacked: Sequence[Array], attributes: Mapping[str, Any]) -> list[Array]:
    """Sequences put out, time where the node wants it."""
    axes, backwards = _axes(attributes, "output", len(stacked))
    turned = [one[::-1] if back else one for one, back in zip(stacked, backwards, strict=True)]
    return [np.moveaxis(one, 0, axis) for one, axis in zip(turned, axes, strict=True)]
