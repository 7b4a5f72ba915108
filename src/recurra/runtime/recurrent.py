"""Any cell, by the program in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recurra import engine
from recurra.program import Program
from recurra.runtime.interpreter import Matrix
from recurra.runtime.kernel import Kernel, Threads
from recurra.runtime.layer import Carried, Layer
from recurra.runtime.rows import Rows
from recurra.runtime.state import State, state_type
from recurra.streams import Stateful

empty = np.empty


class Recurrent(Layer):
    """A cell with its parameters. The program of evaluation runs, where a cell draws random numbers in training.

    Args:
        sizes: of every named width.
        parameters: in the program's order.
    """

    def __init__(self, program: Program, sizes: Mapping[str, int], parameters: Sequence[Matrix]) -> None:
        self.program = program
        self.kernel = Kernel(program, sizes, parameters)
        self.dtype = self.kernel.dtype
        self.input_size = sizes["input"]
        self.output_size = self.kernel.output_columns
        self.uses_elapsed = program.uses_elapsed
        self._state_type = state_type(
            tuple(spec.name for spec in program.states), tuple(spec.name for spec in program.states if spec.kept)
        )
        self._initial = [np.asarray(spec.initial).astype(self.dtype)[()] for spec in program.states]
        frozen = self.kernel.frozen
        self._quick: Any = None if frozen is None or self.uses_elapsed else frozen.step

    def initial_state(self, batch: int) -> State:
        columns = zip(self._initial, self.kernel.columns, strict=True)
        return self._state_type._make(np.full((batch, width), first) for first, width in columns)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        y, after = self.kernel.forward(x, state, rows)
        return y, self._state_type._make(after)

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        y, after = self.kernel.step(x_t, state, elapsed)
        return y, self._state_type._make(after)

    def step(self, x_t: np.ndarray, state: State, *, elapsed: Any = None) -> tuple[np.ndarray, State]:
        if self._quick is None or elapsed is not None or type(state) is not self._state_type:
            return super().step(x_t, state, elapsed=elapsed)
        try:
            y = empty((x_t.shape[0], self.output_size), self.dtype)
            after = [empty(part.shape, self.dtype) for part in state]
            self._quick(x_t, y, state, after, None, Threads.count)
        except (ValueError, TypeError, AttributeError, IndexError):
            # the engine has checked, which takes no time; this finds better words
            return super().step(x_t, state)
        return y, self._state_type._make(after)

    def stateful(self, rows: int) -> Stateful:
        return Carried(self, rows) if self.kernel.frozen is None else CarriedByEngine(self, rows)


class CarriedByEngine:
    """Rows of a cell whose states lie in the engine."""

    pools = False
    checks_out = True
    refuses_threads = True

    def __init__(self, layer: Recurrent, rows: int) -> None:
        self.layer = layer
        self.rows = rows
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.dtype = self.input_dtype = layer.dtype
        self.uses_elapsed = layer.uses_elapsed
        self._stream = engine.stream(layer.kernel.frozen, rows)
        self.push = self._stream.push
        self.reset = self._stream.reset

    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these."""
        self._stream.tick(x, y, rows, elapsed, Threads.count)

    def read(self) -> list[np.ndarray]:
        """Copies of all states."""
        states = [np.empty((self.rows, columns), self.dtype) for columns in self.layer.kernel.columns]
        for number, state in enumerate(states):
            self._stream.read(number, state)
        return states

    def write(self, states: Sequence[np.ndarray]) -> None:
        """Puts in what `read` gave."""
        for number, state in enumerate(states):
            self._stream.write(number, np.ascontiguousarray(state))

    def another(self, rows: int) -> CarriedByEngine:
        """The same model with rows that have seen nothing."""
        return type(self)(self.layer, rows)

    def fingerprint(self) -> bytes:
        """That of the model."""
        return self.layer.identity()
