"""Layers without a memory: projections, on the engine as programs of their own, and embeddings."""

from __future__ import annotations

import numpy as np

from recurra.program import Program
from recurra.program.graph import Graph
from recurra.program.widths import INPUT, ParameterSpec, Width
from recurra.runtime.layer import Layer
from recurra.runtime.recurrent import Recurrent
from recurra.runtime.rows import Rows
from recurra.runtime.state import State

_OUTPUT = Width(1, "output")


def _program(bias: bool) -> Program:
    graph = Graph()
    W = graph.leaf("parameter", (_OUTPUT, INPUT), 0)
    y = graph.matmul(W, graph.leaf("input", (INPUT,)))
    parameters = [ParameterSpec("W", "matrix", _OUTPUT, INPUT, (0.0,))]
    if bias:
        y = graph.add(y, graph.leaf("parameter", (_OUTPUT,), 1))
        parameters.append(ParameterSpec("b", "bias", _OUTPUT, None, (0.0,)))
    return Program("linear", "y = W x + b", tuple(graph.nodes), (), tuple(parameters), (), y)


def projection(weight: np.ndarray, bias: np.ndarray | None = None) -> Recurrent:
    """y = W x + b: weight (output, input), bias (output,), of one dtype. It has no state."""
    output, columns = weight.shape
    sizes = {"input": columns, "hidden": 1, "output": output}
    return Recurrent(_program(bias is not None), sizes, [weight] if bias is None else [weight, bias])


class Embedding(Layer):
    """A vector for each token: x (batch, time) of whole numbers."""

    def __init__(self, weight: np.ndarray) -> None:
        self.weight = weight
        self.tokens, self.output_size = weight.shape
        self.input_size = 1
        self.dtype = weight.dtype

    def initial_state(self, batch: int) -> State:
        return ()

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        return self.weight[x], ()

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        return self.weight[x_t], ()
