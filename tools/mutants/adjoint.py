"""The adjoint of a step, run in plain torch: what a derivative rule is judged by."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from problems import Problem
from recurra.ops import reference
from recurra.program.core import Core
from recurra.program.differentiate import Adjoint
from recurra.program.graph import Node
from recurra.program.operations import EPSILON, TABLE
from recurra.program.widths import Width

Gradients = list[Tensor]
"""Of x, of the elapsed time where there is one, of each state and of each core parameter."""


def cotangents(problem: Problem, core: Core, sizes: Mapping[str, int]) -> list[Tensor]:
    """Random cotangents of the output and of each next state."""
    generator = torch.Generator().manual_seed(2)
    widths = [core.nodes[core.output].width, *(spec.width for spec in core.states)]
    rows = problem.x.shape[0]
    return [torch.randn(rows, w.size(sizes), generator=generator, dtype=torch.float64) for w in widths]


def by_autograd(problem: Problem, seeds: list[Tensor]) -> Gradients:
    """What torch makes of the reference's single step."""
    given = [problem.x, *([] if problem.elapsed is None else [problem.elapsed]), *problem.states]
    leaves = [v.detach().clone().requires_grad_() for v in given]
    core = [v.detach().clone().requires_grad_() for v in reference.core_values(problem.program, problem.parameters)]
    elapsed = None if problem.elapsed is None else leaves[1]
    states = leaves[len(leaves) - len(problem.states) :]
    y, final = reference.scan_core(problem.program, leaves[0], states, core, elapsed=elapsed)
    pairs = [(r, c) for r, c in zip((y[:, 0], *final), seeds, strict=True) if r.requires_grad]
    results, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(results, [*leaves, *core], weights, allow_unused=True, materialize_grads=True)
    timed = 1 + (elapsed is not None)
    return [*(g.reshape(g.shape[0], -1) for g in found[:timed]), *found[timed:]]


def by_adjoint(
    problem: Problem, core: Core, adjoint: Adjoint, seeds: list[Tensor], sizes: Mapping[str, int]
) -> Gradients:
    """What the adjoint of the step makes of it."""
    values: dict[int, Tensor] = {}
    parameters = reference.core_values(problem.program, problem.parameters)
    given = {("input", None): problem.x[:, 0], ("grad_output", None): seeds[0]}
    given |= {("state", k): s for k, s in enumerate(problem.states)}
    given |= {("grad_next", k): s for k, s in enumerate(seeds[1:])}
    given |= {("parameter", k): p for k, p in enumerate(parameters)}
    if problem.elapsed is not None:
        given["elapsed", None] = problem.elapsed
    for number, node in enumerate(adjoint.nodes):
        key = (node.operation, node.attribute)
        values[number] = given[key] if key in given else _value(node, [values[i] for i in node.inputs], sizes)
    rows = problem.x.shape[0]

    def whole(number: int | None, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if number is None else values[number].expand(rows, like.shape[-1])

    found = [whole(adjoint.grad_input, problem.x[:, 0])]
    found += [] if problem.elapsed is None else [whole(adjoint.grad_elapsed, problem.elapsed)]
    found += [whole(number, s) for number, s in zip(adjoint.grad_states, problem.states, strict=True)]
    totals = [torch.zeros_like(p) for p in parameters]
    for outer in adjoint.outers:
        totals[outer.parameter] += _rows(values[outer.left], rows).T @ _rows(values[outer.right], rows)
    for total in adjoint.sums:
        totals[total.parameter] += values[total.value].expand(rows, -1).sum(0)
    return [*found, *totals]


def _rows(value: Tensor, rows: int) -> Tensor:
    return value if value.dim() == 2 else value.expand(rows, -1)


def _value(node: Node, inputs: list[Tensor], sizes: Mapping[str, int]) -> Tensor:
    name, attribute = node.operation, node.attribute
    if name == "constant":
        return torch.tensor([attribute], dtype=torch.float64)
    if name == "unit":
        return torch.arange(Width.parse(attribute).size(sizes), dtype=torch.float64)
    if name in TABLE:
        return TABLE[name].torch(torch)(*inputs, *([] if attribute is None else [attribute]))
    if name == "gate":
        return inputs[0].tensor_split(inputs[0].shape[-1] // node.width.size(sizes), dim=-1)[attribute]
    if name == "broadcast":
        return inputs[0].expand(*inputs[0].shape[:-1], node.width.size(sizes))
    if name == "join":
        rows = max(v.shape[0] if v.dim() == 2 else 1 for v in inputs)
        return torch.cat([v.expand(rows, -1) for v in inputs], dim=-1)
    if name in ("matmul", "matmul_transposed"):
        return inputs[1] @ (inputs[0].T if name == "matmul" else inputs[0])
    return _over_columns(name, inputs, attribute)


def _over_columns(name: str, inputs: list[Tensor], attribute: str | None) -> Tensor:
    def mean(value: Tensor) -> Tensor:
        return value.mean(dim=-1, keepdim=True)

    first = inputs[0]
    if name == "dot":
        return (first * inputs[1]).sum(dim=-1, keepdim=True)
    if name in ("sum", "max", "min"):
        return {"sum": torch.sum, "max": torch.amax, "min": torch.amin}[name](first, dim=-1, keepdim=True)
    centred = first - mean(first) if attribute == "layer" else first
    if name == "inverse_deviation":
        return (mean(centred * centred) + EPSILON).rsqrt()
    if name == "normalise":
        return centred * inputs[1]
    assert name == "normalise_gradient", name
    return (centred - inputs[1] * mean(first * inputs[1])) * inputs[2]
