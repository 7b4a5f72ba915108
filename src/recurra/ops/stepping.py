"""One step without gradients, past torch's dispatcher, which would cost several times what a small step costs.

What is checked in full at the first step is compared at the next ones, by guards, which see the modes of torch in
which the step is another one, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.ops import native, reference
from recurra.ops.guards import guard
from recurra.ops.select import Choice, static_reason, transform_reason
from recurra.ops.tracing import dispatch_modes, tracing_state
from recurra.program import Program

# looked up once: an attribute of a module costs as much as the call
grad_enabled, threads = torch.is_grad_enabled, torch.get_num_threads
empty_like, data_ptr = torch.empty_like, Tensor.data_ptr

Result = tuple[Tensor, tuple[Tensor, ...]]
Step = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor], Tensor | None], Result | None]

# A stream has one or two kinds of arguments (its first state may be another kind of tensor than the next ones).
_MOST_KINDS = 8
_steps: dict[str, list[Step]] = {}


def quick_step(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
) -> Result | None:
    """The step, if arguments of this kind were prepared and nothing but the engine has to see it; else None."""
    # modes that the guards do not see
    if dispatch_modes() or forward_ad._current_level >= 0 or tracing_state() is not None or Choice.name == "reference":
        return None
    for step in _steps.get(program.json, ()):
        result = step(x, states, parameters, elapsed)
        if result is not None:
            return result
    return None


def prepare(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
) -> None:
    """Makes steps with arguments of this kind, which were checked, quick from now on, where that is possible."""
    if dispatch_modes() or tracing_state() is not None or transform_reason() or Choice.name == "reference":
        return
    given = [x, *states, *parameters] if elapsed is None else [x, *states, *parameters, elapsed]
    # a step whose gradient is wanted goes through torch's dispatcher
    if grad_enabled() and any(t.requires_grad for t in given):
        return
    possible = (
        not static_reason(x.device.type, x.dtype)
        and not torch._C._is_any_autocast_enabled()
        and all(t.layout is torch.strided and not t.is_neg() for t in given)
        and (x.shape[1] == 1 or x.stride(1) == 1)
        and all(s.is_contiguous() for s in states)
        and all(p.is_contiguous() for p in parameters)
    )
    if possible:
        known = _steps.setdefault(program.json, [])
        del known[: max(0, len(known) + 1 - _MOST_KINDS)]
        known.append(_make(program, x, states, parameters, elapsed))


def _make(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
) -> Step:
    clock = () if elapsed is None else (elapsed,)
    same = guard([x, *clock, *states, *parameters])
    differentiable = any(t.requires_grad for t in (x, *clock, *states, *parameters))
    core = reference.core_values(program, parameters)
    raw = len(core) == len(parameters) and all(c is p for c, p in zip(core, parameters, strict=True))
    plan = native.plan_of(program.json, "infer", native.columns_of(x, states, core))
    forward, item_size, batch, stride = plan.forward, native.DTYPES[x.dtype], x.shape[0], x.stride(0)
    columns, uses_elapsed = plan.output_columns, elapsed is not None
    # torch.empty_like takes half the time of x.new_empty
    state_count, parameter_count = len(states), len(parameters)
    alike = [k for k, s in enumerate(states) if s.shape == (batch, columns)]
    model = alike[0] if alike else -1

    def step(
        x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
    ) -> Result | None:
        if len(states) != state_count or len(parameters) != parameter_count:
            return None
        if uses_elapsed:
            if elapsed is None or not same(x, elapsed, *states, *parameters):
                return None
            clock, clock_stride = elapsed.data_ptr(), elapsed.stride(0)
        elif elapsed is None and same(x, *states, *parameters):
            clock = clock_stride = 0
        else:
            return None
        if differentiable and grad_enabled():
            return None
        core = parameters if raw else [c.contiguous() for c in reference.core_values(program, parameters)]
        y = empty_like(states[model]) if model >= 0 else x.new_empty((batch, columns))
        after = tuple(map(empty_like, states))
        forward(
            item_size, batch, 1, threads(), x.data_ptr(), stride, 0, y.data_ptr(), columns, 0, clock, clock_stride, 0,
            0, 0, 0, list(map(data_ptr, core)), list(map(data_ptr, states)), list(map(data_ptr, after)),
        )  # fmt: skip
        return y, after

    return step
