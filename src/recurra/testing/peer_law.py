"""Law 14: the layer equals an independent implementation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from recurra.nn import Layer, State
from recurra.testing.cases import Case, Inputs, draw
from recurra.testing.compare import agree, evaluate

Peer = Callable[..., tuple[Tensor, State]]
"""(x, state) -> (y, state); a layer in continuous time hands its peer (x, state, elapsed)."""


def equals_peer(layer: Layer, case: Case, peer: Peer) -> None:
    """Outputs and final states, and where the peer has gradients those of x and of the initial state."""
    inputs = draw(layer, case)
    if not layer.causal:
        inputs = inputs.with_(state=layer.initial_state(case.batch))

    def by_peer(given: Inputs) -> tuple[Tensor, State]:
        times = () if given.elapsed is None else (given.elapsed,)
        return peer(given.x, given.state, *times)

    own = evaluate(layer, inputs, lambda given: given.call(layer))
    other = evaluate(layer, inputs, by_peer)
    parameters = {f"the gradient of {name}" for name, _ in layer.named_parameters()}
    # the peer's parameters are its own
    agree(own, {name: value for name, value in other.items() if name not in parameters}, "the layer against its peer")
