"""Tracing: runs the Python function of a cell once on symbols and records its equations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from recurra.errors import CellError
from recurra.program.graph import Graph
from recurra.program.program import Program
from recurra.program.signature import read_signature
from recurra.program.widths import INPUT, SCALAR, ParameterSpec, StateSpec, Width


@dataclass(frozen=True, slots=True)
class OutputMark:
    """Marks a returned value as the output of the step."""

    value: Any


class Symbol:
    """A value of a cell's equations while they are being traced. It has arithmetic, and nothing that needs a number."""

    __slots__ = ("_graph", "number")
    __array_ufunc__ = None

    def __init__(self, graph: Graph, number: int) -> None:
        self._graph = graph
        self.number = number

    @property
    def width(self) -> Width:
        return self._graph.nodes[self.number].width

    def _lift(self, other: Any) -> int:
        if isinstance(other, Symbol):
            if other._graph is not self._graph:
                raise CellError("values of two cells were mixed; use only the arguments of this cell")
            return other.number
        if isinstance(other, int | float) and not isinstance(other, bool):
            return self._graph.constant(other)
        raise CellError(
            f"an equation mixes a value of the cell with {type(other).__name__}; expected a number or another value: "
            "arrays become parameters (Input, Recurrent, Diagonal, Bias)"
        )

    def _new(self, number: int) -> Symbol:
        return Symbol(self._graph, number)

    def __add__(self, other: Any) -> Symbol:
        return self._new(self._graph.add(self.number, self._lift(other)))

    def __radd__(self, other: Any) -> Symbol:
        return self._new(self._graph.add(self._lift(other), self.number))

    def __sub__(self, other: Any) -> Symbol:
        return self._new(self._graph.sub(self.number, self._lift(other)))

    def __rsub__(self, other: Any) -> Symbol:
        return self._new(self._graph.sub(self._lift(other), self.number))

    def __mul__(self, other: Any) -> Symbol:
        return self._new(self._graph.mul(self.number, self._lift(other)))

    def __rmul__(self, other: Any) -> Symbol:
        return self._new(self._graph.mul(self._lift(other), self.number))

    def __truediv__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("div", self.number, self._lift(other)))

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("div", self._lift(other), self.number))

    def __mod__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("mod", self.number, self._lift(other)))

    def __pow__(self, exponent: Any) -> Symbol:
        if not isinstance(exponent, int) or not 1 <= exponent <= 16:
            raise CellError(
                f"'**' got the exponent {exponent!r}; expected a whole number from 1 to 16: write exp(p * "
                f"log(x)) instead"
            )
        power = self
        for _ in range(exponent - 1):
            power = power * self
        return power

    def __neg__(self) -> Symbol:
        return self._new(self._graph.neg(self.number))

    def __abs__(self) -> Symbol:
        return self._new(self._graph.call("abs", self.number))

    def __matmul__(self, other: Any) -> Symbol:
        return self._new(self._graph.matmul(self.number, self._lift(other)))

    def __lt__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("lt", self.number, self._lift(other)))

    def __le__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("le", self.number, self._lift(other)))

    def __gt__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("gt", self.number, self._lift(other)))

    def __ge__(self, other: Any) -> Symbol:
        return self._new(self._graph.call("ge", self.number, self._lift(other)))

    @property
    def T(self) -> Symbol:  # noqa: N802 - the name that arrays have for it
        """The transpose of a matrix parameter."""
        return self._new(self._graph.transpose(self.number))

    def __iter__(self) -> Iterator[Symbol]:
        node = self._graph.nodes[self.number]
        if len(node.shape) != 1 or node.width.count == 1:
            raise CellError(
                "a value of the cell was iterated over; only a group of gates can be unpacked, as in "
                "'a, b = W @ x' with W=Input(2). The loop over time is not yours to write: a cell is one step"
            )
        return (self._new(self._graph.gate(self.number, k)) for k in range(node.width.count))

    def __getitem__(self, index: Any) -> Symbol:
        raise CellError(
            f"a value of the cell was indexed with [{index!r}]; unpack the gates instead, as in 'a, b = W @ x'. "
            "Time is not indexed: a cell is one step, and what it remembers is a state"
        )

    def __bool__(self) -> bool:
        raise CellError(
            "the cell branches on a value ('if', 'and', 'or', 'not', 'while'); write where(condition, a, b) instead"
        )

    def __float__(self) -> float:
        raise CellError(
            "a value of the cell was made a number (math.*, float, int); use the functions of recurra.cells instead"
        )

    __int__ = __index__ = __float__

    def __repr__(self) -> str:
        return f"<symbol of width {self.width}>"


def apply(operation: str, *values: Any, attribute: Any = None) -> Any:
    """A function of the cell language: one operation on symbols and numbers."""
    first = next((v for v in values if isinstance(v, Symbol)), None)
    if first is None:
        raise CellError(
            f"{operation}() got {', '.join(type(v).__name__ for v in values)}; expected values of a cell being defined"
        )
    graph = first._graph
    return Symbol(graph, graph.call(operation, *(first._lift(v) for v in values), attribute=attribute))


def reduce(operation: str, value: Symbol, other: Symbol | None = None) -> Symbol:
    """A reduction of the cell language over all columns of a value, or of the products of two."""
    if not isinstance(value, Symbol) or not isinstance(other, Symbol | None):
        wrong = other if isinstance(value, Symbol) else value
        raise CellError(f"{operation}() got {type(wrong).__name__}; expected a value of a cell being defined")
    second = None if other is None else value._lift(other)
    return Symbol(value._graph, value._graph.reduce(operation, value.number, second))


def normalise(kind: str, value: Symbol) -> Symbol:
    """A norm of the cell language over all columns of a value."""
    if not isinstance(value, Symbol):
        raise CellError(f"{kind}_norm() got {type(value).__name__}; expected a value of a cell being defined")
    return Symbol(value._graph, value._graph.normalise(value.number, kind))


def about_columns(question: str, value: Symbol) -> Symbol:
    """A leaf of the cell language that the width of a value decides: "unit" or "columns"."""
    if not isinstance(value, Symbol):
        raise CellError(f"{question}() got {type(value).__name__}; expected a value of a cell being defined")
    return Symbol(value._graph, getattr(value._graph, question)(value.width))


def trace(function: Callable[..., Any], settings: Mapping[str, Any]) -> Program:
    """Records the equations of a cell.

    `settings` replaces defaults of hyperparameters. Raises CellError when the equations are malformed.
    """
    signature = read_signature(function, settings)
    graph = Graph()
    x = Symbol(graph, graph.leaf("input", (INPUT,)))
    states = [Symbol(graph, graph.leaf("state", (s.width,), k)) for k, s in enumerate(signature.states)]
    parameters: list[ParameterSpec] = []

    def symbol(spec: ParameterSpec) -> Symbol:
        parameters.append(spec)
        return Symbol(graph, graph.leaf("parameter", spec.symbolic_shape, len(parameters) - 1))

    keywords: dict[str, Any] = {
        name: tuple(symbol(s) for s in spec) if isinstance(spec, tuple) else symbol(spec)
        for name, spec in signature.parameters.items()
    }
    if signature.elapsed:
        keywords[signature.elapsed] = Symbol(graph, graph.leaf("elapsed", (SCALAR,)))
    returned, variables = _call_and_watch(function, (x, *states), {**keywords, **signature.hyperparameters})
    next_states, output = _sort_results(function.__name__, signature.states, returned)
    program = Program(
        name=function.__name__,
        doc=inspect.getdoc(function) or "",
        nodes=tuple(graph.nodes),
        states=signature.states,
        parameters=tuple(parameters),
        next_states=tuple(s.number for s in next_states),
        output=output.number,
        labels=_labels(parameters, variables, graph),
    )
    _check_all_used(program)
    return program


def _call_and_watch(
    function: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Calls the function and also returns its local variables, so that values keep the names that the author
    gave them."""
    variables: dict[str, Any] = {}
    code = getattr(function, "__code__", None)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            variables.update(frame.f_locals)

    earlier = sys.getprofile()
    sys.setprofile(watch)
    try:
        returned = function(*args, **keywords)
    except CellError as error:
        raise CellError(f"cell '{function.__name__}': {error}") from error
    except (TypeError, NameError, AttributeError) as error:
        raise CellError(
            f"cell '{function.__name__}': {error}; an equation may use its arguments, numbers and the functions "
            f"of recurra.cells"
        ) from error
    except ValueError as error:
        raise CellError(
            f"cell '{function.__name__}': {error}; check that every unpacking names each gate once"
        ) from error
    finally:
        sys.setprofile(earlier)
    return returned, variables


def _labels(parameters: list[ParameterSpec], variables: Mapping[str, Any], graph: Graph) -> tuple[tuple[int, str], ...]:
    nodes = graph.nodes
    named = {i: parameters[node.attribute].name for i, node in enumerate(nodes) if node.operation == "parameter"}
    for name, value in variables.items():
        if isinstance(value, Symbol) and value.number < len(nodes):
            named.setdefault(value.number, name)
    return tuple(sorted(named.items()))


def _sort_results(name: str, states: tuple[StateSpec, ...], returned: Any) -> tuple[list[Symbol], Symbol]:
    """The next states and the output, out of what the function returned."""
    values = list(returned) if isinstance(returned, tuple) else [returned]
    outputs = [v.value for v in values if isinstance(v, OutputMark)]
    nexts = [v for v in values if not isinstance(v, OutputMark)]
    if len(outputs) > 1:
        raise CellError(
            f"cell '{name}' returns {len(outputs)} outputs; expected one at most: join them by a projection"
        )
    if len(nexts) != len(states):
        raise CellError(
            f"cell '{name}' returns {len(nexts)} next states; expected {len(states)}, one for each of "
            f"{', '.join(s.name for s in states)}, in this order (a value that is only put out is marked output(value))"
        )
    for state, value in zip(states, nexts, strict=True):
        if not isinstance(value, Symbol):
            raise CellError(
                f"cell '{name}': the next state '{state.name}' is {type(value).__name__}; expected a value of the cell"
            )
        if value.width != state.width:
            raise CellError(
                f"cell '{name}': the next state '{state.name}' has width {value.width}; expected {state.width}: "
                "declare the state's width with State(...), or unpack the gates"
            )
    output = outputs[0] if outputs else nexts[0]
    if not isinstance(output, Symbol):
        raise CellError(f"cell '{name}': the output is {type(output).__name__}; expected a value of the cell")
    return nexts, output


def _check_all_used(program: Program) -> None:
    read = {(program.nodes[i].operation, program.nodes[i].attribute) for i in program.live}
    for k, parameter in enumerate(program.parameters):
        if ("parameter", k) not in read:
            raise CellError(
                f"cell '{program.name}': the parameter '{parameter.name}' is never used; use it, or leave it out"
            )
    for k, state in enumerate(program.states):
        if ("state", k) not in read:
            raise CellError(
                f"cell '{program.name}': the state '{state.name}' is never used; use it, or leave it out and "
                f"return its value with output(...)"
            )
