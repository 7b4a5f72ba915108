"""The plain-torch reference: runs any program on any device, and is the oracle of the tests.

It is differentiable by torch itself, twice too, and works under torch.func. It is slow: every operation of every step
is a torch call.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurra.ops.tracing import constant_while_tracing
from recurra.program import Program
from recurra.program.graph import PRODUCTS, Node, ancestors, descendants
from recurra.program.operations import EPSILON, TABLE
from recurra.program.widths import Width

Values = dict[int, Tensor]

_REDUCTIONS = {"sum": torch.Tensor.sum, "max": torch.Tensor.amax, "min": torch.Tensor.amin}


def _evaluate(program: Program, node: Node, inputs: list[Tensor]) -> Tensor:
    if node.operation in TABLE:
        extra = [] if node.attribute is None else [node.attribute]
        return TABLE[node.operation].torch(torch)(*inputs, *extra)
    if node.operation in PRODUCTS:
        rows, columns = program.nodes[node.inputs[0]].shape
        if columns.parts > 1:
            return _product_by_heads(node.operation, inputs[0], inputs[1], rows.count, columns.parts)
        return inputs[1] @ (inputs[0].mT if node.operation == "matmul" else inputs[0])
    if node.operation == "transpose":
        return inputs[0].mT
    if node.operation == "gate":
        columns = inputs[0].shape[-1] // program.nodes[node.inputs[0]].width.count
        return inputs[0].narrow(-1, node.attribute * columns, columns)
    if node.operation == "normalise":
        centred = inputs[0] - inputs[0].mean(dim=-1, keepdim=True) if node.attribute == "layer" else inputs[0]
        return centred * torch.rsqrt((centred * centred).mean(dim=-1, keepdim=True) + EPSILON)
    if node.operation == "dot":
        return (inputs[0] * inputs[1]).sum(dim=-1, keepdim=True)
    return _REDUCTIONS[node.operation](inputs[0], dim=-1, keepdim=True)


def _product_by_heads(operation: str, matrix: Tensor, vector: Tensor, gates: int, heads: int) -> Tensor:
    """Each head's rows of each gate, times (or, transposed, summed into) that head's columns."""
    rows, columns = matrix.shape
    blocks = matrix.reshape(gates, heads, rows // (gates * heads), columns)
    if operation == "matmul":
        parts = vector.reshape(*vector.shape[:-1], heads, columns)
        return torch.einsum("ghij,...hj->...ghi", blocks, parts).reshape(*vector.shape[:-1], rows)
    parts = vector.reshape(*vector.shape[:-1], gates, heads, rows // (gates * heads))
    return torch.einsum("ghij,...ghi->...hj", blocks, parts).reshape(*vector.shape[:-1], heads * columns)


def extend(program: Program, values: Values, numbers: Sequence[int]) -> None:
    """Adds the values of these nodes, in order, to those that are known."""
    for i in numbers:
        node = program.nodes[i]
        if i not in values:
            values[i] = _evaluate(program, node, [values[j] for j in node.inputs])


def _leaves(program: Program, operations: Iterable[str]) -> list[int]:
    return [i for i, node in enumerate(program.nodes) if node.operation in operations]


def _constants(program: Program, needed: Container[int], sizes: Mapping[str, int], like: Tensor) -> Values:
    """The constants among the needed nodes, and what the sizes of the widths decide."""
    numbers = [(i, value) for i, value in _numbers(program) if i in needed]
    numbers += [(i, _width(program, i).size(sizes)) for i in _leaves(program, ("columns",)) if i in needed]
    values = {i: torch.tensor(value, dtype=like.dtype, device=like.device) for i, value in numbers}
    for i in _leaves(program, ("unit",)):
        if i in needed:
            values[i] = torch.arange(_width(program, i).size(sizes), dtype=like.dtype, device=like.device)
    return values


def _width(program: Program, number: int) -> Width:
    """What a leaf asks for the columns of."""
    return Width.parse(program.nodes[number].attribute)


# the compiler would take a number that it reads from an object for one that changes, and start over when it does not
@constant_while_tracing
def _numbers(program: Program) -> tuple[tuple[int, float], ...]:
    return tuple((i, program.nodes[i].attribute) for i in _leaves(program, ("constant",)))


def core_values(program: Program, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The values of the core parameters: each a parameter as it is, or computed from parameters only."""
    plain = program.plain_core
    if plain is not None:
        return [parameters[i] for i in plain]
    nodes = program.nodes
    values = {i: parameters[nodes[i].attribute] for i in _leaves(program, ("parameter",))}
    sizes: dict[str, int] = {}
    for spec, parameter in zip(program.parameters, parameters, strict=True):
        _read_sizes(sizes, zip(spec.symbolic_shape, parameter.shape, strict=True))
    needed = ancestors(nodes, program.core_parameters)
    values.update(_constants(program, needed, sizes, parameters[0]))
    extend(program, values, sorted(needed))
    return [values[i] for i in program.core_parameters]


def fixed_values(program: Program, core: Sequence[Tensor], sizes: Mapping[str, int], like: Tensor) -> Values:
    """What is known before the sequence: the core parameters and their gates, constants, and values of sizes alone."""
    values = dict(zip(program.core_parameters, core, strict=True))
    values.update(_constants(program, program.live, sizes, like))
    known = set(values)
    for i in sorted(program.live):
        if program.nodes[i].inputs and known.issuperset(program.nodes[i].inputs):
            known.add(i)
    extend(program, values, sorted(known - values.keys()))
    return values


def _bind(program: Program, operation: str, given: Sequence[Tensor]) -> Values:
    return {i: given[program.nodes[i].attribute or 0] for i in _leaves(program, (operation,))}


def _masked(x: Tensor, valid: Tensor | None) -> Tensor:
    # Padding may hold NaN, and the gradient of NaN times zero is NaN, so it is replaced before anything is computed: by
    # ones, where log and division have a finite derivative.
    return x if valid is None else torch.where(valid[..., None], x, torch.ones((), dtype=x.dtype, device=x.device))


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

    x (batch, time, input); each state (batch, columns); lengths (batch,) integers; reset (batch, time) booleans;
    elapsed (batch, time). Returns the outputs (batch, time, output), zero beyond each row's length, and the state
    after each row's last valid step.
    """
    core = core_values(program, parameters)
    return scan_core(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)


@dataclass(frozen=True, slots=True)
class BeforeLoop:
    """What is known of a scan before its first step: which steps are valid, which are reset, the size of each named
    width, the values that no step changes, those of all steps at once (batch, time, columns), and the nodes that are
    left for the loop."""

    valid: Tensor | None
    reset: Tensor | None
    sizes: dict[str, int]
    fixed: Values
    sequence: Values
    loop: list[int]


def before_loop(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    core: Sequence[Tensor],
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    elapsed: Tensor | None = None,
) -> BeforeLoop:
    """Computes what does not depend on states, of which only the shapes are read."""
    valid = None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    if reset is not None and valid is not None:
        # beyond a row's end stands padding, in `reset` too
        reset = reset & valid
    sizes = core_sizes(program, x.shape[-1], [s.shape[-1] for s in states], [p.shape for p in core])
    fixed = fixed_values(program, core, sizes, x)
    sequence = {**fixed, **_bind(program, "input", [_masked(x, valid)])}
    if elapsed is not None:
        sequence.update(_bind(program, "elapsed", [_masked(elapsed[..., None], valid)]))
    needed = sorted(ancestors(_cut(program, fixed), program.results))
    recurrent = descendants(program.nodes, _leaves(program, ("state",)))
    extend(program, sequence, [i for i in needed if i not in recurrent])
    return BeforeLoop(valid, reset, sizes, fixed, sequence, [i for i in needed if i in recurrent])


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
    """`scan`, given the values of the core parameters (`program.core_parameters`) in place of the parameters."""
    batch, time = x.shape[0], x.shape[1]
    known = before_loop(program, x, states, core, lengths=lengths, reset=reset, elapsed=elapsed)
    valid, reset, fixed, sequence, loop = known.valid, known.reset, known.fixed, known.sequence, known.loop
    varying = [i for i in sequence if i not in fixed]
    state = tuple(states)
    outputs = []
    for t in range(time):
        if reset is not None:
            state = tuple(
                s if spec.kept else torch.where(reset[:, t, None], torch.full_like(s, spec.initial), s)
                for s, spec in zip(state, program.states, strict=True)
            )
        values = {**fixed, **{i: sequence[i][:, t] for i in varying}, **_bind(program, "state", state)}
        extend(program, values, loop)
        output = _rows(values[program.output], batch)
        after = tuple(_rows(values[i], batch) for i in program.next_states)
        if valid is not None:
            now = valid[:, t, None]
            after = tuple(torch.where(now, new, old) for new, old in zip(after, state, strict=True))
            output = torch.where(now, output, torch.zeros_like(output))
        state = after
        outputs.append(output)
    # New tensors, also where a state is handed through or a result is another one's value.
    final = tuple(s.clone() for s in state)
    if outputs:
        return torch.stack(outputs, dim=1), final
    return x.new_zeros(batch, 0, program.output_width.size(known.sizes)), final


def _cut(program: Program, fixed: Values) -> list[Node]:
    return [
        Node(n.operation, () if i in fixed else n.inputs, n.shape, n.attribute) for i, n in enumerate(program.nodes)
    ]


def _rows(value: Tensor, batch: int) -> Tensor:
    # A value of parameters alone has no batch dimension yet, and a constant no dimension at all.
    return value if value.dim() > 1 else value.expand(batch, 1 if value.dim() == 0 else -1)


def core_sizes(
    program: Program, input_columns: int, state_columns: Sequence[int], core_shapes: Sequence[Sequence[int]]
) -> dict[str, int]:
    """The size of every named width that a step reads, from the shapes of its arguments."""
    sizes = {"input": input_columns}
    widths = [(spec.width, columns) for spec, columns in zip(program.states, state_columns, strict=True)]
    for number, shape in zip(program.core_parameters, core_shapes, strict=True):
        widths += zip(program.nodes[number].shape, shape, strict=True)
    _read_sizes(sizes, widths)
    return sizes


def _read_sizes(sizes: dict[str, int], widths: Iterable[tuple[Width, int]]) -> None:
    for width, size in widths:
        if width.name:
            sizes.setdefault(width.name, width.named_size(size))


def step(
    program: Program,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    elapsed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step: x (batch, input), each state (batch, columns), elapsed (batch,). Returns the output and the next
    states."""
    y, after = scan(program, x[:, None], states, parameters, elapsed=None if elapsed is None else elapsed[:, None])
    return y[:, 0], after
