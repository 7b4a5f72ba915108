"""The gate before every time: outputs, last states and all gradients, against a peer with the same weights.

Where a peer of torch differs by more than float32 should, float64 tells whether it computes something else or rounds
badly: `settle`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurra.bench.cases import Case
from recurra.bench.contract import Foreign, Implementation, Peer, own
from recurra.bench.inputs import SEED, Inputs, States
from recurra.nn import Recurrent

TOLERANCE = 1e-4
"""Largest difference allowed in float32, relative to the largest value: each sums many products in its own order."""

BFLOAT16_TOLERANCE = 5e-2
"""The same where products are in bfloat16, whose numbers are 2**-8 of themselves apart."""

STEPS_COMPARED = 20


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest difference from one peer, relative to the largest value of the tensor that it is in.

    in_float64: the same between the two in float64, and ours: of our float32 from our float64. None where nothing was
    to be settled.
    """

    peer: str
    difference: float
    tensor: str
    in_float64: float | None = None
    ours: float | None = None
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        # written so that a NaN does not pass
        if self.in_float64 is None or self.ours is None:
            return self.difference <= self.tolerance
        return self.in_float64 <= self.tolerance and self.ours <= self.tolerance


def tolerance_of(case: Case) -> float:
    """How far results of a case may be from those of a peer."""
    return BFLOAT16_TOLERANCE if case.bfloat16 else TOLERANCE


def randomise(layer: Recurrent) -> None:
    """Gives every parameter random values: no bias stays zero or the same for all units, where a mistake could hide."""
    generator = torch.Generator().manual_seed(SEED)
    bound = layer.hidden_size**-0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)


def _results(implementation: Implementation, inputs: Inputs, x: Tensor, states: States) -> dict[str, Tensor]:
    if inputs.case.direction == "step":
        assert implementation.steps is not None
        return _name(implementation.steps(x, states, STEPS_COMPARED))
    assert implementation.scan is not None
    y, last = implementation.scan(x, states)
    return {"y": y, **_name(last)}


def _name(states: States) -> dict[str, Tensor]:
    return {f"last state {k}": state for k, state in enumerate(states)}


def evaluate(implementation: Implementation | Foreign, inputs: Inputs) -> dict[str, Tensor]:
    """Everything that the gate compares: the results of the timed direction, and the gradients of everything.

    Of a library with arrays of its own, the timed direction only: see `asked_of`.
    """
    if isinstance(implementation, Foreign):
        return _evaluate_foreign(implementation, inputs)
    values: dict[str, Tensor] = {}
    if inputs.case.direction != "training":
        with torch.no_grad():
            values = _results(implementation, inputs, inputs.x, inputs.states)
    x, states = inputs.leaves
    inputs.clear_gradients(implementation.parameters)
    results = _results(implementation, inputs, x, states)
    torch.autograd.backward(*inputs.pair_with_cotangents(results))
    values |= {f"{name} (differentiable)": result.detach() for name, result in results.items()}
    for name, gradient in {"x": x.grad, **{f"state {k}": s.grad for k, s in enumerate(states)}}.items():
        assert gradient is not None
        values[f"gradient of {name}"] = gradient
    values |= {f"gradient of {name}": gradient for name, gradient in implementation.gradients().items()}
    inputs.clear_gradients(implementation.parameters)
    return values


def _evaluate_foreign(foreign: Foreign, inputs: Inputs) -> dict[str, Tensor]:
    if inputs.case.direction == "forward":
        assert foreign.forward is not None
        found = foreign.read(foreign.forward(inputs)())
        return {"y": found.y, **_name(found.last)}
    assert foreign.training is not None
    found = foreign.read(foreign.training(inputs, True)())
    values = {f"{name} (differentiable)": value for name, value in {"y": found.y, **_name(found.last)}.items()}
    return values | {f"gradient of {name}": gradient for name, gradient in found.gradients.items()}


def asked_of(
    implementation: Implementation | Foreign, values: Mapping[str, Tensor], inputs: Inputs
) -> dict[str, Tensor]:
    """Which of our values a contestant has to have: all, and without gradients where it is timed without them and is
    of a library with arrays of its own."""
    if isinstance(implementation, Foreign) and inputs.case.direction == "forward":
        return {name: value for name, value in values.items() if name == "y" or name in _name(inputs.states)}
    return dict(values)


def compare(own: Mapping[str, Tensor], other: Mapping[str, Tensor], peer: str, tolerance: float = TOLERANCE) -> Parity:
    """The largest relative difference. It is infinite where one side lacks a tensor, or has one of another shape."""
    worst = Parity(peer, 0.0, "", tolerance=tolerance)
    for name in {**own, **other}:
        a, b = own.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape:
            return Parity(peer, float("inf"), name)
        scale = float(b.abs().max())
        difference = float((a - b).abs().max()) / (scale or 1.0)
        if not difference <= worst.difference:
            worst = replace(worst, difference=difference, tensor=name)
        if difference != difference:
            return worst
    return worst


def settle(red: Parity, peer: Peer, layer: Recurrent, inputs: Inputs, ours: Mapping[str, Tensor]) -> Parity:
    """A red comparison with a peer of torch, judged in float64: it passes where the two agree there, and ours in
    float32 is near ours in float64, so that what differs is the peer's rounding."""
    double = copy.deepcopy(layer).double()
    exact = Inputs(inputs.case, double)
    truth = evaluate(own(double), exact)
    other = peer.build(double)
    assert isinstance(other, Implementation)
    found = compare(truth, evaluate(other, exact), red.peer)
    return replace(red, in_float64=found.difference, ours=compare(truth, ours, red.peer).difference)
