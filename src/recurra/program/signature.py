"""The arguments of a cell's function: what they declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recurra.errors import CellError
from recurra.program.widths import HIDDEN, Draw, Initial, ParameterSpec, StateSpec, Width


@dataclass(frozen=True, slots=True)
class ParameterDeclaration:
    """What stands behind a keyword argument of a cell: a parameter without its name.

    `repeat` names the hyperparameter that says how many parameters of this kind there are; None means one, by itself.
    """

    kind: str
    rows: Width
    columns: Width | None
    initial: tuple[Initial, ...]
    forget: int | None = None
    input: int | None = None
    fixed: bool = False
    density: float | str = 1.0
    heads: int | str = 1
    repeat: str | None = None

    def count(self, name: str, hyperparameters: Mapping[str, Any]) -> int:
        """How many parameters of this kind there are."""
        if self.repeat is None:
            return 1
        if self.repeat not in hyperparameters:
            raise CellError(
                f"the parameter '{name}' is repeated by '{self.repeat}', which is no hyperparameter of the cell; add "
                f"{self.repeat}=2, say, after '*'"
            )
        count = hyperparameters[self.repeat]
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise CellError(f"{self.repeat} is {count!r}; expected a whole number from 1: it repeats '{name}'")
        return count

    def named(self, name: str, hyperparameters: Mapping[str, Any]) -> ParameterSpec:
        """The parameter of this name; hyperparameters that the declaration names have their values."""
        heads = _value(self.heads, hyperparameters)
        if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
            raise CellError(f"parameter '{name}' got {self.heads!r} heads, {heads!r}; expected a whole number from 1")
        columns = self.columns
        if columns is not None and heads > 1:
            columns = Width(columns.count, columns.name, heads)
        density = _value(self.density, hyperparameters)
        if not isinstance(density, int | float):
            raise CellError(f"parameter '{name}' got the density {density!r}; expected a number")
        initial = tuple(
            Draw(one.name, tuple(_argument(a, hyperparameters) for a in one.arguments))
            if isinstance(one, Draw)
            else one
            for one in self.initial
        )
        return ParameterSpec(
            name,
            self.kind,
            self.rows,
            columns,
            initial,
            self.forget,
            self.input,
            fixed=self.fixed,
            density=float(density),
        )


def _value(given: Any, hyperparameters: Mapping[str, Any]) -> Any:
    return hyperparameters.get(given, given) if isinstance(given, str) else given


def _argument(given: float | str, hyperparameters: Mapping[str, Any]) -> float | str:
    value = _value(given, hyperparameters)
    return value if isinstance(value, str) else float(value)


@dataclass(frozen=True, slots=True)
class StateDeclaration:
    """What stands behind a positional argument of a cell, where the plain state of width hidden is not meant."""

    width: Width = HIDDEN
    initial: float = 0.0
    role: str = ""


@dataclass(frozen=True, slots=True)
class ComplexDeclaration:
    """A state or a parameter with complex values: two real ones, whose names end in _re and _im."""

    declaration: StateDeclaration | ParameterDeclaration


@dataclass(frozen=True, slots=True)
class ElapsedDeclaration:
    """The time that passed since the step before, a scalar a row."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of a cell's function, sorted out.

    `parameters` holds those of each argument: one, or a tuple where the declaration says how often it is repeated.
    """

    states: tuple[StateSpec, ...]
    parameters: Mapping[str, ParameterSpec | tuple[ParameterSpec, ...]]
    elapsed: str | None
    hyperparameters: Mapping[str, Any]
    complex_names: frozenset[str] = frozenset()


def read_signature(function: Callable[..., Any], settings: Mapping[str, Any]) -> Signature:
    """Sorts the arguments of a cell's function into states, parameters, the elapsed time and hyperparameters."""
    name = function.__name__
    states: list[StateSpec] = []
    declared_parameters: list[tuple[str, ParameterDeclaration]] = []
    hyperparameters: dict[str, Any] = {}
    elapsed = None
    arguments = list(inspect.signature(function).parameters.values())
    if not arguments or arguments[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise CellError(f"cell '{name}' has no argument x; expected def {name}(x, h, *, W=Input(...), ...)")
    complex_names = {a.name for a in arguments if isinstance(a.default, ComplexDeclaration)}
    for argument in _parts(arguments[1:]):
        default = argument.default
        if argument.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            declared = _state(name, argument)
            states.append(StateSpec(argument.name, declared.width, declared.initial, declared.role))
        elif argument.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise CellError(f"cell '{name}': '*{argument.name}' is not allowed; name every state and parameter")
        elif isinstance(default, ParameterDeclaration):
            declared_parameters.append((argument.name, default))
        elif isinstance(default, ElapsedDeclaration):
            elapsed = argument.name
        elif default is inspect.Parameter.empty:
            raise CellError(
                f"cell '{name}': '{argument.name}' has no default; expected Input(...), Recurrent(...), Diagonal(...), "
                "Bias(...), Elapsed(), or the value of a hyperparameter"
            )
        else:
            hyperparameters[argument.name] = settings.get(argument.name, default)
    if not states:
        raise CellError(
            f"cell '{name}' has no state; expected at least one argument after x: a cell without state needs no "
            f"recurrence"
        )
    unknown = set(settings) - set(hyperparameters)
    if unknown:
        raise CellError(
            f"cell '{name}' has no hyperparameter {sorted(unknown)}; it has {sorted(hyperparameters) or 'none'}"
        )
    try:
        parameters = {own: _specs(own, declared, hyperparameters) for own, declared in declared_parameters}
    except CellError as error:
        raise CellError(f"cell '{name}': {error}") from error
    return Signature(tuple(states), parameters, elapsed, hyperparameters, frozenset(complex_names))


def _state(cell: str, argument: inspect.Parameter) -> StateDeclaration:
    """What a positional argument declares."""
    declared = argument.default
    if declared is inspect.Parameter.empty:
        return StateDeclaration()
    if isinstance(declared, ParameterDeclaration | ElapsedDeclaration):
        raise CellError(
            f"cell '{cell}': the parameter '{argument.name}' stands before '*'; write it after: "
            f"def {cell}(x, h, *, {argument.name}=...)"
        )
    if not isinstance(declared, StateDeclaration):
        raise CellError(
            f"cell '{cell}': the state '{argument.name}' has the default {declared!r}; expected none, or State(...). "
            "Parameters and hyperparameters stand after '*'"
        )
    return declared


def _specs(
    name: str, declared: ParameterDeclaration, hyperparameters: Mapping[str, Any]
) -> ParameterSpec | tuple[ParameterSpec, ...]:
    count = declared.count(name, hyperparameters)
    if declared.repeat is None:
        return declared.named(name, hyperparameters)
    return tuple(declared.named(f"{name}_{k + 1}", hyperparameters) for k in range(count))


def _parts(arguments: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """The arguments, with the two parts of a complex one in its place. Only the real part of a state starts elsewhere
    than at zero."""
    found = []
    for argument in arguments:
        if not isinstance(argument.default, ComplexDeclaration):
            found.append(argument)
            continue
        real = imag = argument.default.declaration
        if isinstance(imag, StateDeclaration):
            imag = replace(imag, initial=0.0)
        found += [argument.replace(name=f"{argument.name}_re", default=real)]
        found += [argument.replace(name=f"{argument.name}_im", default=imag)]
    return found
