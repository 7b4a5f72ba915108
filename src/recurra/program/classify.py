"""What class a recurrence belongs to, read off its equations."""

from __future__ import annotations

from recurra.program.graph import LEAVES, PRODUCTS, ancestors
from recurra.program.program import Program

FREE, AFFINE, OTHER = 0, 1, 2


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
    delays = delay_lines(program)
    for number in ancestors(nodes, program.next_states):
        if nodes[number].operation in PRODUCTS:
            read = ancestors(nodes, nodes[number].inputs)
            if any(nodes[i].operation == "state" and nodes[i].attribute not in delays for i in read):
                return True
    return False


def delay_lines(program: Program) -> list[int]:
    """States that only ever hold earlier inputs, each after those that it reads."""
    delays: list[int] = []
    while True:
        more = [
            k
            for k, number in enumerate(program.next_states)
            if k not in delays and _states_read(program, number) <= set(delays)
        ]
        if not more:
            return delays
        delays += more


def _states_read(program: Program, number: int) -> set[int]:
    nodes = program.nodes
    return {nodes[i].attribute for i in ancestors(nodes, [number]) if nodes[i].operation == "state"}


def _is_linear(program: Program) -> bool:
    degrees = degrees_of(program)
    states = set(range(len(program.states))) - set(delay_lines(program))
    return bool(states) and all(degrees[program.next_states[k]] <= AFFINE for k in states)


def degrees_of(program: Program) -> dict[int, int]:
    """How each node that a next state depends on depends on the states itself: FREE of them, AFFINE in all of them
    together with coefficients that are free, column by column, or in some OTHER way. A delay line counts as input."""
    delays = delay_lines(program)
    degrees: dict[int, int] = {}
    for number in sorted(ancestors(program.nodes, program.next_states)):
        node = program.nodes[number]
        inputs = [degrees[i] for i in node.inputs]
        if node.operation in LEAVES:
            degrees[number] = AFFINE if node.operation == "state" and node.attribute not in delays else FREE
        elif max(inputs) == FREE:
            degrees[number] = FREE
        elif _stays_affine(node.operation, inputs):
            degrees[number] = max(inputs)
        else:
            degrees[number] = OTHER
    return degrees


def _stays_affine(operation: str, inputs: list[int]) -> bool:
    if operation in ("add", "sub", "neg", "one_minus", "copy"):
        return True
    if operation == "mul":
        return min(inputs) == FREE
    if operation in ("fma", "fnma"):
        return min(inputs[:2]) == FREE
    if operation == "div":
        return inputs[1] == FREE
    return operation == "where" and inputs[0] == FREE
