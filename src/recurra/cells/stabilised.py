"""Cells with exponential gates, which a further state keeps within range."""

from recurra.cells.initial import spaced
from recurra.cells.language import Bias, Input, Recurrent, State, exp, maximum, sigmoid, softplus, tanh
from recurra.cells.registry import cell, register


@cell
def slstm(
    x, h, c=State(joint=True), n=State(joint=True), m=State(initial=-1e30, joint=True), *,
    heads=1, W=Input(4), R=Recurrent(4, heads="heads"), b=Bias(4, initial=(0, 0, spaced(3, 6), 0), forget=2, input=1),
):  # fmt: skip
    """sLSTM (Beck et al. 2024), eq. 8 to 17, with a sigmoid forget gate: an exponential input gate, a normaliser n and
    a stabiliser m, which starts so low that the first step counts in full. Units read those of their own head only."""
    z, log_i, f, o = W @ x + R @ h + b
    log_f = m - softplus(-f)
    m = maximum(log_f, log_i)
    i, f = exp(log_i - m), exp(log_f - m)
    c, n = f * c + i * tanh(z), f * n + i
    return sigmoid(o) * c / n, c, n, m


register(slstm)
