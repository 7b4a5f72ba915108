"""What class a recurrence belongs to, read off its equations."""

from __future__ import annotations

from recurra.program.graph import LEAVES, PRODUCTS, ancestors
from recurra.program.program import Program

_FREE, _AFFINE, _OTHER = 0, 1, 2


def classify(program: Program) -> frozenset[str]:
    """The classes of the recurrence of a program: a subset of {"product-free", "linear"}."""
    found = set()
    if not _has_product_of_state(program):
        found.add("product-free")
    if _is_linear(program):
        found.add("linear")
    return frozenset(found)


def _has_product_of_state(program: Program) -> bool:
    nodes = program.nodes
    delays = _delay_lines(program)
    for number in ancestors(nodes, program.next_states):
        if nodes[number].operation in PRODUCTS:
            read = ancestors(nodes, nodes[number].inputs)
            if any(nodes[i].operation == "state" and nodes[i].attribute not in delays for i in read):
                return True
    return False


def _delay_lines(program: Program) -> set[int]:
    """States that only ever hold earlier inputs."""
    delays: set[int] = set()
    while True:
        more = {
            k
            for k, number in enumerate(program.next_states)
            if all(
                program.nodes[i].attribute in delays
                for i in ancestors(program.nodes, [number])
                if program.nodes[i].operation == "state"
            )
        }
        if more == delays:
            return delays
        delays = more


def _is_linear(program: Program) -> bool:
    delays = _delay_lines(program)
    for state, result in enumerate(program.next_states):
        if state in delays:
            continue
        if _degree(program, result, state, delays) > _AFFINE:
            return False
    return len(delays) < len(program.states)


def _degree(program: Program, result: int, state: int, delays: set[int]) -> int:
    """How node `result` depends on state number `state`; a dependence on another state that is no delay line
    is never linear."""
    degrees: dict[int, int] = {}
    for number in sorted(ancestors(program.nodes, [result])):
        node = program.nodes[number]
        inputs = [degrees[i] for i in node.inputs]
        if node.operation in LEAVES:
            if node.operation != "state" or node.attribute in delays:
                degrees[number] = _FREE
            else:
                degrees[number] = _AFFINE if node.attribute == state else _OTHER
        elif max(inputs) == _FREE:
            degrees[number] = _FREE
        elif node.operation in ("add", "sub", "neg", "one_minus", "gate", "copy"):
            degrees[number] = max(inputs)
        elif node.operation == "mul" and min(inputs) == _FREE:
            degrees[number] = max(inputs)
        elif node.operation == "div" and inputs[1] == _FREE:
            degrees[number] = inputs[0]
        elif node.operation in ("fma", "fnma") and min(inputs[:2]) == _FREE:
            degrees[number] = max(inputs)
        elif node.operation == "where" and inputs[0] == _FREE:
            degrees[number] = max(inputs)
        else:
            degrees[number] = _OTHER
    return degrees[result]
