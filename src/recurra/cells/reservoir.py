"""Cells whose recurrence is drawn once and never trained."""

from recurra.cells.language import Bias, Fixed, Input, Recurrent, tanh
from recurra.cells.registry import cell, register


@cell
def esn(x, h, *, W_in=Fixed(Input()), W=Fixed(Recurrent(), density="density"), b=Fixed(Bias()), leak=0.3, density=0.1):
    """Echo-state network with leaky integrator units (Jaeger 2001; Lukosevicius 2012), eq. 2 and 3 of the latter.

    `recurra.reservoir.Reservoir` draws its matrices with the spectral radius that is asked for.
    """
    return (1 - leak) * h + leak * tanh(W_in @ x + W @ h + b)


register(esn)
