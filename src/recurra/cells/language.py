"""The words that a cell is written in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recurra.errors import CellError
from recurra.program.complexes import ComplexSymbol, exp_i_of
from recurra.program.signature import ComplexDeclaration, ElapsedDeclaration, ParameterDeclaration, StateDeclaration
from recurra.program.symbols import about_columns, apply, normalise, reduce
from recurra.program.trace import OutputMark
from recurra.program.widths import HIDDEN, INPUT, Draw, Initial, Width

# What stands as a default is a declaration; what the equations see under its name is a value. So the words that declare
# are typed as Any.

Start = int | float | Draw

AnyWidth = str | int | Width
"""The name of a width, or a number of columns."""


def _gates(gates: int, kind: str) -> int:
    if not isinstance(gates, int) or isinstance(gates, bool) or gates < 1:
        raise CellError(f"{kind} got {gates!r} gates; expected a whole number from 1")
    return gates


def _width(width: AnyWidth | None, default: Width, count: int = 1) -> Width:
    if width is None:
        base = default
    elif isinstance(width, str):
        base = Width(1, width)
    elif isinstance(width, Width):
        base = width
    elif isinstance(width, int) and width > 0:
        base = Width(width)
    else:
        raise CellError(f"a width is {width!r}; expected a name, or a number of columns from 1")
    return Width(base.count * count, base.name)


def _initial(initial: Start | Sequence[Start], gates: int) -> tuple[Initial, ...]:
    if isinstance(initial, int | float | Draw):
        initial = (initial,) * gates
    return tuple(v if isinstance(v, Draw) else float(v) for v in initial)


def _drawn(initial: Draw | None, gates: int) -> tuple[Initial, ...]:
    return (0.0 if initial is None else initial,) * gates


def Input(
    gates: int = 1, *, rows: AnyWidth | None = None, initial: Draw | None = None, repeat: str | None = None
) -> Any:
    """A matrix of shape (gates * hidden, input), multiplied by x. `rows` names another width than hidden,
    `initial` another draw than the usual one; `repeat` as for Recurrent."""
    height = _width(rows, HIDDEN, _gates(gates, "Input"))
    return ParameterDeclaration("input", height, INPUT, _drawn(initial, height.count), repeat=repeat)


def Recurrent(
    gates: int = 1,
    *,
    rows: AnyWidth | None = None,
    columns: AnyWidth | None = None,
    heads: int | str = 1,
    initial: Draw | None = None,
    repeat: str | None = None,
) -> Any:
    """A matrix of shape (gates * hidden, hidden), multiplied by a state.

    `rows` and `columns` name other widths than hidden. With `heads`, a number or the name of a hyperparameter, the
    shape is (gates * hidden, hidden / heads): each head's units read only that head's part of the state. `initial`
    is another draw than the usual one. `repeat` names a hyperparameter of the cell: there are as many such parameters
    as it says, and the argument is the tuple of them. With ``R=Recurrent(repeat="depth")`` a layer has the parameters
    R_1, R_2, ...
    """
    height = _width(rows, HIDDEN, _gates(gates, "Recurrent"))
    width, starts = _width(columns, HIDDEN), _drawn(initial, height.count)
    return ParameterDeclaration("recurrent", height, width, starts, heads=heads, repeat=repeat)


def Matrix(
    gates: int = 1, *, rows: AnyWidth, columns: AnyWidth, initial: Draw | None = None, repeat: str | None = None
) -> Any:
    """A matrix of shape (gates * rows, columns), both widths by name, that is not recurrent (a projection, say).
    `initial` is another draw than the usual one; `repeat` as for Recurrent."""
    height = _width(rows, HIDDEN, _gates(gates, "Matrix"))
    width, starts = _width(columns, HIDDEN), _drawn(initial, height.count)
    return ParameterDeclaration("matrix", height, width, starts, repeat=repeat)


def Fixed(declaration: ParameterDeclaration, *, density: float | str = 1.0) -> Any:
    """A parameter that is saved with the model but not trained: a mask, a random reservoir.

    `density`, a number or the name of a hyperparameter, is the share of a matrix that is not zero; below 1, products
    of few rows leave the zeros out.
    """
    if not isinstance(declaration, ParameterDeclaration):
        raise CellError(f"Fixed got {declaration!r}; expected a declaration: Fixed(Recurrent(), density=0.1)")
    return replace(declaration, fixed=True, density=density)


def Diagonal(
    gates: int = 1,
    *,
    width: AnyWidth | None = None,
    initial: Start | Sequence[Start] = 0.0,
    repeat: str | None = None,
) -> Any:
    """A vector of shape (gates * hidden,) that multiplies a state element by element: the diagonal of a
    recurrent matrix. `initial` as for Bias, `repeat` as for Recurrent."""
    height = _width(width, HIDDEN, _gates(gates, "Diagonal"))
    return ParameterDeclaration("diagonal", height, None, _initial(initial, height.count), repeat=repeat)


def Bias(
    gates: int = 1,
    *,
    width: AnyWidth | None = None,
    initial: Start | Sequence[Start] = 0.0,
    forget: int | None = None,
    input: int | None = None,
    repeat: str | None = None,
) -> Any:
    """A vector of shape (gates * hidden,) that is added; with ``width=1``, a scalar.

    `initial` is what it starts from, one or one a gate: a number, or a draw such as uniform(0, 1). `forget` and
    `input` say which gate keeps the state and which gate writes it, for initialisers such as chrono (Tallec and
    Ollivier 2018). `repeat` as for Recurrent.
    """
    height = _width(width, HIDDEN, _gates(gates, "Bias"))
    starts = _initial(initial, height.count)
    return ParameterDeclaration("bias", height, None, starts, forget, input, repeat=repeat)


def State(width: AnyWidth | None = None, *, initial: float = 0.0, kept: bool = False, joint: bool = False) -> Any:
    """A state of another width than hidden (a name, or a number of columns), or one that does not start from zero.

    A `kept` state is left alone by a reset. A `joint` one means nothing without the time, or without other states (a
    clock, a stabiliser and what it scales): transforms of states leave it alone unless they are told its name. Raises
    CellError for a state that is to be both.
    """
    if kept and joint:
        raise CellError("a state is kept and joint; expected one of them at most")
    return StateDeclaration(_width(width, HIDDEN), float(initial), "kept" if kept else "joint" if joint else "")


def Complex(declaration: StateDeclaration | ParameterDeclaration | None = None) -> Any:
    """A state, or with the declaration of a parameter that one, with complex values.

    A layer holds the two parts, with names that end in _re and _im. In equations they are one value with +, -, *, '@',
    conj(), .real and .imag.
    """
    if declaration is not None and not isinstance(declaration, StateDeclaration | ParameterDeclaration):
        raise CellError(f"Complex got {declaration!r}; expected nothing, State(...), or a parameter such as Input()")
    return ComplexDeclaration(StateDeclaration() if declaration is None else declaration)


def Elapsed() -> Any:
    """The time since the step before: a scalar a row, for cells in continuous time."""
    return ElapsedDeclaration()


def output(value: Any) -> OutputMark:
    """Marks what the step puts out, where that is not its first state."""
    return OutputMark(value)


def sigmoid(a: Any) -> Any:
    """1 / (1 + exp(-a))."""
    return apply("sigmoid", a)


def tanh(a: Any) -> Any:
    """The hyperbolic tangent."""
    return apply("tanh", a)


def relu(a: Any) -> Any:
    """max(a, 0)."""
    return apply("relu", a)


def exp_i(theta: Any) -> ComplexSymbol:
    """exp(i theta) = cos(theta) + i sin(theta), of a real value."""
    return exp_i_of(theta)


def exp(a: Any) -> Any:
    """The exponential."""
    return apply("exp", a)


def log(a: Any) -> Any:
    """The natural logarithm."""
    return apply("log", a)


def log1p(a: Any) -> Any:
    """log(1 + a), exact near zero."""
    return apply("log1p", a)


def expm1(a: Any) -> Any:
    """exp(a) - 1, exact near zero."""
    return apply("expm1", a)


def sqrt(a: Any) -> Any:
    """The square root."""
    return apply("sqrt", a)


def rsqrt(a: Any) -> Any:
    """1 / sqrt(a)."""
    return apply("rsqrt", a)


def sin(a: Any) -> Any:
    """The sine."""
    return apply("sin", a)


def cos(a: Any) -> Any:
    """The cosine."""
    return apply("cos", a)


def softplus(a: Any) -> Any:
    """log(1 + exp(a))."""
    return apply("softplus", a)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two values; NaN if either is NaN."""
    return apply("minimum", a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two values; NaN if either is NaN."""
    return apply("maximum", a, b)


def clip(a: Any, low: float, high: float) -> Any:
    """`a` held between two numbers."""
    return apply("clip", a, low, high)


def floor(a: Any) -> Any:
    """The largest whole number not above `a`; its derivative is zero."""
    return apply("floor", a)


def sign(a: Any) -> Any:
    """-1, 0 or 1; its derivative is zero."""
    return apply("sign", a)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`a` where the condition holds, else `b`."""
    return apply("where", condition, a, b)


def equal(a: Any, b: Any) -> Any:
    """1 where two values are equal, else 0."""
    return apply("eq", a, b)


def stop_gradient(a: Any) -> Any:
    """`a`, through which no gradient flows."""
    return apply("stop_gradient", a)


def spike(a: Any, *, slope: float = 25.0) -> Any:
    """1 where `a` > 0, else 0. The gradient is that of the fast sigmoid, 1 / (1 + slope |a|)^2 (Zenke and
    Ganguli 2018)."""
    return apply("spike", a, attribute=float(slope))


def sum_columns(a: Any) -> Any:
    """The sum over all columns: a scalar a row. For a group of gates, over all of them."""
    return reduce("sum", a)


def dot_columns(a: Any, b: Any) -> Any:
    """The sum over all columns of the products of two values: a scalar a row."""
    return reduce("dot", a, b)


def mean_columns(a: Any) -> Any:
    """The mean over all columns: a scalar a row. For a group of gates, over all of them."""
    return reduce("sum", a) / columns(a)


def standardise(a: Any) -> Any:
    """``(a - mean) / sqrt(variance + 1e-5)`` over all columns; for a group of gates, over all of them."""
    return normalise("layer", a)


def divide_by_rms(a: Any) -> Any:
    """``a / sqrt(mean square + 1e-5)`` over all columns; for a group of gates, over all of them."""
    return normalise("rms", a)


def columns(a: Any) -> Any:
    """How many columns a value has: a scalar, the same for every row."""
    return about_columns("columns", a)


def unit(a: Any) -> Any:
    """The number of each column of a value: 0, 1, 2 and so on, of the width of `a`."""
    return about_columns("unit", a)


def mix(a: Any, b: Any) -> Any:
    """A hash of two whole numbers from 0 to 2 ** 24 - 1, which is one again: ``mix(mix(seed, step), unit(h)) * 2**-24``
    is uniform in [0, 1), another number for each seed, step and unit. NaN for other numbers; it has no derivative."""
    return apply("mix", a, b)


def max_columns(a: Any) -> Any:
    """The largest of all columns: a scalar a row."""
    return reduce("max", a)


def min_columns(a: Any) -> Any:
    """The smallest of all columns: a scalar a row."""
    return reduce("min", a)
