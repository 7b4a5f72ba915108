"""The classic gated cells."""

from recurra.cells.language import Bias, Diagonal, Input, Matrix, Recurrent, State, relu, sigmoid, tanh
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
def lstm_peephole(
    x, h, c, *, W=Input(4), U=Recurrent(4), p_i=Diagonal(), p_f=Diagonal(), p_o=Diagonal(),
    b=Bias(4, initial=(0, 1, 0, 0), forget=1, input=0),
):  # fmt: skip
    """LSTM with peepholes (Gers and Schmidhuber 2000), in the form of Greff et al. (2015)."""
    i, f, g, o = W @ x + b + U @ h
    c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    return sigmoid(o + p_o * c_new) * tanh(c_new), c_new


@cell
def lstm_coupled(x, h, c, *, W=Input(3), U=Recurrent(3), b=Bias(3, initial=(-1, 0, 0), input=0)):
    """LSTM with coupled gates, f = 1 - i (the variant CIFG of Greff et al. 2015), without peepholes."""
    i, g, o = W @ x + b + U @ h
    i = sigmoid(i)
    c = (1 - i) * c + i * tanh(g)
    return sigmoid(o) * tanh(c), c


@cell
def lstm_projected(
    x, r=State("projection"), c=State(), *, W=Input(4), U=Recurrent(4, columns="projection"),
    P=Matrix(rows="projection", columns="hidden"), b=Bias(4, initial=(0, 1, 0, 0), forget=1, input=0),
):  # fmt: skip
    """LSTM with a recurrent projection (Sak et al. 2014), without peepholes, as in torch.nn."""
    i, f, g, o = W @ x + b + U @ r
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    m = sigmoid(o) * tanh(c)
    return P @ m, c


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
def mgu(x, h, *, W=Input(2), U_f=Recurrent(), U_h=Recurrent(), b=Bias(2, input=0)):
    """Minimal gated unit (Zhou et al. 2016), section 3: one gate forgets and resets."""
    xf, xh = W @ x + b
    f = sigmoid(xf + U_f @ h)
    candidate = tanh(xh + U_h @ (f * h))
    return (1 - f) * h + f * candidate


@cell
def light_gru(x, h, *, W=Input(2), U=Recurrent(2), b=Bias(2, forget=0)):
    """Light GRU (Ravanelli et al. 2018), section III; biases stand for the batch norm of W @ x."""
    z, a = W @ x + b + U @ h
    z = sigmoid(z)
    return z * h + (1 - z) * relu(a)


@cell
def janet(x, h, *, W=Input(2), U=Recurrent(2), b=Bias(2, initial=(1, 0), forget=0), beta=1.0):
    """Just another network (van der Westhuizen and Lasenby 2018), section 3: the forget gate is the only one."""
    s, candidate = W @ x + b + U @ h
    return sigmoid(s) * h + (1 - sigmoid(s - beta)) * tanh(candidate)


@cell
def indrnn(x, h, *, W=Input(), u=Diagonal(initial=1.0), b=Bias()):
    """Independently recurrent network (Li et al. 2018), eq. 2, with rectified units."""
    return relu(W @ x + u * h + b)


@cell
def mingru(x, h, *, W=Input(2), b=Bias(2, input=0)):
    """minGRU (Feng et al. 2024), section 3.1: gate and candidate read the input only."""
    z, candidate = W @ x + b
    z = sigmoid(z)
    return (1 - z) * h + z * candidate


register(rnn_tanh, rnn_relu, lstm, lstm_peephole, lstm_coupled, lstm_projected)
register(gru, gru_reset_before, mgu, light_gru, janet, indrnn, mingru)
