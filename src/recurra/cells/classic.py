"""The classic gated cells."""

from recurra.cells.language import Bias, Diagonal, Input, Recurrent, relu, sigmoid, tanh
from recurra.cells.registry import cell, register


@cell
def rnn_tanh(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    """Simple recurrent network (Elman 1990)."""
    return tanh(W @ x + b + U @ h)


@cell
def rnn_relu(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    """Simple recurrent network with rectified units (Le, Jaitly and Hinton 2015)."""
    return relu(W @ x + b + U @ h)


@cell
def lstm(x, h, c, *, W=Input(4), U=Recurrent(4), b=Bias(4, initial=(0, 1, 0, 0), forget=1, input=0)):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) with a forget gate (Gers et al. 2000)."""
    i, f, g, o = W @ x + b + U @ h
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell
def gru(x, h, *, W=Input(3), U=Recurrent(3), b=Bias(3, forget=1), b_n=Bias()):
    """Gated recurrent unit (Cho et al. 2014), reset gate after the product, as in cuDNN."""
    (xr, xz, xn), (hr, hz, hn) = W @ x + b, U @ h
    r = sigmoid(xr + hr)
    z = sigmoid(xz + hz)
    n = tanh(xn + r * (hn + b_n))
    return (1 - z) * n + z * h


@cell
def gru_reset_before(x, h, *, W=Input(3), U=Recurrent(2), U_n=Recurrent(), b=Bias(3, forget=1)):
    """Gated recurrent unit (Cho et al. 2014), reset gate before the product, as published."""
    (xr, xz, xn), (hr, hz) = W @ x + b, U @ h
    r = sigmoid(xr + hr)
    z = sigmoid(xz + hz)
    n = tanh(xn + U_n @ (r * h))
    return (1 - z) * n + z * h


@cell
def indrnn(x, h, *, W=Input(), u=Diagonal(initial=1.0), b=Bias()):
    """Independently recurrent network (Li et al. 2018), eq. 2, with rectified units."""
    return relu(W @ x + u * h + b)


@cell
def mingru(x, h, *, W=Input(2), b=Bias(2)):
    """minGRU (Feng et al. 2024), section 3.1: gate and candidate read the input only."""
    z, candidate = W @ x + b
    z = sigmoid(z)
    return (1 - z) * h + z * candidate


register(rnn_tanh, rnn_relu, lstm, gru, gru_reset_before, indrnn, mingru)
