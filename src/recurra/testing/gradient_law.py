"""Law 7: gradients are right, by finite differences in double precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from recurra.nested import build_like
from recurra.nn import Layer, Recurrent
from recurra.ops import reference
from recurra.testing.cases import Case, Inputs, draw
from recurra.testing.compare import Disagreement, agree, evaluate, name_results, name_tensors

_NOT_DERIVED = frozenset({"spike", "stop_gradient"})
"""Operations whose gradient is chosen, not derived: finite differences know nothing of it."""


def has_chosen_gradient(layer: Layer) -> bool:
    """Whether some cell inside has a surrogate gradient, or stops one."""
    cells = (module for module in layer.modules() if isinstance(module, Recurrent))
    programs = [cell.running_program for cell in cells]
    return any(program.nodes[i].operation in _NOT_DERIVED for program in programs for i in program.live)


def inapplicable(layer: Layer) -> str:
    """Why finite differences do not fit the layer; empty when they do."""
    if has_chosen_gradient(layer) and not isinstance(layer, Recurrent):
        return "a cell inside chooses its gradient; check that cell's layer by itself"
    return ""


def gradients_are_right(layer: Layer, case: Case) -> None:
    """Law 7: of the input, the initial state and every parameter, through outputs and final states."""
    inputs = draw(layer, case, lengths=True, reset=True)
    if isinstance(layer, Recurrent) and has_chosen_gradient(layer):
        _agrees_with_reference(layer, inputs)
        return
    named = {name: p.detach().clone() for name, p in layer.named_parameters() if p.requires_grad}
    state: Any = inputs.state
    # seeds and counts are whole numbers: what lies between them is no state
    counted = [False, *_is_kept(state), *[False] * len(named)]
    leaves = [inputs.x, *name_tensors(state).values(), *named.values()]
    leaves = [
        leaf.detach().clone().requires_grad_(leaf.is_floating_point() and not whole)
        for leaf, whole in zip(leaves, counted, strict=True)
    ]

    def compute(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        count = len(others) - len(named)
        given = inputs.with_(x=x, state=_refill(state, list(others[:count])))
        parameters = dict(zip(named, others[count:], strict=True))
        keywords = {"lengths": given.lengths, "reset": given.reset, "elapsed": given.elapsed}
        y, after = torch.func.functional_call(layer, parameters, (given.x, given.state), keywords)
        return tuple(value for value in name_results(y, after).values() if value.is_floating_point())

    try:
        torch.autograd.gradcheck(compute, leaves, fast_mode=True)
    except GradcheckError as error:
        raise Disagreement(f"gradients against finite differences: {' '.join(str(error).split())[:300]}") from error


def _is_kept(state: Any) -> list[bool]:
    """Of each tensor of a nested state, whether a reset leaves it alone."""
    kept, names = getattr(type(state), "kept", ()), getattr(state, "_fields", range(len(state)))
    parts = zip(names, state, strict=True)
    return [flag for name, part in parts for flag in (_is_kept(part) if isinstance(part, tuple) else [name in kept])]


def _refill(state: Any, values: list[Tensor]) -> Any:
    """The same nested state with other tensors, taken from the front of the list."""
    parts = [_refill(part, values) if isinstance(part, tuple) else values.pop(0) for part in state]
    return build_like(state, parts)


def _agrees_with_reference(layer: Recurrent, inputs: Inputs) -> None:
    parameters = [getattr(layer, spec.name) for spec in layer.program.parameters]

    def by_autograd(given: Inputs) -> tuple[Tensor, Any]:
        y, after = reference.scan(
            layer.running_program,
            given.x,
            given.state,
            parameters,
            lengths=given.lengths,
            reset=given.reset,
            elapsed=given.elapsed,
        )
        return y, type(given.state)._make(after)

    expected = evaluate(layer, inputs, by_autograd)
    agree(
        evaluate(layer, inputs, lambda given: given.call(layer)),
        expected,
        "chosen gradients against autograd of the same equations",
    )
