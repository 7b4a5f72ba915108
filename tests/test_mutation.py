"""The laws notice a single wrong gate and a single wrong derivative."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recurra import nn, ops
from recurra.cells import Bias, Input, Recurrent, cell, relu, sigmoid, softplus, tanh
from recurra.ops import reference
from recurra.program import Program
from recurra.program.operations import TABLE
from recurra.testing import check_laws

pytestmark = pytest.mark.skipif(not ops.backends().engine, reason="mutates what the engine runs")


def lstm_peer(layer: nn.LSTM) -> Callable[[Tensor, Any], tuple[Tensor, nn.State]]:
    module = nn.to_torch(layer).double()

    def peer(x: Tensor, state: Any) -> tuple[Tensor, nn.State]:
        y, (h, c) = module(x, (state.h[None], state.c[None]))
        return y, type(state)(h[0], c[0])

    return peer


def with_swapped_gates(program: Program, first: int, second: int) -> Program:
    """The program with two gates exchanged wherever it takes one."""
    exchange = {first: second, second: first}
    nodes = [
        replace(node, attribute=exchange.get(node.attribute, node.attribute)) if node.operation == "gate" else node
        for node in program.nodes
    ]
    return replace(program, name="swapped", nodes=tuple(nodes))


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 3), (1, 3), (2, 3), (0, 2), (1, 2)])
def test_two_swapped_gates_turn_law_14_red(first: int, second: int):
    layer = nn.LSTM(3, 5)
    with torch.no_grad():
        layer.b.normal_()
    peer = lstm_peer(layer)
    assert check_laws(layer, peer=peer, samples=1)[14].outcome == "passed"
    layer.program = with_swapped_gates(layer.program, first, second)
    report = check_laws(layer, peer=peer, samples=1, raise_on_failure=False)
    assert [failure.number for failure in report.failures] == [14]


def test_the_engine_is_held_to_the_reference_by_law_14():
    layer = nn.GRU(3, 5)
    program, parameters = layer.program, [p.detach().double() for p in layer.parameters()]

    def peer(x: Tensor, state: Any) -> tuple[Tensor, nn.State]:
        y, after = reference.scan(program, x, state, parameters)
        return y, type(state)(*after)

    assert check_laws(layer, peer=peer, samples=1)[14].outcome == "passed"
    layer.program = with_swapped_gates(program, 0, 1)
    assert check_laws(layer, peer=peer, samples=1, raise_on_failure=False)[14].outcome == "failed"


def mixed_cell(operation: str) -> Any:
    """A cell of every operation that is broken below, under a name of its own: the engine keeps what it compiled."""

    def mixed(x, h, *, W=Input(5), U=Recurrent(5), b=Bias(5, initial=0.3)):
        i, f, g, o, s = W @ x + b + U @ h
        kept = sigmoid(f) * h + (1 - sigmoid(i)) * tanh(g) - relu(o) * 0.1
        return tanh(kept / (1 + softplus(s)))

    mixed.__name__ = f"mixed_{operation}"
    return cell(mixed)


def scaled(operation: str) -> Any:
    """The derivative rule of an operation, one tenth too large for its first input."""
    rule = TABLE[operation].derivative
    assert rule is not None

    def wrong(graph: Any, inputs: Any, result: int, cotangent: int, attribute: Any) -> list[int | None]:
        first, *others = rule(graph, inputs, result, cotangent, attribute)
        return [graph.mul(graph.constant(1.1), first), *others]

    return replace(TABLE[operation], derivative=wrong)


@pytest.mark.parametrize("operation", ["sigmoid", "tanh", "relu", "softplus", "mul", "add", "sub", "div", "one_minus"])
def test_a_broken_derivative_turns_law_7_red(operation: str, monkeypatch: pytest.MonkeyPatch):
    assert not check_laws(nn.Recurrent(mixed_cell("right"), 3, 4), samples=1).failures
    monkeypatch.setitem(TABLE, operation, scaled(operation))
    report = check_laws(nn.Recurrent(mixed_cell(operation), 3, 4), samples=1, raise_on_failure=False)
    assert [failure.number for failure in report.failures] == [7]
