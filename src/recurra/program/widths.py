"""Symbolic widths, and what a program declares: its states and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurra.errors import CellError, ShapeError


@dataclass(frozen=True, slots=True)
class Width:
    """A number of columns: `count` times a named size, or `count` itself where `name` is empty."""

    count: int
    name: str = ""

    def size(self, sizes: Mapping[str, int]) -> int:
        """The width in columns, given the size of every name (for example ``{"input": 8, "hidden": 32}``)."""
        if not self.name:
            return self.count
        if self.name not in sizes:
            raise ShapeError(f"the width '{self.name}' has no size: got sizes for {sorted(sizes)}; give one for it")
        return self.count * sizes[self.name]

    @property
    def is_scalar(self) -> bool:
        return self.count == 1 and not self.name

    @property
    def unit(self) -> Width:
        """One gate of a group of gates."""
        return Width(1, self.name)

    def __str__(self) -> str:
        if not self.name:
            return str(self.count)
        return self.name if self.count == 1 else f"{self.count}*{self.name}"

    @classmethod
    def parse(cls, text: str) -> Width:
        """The inverse of ``str``."""
        count, star, name = text.partition("*")
        if star:
            return cls(int(count), name)
        return cls(int(text)) if text.isdigit() else cls(1, text)


SCALAR = Width(1)
INPUT = Width(1, "input")
HIDDEN = Width(1, "hidden")

Shape = tuple[Width, ...]
"""(width,) of a vector, (rows, columns) of a matrix."""


STATE_ROLES = ("", "kept", "seed", "steps", "begin", "started")


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One state of a cell: its name, width, and the constant that it starts from (and returns to on a reset).

    `role` is empty for what a cell remembers of its input. A "kept" state is left alone by a reset. The others keep
    books for random numbers and initial values, which transforms of a cell share: "seed", a whole number that is drawn
    where a sequence begins in training, and kept; "steps", the number of steps since then, kept; "begin", the step
    at which the sequence began; "started", 1 after the first step.
    """

    name: str
    width: Width = HIDDEN
    initial: float = 0.0
    role: str = ""

    def __post_init__(self) -> None:
        if self.role not in STATE_ROLES:
            raise CellError(f"state '{self.name}' has role '{self.role}'; expected one of {', '.join(STATE_ROLES)}")

    @property
    def kept(self) -> bool:
        """Whether a reset leaves the state alone."""
        return self.role in ("kept", "seed", "steps")

    def columns(self, sizes: Mapping[str, int]) -> int:
        return self.width.size(sizes)


PARAMETER_KINDS = ("input", "recurrent", "diagonal", "bias", "matrix", "gain")


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter of a cell.

    `initial` holds one constant a gate, for vectors. `forget` and `input` say which gate keeps and which gate
    writes; initialisers
    of forget-gate biases read them.
    """

    name: str
    kind: str
    rows: Width
    columns: Width | None
    initial: tuple[float, ...]
    forget: int | None = None
    input: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in PARAMETER_KINDS:
            raise CellError(
                f"parameter '{self.name}' has kind '{self.kind}'; expected one of {', '.join(PARAMETER_KINDS)}"
            )
        if len(self.initial) != self.gates:
            raise CellError(
                f"parameter '{self.name}' has {self.gates} gates but {len(self.initial)} initial values; give "
                f"one a gate"
            )
        for role, gate in (("forget", self.forget), ("input", self.input)):
            if gate is not None and not 0 <= gate < self.gates:
                raise CellError(
                    f"parameter '{self.name}': {role}={gate} is not a gate of it; expected 0 to {self.gates - 1}"
                )

    @property
    def gates(self) -> int:
        return self.rows.count

    @property
    def symbolic_shape(self) -> Shape:
        return (self.rows,) if self.columns is None else (self.rows, self.columns)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(width.size(sizes) for width in self.symbolic_shape)
