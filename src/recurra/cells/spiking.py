"""Spiking cells: what they put out is 0 or 1, and the gradient of the jump is that of something smoother."""

from recurra.cells.language import Bias, Input, Recurrent, output, sigmoid, spike, stop_gradient, tanh
from recurra.cells.registry import cell, register


@cell
def lif(x, s, u, *, W=Input(), V=Recurrent(), b=Bias(), beta=0.9, threshold=1.0, slope=25.0):
    """Leaky integrate-and-fire with recurrence, reset by subtraction (Eshraghian et al. 2023, snntorch RLeaky)."""
    reset = stop_gradient(spike(u - threshold))
    u = beta * u + W @ x + V @ s + b - threshold * reset
    return spike(u - threshold, slope=slope), u


@cell
def spiking_lstm(
    x, h, c, *, W=Input(4), U=Recurrent(4), b=Bias(4, initial=(0, 1, 0, 0), forget=1, input=0),
    threshold=0.5, slope=25.0,
):  # fmt: skip
    """Spiking LSTM, reset by subtraction (Eshraghian et al. 2023, snntorch SLSTM): h is the membrane."""
    reset = stop_gradient(spike(h - threshold))
    i, f, g, o = W @ x + b + U @ h
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c) - threshold * reset
    return h, c, output(spike(h - threshold, slope=slope))


register(lif, spiking_lstm)
