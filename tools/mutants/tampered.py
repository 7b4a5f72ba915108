"""A graph that a derivative rule builds on, and that does one of the things that the rule asks of it wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recurra.program.graph import Graph

OTHER = {
    "sigmoid_gradient": "tanh_gradient", "tanh_gradient": "sigmoid_gradient", "div": "mul", "eq": "ne", "lt": "gt",
    "gt": "lt", "ge": "le", "le": "ge", "step": "sigmoid", "sin": "cos", "cos": "sin", "sigmoid": "tanh",
    "abs": "neg", "sign": "step", "floor": "sign",
}  # fmt: skip
EXCHANGED = {"div", "sigmoid_gradient", "tanh_gradient"}

BUILDERS = ("add", "sub", "mul", "neg", "one_minus", "constant", "call", "reduce", "gate", "join", "add_node", "matmul",
            "matmul_transposed")  # fmt: skip
"""What a rule asks of a graph."""

NORMS = {"layer": "rms", "rms": "layer"}


@dataclass(frozen=True)
class Change:
    """Which of the requests of a rule goes wrong, by its number or, for all of a kind, by its name, and how."""

    at: int | str
    how: str


def ways(name: str, arguments: Sequence[Any]) -> list[str]:
    """How a request can go wrong."""
    if name in ("add", "mul", "sub"):
        other = {"add": "sub", "mul": "add", "sub": "add"}[name]
        return [f"{name} -> {other}", f"{name} -> its input 1 alone", f"{name} -> its input 2 alone"]
    if name in ("neg", "one_minus"):
        return [f"{name} left out"]
    if name == "constant":
        return ["the constant negated", "the constant doubled", "the constant -> 3"]
    if name == "call":
        own = arguments[0]
        found = [f"{own} -> {OTHER[own]}"] if own in OTHER else []
        found += [f"the inputs of {own} exchanged"] if own in EXCHANGED else []
        found += [f"the branches of {own} exchanged"] if own == "where" else []
        return [*found, f"{own} -> its input 1 alone"]
    if name == "reduce":
        return [f"the {arguments[0]} of columns -> their {other}" for other in ("max", "min")]
    if name == "gate":
        return ["the next gate"]
    if name == "join":
        return ["the gates joined in another order"]
    if name == "add_node" and arguments[0].operation == "normalise_gradient":
        return ["the other norm", "the normalised value exchanged with the cotangent"]
    if name in ("matmul", "matmul_transposed"):
        return ["the other of a matrix and its transpose"]
    return []


class Tampered:
    """Stands in for a graph. `requests` counts what is asked; the request of `change` goes wrong."""

    def __init__(self, graph: Graph, change: Change | None = None) -> None:
        self._graph = graph
        self._change = change
        self.requests: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._graph, name)
        return self._counting(name, found) if name in BUILDERS else found

    def _counting(self, name: str, build: Callable[..., int]) -> Callable[..., int]:
        def counted(*arguments: Any, **keywords: Any) -> int:
            self.requests.append((name, arguments))
            change = self._change
            if change is None or change.at not in (len(self.requests) - 1, name):
                return build(*arguments, **keywords)
            return wrong(self._graph, name, change.how, arguments, keywords)

        return counted


def wrong(graph: Graph, name: str, how: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> int:
    """What a request makes when it goes wrong."""
    first = arguments[0]
    if name == "call":
        own, *inputs = arguments
        if "alone" in how:
            return inputs[0]
        if "inputs" in how:
            inputs.reverse()
        elif "branches" in how:
            inputs = [inputs[0], inputs[2], inputs[1]]
        else:
            own = OTHER[own]
        return graph.call(own, *inputs, **keywords)
    if "alone" in how or "left out" in how:
        return arguments[1] if "2" in how else first
    if name == "constant":
        return graph.constant(3.0 if "3" in how else -first if "negated" in how else 2 * first)
    if name == "reduce":
        return graph.reduce(how.split()[-1], *arguments[1:])
    if name == "gate":
        return graph.gate(first, (arguments[1] + 1) % graph.nodes[first].width.count)
    if name == "join":
        return graph.join([*first[1:], first[0]], arguments[1])
    if name == "add_node":
        cotangent, normal, scale = first.inputs
        if "norm" in how.split()[-1]:
            return graph.add_node(replace(first, attribute=NORMS[first.attribute]))
        return graph.add_node(replace(first, inputs=(normal, cotangent, scale)))
    other = {"add": "sub", "sub": "add", "mul": "add", "matmul": "matmul_transposed", "matmul_transposed": "matmul"}
    return getattr(graph, other[name])(*arguments)
