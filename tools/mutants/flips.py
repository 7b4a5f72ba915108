"""One operation of a program, changed: every such program, in the order of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

from recurra.errors import CellError
from recurra.program import Program
from recurra.program.graph import PRODUCTS, Graph, Node
from recurra.program.operations import TABLE
from recurra.program.printing import equations
from recurra.program.program import append
from recurra.program.rewrite import Rewrite

OTHER = {
    "add": "sub", "sub": "add", "mul": "add", "div": "mul", "mod": "sub", "minimum": "maximum", "maximum": "minimum",
    "sigmoid": "tanh", "tanh": "sigmoid", "relu": "tanh", "exp": "softplus", "softplus": "relu", "expm1": "exp",
    "log1p": "log", "sqrt": "rsqrt", "abs": "neg", "sin": "cos", "cos": "sin", "spike": "sigmoid",
    "lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq",
}  # fmt: skip
"""What stands in the place of an operation."""

ORDERED = {"sub", "div", "mod", "lt", "le", "gt", "ge"}
"""Operations whose two inputs are exchanged."""

Build = Callable[[Graph, tuple[int, ...]], int]
"""Makes what stands for a node of the copy, given what the node's inputs have become."""


def rewritten(program: Program, edits: dict[int, Build]) -> Program:
    """The program with other values in the place of some nodes. Raises CellError where widths do not fit."""
    rewrite = Rewrite(program)
    rewrite.copy(
        lambda i, value: (
            rewrite.symbol(edits[i](rewrite.graph, tuple(rewrite.copied(j).number for j in program.nodes[i].inputs)))
            if i in edits
            else value
        )
    )
    return rewrite.finish(program.name, program.doc)


def flips(program: Program) -> list[tuple[str, Program]]:
    """Every program with one operation changed, with what was changed. None is the same as another or as the program
    itself; those whose widths do not fit are left out."""
    found: dict[str, tuple[str, Program]] = {}
    plain = rewritten(program, {})
    for what, edit in _edits(program):
        try:
            changed = edit()
        except CellError:
            continue
        if [spec.width for spec in program.states] != [changed.nodes[i].width for i in changed.next_states]:
            continue
        if changed != plain and changed.output_width == program.output_width:
            found.setdefault(changed.json, (_described(program, changed, what), changed))
    named = enumerate(found.values())
    return [(what, replace(changed, name=f"{program.name}, mutant {n}")) for n, (what, changed) in named]


def _described(program: Program, changed: Program, what: str) -> str:
    """The change, and the first equation that it changed."""
    before = equations(program)
    line = next((line for line in equations(changed) if line not in before), "")
    return f"{what}: `{line}`" if line else what


def _edits(program: Program) -> Iterator[tuple[str, Callable[[], Program]]]:
    for i in sorted(program.live):
        node = program.nodes[i]
        for what, build in (*_of_operation(program, node), *_of_attribute(program, node), *_of_reads(program, node)):
            yield what, lambda i=i, build=build: rewritten(program, {i: build})
    yield from _of_gates(program)
    yield from _of_results(program)


def _of_operation(program: Program, node: Node) -> Iterator[tuple[str, Build]]:
    """Another operation in the place of one, or none, or its inputs exchanged."""
    name, shapes = node.operation, [program.nodes[j].shape for j in node.inputs]
    if name in OTHER:
        yield f"{name} -> {OTHER[name]}", lambda g, v: g.call(OTHER[name], *v[: TABLE[OTHER[name]].arity])
    if name in TABLE:
        for k, shape in enumerate(shapes):
            if shape == node.shape and not (name == "where" and k == 0):
                yield f"{name} -> its input {k + 1} alone", lambda g, v, k=k: v[k]
    if name in ORDERED:
        yield f"the inputs of {name} exchanged", lambda g, v: g.call(name, v[1], v[0])
    if name == "where":
        yield "the branches of where exchanged", lambda g, v: g.call("where", v[0], v[2], v[1])
    if name == "matmul" and shapes[0] == shapes[0][::-1]:
        yield "the matrix of a product transposed", lambda g, v: g.matmul_transposed(*v)
    if name in PRODUCTS and node.shape == shapes[-1]:
        yield f"{name} -> its operand alone", lambda g, v: v[-1]


def _of_attribute(program: Program, node: Node) -> Iterator[tuple[str, Build]]:
    """Another constant, gate or time."""
    name = node.operation
    if name == "constant":
        value = node.attribute
        yield f"{value:g} -> {-value:g}", lambda g, v: g.constant(-value)
        yield f"{value:g} -> {2 * value + 1:g}", lambda g, v: g.constant(2 * value + 1)
    if name == "spike":
        yield "the slope of spike doubled", lambda g, v: g.call("spike", *v, attribute=2 * node.attribute)
    if name == "elapsed":
        yield "the elapsed time -> 1", lambda g, v: g.constant(1.0)
    if name == "gate":
        count = program.nodes[node.inputs[0]].width.count
        yield "the next gate", lambda g, v: g.gate(v[0], (node.attribute + 1) % count)


def _of_reads(program: Program, node: Node) -> Iterator[tuple[str, Build]]:
    """A state or parameter read in the place of another one of the same shape."""
    live = [program.nodes[i] for i in sorted(program.live)]
    leaves = [leaf for leaf in live if leaf.operation in ("state", "parameter")]
    for k, j in enumerate(node.inputs):
        read = program.nodes[j]
        if read.operation not in ("state", "parameter"):
            continue
        for leaf in leaves:
            if leaf != read and leaf.shape == read.shape:
                yield f"{_name(program, leaf)} read for {_name(program, read)}", _reading(program, node, k, leaf)


def _reading(program: Program, node: Node, position: int, leaf: Node) -> Build:
    def build(graph: Graph, inputs: tuple[int, ...]) -> int:
        changed = [*inputs]
        changed[position] = graph.leaf(leaf.operation, leaf.shape, leaf.attribute)
        return append(graph, node.operation, tuple(changed), node.attribute, program.states, program.parameters)

    return build


def _name(program: Program, leaf: Node) -> str:
    return (program.states if leaf.operation == "state" else program.parameters)[leaf.attribute].name


def _of_gates(program: Program) -> Iterator[tuple[str, Callable[[], Program]]]:
    """Two gates of one group exchanged, wherever one of them is taken."""
    taken = [i for i in sorted(program.live) if program.nodes[i].operation == "gate"]
    for source in dict.fromkeys(program.nodes[i].inputs[0] for i in taken):
        own = {i: program.nodes[i].attribute for i in taken if program.nodes[i].inputs[0] == source}
        for a, b in combinations(sorted(set(own.values())), 2):
            exchange = {a: b, b: a}
            edits: dict[int, Build] = {
                i: lambda g, v, k=exchange[k]: g.gate(v[0], k) for i, k in own.items() if k in exchange
            }
            yield f"gates {a} and {b} of a group exchanged", lambda edits=edits: rewritten(program, edits)


def _of_results(program: Program) -> Iterator[tuple[str, Callable[[], Program]]]:
    """A state that is not updated, two updates exchanged, another next state put out."""
    nexts, states = program.next_states, program.states
    for k, spec in enumerate(states):
        own = next((i for i, n in enumerate(program.nodes) if n.operation == "state" and n.attribute == k), None)
        if own is not None:
            changed = (*nexts[:k], own, *nexts[k + 1 :])
            yield f"{spec.name} not updated", lambda changed=changed: _with_results(program, changed, program.output)
    for a, b in combinations(range(len(states)), 2):
        changed = [*nexts]
        changed[a], changed[b] = changed[b], changed[a]
        what = f"the updates of {states[a].name} and {states[b].name} exchanged"
        yield what, lambda changed=changed: _with_results(program, tuple(changed), program.output)
    for number in dict.fromkeys(nexts):
        yield "another next state put out", lambda number=number: _with_results(program, nexts, number)


def _with_results(program: Program, nexts: tuple[int, ...], output: int) -> Program:
    changed = replace(program, next_states=nexts, output=output)
    rewrite = Rewrite(changed)
    rewrite.copy()
    return rewrite.finish(program.name, program.doc)
