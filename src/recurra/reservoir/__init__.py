"""Reservoir computing: recurrent layers that are drawn and not trained, under a linear readout in closed form.

draw         how a reservoir is drawn
network      a target for every step: fit, partial_fit, predict, generate
classifier   a class for a whole sequence
ridge        many regularisations out of one decomposition
echo_state   whether a driven network forgets its initial state
spectral     the spectral radius of a large sparse matrix
problems     NARMA-10, Mackey-Glass, memory capacity
"""

from recurra.reservoir.classifier import EchoStateClassifier
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.echo_state import EchoStateTest, RecurraEchoStateWarning, echo_state_test
from recurra.reservoir.network import EchoStateNetwork
from recurra.reservoir.spectral import spectral_radius

__all__ = [
    "EchoStateClassifier",
    "EchoStateNetwork",
    "EchoStateTest",
    "RecurraEchoStateWarning",
    "Reservoir",
    "echo_state_test",
    "spectral_radius",
]
