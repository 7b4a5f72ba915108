"""The scan of a diagonal linear recurrence, and results that are computed again for their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recurra.ops.select import transform_reason


class _Scan(torch.autograd.Function):
    """s[t] = decay[t] * s[before t] + write[t]. Its gradient is such a scan in the other direction, so it keeps no
    more than the decays and the states, and is as often differentiable as one likes."""

    @staticmethod
    def forward(decay: Tensor, write: Tensor, start: Tensor, backwards: bool) -> Tensor:
        states = torch.empty_like(write)
        s = start
        for t in reversed(range(write.shape[1])) if backwards else range(write.shape[1]):
            s = torch.addcmul(write[:, t], decay[:, t], s, out=states[:, t])
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, start, ctx.backwards = inputs
        ctx.save_for_backward(decay, start, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        decay, start, states = ctx.saved_tensors
        none = torch.zeros_like(start)
        if ctx.backwards:
            following = torch.cat((none[:, None], decay[:, :-1]), dim=1)
            before, first = torch.cat((states[:, 1:], start[:, None]), dim=1), -1
        else:
            following = torch.cat((decay[:, 1:], none[:, None]), dim=1)
            before, first = torch.cat((start[:, None], states[:, :-1]), dim=1), 0
        total = _Scan.apply(following, gradient, none, not ctx.backwards)
        return total * before, total, decay[:, first] * total[:, first], None


def linear_scan(decay: Tensor, write: Tensor, start: Tensor) -> Tensor:
    """h[t] = decay[t] * h[t - 1] + write[t] for all t, (batch, time, ...), from start (batch, ...)."""
    if torch.compiler.is_compiling():
        # what is traced writes into no tensor that is there already
        states = [start]
        for t in range(write.shape[1]):
            states.append(torch.addcmul(write[:, t], decay[:, t], states[-1]))
        return torch.stack(states[1:], dim=1) if len(states) > 1 else write
    return _Scan.apply(decay, write, start, False)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor | None) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*arguments)
        return function(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # under double backward the gradient is to depend on the arguments, else on nothing
        again = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            given = [
                (value.view_as(value) if again else value.detach().requires_grad_()) if need else value
                for value, need in zip(ctx.saved_tensors, needed, strict=True)
            ]
            results = ctx.function(*given)
        sources = [value for value, need in zip(given, needed, strict=True) if need]
        found = iter(torch.autograd.grad(results, sources, gradients, create_graph=again, allow_unused=True))
        return None, *(next(found) if need else None for need in needed)


def recomputed(function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor | None) -> tuple[Tensor, ...]:
    """function(*arguments), of which the backward pass keeps the arguments only and computes the rest again.

    torch.utils.checkpoint does this too, after seconds of imports. What the function reads must be in its arguments.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or transform_reason():
        return function(*arguments)
    return _Recomputed.apply(function, *arguments)
