"""Symbolic widths, and what a program declares: its states and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recurra.errors import CellError, ShapeError


@dataclass(frozen=True, slots=True)
class Width:
    """A number of columns: `count` times a named size, or `count` itself where `name` is empty.

    With `parts`, one part of the named size that is divided into so many equal ones: the columns of one head.
    """

    count: int
    name: str = ""
    parts: int = 1

    def size(self, sizes: Mapping[str, int]) -> int:
        """The width in columns, given the size of every name (for example ``{"input": 8, "hidden": 32}``)."""
        if not self.name:
            return self.count
        if self.name not in sizes:
            raise ShapeError(f"the width '{self.name}' has no size: got sizes for {sorted(sizes)}; give one for it")
        size, rest = divmod(sizes[self.name], self.parts)
        if rest:
            raise ShapeError(
                f"the width '{self.name}' is {sizes[self.name]}",
                expected=f"a multiple of {self.parts}, the number of heads",
                advice="Change one of them",
            )
        return self.count * size

    @property
    def is_scalar(self) -> bool:
        return self.count == 1 and not self.name

    @property
    def unit(self) -> Width:
        """One gate of a group of gates."""
        return Width(1, self.name, self.parts)

    @property
    def whole(self) -> Width:
        """All parts together."""
        return Width(self.count, self.name)

    def named_size(self, columns: int) -> int:
        """The named size that gives this many columns, where one does."""
        return columns * self.parts // self.count

    def __str__(self) -> str:
        if not self.name:
            return str(self.count)
        name = self.name if self.parts == 1 else f"{self.name}/{self.parts}"
        return name if self.count == 1 else f"{self.count}*{name}"

    @classmethod
    def parse(cls, text: str) -> Width:
        """The inverse of ``str``."""
        if text.isdigit():
            return cls(int(text))
        count, star, rest = text.partition("*")
        name, slash, parts = (rest if star else text).partition("/")
        width = cls(int(count) if star else 1, name, int(parts) if slash else 1)
        if width.count < 1 or width.parts < 1:
            raise ShapeError(f"'{text}' is no width", expected="a name, 3*name, name/2 or a number")
        return width


SCALAR = Width(1)
INPUT = Width(1, "input")
HIDDEN = Width(1, "hidden")

Shape = tuple[Width, ...]
"""(width,) of a vector, (rows, columns) of a matrix."""


STATE_ROLES = ("", "kept", "joint", "seed", "steps", "begin", "started")


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One state of a cell: its name, width, and the constant that it starts from (and returns to on a reset).

    `role` is empty for what a cell remembers of its input. A "kept" state is left alone by a reset; a "joint"
    one means nothing without the time, or without other states (a clock, a stabiliser and what it scales). The others
    keep books for random numbers and initial values, which transforms of a cell share: "seed", a whole number that is
    drawn where a sequence begins in training, and kept; "steps", the number of steps since then, kept; "begin", the
    step at which the sequence began; "started", 1 after the first step.
    """

    name: str
    width: Width = HIDDEN
    initial: float = 0.0
    role: str = ""

    def __post_init__(self) -> None:
        if self.role not in STATE_ROLES:
            raise CellError(f"state '{self.name}' has role '{self.role}'; expected one of {', '.join(STATE_ROLES)}")

    @property
    def own(self) -> bool:
        """Whether it is one that the cell declares, not a book."""
        return self.role in ("", "kept", "joint")

    @property
    def kept(self) -> bool:
        """Whether a reset leaves the state alone."""
        return self.role in ("kept", "seed", "steps")

    def columns(self, sizes: Mapping[str, int]) -> int:
        return self.width.size(sizes)


PARAMETER_KINDS = ("input", "recurrent", "diagonal", "bias", "matrix", "gain")


@dataclass(frozen=True, slots=True)
class Draw:
    """How values are drawn: the name of an initialiser of `recurra.nn.init`, and its arguments."""

    name: str
    arguments: tuple[float | str, ...] = ()


Initial = float | Draw
"""What one gate of a parameter starts from. For a matrix, a number means the usual draw of its kind."""


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter of a cell.

    `initial` says what each gate starts from. `forget` and `input` say which gate keeps and which gate writes;
    initialisers of forget-gate biases read them. A `fixed` parameter is not trained. `density` is the share of a
    fixed matrix that is not zero.
    """

    name: str
    kind: str
    rows: Width
    columns: Width | None
    initial: tuple[Initial, ...]
    forget: int | None = None
    input: int | None = None
    fixed: bool = False
    density: float = 1.0

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
        if not 0 < self.density <= 1:
            raise CellError(f"parameter '{self.name}' has density {self.density}; expected more than 0, at most 1")
        if self.density < 1 and not (self.fixed and self.gates == 1 and self.columns and self.columns.parts == 1):
            raise CellError(
                f"parameter '{self.name}' is sparse; only a Fixed matrix of one gate, without heads, can be"
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
    def is_sparse(self) -> bool:
        return self.density < 1

    @property
    def symbolic_shape(self) -> Shape:
        return (self.rows,) if self.columns is None else (self.rows, self.columns)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(width.size(sizes) for width in self.symbolic_shape)
