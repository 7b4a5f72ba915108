"""What torch sees: the op `recurra::scan`, its gradient `recurra::scan_backward`, and their registrations.

The op takes a program as text, so that an exported graph holds all that it needs, and the values of the core
parameters. Importing this module registers it. `keep_tape` keeps what the gradient reads, `every` and `above` say how
much of it (`recurra.ops.recompute`); a call without it that is differentiated after all (an exported graph that is
trained) runs again with it first. Where the engine cannot run, the op runs the reference.

Under autocast states, activations and sums stay float32: rounding them at every step would pile up. `bfloat16` rounds
what is multiplied in products with matrices, forwards and backwards. The op by itself runs in float32 there.

Where nothing in torch watches, `scan` goes past its dispatcher, which would take longer than a short scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from recurra.errors import BackendUnavailable
from recurra.ops import fallback, native, segments
from recurra.ops.native import Call, Columns
from recurra.ops.select import static_reason, transform_reason
from recurra.ops.tracing import is_watched
from recurra.program import Program

Result = tuple[Tensor, Sequence[Tensor]]

# torch.autograd.grad(is_grads_batched=True) still runs on the vmap that came before torch.func
_BATCHED, _dispatch_keys = torch._C._dispatch_key_parse("Batched"), torch._C._dispatch_keys
_AUTOCAST_DEVICES = ("cpu", "cuda")


# Not torch.library.custom_op: its ops import the whole compiler at their first call, which takes seconds.
_LIBRARY = torch.library.Library("recurra", "DEF")
_LIBRARY.define(
    "scan(Tensor x, Tensor[] states, Tensor[] parameters, Tensor? lengths, Tensor? reset, Tensor? elapsed, "
    "str program, bool keep_tape, int every, int above, bool bfloat16) -> (Tensor, Tensor[], Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
_LIBRARY.define(
    "scan_backward(Tensor? grad_y, Tensor?[] grad_final, Tensor x, Tensor[] states, Tensor[] parameters, "
    "Tensor? lengths, Tensor? reset, Tensor? elapsed, Tensor tape, str program, bool[] wanted, int every, "
    "int above, bool bfloat16) -> Tensor[]",
    tags=torch.Tag.pt2_compliant_tag,
)
scan_op = torch.ops.recurra.scan.default
scan_backward_op = torch.ops.recurra.scan_backward.default


@torch.library.impl("recurra::scan", "default", lib=_LIBRARY)
def _scan(  # noqa: PLR0913 - the schema of an op is flat
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    program: str,
    keep_tape: bool,
    every: int,
    above: int,
    bfloat16: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs, the final states and the tape. Raises ShapeError when the arguments do not fit the program."""
    if transform_reason():
        raise BackendUnavailable(f"recurra::scan: {transform_reason()}; call recurra.ops.scan instead")
    if static_reason(x.device.type, x.dtype):
        y, final = fallback.scan_core(
            native.program_of(program), x, states, parameters, lengths=lengths, reset=reset, elapsed=elapsed
        )
        return y, list(final), x.new_empty((0,))
    call = Call(program, x, states, parameters, lengths, reset, elapsed, bfloat16=bfloat16)
    return segments.forward(call, every, above) if keep_tape else native.forward(*native.prepare(call, "infer"))


def scan(call: Call, keep_tape: bool, every: int, above: int) -> Result:
    """The op without its tape; what keeps one is differentiable. The engine must be able to run the call."""
    _, x, states, core, lengths, reset, elapsed, _, bfloat16 = call
    if torch.compiler.is_compiling() or is_watched((x, lengths, reset, elapsed, *states, *core)):
        y, final, _ = scan_op(
            x, list(states), core, lengths, reset, elapsed, call.program, keep_tape, every, above, bfloat16
        )
        return y, final
    return _unwatched(_Scan.apply, call, keep_tape, every, above)


def scan_plain(call: Call, keep_tape: bool, every: int, above: int) -> Result:
    """`scan` where nothing in torch watches, and no tensor is a wrapper of torch.func."""
    return _unwatched(_apply_plain, call, keep_tape, every, above)


def _unwatched(apply: Callable[..., Any], call: Call, keep_tape: bool, every: int, above: int) -> Result:
    if not keep_tape:
        y, final, _ = native.forward(*native.prepare(call, "infer"))
        return y, final
    _, x, states, core, lengths, reset, elapsed, _, bfloat16 = call
    y, *final = apply(call.program, len(states), (every, above, bfloat16), x, elapsed, lengths, reset, *states, *core)
    return y, final


@torch.library.impl("recurra::scan_backward", "default", lib=_LIBRARY)
def _scan_backward(  # noqa: PLR0913 - the schema of an op is flat
    grad_y: Tensor | None,
    grad_final: Sequence[Tensor | None],
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    tape: Tensor,
    program: str,
    wanted: Sequence[bool],
    every: int,
    above: int,
    bfloat16: bool,
) -> list[Tensor]:
    """The cotangents of x, elapsed, the states and the parameters; an empty tensor where not wanted."""
    reason = static_reason(x.device.type, x.dtype)
    if reason:
        raise BackendUnavailable(f"recurra::scan_backward: {reason}")
    call = Call(program, x, states, parameters, lengths, reset, elapsed, bfloat16=bfloat16)
    found = segments.backward(call, tape, (grad_y, grad_final), wanted, every, above)
    return [x.new_empty((0,)) if gradient is None else gradient for gradient in found]


@torch.library.register_fake("recurra::scan", lib=_LIBRARY)
def _(  # noqa: PLR0913 - the schema of an op is flat
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    program: str,
    keep_tape: bool,
    every: int,
    above: int,
    bfloat16: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    call = Call(program, x, states, parameters, lengths, reset, elapsed)
    native.check(call)
    batch, time = x.shape[0], x.shape[1]
    # a plan is made for concrete widths; only batch and time stay symbolic
    columns = _concrete(native.columns_of(x, states, parameters))
    output_width = native.program_of(program).output_width
    output_columns = output_width.size(native.fitting_sizes(native.program_of(program), columns))
    kept = 0
    if keep_tape and not static_reason(x.device.type, x.dtype):
        plan = native.plan_of(program, "train", columns)
        kept = segments.kept_size(plan, call, segments.segment_steps(plan, call, every, above))
    final = [s.new_empty(s.shape) for s in states]
    return x.new_empty((batch, time, output_columns)), final, x.new_empty((kept,))


def _concrete(columns: Columns) -> Columns:
    x, states, core = columns
    return Columns(int(x), tuple(int(c) for c in states), tuple(tuple(int(c) for c in shape) for shape in core))


@torch.library.register_fake("recurra::scan_backward", lib=_LIBRARY)
def _(  # noqa: PLR0913 - the schema of an op is flat
    grad_y: Tensor | None,
    grad_final: Sequence[Tensor | None],
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    lengths: Tensor | None,
    reset: Tensor | None,
    elapsed: Tensor | None,
    tape: Tensor,
    program: str,
    wanted: Sequence[bool],
    every: int,
    above: int,
    bfloat16: bool,
) -> list[Tensor]:
    values = (x, elapsed, *states, *parameters)
    return [
        x.new_empty(value.shape if want and value is not None else (0,))
        for value, want in zip(values, wanted, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor], Tensor]) -> None:
    x, states, parameters, lengths, reset, elapsed, program, keep_tape, every, above, bfloat16 = inputs
    tape = output[2]
    ctx.program, ctx.keep_tape, ctx.state_count = program, keep_tape, len(states)
    ctx.settings = every, above, bfloat16
    ctx.save_for_backward(x, elapsed, lengths, reset, tape, *states, *parameters)
    ctx.mark_non_differentiable(tape)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Sequence[Tensor | None], _: None) -> tuple[Any, ...]:
    needed, state_count = ctx.needs_input_grad, ctx.state_count
    gradients = _cotangents(ctx, grad_y, grad_final, [needed[0], needed[5], *needed[1], *needed[2]])
    grad_states = gradients[2 : 2 + state_count]
    grad_parameters = gradients[2 + state_count :]
    return gradients[0], grad_states, grad_parameters, None, None, gradients[1], None, None, None, None, None


class _Scan(torch.autograd.Function):
    """The op with its tape, past the dispatcher."""

    @staticmethod
    def forward(
        ctx: Any,
        program: str,
        state_count: int,
        settings: tuple[int, int, bool],
        x: Tensor,
        elapsed: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        *values: Tensor,
    ) -> tuple[Tensor, ...]:
        every, above, bfloat16 = settings
        states, core = values[:state_count], values[state_count:]
        call = Call(program, x, states, core, lengths, reset, elapsed, bfloat16=bfloat16)
        y, final, tape = segments.forward(call, every, above)
        ctx.program, ctx.keep_tape, ctx.state_count, ctx.settings = program, True, state_count, settings
        ctx.save_for_backward(x, elapsed, lengths, reset, tape, *values)
        ctx.set_materialize_grads(False)
        return y, *final

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor | None, *grad_final: Tensor | None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad
        gradients = _cotangents(ctx, grad_y, grad_final, [needed[3], needed[4], *needed[7:]])
        return None, None, None, gradients[0], gradients[1], None, None, *gradients[2:]


# what Function.apply calls after it has looked at each argument for wrappers of torch.func, which takes longer
_apply_plain: Callable[..., Any] = super(torch.autograd.Function, _Scan).apply  # pyright: ignore[reportAttributeAccessIssue]


def _cotangents(
    ctx: Any, grad_y: Tensor | None, grad_final: Sequence[Tensor | None], wanted: list[bool]
) -> list[Tensor | None]:
    """Those of x, elapsed, the states and the parameters, of what a forward pass saved; None where not wanted."""
    x, elapsed, lengths, reset, tape, *values = ctx.saved_tensors
    states, parameters = values[: ctx.state_count], values[ctx.state_count :]
    # a gradient that is itself differentiated or batched comes from operations that torch can differentiate and batch
    if (
        torch.is_grad_enabled()
        or transform_reason()
        or any([g is not None and _dispatch_keys(g).has(_BATCHED) for g in (grad_y, *grad_final)])
        or not x.is_cpu
        or static_reason("cpu", x.dtype)
    ):
        program = native.program_of(ctx.program)
        return _reference_gradients(
            program, (x, elapsed, *values), len(states), (lengths, reset), (grad_y, *grad_final), wanted
        )
    arguments = x, states, parameters, lengths, reset, elapsed
    if not ctx.keep_tape:
        tape = scan_op(*arguments, ctx.program, True, *ctx.settings)[2]
    if torch.compiler.is_compiling() or is_watched((x, *values, grad_y, *grad_final)):
        found = scan_backward_op(grad_y, list(grad_final), *arguments, tape, ctx.program, wanted, *ctx.settings)
        return [g if want else None for g, want in zip(found, wanted, strict=True)]
    every, above, bfloat16 = ctx.settings
    call = Call(ctx.program, *arguments, bfloat16=bfloat16)
    return segments.backward(call, tape, (grad_y, grad_final), wanted, every, above)


def _reference_gradients(
    program: Program,
    values: Sequence[Any],
    state_count: int,
    rows: tuple[Tensor | None, Tensor | None],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The cotangents of x, elapsed, the states and the parameters, by torch's own differentiation of the reference."""
    create_graph, device = torch.is_grad_enabled(), values[0].device.type
    # also where the gradient is asked for under autocast
    autocast = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with torch.enable_grad(), autocast:
        # Views, so that the derivative by one argument does not follow its history into another one.
        own: list[Any] = [v.view_as(v) if want and v is not None else v for v, want in zip(values, wanted, strict=True)]
        x, elapsed, *rest = own
        y, final = fallback.scan_core(
            program, x, rest[:state_count], rest[state_count:], lengths=rows[0], reset=rows[1], elapsed=elapsed
        )
        pairs = [(r, c) for r, c in zip((y, *final), cotangents, strict=True) if c is not None and r.requires_grad]
        asked = [v for v, want in zip(own, wanted, strict=True) if want and v is not None]
        if not pairs or not asked:
            return [None] * len(wanted)
        found = iter(
            torch.autograd.grad(
                [r for r, _ in pairs], asked, [c for _, c in pairs], create_graph=create_graph, allow_unused=True
            )
        )
    return [next(found) if want and v is not None else None for v, want in zip(own, wanted, strict=True)]


torch.library.register_autograd("recurra::scan", _backward, setup_context=_setup_context, lib=_LIBRARY)
for _device in _AUTOCAST_DEVICES:
    torch.library.register_autocast("recurra::scan", _device, torch.float32, lib=_LIBRARY)
