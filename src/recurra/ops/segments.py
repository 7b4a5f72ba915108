"""Long sequences: the states at the borders of segments are kept, all else between them is computed again.

What a scan keeps for its backward pass, the tape, grows with the number of steps. Where it would be too large, the
forward pass keeps only the states after every k-th step. The backward pass then takes segment after segment, from the
last to the first: it runs the k steps again from the state before them, now with a tape, and goes back through them
(Chen et al. 2016, "Training deep nets with sublinear memory cost").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.ops import native
from recurra.ops.native import DTYPES, Call, Gradients

AUTOMATIC = 0
MOST_TAPE = 256 << 20
"""Bytes of tape that a scan keeps before it recomputes, unless `recompute` says otherwise."""

_UNLIMITED = 1 << 62
# Every segment packs the weights again, which is lost in the work of so many rows; and the engine's chunks divide it.
_LEAST_ROWS = 8192


class Recomputation:
    """What `recompute` asked for: the steps of a segment or AUTOMATIC, and from how many bytes of tape on."""

    every = AUTOMATIC
    above = MOST_TAPE


@contextmanager
def recompute(*, every: int | None = None, above: float = 0) -> Iterator[None]:
    """Within it, every scan of the process whose tape would take more than `above` bytes is recomputed.

    every: steps between the states that are kept. Left out, it is a power of two near the square root of the number of
    steps, weighted by the columns of the tape against those of the states, and of 8,192 rows (steps times batch) or
    more. `above=math.inf` recomputes nothing. Outside of this context it is `above=MOST_TAPE`, 256 MiB. The forward
    pass decides, and a function compiled by torch.compile keeps what held when it was traced.

    Raises ArgumentError for a number of steps below 1 or a number of bytes below 0.
    """
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ArgumentError(
            f"every is {every!r}", expected="1 or more steps", advice="Leave it out to let it be chosen"
        )
    if not isinstance(above, Real) or not above >= 0:
        raise ArgumentError(f"above is {above!r}", expected="0 or more bytes", advice="math.inf recomputes nothing")
    before = Recomputation.every, Recomputation.above
    Recomputation.every = AUTOMATIC if every is None else every
    Recomputation.above = int(min(above, _UNLIMITED))
    try:
        yield
    finally:
        Recomputation.every, Recomputation.above = before


def describe() -> str:
    """The rule in force, in words."""
    if Recomputation.above >= _UNLIMITED:
        return "every scan keeps its whole tape (recurra.ops.recompute)"
    steps = Recomputation.every or "k"
    limit = f"{Recomputation.above / (1 << 20):g} MiB"
    return f"a scan whose tape would exceed {limit} keeps every {steps}-th state and recomputes the rest"


def segment_steps(plan: Any, call: Call, every: int, above: int) -> int:
    """The steps of a segment of a call, by its train or backward plan; 0 where it keeps its whole tape.

    By size alone, and in powers of two, so that a graph with symbolic sizes holds for many of them.
    """
    batch, time = call.x.shape[0], call.x.shape[1]
    if batch * time * plan.tape_columns * DTYPES[call.x.dtype] <= above:
        return 0
    if every != AUTOMATIC:
        return every
    steps, state_columns = 1, sum(plan.state_columns)
    while steps * batch < _LEAST_ROWS or steps * steps * plan.tape_columns < time * state_columns:
        steps *= 2
    return steps


def kept_size(plan: Any, call: Call, steps: int) -> int:
    """The elements that a call keeps for its backward pass."""
    batch, time = call.x.shape[0], call.x.shape[1]
    if not steps:
        return batch * time * plan.tape_columns
    # sym_max: a compiled graph holds for any number of borders
    borders: Any = torch.sym_max(time // steps, 1) - 1
    return borders * batch * sum(plan.state_columns)


def forward(call: Call, every: int, above: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """The outputs, the final states, and what the backward pass reads: the tape, or the states at the borders."""
    plan, call = native.prepare(call, "train")
    steps = segment_steps(plan, call, every, above)
    if not steps:
        return native.forward(plan, call)
    plan, call = native.prepare(call, "infer")
    y, final = native.new_results(plan, call)
    kept = call.x.new_empty((kept_size(plan, call, steps),))
    borders, tape = _borders(kept, call, steps), call.x.new_empty((0,))
    parts = _parts(call.x.shape[1], steps)
    for number, (begin, end) in enumerate(parts):
        after = final if end == parts[-1][1] else borders[number]
        native.run_forward(plan, _part(call, begin, end, borders, number), y[:, begin:end], after, tape)
    return y, final, kept


def backward(
    call: Call,
    kept: Tensor,
    cotangents: tuple[Tensor | None, Sequence[Tensor | None]],
    wanted: Sequence[bool],
    every: int,
    above: int,
) -> list[Tensor | None]:
    """The cotangents of x, elapsed, each state and each core parameter, in this order; None where not wanted.

    `kept` is what `forward` returned; `cotangents` are those of y and of the final states.
    """
    plan, call = native.prepare(call, "backward")
    steps = segment_steps(plan, call, every, above)
    if not steps:
        return native.backward(plan, call, kept, *cotangents, wanted)
    grad_final = cotangents[1]
    grad_y = native.check_cotangents(plan, call, (kept, kept_size(plan, call, steps)), cotangents[0], grad_final)
    train, call = native.prepare(call, "train")
    gradients, borders = Gradients.new(call, wanted), _borders(kept, call, steps)
    parts = _parts(call.x.shape[1], steps)
    last = parts[-1]
    y, after = native.new_results(train, _part(call, *last, borders, len(parts) - 1))
    tape = native.room(call.x, (y.shape[0] * y.shape[1] * train.tape_columns,))
    for number, (begin, end) in reversed(list(enumerate(parts))):
        part = _part(call, begin, end, borders, number)
        native.run_forward(train, part, y[:, : end - begin], after, tape)
        own = gradients._replace(
            x=_steps(gradients.x, begin, end),
            elapsed=_steps(gradients.elapsed, begin, end),
            states=[s.new_empty(s.shape) for s in call.states] if number else gradients.states,
        )
        native.run_backward(plan, part, tape, grad_y[:, begin:end], grad_final, own, accumulate=end != last[1])
        grad_final = own.states
    return gradients.flat()


def _parts(time: int, steps: int) -> list[tuple[int, int]]:
    """First step and end of each segment. The last one takes the rest, so that none is shorter than `steps`."""
    begins = range(0, max(time // steps, 1) * steps, steps)
    return [(begin, begin + steps) for begin in begins[:-1]] + [(begins[-1], time)]


def _borders(kept: Tensor, call: Call, steps: int) -> list[list[Tensor]]:
    """The states after each segment but the last, as views of what is kept."""
    count, batch = len(_parts(call.x.shape[1], steps)) - 1, call.x.shape[0]
    columns = [s.shape[1] for s in call.states]
    fields = kept.split([count * batch * c for c in columns])
    views = [f.view(count, batch, c) for f, c in zip(fields, columns, strict=True)]
    return [[view[i] for view in views] for i in range(count)]


def _part(call: Call, begin: int, end: int, borders: list[list[Tensor]], number: int) -> Call:
    """A segment of a call as a call of its own."""
    return call._replace(
        x=call.x[:, begin:end],
        states=borders[number - 1] if number else call.states,
        lengths=None if call.lengths is None else (call.lengths - begin).clamp(0, end - begin),
        reset=None if call.reset is None else call.reset[:, begin:end].contiguous(),
        elapsed=_steps(call.elapsed, begin, end),
    )


def _steps(value: Tensor | None, begin: int, end: int) -> Tensor | None:
    return None if value is None else value[:, begin:end]
