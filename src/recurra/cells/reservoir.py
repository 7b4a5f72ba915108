"""Cells whose recurrence is drawn once and never trained."""

from recurra.cells.language import Bias, Input, Recurrent, tanh
from recurra.cells.registry import cell, register


@cell
def esn(x, h, *, W_in=Input(), W=Recurrent(), b=Bias(), leak=0.3):
    """Echo-state network with leaky integrator units (Jaeger 2001; Lukosevicius 2012), eq. 2 and 3 of the latter."""
    return (1 - leak) * h + leak * tanh(W_in @ x + W @ h + b)


register(esn)
