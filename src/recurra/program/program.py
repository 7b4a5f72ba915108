"""A program: one step of a cell as a graph, with what it declares. It is data: it can be saved, read, checked
and compiled."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recurra.errors import FormatError
from recurra.program.graph import FIXED, LEAVES, SIZES, Graph, Node, ancestors, descendants
from recurra.program.operations import REDUCTIONS, TABLE
from recurra.program.widths import Draw, ParameterSpec, StateSpec, Width

FORMAT_VERSION = 2
_OLDER_VERSIONS = (1,)  # where no state has a role

_STRUCTURAL = {"gate": 1, "matmul": 2, "matmul_transposed": 2, "transpose": 1}


@dataclass(frozen=True, eq=False)
class Program:
    """The equations of one step.

    `next_states` and `output` are node numbers: what each state becomes, and what the step returns. `labels`
    keeps the names of
    the values as their author wrote them.
    """

    name: str
    doc: str
    nodes: tuple[Node, ...]
    states: tuple[StateSpec, ...]
    parameters: tuple[ParameterSpec, ...]
    next_states: tuple[int, ...]
    output: int
    labels: tuple[tuple[int, str], ...] = ()

    @property
    def output_width(self) -> Width:
        return self.nodes[self.output].width

    @cached_property
    def width_names(self) -> frozenset[str]:
        """The names of the widths, besides input and hidden, that a layer must be given sizes for."""
        widths = [width for p in self.parameters for width in p.symbolic_shape] + [s.width for s in self.states]
        return frozenset(width.name for width in widths) - {"", "input", "hidden"}

    @property
    def results(self) -> tuple[int, ...]:
        """The next states, then the output."""
        return (*self.next_states, self.output)

    @cached_property
    def live(self) -> frozenset[int]:
        """The nodes that a result depends on."""
        return frozenset(ancestors(self.nodes, self.results))

    @cached_property
    def uses_elapsed(self) -> bool:
        return any(self.nodes[i].operation == "elapsed" for i in self.live)

    @cached_property
    def core_parameters(self) -> tuple[int, ...]:
        """The nodes that depend on parameters only and are read by a later stage, in order.

        A parameter that a later stage reads as it is stands for itself; any other value (`W - W.T`, `exp(nu)`)
        is computed once a call, before the scan, and handed to it like a parameter. Values of sizes alone are no
        parameters: the compiler knows them.
        """
        varying = descendants(self.nodes, self._leaves(LEAVES - FIXED))
        known = descendants(self.nodes, self._leaves({"parameter"})) - varying
        read = {j for i in self.live if i in varying for j in self.nodes[i].inputs} | set(self.results)
        return tuple(sorted({self._whole(i) for i in read & known}))

    @cached_property
    def plain_core(self) -> tuple[int, ...] | None:
        """The parameters that the core parameters are, by number; None where one of them is computed."""
        nodes = [self.nodes[i] for i in self.core_parameters]
        plain = all(node.operation == "parameter" for node in nodes)
        return tuple(node.attribute for node in nodes) if plain else None

    def _leaves(self, operations: Iterable[str]) -> list[int]:
        return [i for i, node in enumerate(self.nodes) if node.operation in operations]

    def _whole(self, number: int) -> int:
        node = self.nodes[number]
        return node.inputs[0] if node.operation == "gate" else number

    @cached_property
    def classes(self) -> frozenset[str]:
        """ "product-free" when no state is multiplied by a matrix inside the loop; "linear" when the next states
        are affine in the states, column by column, with coefficients free of states (a delay line counts as input)."""
        from recurra.program.classify import classify

        return classify(self)

    @cached_property
    def json(self) -> str:
        """The program as compact JSON, the same text for the same program."""
        value = {
            "version": FORMAT_VERSION,
            "name": self.name,
            "doc": self.doc,
            "states": [[s.name, str(s.width), s.initial, s.role] for s in self.states],
            "parameters": [
                [
                    p.name,
                    p.kind,
                    str(p.rows),
                    None if p.columns is None else str(p.columns),
                    [[i.name, *i.arguments] if isinstance(i, Draw) else i for i in p.initial],
                    p.forget,
                    p.input,
                    p.fixed,
                    p.density,
                ]
                for p in self.parameters
            ],
            "nodes": [[n.operation, list(n.inputs), n.attribute] for n in self.nodes],
            "next_states": list(self.next_states),
            "output": self.output,
            "labels": [list(label) for label in self.labels],
        }
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    def to_json(self) -> str:
        return self.json

    @classmethod
    def from_json(cls, text: str) -> Program:
        """Reads and verifies a program. Raises FormatError when the text is not a well-formed program."""
        try:
            value = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise FormatError(f"a program is not JSON: {error}") from error
        try:
            return _read(value)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
            raise FormatError(f"a program is malformed: {error}; save the model again with this version") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.json == other.json

    def __hash__(self) -> int:
        return hash(self.json)

    def __str__(self) -> str:
        from recurra.program.printing import describe

        return describe(self)

    def __repr__(self) -> str:
        return f"<program {self.name}: {len(self.states)} states, {len(self.parameters)} parameters>"


def _read(value: Any) -> Program:
    if value["version"] not in (FORMAT_VERSION, *_OLDER_VERSIONS):
        raise FormatError(
            f"a program has format version {value['version']}; this recurra reads version {FORMAT_VERSION}"
        )
    states = tuple(StateSpec(str(n), Width.parse(w), float(i), *role) for n, w, i, *role in value["states"])
    parameters = tuple(_read_parameter(*fields) for fields in value["parameters"])
    graph = Graph()
    for operation, inputs, attribute in value["nodes"]:
        number = len(graph.nodes)
        if any(not isinstance(i, int) or not 0 <= i < number for i in inputs):
            raise FormatError(f"node {number} ('{operation}') reads {inputs}; expected earlier nodes only")
        if append(graph, operation, tuple(inputs), attribute, states, parameters) != number:
            raise FormatError(f"node {number} ('{operation}') is not in normal form")
    results = [*value["next_states"], value["output"]]
    if len(results) != len(states) + 1 or any(not 0 <= r < len(graph.nodes) for r in results):
        raise FormatError("a program's results are not nodes of it")
    for state, number in zip(states, results[:-1], strict=True):
        if graph.nodes[number].shape != (state.width,):
            raise FormatError(f"state '{state.name}' becomes a value of another width")
    labels = tuple((int(i), str(name)) for i, name in value["labels"])
    return Program(
        str(value["name"]),
        str(value["doc"]),
        tuple(graph.nodes),
        states,
        parameters,
        tuple(results[:-1]),
        results[-1],
        labels,
    )


def _read_parameter(  # noqa: PLR0913 - the fields of a file are flat
    name: str,
    kind: str,
    rows: str,
    columns: str | None,
    initial: list[Any],
    forget: int | None,
    input: int | None,
    fixed: bool = False,
    density: float = 1.0,
) -> ParameterSpec:
    starts = tuple(_read_draw(*one) if isinstance(one, list) else float(one) for one in initial)
    width = None if columns is None else Width.parse(columns)
    return ParameterSpec(
        str(name), kind, Width.parse(rows), width, starts, forget, input, fixed=bool(fixed), density=float(density)
    )


def _read_draw(name: str, *arguments: Any) -> Draw:
    if not isinstance(name, str):
        raise FormatError(f"an initialiser is named {name!r}; expected a name")
    return Draw(name, tuple(a if isinstance(a, str) else float(a) for a in arguments))


def append(
    graph: Graph,
    operation: str,
    inputs: tuple[int, ...],
    attribute: Any,
    states: Sequence[StateSpec],
    parameters: Sequence[ParameterSpec],
) -> int:
    """Adds a node of a program, given its operation, inputs and attribute, checking everything about it."""
    if operation == "state":
        return graph.leaf(operation, (states[_index(attribute, len(states))].width,), attribute)
    if operation == "parameter":
        return graph.leaf(operation, parameters[_index(attribute, len(parameters))].symbolic_shape, attribute)
    if operation == "input":
        return graph.leaf(operation, (Width(1, "input"),))
    if operation in ("elapsed", "constant"):
        return graph.leaf(operation, (Width(1),), None if operation == "elapsed" else float(attribute))
    if operation in SIZES:
        return getattr(graph, operation)(Width.parse(attribute))
    if operation in TABLE:
        if len(inputs) != TABLE[operation].arity:
            raise FormatError(f"'{operation}' has {len(inputs)} inputs; expected {TABLE[operation].arity}")
        return graph.call(operation, *inputs, attribute=attribute)
    if operation == "normalise" and len(inputs) == 1:
        return graph.normalise(inputs[0], attribute)
    if operation in REDUCTIONS:
        return graph.reduce(operation, *inputs)
    if operation in _STRUCTURAL and len(inputs) == _STRUCTURAL[operation]:
        if operation == "gate":
            return graph.gate(inputs[0], _index(attribute, graph.nodes[inputs[0]].width.count))
        return getattr(graph, operation)(*inputs)
    raise FormatError(f"unknown operation '{operation}' with {len(inputs)} inputs; a newer recurra may have written it")


def _index(value: Any, count: int) -> int:
    if not isinstance(value, int) or not 0 <= value < count:
        raise FormatError(f"index {value!r} is out of range; expected 0 to {count - 1}")
    return value
