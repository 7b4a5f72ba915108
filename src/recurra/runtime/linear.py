"""Layers without a memory: projections, on the engine as programs of their own, and embeddings."""

from __future__ import annotations

import numpy as np

from recurra.bfloat16 import widened
from recurra.int8 import Int8Matrix
from recurra.program.matrices import projection as linear_program
from recurra.runtime.interpreter import Matrix, dtype_of, shape_of
from recurra.runtime.layer import Layer
from recurra.runtime.recurrent import Recurrent
from recurra.runtime.rows import Rows
from recurra.runtime.state import State


def projection(weight: Matrix, bias: np.ndarray | None = None) -> Recurrent:
    """y = W x + b: weight (output, input), bias (output,), of one dtype, or the weight int8 or bfloat16. It has no
    state."""
    output, columns = shape_of(weight)
    sizes = {"input": columns, "hidden": 1, "output": output}
    return Recurrent(linear_program(bias=bias is not None), sizes, [weight] if bias is None else [weight, bias])


class Embedding(Layer):
    """A vector for each token: x (batch, time) of whole numbers."""

    def __init__(self, weight: Matrix) -> None:
        self.weight = weight
        self.tokens, self.output_size = shape_of(weight)
        self.input_size = 1
        self.dtype = dtype_of([weight])

    def initial_state(self, batch: int) -> State:
        return ()

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        return self._vectors(x), ()

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        return self._vectors(x_t), ()

    def _vectors(self, tokens: np.ndarray) -> np.ndarray:
        if isinstance(self.weight, Int8Matrix):
            return self.weight.values[tokens].astype(np.float32) * self.weight.scales[tokens][..., None]
        return widened(self.weight[tokens])
