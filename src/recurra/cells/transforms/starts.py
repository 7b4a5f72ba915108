"""Initial states that are learned."""

from __future__ import annotations

from collections.abc import Iterable

from recurra.cells.registry import Cell
from recurra.cells.transforms.books import Starts
from recurra.cells.transforms.building import AnyCell, chosen_states, transformed
from recurra.program.rewrite import Rewrite
from recurra.program.widths import ParameterSpec


def learned_initial_state(cell: AnyCell, *, states: Iterable[str] | None = None) -> Cell:
    """Sequences begin from states that are parameters: ``initial_h`` for the state h, at first its initial value.

    A row begins from them with ``layer.initial_state`` and after a reset; both give them gradients. A state of one
    column, ``started``, tells whether a row has begun. `states` names the states; without it all of the cell's but
    joint ones.
    Raises CellError for the name of no state.
    """
    chosen = chosen_states(cell, states)

    def change(rewrite: Rewrite, training: bool) -> None:
        starts = Starts(rewrite)
        for number, spec in enumerate(rewrite.program.states):
            if spec.name in chosen:
                initial = (spec.initial,) * spec.width.count
                learned = rewrite.add_parameter(
                    ParameterSpec(f"initial_{spec.name}", "bias", spec.width, None, initial)
                )
                # what another transform adds to the constant stays added
                starts.set(number, lambda value, learned=learned, constant=spec.initial: value - constant + learned)
        rewrite.copy(starts.replace)

    doc = f"Learned initial {', '.join(chosen)}."
    return transformed(cell, "learned_start", doc, change, lambda other: learned_initial_state(other, states=states))
