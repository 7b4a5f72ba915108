"""From a cell to a transformed one: both of its programs, its name and what its documentation says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recurra.cells.registry import Cell, find
from recurra.errors import CellError
from recurra.program.program import Program
from recurra.program.rewrite import Rewrite

AnyCell = str | Cell | Program

Change = Callable[[Rewrite, bool], None]
"""Rewrites a program, which is the one for training where the second argument is true."""


def transformed(cell: AnyCell, name: str, doc: str, change: Change, again: Callable[[Cell], Cell]) -> Cell:
    """A new cell out of one, by a change of its programs. `again` does the same to the cell with other
    hyperparameters."""
    base = find(cell)

    def rewritten(program: Program, training: bool) -> Program:
        rewrite = Rewrite(program)
        change(rewrite, training)
        made = rewrite.finish(f"{name}_{base.name}", f"{program.doc} {doc}".strip())
        if any(node.operation == "join" for node in made.nodes):
            raise CellError(f"{name}: cell '{base.name}' reads a group of gates as a whole; the gates cannot be parted")
        return made

    return Cell(
        rewritten(base.program, False),
        rewritten(base.training_program or base.program, True),
        remake=lambda **hyperparameters: again(base(**hyperparameters)),
    )


def chosen_states(cell: AnyCell, states: Iterable[str] | None) -> list[str]:
    """The states that a transform is for: all that the cell has of its own but joint ones, or those named.

    Raises CellError for a name that is none of them.
    """
    program = find(cell).program
    own = [spec.name for spec in program.states if spec.own]
    if states is None:
        return [spec.name for spec in program.states if spec.own and spec.role != "joint"]
    if isinstance(states, str):
        raise CellError(f"states is {states!r}; expected a list of names: write states=[{states!r}]")
    wanted = list(states)
    for name in wanted:
        if name not in own:
            raise CellError(f"cell '{program.name}' has no state '{name}'; it has {', '.join(own)}")
    return wanted


def per_state(cell: AnyCell, what: str, value: Any, check: Callable[[str, Any], float]) -> dict[str, float]:
    """A number for each state: one for all, or a mapping by name. Raises CellError for unknown names."""
    if not isinstance(value, Mapping):
        number = check(what, value)
        return dict.fromkeys(chosen_states(cell, None), number)
    return {name: check(f"{what}[{name!r}]", value[name]) for name in chosen_states(cell, value)}
