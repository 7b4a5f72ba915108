"""The plain-torch reference: runs any program on any device, and is the oracle of the tests.

It is differentiable by torch itself, twice too, and works under torch.func. It is slow: every operation of every step is a torch call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra.program import Program
from recurra.program.graph import LEAVES, Node, descendants
from recurra.program.operations import TABLE

Values = dict[int, Tensor]

_REDUCTIONS = {"sum": torch.Tensor.sum, "max": torch.Tensor.amax, "min": torch.Tensor.amin}


def _evaluate(program: Program, node: Node, inputs: list[Tensor]) -> Tensor:
    if node.operation in TABLE:
        extra = [] if node.attribute is None else [node.attribute]
        return TABLE[node.operation].torch(torch)(*inputs, *extra)
    if node.operation == "matmul":
        return inputs[1] @ inputs[0].mT
    if node.operation == "matmul_transposed":
        return inputs[1] @ inputs[0]
    if node.operation == "transpose":
        return inputs[0].mT
    if node.operation == "gate":
        columns = inputs[0].shape[-1] // program.nodes[node.inputs[0]].width.count
        return inputs[0].narrow(-1, node.attribute * columns, columns)
    return _REDUCTIONS[node.operation](inputs[0], dim=-1, keepdim=True)


def _extend(program: Program, values: Values, numbers: Sequence[int]) -> Values:
    for i in numbers:
        node = program.nodes[i]
        if i not in values:
            values[i] = _evaluate(program, node, [values[j] for j in node.inputs])
    return values


def parameter_values(program: Program, parameters: Sequence[Tensor]) -> Values:
    """The values of all nodes that depend on parameters only."""
    values: Values = {}
    for i in sorted(program.live):
        node = program.nodes[i]
        if node.operation == "parameter":
            values[i] = parameters[node.attribute]
        elif node.operation == "constant":
            values[i] = torch.tensor(node.attribute, dtype=parameters[0].dtype, device=parameters[0].device)
    varying = descendants(program.nodes, _leaves(program, LEAVES - {"parameter", "constant"}))
    return _extend(program, values, [i for i in sorted(program.live) if i not in varying])


def _leaves(program: Program, operations: frozenset[str]) -> list[int]:
    return [i for i, node in enumerate(program.nodes) if node.operation in operations]


def _bind(program: Program, operation: str, values: Sequence[Tensor]) -> Values:
    return {i: values[program.nodes[i].attribute or 0] for i in _leaves(program, frozenset({operation}))}


def _masked(x: Tensor, valid: Tensor | None) -> Tensor:
    # padding may hold NaN, and the gradient of NaN times zero is NaN, so it is replaced before anything is computed
    return x if valid is None else torch.where(valid[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))


def scan(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    elapsed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs a program over a batch of sequences.

    x (batch, time, input); each state (batch, columns); lengths (batch,) integers; reset (batch, time) booleans; elapsed (batch, time).
    Returns the outputs (batch, time, output), zero beyond each row's length, and the state after each row's last valid step.
    """
    time = x.shape[1]
    valid = None if lengths is None else torch.arange(time, device=x.device) < lengths[:, None]
    fixed = parameter_values(program, parameters)
    sequence = {**fixed, **_bind(program, "input", [_masked(x, valid)])}
    if elapsed is not None:
        sequence |= _bind(program, "elapsed", [_masked(elapsed[..., None], valid)])
    recurrent = descendants(program.nodes, _leaves(program, frozenset({"state"})))
    live = sorted(program.live)
    _extend(program, sequence, [i for i in live if i not in recurrent])
    varying = [i for i in sequence if i not in fixed]
    loop = [i for i in live if i in recurrent]
    state = tuple(states)
    outputs = []
    for t in range(time):
        if reset is not None:
            state = tuple(
                torch.where(reset[:, t, None], torch.full_like(s, spec.initial), s)
                for s, spec in zip(state, program.states, strict=True)
            )
        values = {**fixed, **{i: sequence[i][:, t] for i in varying}, **_bind(program, "state", state)}
        _extend(program, values, loop)
        output = _rows(values[program.output], x.shape[0])
        after = tuple(_rows(values[i], x.shape[0]) for i in program.next_states)
        if valid is not None:
            now = valid[:, t, None]
            after = tuple(torch.where(now, new, old) for new, old in zip(after, state, strict=True))
            output = torch.where(now, output, torch.zeros_like(output))
        state = after
        outputs.append(output)
    if outputs:
        return torch.stack(outputs, dim=1), state
    return x.new_zeros(x.shape[0], 0, _output_columns(program, x, states, parameters)), state


def _rows(value: Tensor, batch: int) -> Tensor:
    # a value of parameters alone has no batch dimension yet
    return value if value.dim() > 1 else value.expand(batch, -1)


def sizes_of(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> dict[str, int]:
    """The size of every named width, read off the tensors."""
    sizes = {"input": x.shape[-1]}
    for spec, state in zip(program.states, states, strict=True):
        if spec.width.name:
            sizes.setdefault(spec.width.name, state.shape[-1] // spec.width.count)
    for spec, parameter in zip(program.parameters, parameters, strict=True):
        for width, size in zip(spec.symbolic_shape, parameter.shape, strict=True):
            if width.name:
                sizes.setdefault(width.name, size // width.count)
    return sizes


def _output_columns(program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor]) -> int:
    return program.output_width.size(sizes_of(program, x, states, parameters))


def step(
    program: Program, x: Tensor, states: Sequence[Tensor], parameters: Sequence[Tensor], *, elapsed: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step: x (batch, input), each state (batch, columns), elapsed (batch,). Returns the output and the next states."""
    y, after = scan(
        program, x[:, None], states, parameters, elapsed=None if elapsed is None else elapsed[:, None]
    )
    return y[:, 0], after
