"""Tracing: runs the Python function of a cell once on symbols and records its equations."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from recurra.errors import CellError
from recurra.program.complexes import ComplexSymbol
from recurra.program.graph import Graph
from recurra.program.program import Program
from recurra.program.signature import Signature, read_signature
from recurra.program.symbols import Symbol
from recurra.program.widths import INPUT, SCALAR, ParameterSpec, StateSpec


@dataclass(frozen=True, slots=True)
class OutputMark:
    """Marks a returned value as the output of the step."""

    value: Any


def trace(function: Callable[..., Any], settings: Mapping[str, Any]) -> Program:
    """Records the equations of a cell.

    `settings` replaces defaults of hyperparameters. Raises CellError when the equations are malformed.
    """
    signature = read_signature(function, settings)
    graph = Graph()
    x = Symbol(graph, graph.leaf("input", (INPUT,)))
    states = _paired(
        {s.name: Symbol(graph, graph.leaf("state", (s.width,), k)) for k, s in enumerate(signature.states)}, signature
    )
    parameters: list[ParameterSpec] = []

    def symbol(spec: ParameterSpec) -> Symbol:
        parameters.append(spec)
        return Symbol(graph, graph.leaf("parameter", spec.symbolic_shape, len(parameters) - 1))

    keywords: dict[str, Any] = {
        name: tuple(symbol(s) for s in spec) if isinstance(spec, tuple) else symbol(spec)
        for name, spec in signature.parameters.items()
    }
    keywords = _paired(keywords, signature)
    if signature.elapsed:
        keywords[signature.elapsed] = Symbol(graph, graph.leaf("elapsed", (SCALAR,)))
    returned, variables = _call_and_watch(function, (x, *states.values()), {**keywords, **signature.hyperparameters})
    next_states, output = _sort_results(function.__name__, signature.states, states, returned)
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


def _paired(parts: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """The arguments of a function: the two parts of a complex one are one value (or one tuple of them)."""
    found: dict[str, Any] = {}
    for name, value in parts.items():
        whole = name[:-3]
        if whole not in signature.complex_names:
            found[name] = value
        elif name.endswith("_re"):
            imag = parts[f"{whole}_im"]
            pairs = isinstance(value, tuple)
            found[whole] = tuple(map(ComplexSymbol, value, imag)) if pairs else ComplexSymbol(value, imag)
    return found


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
        parts = {name: value}
        if isinstance(value, ComplexSymbol):
            parts = {f"{name}_re": value.real, f"{name}_im": value.imag}
        for label, part in parts.items():
            if isinstance(part, Symbol) and part.number < len(nodes):
                named.setdefault(part.number, label)
    return tuple(sorted(named.items()))


def _sort_results(
    name: str, states: tuple[StateSpec, ...], given: Mapping[str, Symbol], returned: Any
) -> tuple[list[Symbol], Symbol]:
    """The next states and the output, out of what the function returned."""
    values = list(returned) if isinstance(returned, tuple) else [returned]
    outputs = [v.value for v in values if isinstance(v, OutputMark)]
    nexts = [v for v in values if not isinstance(v, OutputMark)]
    if len(outputs) > 1:
        raise CellError(
            f"cell '{name}' returns {len(outputs)} outputs; expected one at most: join them by a projection"
        )
    if len(nexts) != len(given):
        raise CellError(
            f"cell '{name}' returns {len(nexts)} next states; expected {len(given)}, one for each of "
            f"{', '.join(given)}, in this order (a value that is only put out is marked output(value))"
        )
    nexts = [part for one, was in zip(nexts, given.items(), strict=True) for part in _parts(name, one, *was)]
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
    if isinstance(output, ComplexSymbol) or (not outputs and isinstance(next(iter(given.values())), ComplexSymbol)):
        raise CellError(f"cell '{name}': the output is complex; expected a real value: output((C @ h).real), say")
    return nexts, output


def _parts(name: str, value: Any, state: str, before: Symbol) -> list[Any]:
    """The next values of a state: two of a complex one."""
    if isinstance(value, ComplexSymbol) and isinstance(before, ComplexSymbol):
        return [value.real, value.imag]
    if isinstance(value, ComplexSymbol) or isinstance(before, ComplexSymbol):
        kinds = ("complex", "real") if isinstance(value, ComplexSymbol) else ("real", "complex")
        raise CellError(f"cell '{name}': the next state '{state}' is {kinds[0]}; expected a {kinds[1]} value")
    return [value]


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
