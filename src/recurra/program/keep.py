"""What is kept from the forward pass for the backward pass: as little as the adjoint can do with."""

from __future__ import annotations

from recurra.program.core import Core
from recurra.program.differentiate import Adjoint
from recurra.program.graph import LEAVES, ancestors
from recurra.program.operations import TABLE


def results_of(adjoint: Adjoint) -> list[int]:
    """Every node that the backward pass must have."""
    found = [i for i in (*adjoint.grad_states, adjoint.grad_input, adjoint.grad_elapsed) if i is not None]
    for outer in adjoint.outers:
        found += [outer.left, outer.right]
    return found + [s.value for s in adjoint.sums]


def kept_nodes(core: Core, adjoint: Adjoint) -> list[int]:
    """The nodes of the step that are stored, besides the states.

    A pointwise value whose inputs are at hand is computed again: reading it back from memory would cost more.
    Products and
    reductions are never computed twice.
    """
    count = adjoint.forward_count
    roots = results_of(adjoint)
    needed = {i for i in roots if i < count}
    for number in ancestors(adjoint.nodes, roots):
        if number >= count:
            needed.update(i for i in adjoint.nodes[number].inputs if i < count)
    at_hand = {i for i, n in enumerate(core.nodes) if n.operation in LEAVES} | set(core.next_states)
    kept = []
    for number in range(count):
        node = core.nodes[number]
        if number in at_hand:
            continue
        again = node.operation in TABLE or node.operation == "gate"
        if again and all(i in at_hand for i in node.inputs):
            at_hand.add(number)
        elif number in needed:
            kept.append(number)
            at_hand.add(number)
    return kept
