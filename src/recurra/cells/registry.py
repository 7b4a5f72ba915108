"""Cells by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from recurra.errors import CellError
from recurra.program.program import Program
from recurra.program.trace import trace


class Cell:
    """A recurrent cell: a name and its program.

    Calling it with hyperparameters gives the same cell with other values: ``cell(depth=3)``.
    """

    def __init__(self, function: Callable[..., Any], settings: dict[str, Any] | None = None) -> None:
        self._function = function
        self._settings = dict(settings or {})
        self.program: Program = trace(function, self._settings)

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def doc(self) -> str:
        return self.program.doc

    def __call__(self, **hyperparameters: Any) -> Cell:
        return Cell(self._function, {**self._settings, **hyperparameters})

    def __repr__(self) -> str:
        return f"<cell {self.name}>"


_CELLS: dict[str, Cell] = {}


def cell(function: Callable[..., Any]) -> Cell:
    """Makes a cell of a function that holds the equations of one step.

    The function takes x, then its states, then after `*` its parameters as defaults (Input, Recurrent,
    Diagonal, Bias) and its
    hyperparameters as plain values; it returns the next states in the order of the arguments. The output is
    the first state unless
    one value is marked ``output(value)``. Raises CellError when the equations are malformed.
    """
    return Cell(function)


def register(*cells: Cell) -> None:
    """Makes cells known by name, for settings and the command line."""
    for one in cells:
        known = _CELLS.get(one.name)
        if known is not None and known.program != one.program:
            raise CellError(f"a cell named '{one.name}' is registered already; give yours another name")
        _CELLS[one.name] = one


def names() -> list[str]:
    """The names of all registered cells."""
    return sorted(_CELLS)


def get(cell: str | Cell | Program) -> Program:
    """The program of a cell by name or object. Raises CellError for an unknown name."""
    if isinstance(cell, Program):
        return cell
    if isinstance(cell, Cell):
        return cell.program
    if isinstance(cell, str):
        if cell in _CELLS:
            return _CELLS[cell].program
        near = difflib.get_close_matches(cell, _CELLS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see recurra.cells.names()"
        raise CellError(f"unknown cell '{cell}'; {hint}")
    raise CellError(
        f"a cell was expected, by name or object; got {type(cell).__name__}: decorate its function with "
        f"@recurra.cells.cell"
    )
