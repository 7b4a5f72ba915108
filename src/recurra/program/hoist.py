"""Takes products of earlier inputs out of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from recurra.program.classify import delay_lines
from recurra.program.program import Program
from recurra.program.rewrite import Rewrite
from recurra.program.symbols import Symbol
from recurra.program.widths import StateSpec


@dataclass(frozen=True, slots=True)
class Hoisted:
    """A program with further states. The i-th of them starts as the product of a parameter with a state of the
    original program: `products` holds the numbers of both. Its results beyond those of the original are dropped."""

    program: Program
    products: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def hoist(program: Program) -> Hoisted:
    """The program in which a product W @ s of a delay line s is a state itself.

    What s becomes is known before the loop, and so is the product with it, for all steps at once: what was W @ s in a
    step is the state that the step before left. Only delay lines that start from zero are treated, for a reset sets the
    new state to zero.
    """
    products: list[tuple[int, int]] = []
    while True:
        found = _delayed_products(program)
        if not found:
            return Hoisted(program, tuple(products))
        program = _with_states(program, found)
        products += found.values()


def _delayed_products(program: Program) -> dict[int, tuple[int, int]]:
    """The products of a plain parameter and a delay line: node -> parameter, state."""
    nodes = program.nodes
    delays = [k for k in delay_lines(program) if program.states[k].initial == 0 and not program.states[k].kept]
    found = {}
    for i in sorted(program.live):
        if nodes[i].operation == "matmul":
            matrix, vector = (nodes[j] for j in nodes[i].inputs)
            plain = matrix.operation == "parameter" and matrix.shape[1].parts == 1
            if plain and vector.operation == "state" and vector.attribute in delays:
                found[i] = matrix.attribute, vector.attribute
    return found


def _with_states(program: Program, products: dict[int, tuple[int, int]]) -> Program:
    rewrite = Rewrite(program)
    count = len(program.states)

    def replace(number: int, value: Symbol) -> Symbol:
        if number not in products:
            return value
        return rewrite.add_state(StateSpec("delayed", program.nodes[number].width))

    rewrite.copy(replace)
    for k, number in enumerate(products):
        matrix = rewrite.copied(program.nodes[number].inputs[0])
        rewrite.set_next(count + k, matrix @ rewrite.next(products[number][1]))
    return rewrite.finish(program.name, program.doc)
