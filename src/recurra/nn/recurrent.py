"""A layer out of any cell."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from recurra import cells, ops
from recurra.errors import CellError, RecurraError, ShapeError
from recurra.nn import checks, init
from recurra.nn.layer import Layer, State
from recurra.nn.state import state_type
from recurra.program import Program
from recurra.program.widths import StateSpec


class Recurrent(Layer):
    """Any cell as a layer.

    `cell` is the name of a registered cell, a cell, or a program. The parameters have the names that they have in the
    cell's equations (those that are fixed are buffers), the state has a field for each state of the cell. `widths`
    gives the size of every other width that the cell names. The parameters start as `recurra.nn.init` says. Raises
    CellError and ShapeError for a cell or sizes that do not fit, a number of heads that does not divide included.

    Where the cell draws random numbers in training, `training_program` holds the equations that run there, `program`
    those of evaluation. Then `initial_state` draws each row's seed from torch's generator while the layer trains, and
    half precision is refused there, for it cannot count.
    """

    def __init__(
        self,
        cell: str | cells.Cell | Program,
        input_size: int,
        hidden_size: int,
        *,
        widths: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        found = cells.find(cell)
        program = found.program
        sizes = _sizes(program, input_size, hidden_size, widths or {})
        self.program = program
        self.training_program = found.training_program
        self.seeded = found.training_program is not None
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.widths = dict(widths or {})
        self.output_size = program.output_width.size(sizes)
        self.uses_elapsed = program.uses_elapsed
        self._columns = tuple(spec.columns(sizes) for spec in program.states)
        self._state_type = state_type(
            tuple(spec.name for spec in program.states), tuple(spec.name for spec in program.states if spec.kept)
        )
        self._names = tuple(spec.name for spec in program.parameters)
        for spec in program.parameters:
            if hasattr(self, spec.name):
                raise CellError(
                    f"cell '{program.name}': layers have an attribute '{spec.name}' already; rename the parameter"
                )
            values = torch.empty(spec.shape(sizes))
            if spec.fixed:
                self.register_buffer(spec.name, values)
            else:
                self.register_parameter(spec.name, nn.Parameter(values))
        self._all_trained = not any(spec.fixed for spec in program.parameters)
        self._read_parameters = itemgetter(*self._names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters afresh from torch's generator."""
        init.default_(self)

    def extra_repr(self) -> str:
        widths = "".join(f", {name}={size}" for name, size in self.widths.items())
        return f"{self.program.name}, input_size={self.input_size}, hidden_size={self.hidden_size}{widths}"

    def _parameter_values(self) -> tuple[Tensor, ...]:
        if is_compiling():
            return tuple(getattr(self, name) for name in self._names)
        # a step of a small layer takes microseconds, and one attribute of an nn.Module takes half of one
        try:
            held = self._parameters if self._all_trained else {**self._buffers, **self._parameters}
            values = self._read_parameters(held)
        except KeyError:
            # parametrized or pruned: the value is computed, or set, under the same name
            return tuple(getattr(self, name) for name in self._names)
        return values if len(self._names) > 1 else (values,)

    def initial_state(self, batch: int) -> State:
        checks.check_batch(batch)
        like = self._parameter_values()[0]
        if self.seeded:
            self._check_counting(like)
        return self._initial_state(batch, like)

    def _check_counting(self, like: Tensor) -> None:
        """In training a seeded cell counts its steps, which half precision cannot."""
        if self.training:
            checks.check_counts(f"cell '{self.program.name}'", like)

    def _initial_state(self, batch: int, like: Tensor) -> State:
        columns = zip(self.program.states, self._columns, strict=True)
        return self._state_type._make([self._initial(spec, (batch, width), like) for spec, width in columns])

    def _initial(self, spec: StateSpec, shape: tuple[int, int], like: Tensor) -> Tensor:
        if spec.role == "seed" and self.training and self.seeded:
            return torch.randint(0, cells.LEVELS, shape, dtype=like.dtype, device=like.device)
        return like.new_full(shape, spec.initial)

    @property
    def running_program(self) -> Program:
        """The program of the mode that the layer is in."""
        return self.training_program if self.training and self.training_program is not None else self.program

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        parameters = self._parameter_values()
        like = parameters[0]
        checks.check_sequence(x, self.input_size, like)
        if self.seeded:
            self._check_counting(like)
        batch, time = x.shape[:2]
        if state is None:
            state = self._initial_state(batch, like)
        else:
            checks.check_state(state, self._state_type, self._columns, batch, like)
        if lengths is not None:
            checks.check_lengths(lengths, batch, time, x.device)
        if reset is not None:
            checks.check_reset(reset, batch, time, x.device)
        checks.check_elapsed_wanted(elapsed, self.uses_elapsed)
        if elapsed is not None:
            checks.check_elapsed(elapsed, (batch, time), lengths, like)
        y, after = self._scan(x, state, parameters, (lengths, reset, elapsed))
        return y, self._state_type._make(after)

    def _scan(
        self, x: Tensor, state: State, parameters: tuple[Tensor, ...], rows: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        lengths, reset, elapsed = rows
        return ops.scan(self.running_program, x, state, parameters, lengths=lengths, reset=reset, elapsed=elapsed)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        parameters = self._parameter_values()
        if type(state) is not self._state_type:
            checks.check_structure(state, self._state_type, len(self._columns))
        if self.seeded:
            self._check_counting(parameters[0])
        if elapsed is not None or self.uses_elapsed:
            self._check_step(x_t, state, elapsed, parameters[0])
        try:
            y_t, after = ops.step(
                self.running_program if self.seeded else self.program, x_t, state, parameters, elapsed=elapsed
            )
        except (RecurraError, AttributeError, TypeError):
            # the op checks; checking here too would take as long as the step, so this only finds better words
            self._check_step(x_t, state, elapsed, parameters[0])
            raise
        return y_t, self._state_type._make(after)

    def _check_step(self, x_t: Tensor, state: State, elapsed: Tensor | None, like: Tensor) -> None:
        checks.check_frame(x_t, self.input_size, like)
        checks.check_state(state, self._state_type, self._columns, x_t.shape[0], like)
        checks.check_elapsed_wanted(elapsed, self.uses_elapsed)
        if elapsed is not None:
            checks.check_elapsed(elapsed, (x_t.shape[0],), None, like)


def _sizes(program: Program, input_size: int, hidden_size: int, widths: Mapping[str, int]) -> dict[str, int]:
    """The size of every width that the cell names."""
    if not program.parameters:
        raise CellError(
            f"cell '{program.name}' has no parameters; expected one or more: a layer has their dtype and device"
        )
    checks.check_size("input_size", input_size)
    checks.check_size("hidden_size", hidden_size)
    others = program.width_names
    for name in sorted(others | set(widths)):
        if name not in widths:
            raise ShapeError(
                f"cell '{program.name}' names the width '{name}'",
                expected="a size for it",
                advice=f"Pass widths={{{name!r}: ...}}",
            )
        if name not in others:
            known = f"only {', '.join(sorted(others))}" if others else "none"
            raise ShapeError(
                f"widths gives a size for '{name}'",
                expected=f"{known}: cell '{program.name}' names no such width",
                advice="Leave it out",
            )
        checks.check_size(f"widths[{name!r}]", widths[name])
    return {"input": input_size, "hidden": hidden_size, **widths}
