"""Linear recurrences in parallel: h_t = A_t h_{t-1} + b_t over all of time in O(log time) torch operations.

A_t and b_t are read off the program's graph. Two steps after one another are one step of the same form, so pairs of
steps are put together, the half as long recurrence is solved in the same way, and the states between are filled in.
Nothing is divided, so coefficients may be zero. States that read each other (the two halves of a complex state) have
a small matrix of coefficients for each column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from recurra.ops import reference
from recurra.program import Program
from recurra.program.classify import FREE, degrees_of, delay_lines

Terms = dict[int | None, Tensor]
"""A value that is affine in states: the coefficient of each state, and under None what is added."""

Matrix = list[list[Tensor | None]]
Vector = list[Tensor]


def scan_core(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    elapsed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What `reference.scan_core` computes, for a program of the class "linear" and one step or more."""
    known = reference.before_loop(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)
    values, reset = dict(known.sequence), known.reset
    leaves = {n.attribute: i for i, n in enumerate(program.nodes) if n.operation == "state"}
    after: dict[int, Tensor] = {}

    def enter(k: int, sequence: Tensor) -> None:
        spec = program.states[k]
        before = torch.cat([states[k][:, None], sequence[:, :-1]], dim=1)
        if reset is not None and not spec.kept:
            before = torch.where(reset[..., None], spec.initial, before)
        after[k] = sequence
        if k in leaves:
            values[leaves[k]] = before

    delays = delay_lines(program)
    for k in delays:
        number = program.next_states[k]
        reference.extend(program, values, [i for i in known.loop if i <= number and _is_known(program, values, i)])
        enter(k, _whole(values[number], x, states[k].shape[1]))
    own = [k for k in range(len(states)) if k not in delays]
    terms = _terms(program, values, x)
    steps = {k: terms[program.next_states[k]] for k in own}
    for group in _groups(steps):
        for k, sequence in zip(group, _solve(program, x, states, steps, group, reset), strict=True):
            enter(k, sequence)
    for k in own:
        values.setdefault(program.next_states[k], after[k])
    reference.extend(program, values, known.loop)
    y = _whole(values[program.output], x, program.output_width.size(known.sizes))
    if known.valid is None or lengths is None:
        return y.clone(), tuple(after[k][:, -1].clone() for k in range(len(states)))
    y = torch.where(known.valid[..., None], y, torch.zeros_like(y))
    last, empty = (lengths.long() - 1).clamp(min=0), (lengths == 0)[:, None]
    rows = torch.arange(x.shape[0], device=x.device)
    final = (torch.where(empty, states[k], after[k][rows, last]) for k in range(len(states)))
    return y, tuple(final)


def _is_known(program: Program, values: Mapping[int, Tensor], number: int) -> bool:
    """Whether a node of the loop can be computed by now; adds nothing itself, so nodes are asked in order."""
    pending, seen = [number], set()
    while pending:
        i = pending.pop()
        if i in values or i in seen:
            continue
        seen.add(i)
        if not program.nodes[i].inputs:
            return False
        pending.extend(program.nodes[i].inputs)
    return True


def _whole(value: Tensor, x: Tensor, columns: int) -> Tensor:
    """A value as (batch, time, columns): one of parameters alone has neither batch nor time yet."""
    return value.expand(x.shape[0], x.shape[1], columns)


def _terms(program: Program, values: dict[int, Tensor], x: Tensor) -> dict[int, Terms]:
    """Every node that the next states depend on, as its coefficients."""
    degrees = degrees_of(program)
    one = x.new_ones(())
    found: dict[int, Terms] = {}
    for i in sorted(degrees):
        node = program.nodes[i]
        if degrees[i] == FREE:
            if i not in values and node.inputs and all(j in values for j in node.inputs):
                reference.extend(program, values, [i])
            # what only core parameters are made of stays unknown, and is not asked for
            if i in values:
                found[i] = {None: values[i]}
        elif node.operation == "state":
            found[i] = {node.attribute: one}
        else:
            found[i] = _combine(node.operation, [found[j] for j in node.inputs])
    return found


def _combine(operation: str, inputs: list[Terms]) -> Terms:
    if operation == "copy":
        return inputs[0]
    if operation == "neg":
        return _map(inputs[0], torch.neg)
    if operation == "one_minus":
        return _plus({None: torch.ones_like(next(iter(inputs[0].values())))}, _map(inputs[0], torch.neg))
    if operation == "add":
        return _plus(inputs[0], inputs[1])
    if operation == "sub":
        return _plus(inputs[0], _map(inputs[1], torch.neg))
    if operation == "mul":
        return _times(inputs[0], inputs[1])
    if operation == "div":
        return _map(inputs[0], lambda value: value / inputs[1][None])
    if operation == "fma":
        return _plus(_times(inputs[0], inputs[1]), inputs[2])
    if operation == "fnma":
        return _plus(inputs[2], _map(_times(inputs[0], inputs[1]), torch.neg))
    chosen = inputs[0][None] != 0
    zero = torch.zeros_like(inputs[0][None])
    keys = dict.fromkeys([*inputs[1], *inputs[2]])
    return {key: torch.where(chosen, inputs[1].get(key, zero), inputs[2].get(key, zero)) for key in keys}


def _map(terms: Terms, function: Callable[[Tensor], Tensor]) -> Terms:
    return {key: function(value) for key, value in terms.items()}


def _plus(a: Terms, b: Terms) -> Terms:
    return {**a, **{key: a[key] + value if key in a else value for key, value in b.items()}}


def _times(a: Terms, b: Terms) -> Terms:
    factor, other = (a, b) if set(a) <= {None} else (b, a)
    return _map(other, lambda value: value * factor[None])


def _groups(steps: Mapping[int, Terms]) -> list[list[int]]:
    """The states in groups that do not read each other."""
    groups = [{k} for k in steps]
    for k, terms in steps.items():
        joined = {k, *(j for j in terms if j is not None)}
        touching = [g for g in groups if g & joined]
        groups = [g for g in groups if not g & joined] + [set().union(joined, *touching)]
    return [sorted(group) for group in groups]


def _solve(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    steps: Mapping[int, Terms],
    group: Sequence[int],
    reset: Tensor | None,
) -> Vector:
    """The states of a group after each step."""
    specs = [program.states[k] for k in group]
    first = [states[k] for k in group]
    if reset is not None:
        first = [
            s if spec.kept else torch.where(reset[:, :1], spec.initial, s) for s, spec in zip(first, specs, strict=True)
        ]
    a: Matrix = []
    b: Vector = []
    for k in group:
        columns = states[k].shape[1]
        row = [_whole(steps[k][j], x, columns) if j in steps[k] else None for j in group]
        added = _whole(steps[k].get(None, x.new_zeros(())), x, columns)
        begun = added[:, 0] + sum(c[:, 0] * s for c, s in zip(row, first, strict=True) if c is not None)
        for i, spec in enumerate(specs):
            coefficient = row[i]
            if reset is not None and coefficient is not None and not spec.kept:
                # the state that is read there is its initial constant
                added = added + torch.where(reset[..., None], coefficient * spec.initial, 0.0)
                row[i] = torch.where(reset[..., None], 0.0, coefficient)
        a.append(row)
        b.append(torch.cat([begun[:, None], added[:, 1:]], dim=1))
    return _scan(a, b)


def _scan(a: Matrix, b: Vector) -> Vector:
    """h_t = a_t h_{t-1} + b_t for all t, with h_0 = b_0: each of (batch, time, columns)."""
    time = b[0].shape[1]
    if time == 1:
        return b
    half = time // 2
    even, odd = (_every_other(a, first) for first in (0, 1))
    b_even, b_odd = ([value[:, first::2] for value in b] for first in (0, 1))
    paired = [_sum(row, [v[:, :half] for v in b_even], last) for row, last in zip(odd, b_odd, strict=True)]
    at_odd = _scan(_product(odd, _first(even, half)), paired)
    more = time - half - 1
    # the first step has no earlier one; each other even step follows an odd one
    filled = [
        torch.cat([v[:, :1], _sum(row, [h[:, :more] for h in at_odd], v[:, 1:])], dim=1)
        for row, v in zip(_later(even), b_even, strict=True)
    ]
    return [_interleaved(e, o) for e, o in zip(filled, at_odd, strict=True)]


def _every_other(a: Matrix, first: int) -> Matrix:
    return [[None if c is None else c[:, first::2] for c in row] for row in a]


def _first(a: Matrix, count: int) -> Matrix:
    return [[None if c is None else c[:, :count] for c in row] for row in a]


def _later(a: Matrix) -> Matrix:
    return [[None if c is None else c[:, 1:] for c in row] for row in a]


def _sum(row: Sequence[Tensor | None], vector: Vector, added: Tensor) -> Tensor:
    for coefficient, value in zip(row, vector, strict=True):
        if coefficient is not None:
            added = added + coefficient * value
    return added


def _product(left: Matrix, right: Matrix) -> Matrix:
    """The product of two matrices of sequences; None is zero."""
    size = range(len(left))

    def element(i: int, j: int) -> Tensor | None:
        parts = [(left[i][k], right[k][j]) for k in size]
        products = [p * q for p, q in parts if p is not None and q is not None]
        return sum(products[1:], products[0]) if products else None

    return [[element(i, j) for j in size] for i in size]


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    batch, count, columns = odd.shape
    together = torch.stack([even[:, :count], odd], dim=2).reshape(batch, 2 * count, columns)
    return torch.cat([together, even[:, count:]], dim=1) if even.shape[1] > count else together
