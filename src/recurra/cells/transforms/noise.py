"""Transforms that draw random numbers while a layer trains, and do nothing, or take the mean, in evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recurra.cells.language import where
from recurra.cells.registry import Cell, find
from recurra.cells.transforms.books import LEVELS, Books, Starts, check_probability
from recurra.cells.transforms.building import AnyCell, chosen_states, per_state, transformed
from recurra.errors import ArgumentError, CellError
from recurra.program.graph import PRODUCTS, ancestors
from recurra.program.program import Program
from recurra.program.rewrite import Rewrite
from recurra.program.symbols import Symbol


def zoneout(cell: AnyCell, probability: float | Mapping[str, float]) -> Cell:
    """Zoneout: at each step, each unit of a state keeps its value with this probability (Krueger et al. 2017, eq. 3).

    `probability` is one number for all states but joint ones (a clock, or the sLSTM's c, n and m, one of which cannot
    stand still alone), or one by the name of a state (``{"h": 0.1, "c": 0.5}``; a state that is not named is left as it
    is). Evaluation takes the expectation, ``p * h + (1 - p) * h'``. As published, only what is
    handed to the next step zones out: an output that is no state, and other states of the same step, read the new
    value. Raises ArgumentError for a probability outside [0, 1) and CellError for the name of no state.
    """
    probabilities = per_state(cell, "probability", probability, check_probability)

    def change(rewrite: Rewrite, training: bool) -> None:
        starts, books = Starts(rewrite), Books(rewrite, training)
        rewrite.copy()
        for number, spec in enumerate(rewrite.program.states):
            p = probabilities.get(spec.name, 0.0)
            if p > 0:
                before, after = starts.value(number), rewrite.next(number)
                if training:
                    after = where(books.at_each_step(after) < round(p * LEVELS), before, after)
                else:
                    after = p * before + (1 - p) * after
                rewrite.set_next(number, after)

    described = ", ".join(f"{name} {p:g}" for name, p in probabilities.items())
    return transformed(cell, "zoneout", f"Zoneout ({described}).", change, lambda other: zoneout(other, probability))


def recurrent_dropout(cell: AnyCell, probability: float) -> Cell:
    """Dropout on what the recurrent products read, with one mask a sequence (Gal and Ghahramani 2016, eq. 6, 7).

    In ``U @ v`` with a recurrent matrix U, each unit of v is zero for the whole sequence with this probability, and the
    others are scaled up by 1 / (1 - probability). All gates of a product share its mask; products that read the same
    value share it too. After a reset the row has new masks. Raises ArgumentError for a probability outside [0, 1)
    and CellError for a cell without a recurrent product.
    """
    p = check_probability("probability", probability)
    read = _recurrent_operands(find(cell).program)
    if not read:
        raise CellError(
            f"recurrent dropout: cell '{find(cell).name}' multiplies no state by a recurrent matrix; use zoneout, "
            "or recurra.nn.Dropout on its outputs"
        )

    def change(rewrite: Rewrite, training: bool) -> None:
        books = Books(rewrite, training)
        books.begin()
        operands = _recurrent_operands(rewrite.program)
        masked: dict[int, Symbol] = {}

        def replace(number: int, value: Symbol) -> Symbol:
            node = rewrite.program.nodes[number]
            if not training or number not in operands:
                return value
            vector = node.inputs[1]
            if vector not in masked:
                before = rewrite.copied(vector)
                stays = books.of_the_sequence(before) >= round(p * LEVELS)
                masked[vector] = before * (stays * (1 / (1 - p)))
            matrix = rewrite.copied(node.inputs[0]).number
            return rewrite.symbol(getattr(rewrite.graph, node.operation)(matrix, masked[vector].number))

        rewrite.copy(replace)

    doc = f"Recurrent dropout ({p:g}), one mask a sequence."
    return transformed(cell, "recurrent_dropout", doc, change, lambda other: recurrent_dropout(other, probability))


def _recurrent_operands(program: Program) -> set[int]:
    """The products of a recurrent matrix with a value that depends on a state."""
    nodes = program.nodes

    def depends(number: int, operation: str) -> list[int]:
        return [nodes[i].attribute for i in ancestors(nodes, [number]) if nodes[i].operation == operation]

    return {
        i
        for i in program.live
        if nodes[i].operation in PRODUCTS
        and any(program.parameters[k].kind == "recurrent" for k in depends(nodes[i].inputs[0], "parameter"))
        and depends(nodes[i].inputs[1], "state")
    }


def random_initial_state(cell: AnyCell, scale: float, *, states: Iterable[str] | None = None) -> Cell:
    """Sequences begin from random states while the layer trains, another one for each row and sequence.

    Each unit is drawn uniformly, with standard deviation `scale` around the state's initial value, which it has in
    evaluation. It makes a model robust against states that it has not been in (Zimmermann et al. 2012, section 3).
    `states` names the states; without it all of the cell's but joint ones. Raises ArgumentError for a scale that
    is not positive and CellError for the name of no state.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise ArgumentError(f"scale is {scale!r}", expected="a positive number", advice="0.01 to 1 are usual")
    chosen = chosen_states(cell, states)

    def change(rewrite: Rewrite, training: bool) -> None:
        starts, books = Starts(rewrite), Books(rewrite, training)
        starts.started()
        for number, spec in enumerate(rewrite.program.states):
            if training and spec.name in chosen:
                starts.set(number, _shaken(books, rewrite.state(number), scale))
        rewrite.copy(starts.replace)

    doc = f"Random initial {', '.join(chosen)} (standard deviation {scale:g})."
    return transformed(
        cell, "random_start", doc, change, lambda other: random_initial_state(other, scale, states=states)
    )


def _shaken(books: Books, state: Symbol, scale: float) -> Any:
    spread = scale * 12**0.5

    def change(value: Symbol) -> Symbol:
        return value + (books.at_each_step(state) * (spread / LEVELS) - spread / 2)

    return change
