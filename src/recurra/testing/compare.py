"""Two ways to compute the same thing, compared: outputs, states, and gradients of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recurra.nn import Layer, State, map_state
from recurra.testing.cases import Inputs

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""Largest difference allowed, relative to the largest value."""

# Where single precision itself is worse than its tolerance, this many times what it is off, but no more than so large a
# share of the largest value.
_ROUNDINGS, _MOST = 16, 1e-3

Values = dict[str, Tensor]
Procedure = Callable[[Inputs], tuple[Tensor, State | None]]


class Disagreement(Exception):
    """Two results that a law calls equal are not."""


def name_tensors(state: Any, prefix: str = "state") -> Values:
    """The tensors of a nested state by readable names."""
    named: Values = {}
    fields = getattr(state, "_fields", None)
    for k, part in enumerate(state):
        name = f"{prefix}[{k}]" if fields is None else f"{prefix}.{fields[k]}"
        named |= name_tensors(part, name) if isinstance(part, tuple) else {name: part}
    return named


def name_results(y: Tensor, state: State | None) -> Values:
    """What a call returned, by names."""
    return {"y": y, **({} if state is None else name_tensors(state))}


def evaluate(layer: Layer, inputs: Inputs, procedure: Procedure) -> Values:
    """Results of a procedure, and the gradients of x, of the state and of every parameter through all of them.

    Results that have no gradient (a peer in numpy) come alone.
    """
    x = inputs.x.detach().clone().requires_grad_()
    state = None if inputs.state is None else map_state(_as_leaf, inputs.state)
    y, after = procedure(inputs.with_(x=x, state=state))
    results = name_results(y, after)
    sources = {"x": x, **({} if state is None else name_tensors(state)), **dict(layer.named_parameters())}
    sources = {name: value for name, value in sources.items() if value.requires_grad}
    total = _weighted_sum(results)
    if not total.requires_grad:
        return {name: value.detach() for name, value in results.items()}
    gradients = torch.autograd.grad(total, list(sources.values()), allow_unused=True)
    named = {
        f"the gradient of {name}": torch.zeros_like(source) if gradient is None else gradient
        for (name, source), gradient in zip(sources.items(), gradients, strict=True)
    }
    return {name: value.detach() for name, value in {**results, **named}.items()}


def _as_leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach().clone()
    return leaf.requires_grad_() if leaf.is_floating_point() else leaf


def _weighted_sum(results: Mapping[str, Tensor]) -> Tensor:
    """One number that every element of every result moves, each with another weight."""
    total = torch.zeros(())
    for k, value in enumerate(results.values()):
        if value.is_floating_point():
            positions = torch.arange(value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
            total = total + (torch.cos(positions + k) * value).sum()
    return total


def hold_equal(layer: Layer, inputs: Inputs, actual: Procedure, expected: Procedure, claim: str) -> None:
    """Raises Disagreement unless two procedures give equal results, up to the tolerance of the dtype or, in single
    precision, up to a few times the error of the expected results, which double precision tells."""
    got, want = evaluate(layer, inputs, actual), evaluate(layer, inputs, expected)
    try:
        agree(got, want, claim)
    except Disagreement:
        if inputs.x.dtype is not torch.float32:
            raise
        agree(got, want, claim, _errors(layer, inputs, expected, want))


def _errors(layer: Layer, inputs: Inputs, procedure: Procedure, found: Values) -> dict[str, float]:
    """How far the results in single precision are off those in double precision."""
    layer.double()
    try:
        exact = evaluate(layer, inputs.double(), procedure)
    finally:
        layer.float()
    gaps = {name: (value.double() - exact[name]).nan_to_num(0.0).abs() for name, value in found.items()}
    return {name: float(gap.max()) if gap.numel() else 0.0 for name, gap in gaps.items()}


def agree(
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    claim: str,
    errors: Mapping[str, float] | None = None,
) -> None:
    """Raises Disagreement, naming the largest difference, unless all values are equal up to the tolerance of their
    dtype, or to a few times the error that is known of an expected value."""
    for name, want in expected.items():
        got = actual[name]
        if got.shape != want.shape:
            raise Disagreement(f"{claim}: {name} has shape {tuple(got.shape)} against {tuple(want.shape)}")
        if got.numel() == 0:
            continue
        if not torch.equal(got.isnan(), want.isnan()):
            raise Disagreement(
                f"{claim}: {name} is NaN in other places: {int(got.isnan().sum())} against {int(want.isnan().sum())}"
            )
        difference = (got - want).nan_to_num(0.0).abs().double()
        scale = float(want.nan_to_num(0.0).abs().max()) or 1.0
        allowed = TOLERANCE.get(want.dtype, 0.0) * max(scale, 1e-3)
        if errors is not None:
            allowed = max(allowed, min(_ROUNDINGS * errors[name], _MOST * scale))
        if float(difference.max()) > allowed:
            place = [int(k) for k in torch.unravel_index(difference.argmax(), difference.shape)]
            raise Disagreement(
                f"{claim}: {name} differs by {float(difference.max()):.3g} at {place}; at most {allowed:.3g} is allowed"
            )


def same_bits(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], claim: str) -> None:
    """Raises Disagreement unless all values are equal to the last bit."""
    for name, want in expected.items():
        got = actual[name]
        if got.shape != want.shape or not torch.equal(got.nan_to_num(0.0), want.nan_to_num(0.0)):
            gap = f" by up to {float((got - want).abs().max()):.3g}" if got.shape == want.shape else ""
            raise Disagreement(f"{claim}: {name} differs{gap}; every bit must be equal")


def require(condition: bool, message: str) -> None:
    """Raises Disagreement with the message unless the condition holds."""
    if not condition:
        raise Disagreement(message)
