"""`scan` and `step`: a program over sequences, and over one step of a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra.ops import autograd, fallback, reference
from recurra.ops.arguments import check_lengths, check_scan, check_step, check_tensors
from recurra.ops.guards import Known
from recurra.ops.mixed import float32_reason
from recurra.ops.native import Call
from recurra.ops.segments import Recomputation
from recurra.ops.select import Choice, reference_reason, transform_reason
from recurra.ops.stepping import prepare, quick_step
from recurra.ops.tracing import constant_while_tracing, dispatch_modes, is_watched, is_wrapped, tracing_state
from recurra.program import Program
from recurra.program.hoist import hoist

is_dynamo_compiling = torch.compiler.is_dynamo_compiling

Result = tuple[Tensor, tuple[Tensor, ...]]
Rows = tuple[Tensor | None, Tensor | None, Tensor | None]

# kinds of arguments that fit, and that the engine runs
_checked: Known[bool] = Known()


def scan(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    elapsed: Tensor | None = None,
) -> Result:
    """Runs a program over a batch of sequences, on the engine where it can (`recurra.backends()`).

    x (batch, time, input); states, each (batch, columns), and parameters in the program's order; lengths (batch,)
    integers in 0..time; reset (batch, time) booleans, true where a row starts afresh before the step; elapsed (batch,
    time), for cells that read it. Returns y (batch, time, output), zero beyond each row's length, and the state after
    each row's last valid step. Differentiable in x, states, parameters and elapsed; twice, too. Under autocast it
    runs in float32, with products in bfloat16 where `recurra.backends()` says so (`recurra.ops.mixed`).

    Raises ShapeError or ArgumentError when the arguments do not fit, and BackendUnavailable where `backend("native")`
    cannot be met.
    """
    return _scan(program, x, states, parameters, (lengths, reset, elapsed), False)


def _scan(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], rows: Rows, bfloat16: bool
) -> Result:
    lengths, reset, elapsed = rows
    # while torch.compile or torch.export traces, the op checks
    traced = torch.compiler.is_compiling()
    if not traced:
        if lengths is None and reset is None and elapsed is None:
            result = _quick_scan(program, x, states, parameters, bfloat16)
            if result is not None:
                return result
        check_tensors(x, *states, *parameters, lengths, reset, elapsed)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, states, parameters, elapsed = _float32(x, states, parameters, elapsed)
        rounds = _rounds(x)
        with torch.autocast(device, enabled=False):
            return _scan(program, x, states, parameters, (lengths, reset, elapsed), rounds)
    if not traced:
        check_scan(program, x, states, parameters, lengths, reset, elapsed)
        if lengths is not None and not transform_reason():
            check_lengths(lengths, x.shape[1])
    if lengths is not None and lengths.device != x.device:
        lengths = lengths.to(x.device)
    if reset is not None and reset.device != x.device:
        reset = reset.to(x.device)
    text = text_of(program)
    core = reference.core_values(program, parameters)
    if reference_reason(x):
        return fallback.scan_core(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)
    kept = len(states)
    if not traced:
        _remember(program, x, states, parameters)
        if x.shape[1] > 1:
            program, states, core = _hoisted(program, states, parameters, core)
            text = text_of(program)
    # an exported graph is mostly run forwards; trained, it finds its tape by itself
    keep_tape = (
        torch.is_grad_enabled() and not torch.compiler.is_exporting() and _any_requires_grad(x, states, core, elapsed)
    )
    call = Call(text, x, states, core, lengths, reset, elapsed, bfloat16=bfloat16)
    y, final = autograd.scan(call, keep_tape, Recomputation.every, Recomputation.above)
    return y, tuple(final[:kept])


def _quick_scan(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], bfloat16: bool
) -> Result | None:
    """The scan, if arguments of this kind were checked and nothing but the engine has to see it; else None."""
    # modes that guards do not see
    if dispatch_modes() or forward_ad._current_level >= 0 or tracing_state() is not None or Choice.name == "reference":
        return None
    if type(x) is not Tensor or x.ndim != 3:
        return None
    key = program.json, len(states), len(parameters), x.shape[0]
    if _checked.find(key, (x, *states, *parameters)) is None:
        return None
    core = reference.core_values(program, parameters)
    keep_tape = torch.is_grad_enabled() and _any_requires_grad(x, states, core, None)
    call = Call(program.json, x, states, core, None, None, None, bfloat16=bfloat16)
    y, final = autograd.scan_plain(call, keep_tape, Recomputation.every, Recomputation.above)
    return y, tuple(final)


def _remember(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Makes scans with arguments of this kind, which the engine can run, quick from now on."""
    values = (x, *states, *parameters)
    if program.uses_elapsed or is_watched(values) or any(map(is_wrapped, values)):
        return
    if hoist(program).program is not program:
        return
    key = program.json, len(states), len(parameters), x.shape[0]
    if _checked.find(key, values) is None:
        _checked.remember(key, values, True)


def _hoisted(
    program: Program, states: Sequence[Tensor], parameters: Sequence[Tensor], core: list[Tensor]
) -> tuple[Program, Sequence[Tensor], list[Tensor]]:
    """The scan with products of earlier inputs taken out of its loop."""
    hoisted = hoist(program)
    if hoisted.program is program:
        return program, states, core
    first = [states[state] @ parameters[matrix].mT for matrix, state in hoisted.products]
    return hoisted.program, [*states, *first], reference.core_values(hoisted.program, parameters)


@constant_while_tracing
def text_of(program: Program) -> str:
    """The program as the op takes it."""
    # computed now, where the compiler does not look: it cannot trace them
    _ = program.live, program.plain_core, program.uses_elapsed
    return program.json


def _any_requires_grad(x: Tensor, states: Sequence[Tensor], core: Sequence[Tensor], elapsed: Tensor | None) -> bool:
    if x.requires_grad or (elapsed is not None and elapsed.requires_grad):
        return True
    return any([p.requires_grad for p in core]) or any([s.requires_grad for s in states])


def _rounds(x: Tensor) -> bool:
    """Whether products with x are in bfloat16 under the autocast that is in force."""
    device = x.device.type
    return x.dtype is torch.float32 and not float32_reason(device, torch.get_autocast_dtype(device))


def _float32(
    x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], elapsed: Tensor | None
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor | None]:
    def cast(value: Tensor) -> Tensor:
        return value.float() if value.is_floating_point() and value.dtype != torch.float64 else value

    return cast(x), [cast(s) for s in states], [cast(p) for p in parameters], None if elapsed is None else cast(elapsed)


def step(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    elapsed: Tensor | None = None,
) -> Result:
    """One step of a stream: x (batch, input), states and parameters as in `scan`, elapsed (batch,).

    Returns y (batch, output) and the next states. Equal to `scan` over one step, under autocast, too.
    """
    if not is_dynamo_compiling():
        result = quick_step(program, x, states, parameters, elapsed)
        if result is not None:
            return result
        check_tensors(x, *states, *parameters, elapsed)
        # not every device has autocast
        device = x.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if autocast:
            x, states, parameters, elapsed = _float32(x, states, parameters, elapsed)
            if not _rounds(x):
                with torch.autocast(device, enabled=False):
                    return step(program, x, states, parameters, elapsed=elapsed)
        check_step(program, x, states, parameters, elapsed)
        if not autocast:
            prepare(program, x, states, parameters, elapsed)
    y, after = scan(program, x[:, None], states, parameters, elapsed=None if elapsed is None else elapsed[:, None])
    return y[:, 0], after
