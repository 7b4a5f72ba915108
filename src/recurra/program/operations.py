"""The one table of operations: for each, its numpy, its torch, its derivative, its ONNX form and its opcode in
the engine.

Nothing else in recurra knows what an operation means. A test walks the table and holds all columns of every row equal.
Derivatives at kinks are those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurra.errors import CellError

# A derivative receives a builder with one method an operation, the inputs, the result and its cotangent, all as node
# numbers, and returns the cotangent of each input (None where there is none).
Derivative = Callable[[Any, Sequence[int], int, int, Any], Sequence[int | None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A pointwise operation.

    `torch` maps the torch module to the function, so that this table needs no torch. `onnx` is a nested tuple:
    an operator's
    name, then its arguments; an integer is an input, a float a constant. Where an operation has no such form, a string
    says why; `onnx_form` raises it. `cheap` says that recomputing the operation
    costs less than keeping its result from the forward pass to the backward pass.
    """

    name: str
    arity: int
    opcode: int
    numpy: Callable[..., Any]
    torch: Callable[[Any], Callable[..., Any]]
    onnx: tuple[Any, ...] | str
    derivative: Derivative | None
    cheap: bool = True
    boolean: bool = False


def _sigmoid(a: Any) -> Any:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(a: Any) -> Any:
    return np.logaddexp(a, 0)


# Rounds of products and shifts modulo 2^32, with factors from public searches for good ones (Wellons 2018, Appleby
# 2011, and the golden ratio). csrc/math.hpp has the same.
_KEY_ROUND = (0x21F0AAAD, 15)
_UNIT_ROUNDS = ((0x7FEB352D, 15), (0x846CA68B, 16))


def _mix_words(a: Any, b: Any) -> Any:
    """The hash of two arrays of whole numbers of 64 bits, whose overflow drops the upper bits."""

    def stirred(word: Any, factor: int, shift: int) -> Any:
        word = (word * factor) & 0xFFFFFFFF
        return word ^ (word >> shift)

    word = stirred(a ^ 0x5BD1E995, *_KEY_ROUND) ^ ((b * 0x9E3779B1) & 0xFFFFFFFF)
    for factor, shift in _UNIT_ROUNDS:
        word = stirred(word, factor, shift)
    return word >> 8


def _mix(a: Any, b: Any) -> Any:
    a, b = (np.rint(v) for v in (a, b))
    fits = (a >= 0) & (a < 2**24) & (b >= 0) & (b < 2**24)
    # the products of 32 bits by 32 need 64 bits without a sign
    words = _mix_words(*(np.where(fits, v, 0).astype(np.uint64) for v in (a, b)))
    return np.where(fits, words.astype(np.result_type(a, b)), np.nan)


def _torch_mix(torch: Any) -> Callable[..., Any]:
    def mix(a: Any, b: Any) -> Any:
        dtype = torch.result_type(a, b)
        a, b = a.round(), b.round()
        fits = (a >= 0) & (a < 2**24) & (b >= 0) & (b < 2**24)
        words = _mix_words(torch.where(fits, a, 0).to(torch.int64), torch.where(fits, b, 0).to(torch.int64))
        return torch.where(fits, words.to(dtype), torch.full((), float("nan"), dtype=dtype, device=words.device))

    return mix


def _surrogate(torch: Any) -> Callable[..., Any]:
    def spike(a: Any, slope: float) -> Any:
        smooth = a / (1 + slope * a.abs())
        return (a > 0).to(a.dtype).detach() + (smooth - smooth.detach())

    return spike


def _float_where(torch: Any) -> Callable[..., Any]:
    def where(condition: Any, a: Any, b: Any) -> Any:
        return torch.where(condition != 0, a, b)

    return where


def _torch_sign(torch: Any) -> Callable[..., Any]:
    # torch's own gives 0 for NaN, which would hide it
    return lambda a: torch.where(a == a, a.sign(), a.detach())


def _comparison(name: str) -> Callable[[Any], Callable[..., Any]]:
    def build(torch: Any) -> Callable[..., Any]:
        compare = getattr(torch, name)

        def function(a: Any, b: Any) -> Any:
            return compare(a, b).to(a.dtype)

        return function

    return build


def _tied(g: Any, v: Sequence[int], y: int, d: int, better: str) -> Sequence[int | None]:
    # torch splits the cotangent of a tie into halves
    share = g.add(g.call(better, v[0], v[1]), g.mul(g.constant(0.5), g.call("eq", v[0], v[1])))
    return g.mul(d, share), g.mul(d, g.one_minus(share))


def _clip(g: Any, v: Sequence[int], y: int, d: int, attribute: Any) -> Sequence[int | None]:
    inside = g.mul(g.call("ge", v[0], v[1]), g.call("le", v[0], v[2]))
    return g.mul(d, inside), None, None


def _spike(g: Any, v: Sequence[int], y: int, d: int, slope: float) -> Sequence[int | None]:
    width = g.add(g.constant(1.0), g.mul(g.constant(slope), g.call("abs", v[0])))
    return (g.call("div", d, g.mul(width, width)),)


# C's remainder, which ONNX has, takes the sign of the dividend; ours takes that of the divisor
_REST = ("Mod", 0, 1)
_MOD = ("Where", ("Less", ("Mul", _REST, 1), 0.0), ("Add", _REST, 1), _REST)
# exp(a) - 1 = tanh(a / 2) (exp(a) + 1), which keeps its digits near zero
_EXPM1 = ("Mul", ("Tanh", ("Mul", 0.5, 0)), ("Add", ("Exp", 0), 1.0))

_ROWS = [
    Operation("copy", 1, 0, np.copy, lambda t: t.clone, ("Identity", 0), lambda g, v, y, d, _: (d,)),
    Operation("add", 2, 1, np.add, lambda t: t.add, ("Add", 0, 1), lambda g, v, y, d, _: (d, d)),
    Operation("sub", 2, 2, np.subtract, lambda t: t.sub, ("Sub", 0, 1), lambda g, v, y, d, _: (d, g.neg(d))),
    Operation("mul", 2, 3, np.multiply, lambda t: t.mul, ("Mul", 0, 1),
              lambda g, v, y, d, _: (g.mul(d, v[1]), g.mul(d, v[0]))),
    Operation("div", 2, 4, np.divide, lambda t: t.div, ("Div", 0, 1),
              lambda g, v, y, d, _: (g.call("div", d, v[1]), g.neg(g.call("div", g.mul(d, y), v[1]))), cheap=False),
    Operation("neg", 1, 5, np.negative, lambda t: t.neg, ("Neg", 0), lambda g, v, y, d, _: (g.neg(d),)),
    Operation("fma", 3, 6, lambda a, b, c: a * b + c, lambda t: lambda a, b, c: a * b + c, ("Add", ("Mul", 0, 1), 2),
              lambda g, v, y, d, _: (g.mul(d, v[1]), g.mul(d, v[0]), d)),
    Operation("fnma", 3, 7, lambda a, b, c: c - a * b, lambda t: lambda a, b, c: c - a * b, ("Sub", 2, ("Mul", 0, 1)),
              lambda g, v, y, d, _: (g.neg(g.mul(d, v[1])), g.neg(g.mul(d, v[0])), d)),
    Operation("one_minus", 1, 8, lambda a: 1 - a, lambda t: lambda a: 1 - a, ("Sub", 1.0, 0),
              lambda g, v, y, d, _: (g.neg(d),)),
    Operation("sigmoid", 1, 9, _sigmoid, lambda t: t.sigmoid, ("Sigmoid", 0),
              lambda g, v, y, d, _: (g.call("sigmoid_gradient", d, y),), cheap=False),
    Operation("tanh", 1, 10, np.tanh, lambda t: t.tanh, ("Tanh", 0),
              lambda g, v, y, d, _: (g.call("tanh_gradient", d, y),), cheap=False),
    Operation("relu", 1, 11, lambda a: np.maximum(a, 0), lambda t: t.relu, ("Relu", 0),
              lambda g, v, y, d, _: (g.mul(d, g.call("step", y)),)),
    Operation("exp", 1, 12, np.exp, lambda t: t.exp, ("Exp", 0), lambda g, v, y, d, _: (g.mul(d, y),), cheap=False),
    Operation("log", 1, 13, np.log, lambda t: t.log, ("Log", 0),
              lambda g, v, y, d, _: (g.call("div", d, v[0]),), cheap=False),
    Operation("sqrt", 1, 14, np.sqrt, lambda t: t.sqrt, ("Sqrt", 0),
              lambda g, v, y, d, _: (g.call("div", g.mul(g.constant(0.5), d), y),), cheap=False),
    Operation("rsqrt", 1, 15, lambda a: 1 / np.sqrt(a), lambda t: t.rsqrt, ("Reciprocal", ("Sqrt", 0)),
              lambda g, v, y, d, _: (g.mul(g.mul(g.constant(-0.5), d), g.mul(y, g.mul(y, y))),), cheap=False),
    Operation("softplus", 1, 16, _softplus, lambda t: lambda a: t.logaddexp(a, t.zeros_like(a)), ("Softplus", 0),
              lambda g, v, y, d, _: (g.mul(d, g.call("sigmoid", v[0])),), cheap=False),
    Operation("abs", 1, 17, np.abs, lambda t: t.abs, ("Abs", 0),
              lambda g, v, y, d, _: (g.mul(d, g.call("sign", v[0])),)),
    Operation("minimum", 2, 18, np.minimum, lambda t: t.minimum, ("Min", 0, 1),
              lambda g, v, y, d, _: _tied(g, v, y, d, "lt")),
    Operation("maximum", 2, 19, np.maximum, lambda t: t.maximum, ("Max", 0, 1),
              lambda g, v, y, d, _: _tied(g, v, y, d, "gt")),
    Operation("clip", 3, 20, np.clip, lambda t: lambda a, low, high: t.clamp(a, low, high), ("Clip", 0, 1, 2), _clip),
    Operation("floor", 1, 21, np.floor, lambda t: t.floor, ("Floor", 0), lambda g, v, y, d, _: (None,)),
    Operation("mod", 2, 22, np.mod, lambda t: t.remainder, _MOD,
              lambda g, v, y, d, _: (d, g.neg(g.mul(d, g.call("floor", g.call("div", v[0], v[1]))))), cheap=False),
    Operation("where", 3, 23, lambda c, a, b: np.where(c != 0, a, b), _float_where, ("Where", ("Cast", 0), 1, 2),
              lambda g, v, y, d, _: (None, g.call("where", v[0], d, g.constant(0.0)),
                                     g.call("where", v[0], g.constant(0.0), d))),
    Operation("lt", 2, 24, np.less, _comparison("lt"), ("Less", 0, 1), None, boolean=True),
    Operation("le", 2, 25, np.less_equal, _comparison("le"), ("LessOrEqual", 0, 1), None, boolean=True),
    Operation("gt", 2, 26, np.greater, _comparison("gt"), ("Greater", 0, 1), None, boolean=True),
    Operation("ge", 2, 27, np.greater_equal, _comparison("ge"), ("GreaterOrEqual", 0, 1), None, boolean=True),
    Operation("eq", 2, 28, np.equal, _comparison("eq"), ("Equal", 0, 1), None, boolean=True),
    Operation("ne", 2, 29, np.not_equal, _comparison("ne"), ("Not", ("Equal", 0, 1)), None, boolean=True),
    Operation("sign", 1, 30, np.sign, _torch_sign, ("Sign", 0), lambda g, v, y, d, _: (None,)),
    Operation("sigmoid_gradient", 2, 31, lambda d, s: d * s * (1 - s), lambda t: lambda d, s: d * s * (1 - s),
              ("Mul", ("Mul", 0, 1), ("Sub", 1.0, 1)), None),
    Operation("tanh_gradient", 2, 32, lambda d, y: d * (1 - y * y), lambda t: lambda d, y: d * (1 - y * y),
              ("Mul", 0, ("Sub", 1.0, ("Mul", 1, 1))), None),
    Operation("step", 1, 33, lambda a: np.heaviside(a, 0.0), lambda t: lambda a: (a > 0).to(a.dtype),
              ("Greater", 0, 0.0), lambda g, v, y, d, _: (None,), boolean=True),
    Operation("spike", 1, 33, lambda a, slope: np.heaviside(a, 0.0), _surrogate, ("Greater", 0, 0.0), _spike,
              boolean=True),
    Operation("sin", 1, 34, np.sin, lambda t: t.sin, ("Sin", 0),
              lambda g, v, y, d, _: (g.mul(d, g.call("cos", v[0])),), cheap=False),
    Operation("cos", 1, 35, np.cos, lambda t: t.cos, ("Cos", 0),
              lambda g, v, y, d, _: (g.neg(g.mul(d, g.call("sin", v[0]))),), cheap=False),
    Operation("log1p", 1, 36, np.log1p, lambda t: t.log1p, ("Log", ("Add", 1.0, 0)),
              lambda g, v, y, d, _: (g.call("div", d, g.add(g.constant(1.0), v[0])),), cheap=False),
    Operation("expm1", 1, 37, np.expm1, lambda t: t.expm1, _EXPM1,
              lambda g, v, y, d, _: (g.mul(d, g.add(g.constant(1.0), y)),), cheap=False),
    Operation("mix", 2, 38, _mix, _torch_mix,
              "random numbers are drawn in training only: export the layer in evaluation, after layer.eval()",
              lambda g, v, y, d, _: (None, None)),
    Operation("stop_gradient", 1, 0, np.copy, lambda t: lambda a: a.detach(), ("Identity", 0),
              lambda g, v, y, d, _: (None,)),
]  # fmt: skip

TABLE: dict[str, Operation] = {row.name: row for row in _ROWS}
"""Every pointwise operation by name."""

REDUCTIONS: dict[str, int] = {"sum": 0, "max": 1, "min": 2, "dot": 3}
"""Reductions over the columns of a value, with their number in the engine; "dot" is the sum of the products of two."""


EPSILON = 1e-5
"""What a norm adds to a variance or mean square before it takes the root."""

INVERSE_DEVIATIONS: dict[str, int] = {"layer": 4, "rms": 5}
"""Kinds of norms, with the number in the engine of the reduction that a vector is multiplied by."""


def onnx_form(name: str) -> tuple[Any, ...]:
    """The ONNX form of an operation. Raises CellError, with the reason, for one that has none."""
    form = TABLE[name].onnx
    if isinstance(form, str):
        raise CellError(f"'{name}' has no form in ONNX: {form}")
    return form
