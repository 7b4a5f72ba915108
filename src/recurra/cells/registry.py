"""Cells by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from recurra.errors import CellError
from recurra.program.program import Program
from recurra.program.trace import trace


class Cell:
    """A recurrent cell: a name and its program, and where training runs other equations, the program for that.

    Calling it with hyperparameters gives the same cell with other values: ``cell(depth=3)``.
    """

    def __init__(
        self,
        program: Program,
        training_program: Program | None = None,
        *,
        remake: Callable[..., Cell] | None = None,
    ) -> None:
        """`training_program` has the same states and parameters; None stands for the same equations. `remake` makes
        the cell with other hyperparameters. Raises CellError when the two programs do not fit."""
        if training_program == program:
            training_program = None
        if training_program is not None and (
            training_program.states != program.states or training_program.parameters != program.parameters
        ):
            raise CellError(
                f"cell '{program.name}': its program for training has other states or parameters than the one for "
                "evaluation; declare the same in both"
            )
        self.program = program
        self.training_program = training_program
        self._remake = remake

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def doc(self) -> str:
        return self.program.doc

    def __call__(self, **hyperparameters: Any) -> Cell:
        if self._remake is None:
            raise CellError(f"cell '{self.name}' was made from a program and has no hyperparameters")
        return self._remake(**hyperparameters)

    def __repr__(self) -> str:
        return f"<cell {self.name}>"


def _trace_cell(function: Callable[..., Any], settings: dict[str, Any]) -> Cell:
    return Cell(trace(function, settings), remake=lambda **other: _trace_cell(function, {**settings, **other}))


_CELLS: dict[str, Cell] = {}


def cell(function: Callable[..., Any]) -> Cell:
    """Makes a cell of a function that holds the equations of one step.

    The function takes x, then its states, then after `*` its parameters as defaults (Input, Recurrent,
    Diagonal, Bias) and its
    hyperparameters as plain values; it returns the next states in the order of the arguments. The output is
    the first state unless
    one value is marked ``output(value)``. Raises CellError when the equations are malformed.
    """
    return _trace_cell(function, {})


def register(*cells: Cell) -> None:
    """Makes cells known by name, for settings and the command line.

    Raises CellError for what is no cell, and for a name that another cell has.
    """
    for one in cells:
        if not isinstance(one, Cell):
            raise CellError(f"a cell was expected; {_got(one)}")
        known = _CELLS.get(one.name)
        if known is not None and (known.program, known.training_program) != (one.program, one.training_program):
            raise CellError(f"a cell named '{one.name}' is registered already; give yours another name")
        _CELLS[one.name] = one


def names() -> list[str]:
    """The names of all registered cells."""
    return sorted(_CELLS)


def _alternatives(found: list[str]) -> str:
    *others, last = (f"'{name}'" for name in found)
    return f"{', '.join(others)} or {last}" if others else last


def get(cell: str | Cell | Program) -> Program:
    """The program of a cell by name or object; of two, that for evaluation. Raises CellError for an unknown name."""
    return find(cell).program


def find(cell: str | Cell | Program) -> Cell:
    """A cell by name, object or program. Raises CellError for an unknown name."""
    if isinstance(cell, Program):
        return Cell(cell)
    if isinstance(cell, Cell):
        return cell
    if isinstance(cell, str):
        if cell in _CELLS:
            return _CELLS[cell]
        near = difflib.get_close_matches(cell.lower(), _CELLS, n=3, cutoff=0.5)
        hint = f"did you mean {_alternatives(near)}?" if near else "see recurra.cells.names()"
        raise CellError(f"unknown cell '{cell}'; {hint}")
    raise CellError(f"a cell was expected, by name or object; {_got(cell)}")


def _got(value: object) -> str:
    return f"got {type(value).__name__}: decorate its function with @recurra.cells.cell"
