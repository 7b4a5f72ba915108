"""Cells in continuous time: a step takes the time since the step before."""

from recurra.cells.initial import log_uniform, uniform
from recurra.cells.language import Bias, Diagonal, Elapsed, Input, Recurrent, State, exp, sigmoid, tanh, where
from recurra.cells.registry import cell, register


@cell
def phased_lstm(
    x, h, c, t=State(1, joint=True), *, dt=Elapsed(), W=Input(4), U=Recurrent(4),
    p_i=Diagonal(), p_f=Diagonal(), p_o=Diagonal(), b=Bias(4, initial=(0, 1, 0, 0), forget=1, input=0),
    tau=Bias(initial=log_uniform(1, 1000)), s=Bias(initial=uniform(0, 1000)), r_on=Bias(initial=0.05), alpha=0.001,
):  # fmt: skip
    """Phased LSTM (Neil et al. 2016), eq. 1-3 and 6-10; t is the time so far."""
    t = t + dt
    phase = ((t - s) % tau) / tau
    k = where(phase < r_on / 2, 2 * phase / r_on, where(phase < r_on, 2 - 2 * phase / r_on, alpha * phase))
    i, f, g, o = W @ x + b + U @ h
    c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    h_new = sigmoid(o + p_o * c_new) * tanh(c_new)
    return k * h_new + (1 - k) * h, k * c_new + (1 - k) * c, t


@cell
def cfc(
    x, h, *, dt=Elapsed(), W=Input(rows="backbone"), U=Recurrent(rows="backbone"), b=Bias(width="backbone"),
    V=Recurrent(4, columns="backbone"), c=Bias(4), gated=True,
):  # fmt: skip
    """Closed-form continuous-time network (Hasani et al. 2022); ungated, as 'no_gate' of ncps."""
    z = 1.7159 * tanh(0.666 * (W @ x + U @ h + b))
    g, k, f_a, f_b = V @ z + c
    g, k, gate = tanh(g), tanh(k), sigmoid(f_a * dt + f_b)
    return (1 - gate if gated else 1) * g + gate * k


@cell
def cfc_pure(
    x, h, *, dt=Elapsed(), W=Input(rows="backbone"), U=Recurrent(rows="backbone"), b=Bias(width="backbone"),
    V=Recurrent(columns="backbone"), c=Bias(), w_tau=Bias(), A=Bias(initial=1),
):  # fmt: skip
    """The closed form of an LTC as it is (Hasani et al. 2022), with a backbone: 'pure' of ncps."""
    f = V @ (1.7159 * tanh(0.666 * (W @ x + U @ h + b))) + c
    return A - A * exp(-dt * (abs(w_tau) + abs(f))) * f


register(phased_lstm, cfc, cfc_pure)
