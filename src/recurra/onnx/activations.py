"""The activation functions that ONNX's recurrent operators may name, in the words of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recurra.cells import clip, exp, minimum, relu, sigmoid, softplus, tanh, where
from recurra.errors import FormatError


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation with its numbers; those that it does not take are None. `bound` is the node's clip, which holds
    for what the activation reads."""

    name: str
    alpha: float | None = None
    beta: float | None = None
    bound: float | None = None

    def __call__(self, value: Any) -> Any:
        if self.bound is not None:
            value = clip(value, -self.bound, self.bound)
        return _FUNCTIONS[self.name][0](value, self.alpha, self.beta)


_Function = Callable[[Any, Any, Any], Any]

# The function, and what alpha and beta are when the node does not say; None for one that is not taken.
_FUNCTIONS: dict[str, tuple[_Function, float | None, float | None]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, 1.0, 0.0),
    "elu": (lambda x, alpha, beta: where(x < 0, alpha * (exp(minimum(x, 0)) - 1), x), 1.0, None),
    "hardsigmoid": (lambda x, alpha, beta: clip(alpha * x + beta, 0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, alpha, beta: where(x < 0, alpha * x, x), 0.01, None),
    "relu": (lambda x, alpha, beta: relu(x), None, None),
    "scaledtanh": (lambda x, alpha, beta: alpha * tanh(beta * x), 1.0, 1.0),
    "sigmoid": (lambda x, alpha, beta: sigmoid(x), None, None),
    "softplus": (lambda x, alpha, beta: softplus(x), None, None),
    "softsign": (lambda x, alpha, beta: x / (1 + abs(x)), None, None),
    "tanh": (lambda x, alpha, beta: tanh(x), None, None),
    "thresholdedrelu": (lambda x, alpha, beta: where(x > alpha, x, 0), 1.0, None),
}


def read_activations(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], bound: float | None
) -> list[Activation]:
    """The activations of a node. Each that takes an alpha (or a beta) takes the next one given, if there is one left,
    else what the operator of that name has. Raises FormatError for an unknown name, and when some are left over."""
    left = {"activation_alpha": list(alphas), "activation_beta": list(betas)}
    found = []
    for name in names:
        key = name.lower()
        if key not in _FUNCTIONS:
            raise FormatError("an activation of a recurrent node", got=name, expected=f"one of {', '.join(_FUNCTIONS)}")
        numbers = []
        for values, usual in zip(left.values(), _FUNCTIONS[key][1:], strict=True):
            numbers.append(usual if usual is None or not values else float(values.pop(0)))
        alpha, beta = numbers
        found.append(Activation(key, alpha, beta, bound))
    for attribute, values in left.items():
        if values:
            raise FormatError(
                f"{attribute} gives {len(values)} numbers that no activation takes",
                expected=f"one for each that takes one, of {', '.join(names)}",
            )
    return found
