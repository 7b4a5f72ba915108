"""The recurrent operators of ONNX as cells: one direction of an RNN, GRU or LSTM node becomes a program.

A node whose equations are those of a built-in cell becomes that cell, so that it can be used as one.
"""

from __future__ import annotations

from functools import lru_cache

from recurra import cells
from recurra.cells import Bias, Cell, Diagonal, Input, Recurrent, cell
from recurra.onnx.activations import Activation

Activations = tuple[Activation, ...]

_SIGMOID, _TANH, _RELU = Activation("sigmoid"), Activation("tanh"), Activation("relu")


@cell
def onnx_rnn(x, h, *, W=Input(), U=Recurrent(), b=Bias(), f=_TANH):
    """RNN of ONNX, any activation."""
    return f(W @ x + U @ h + b)


@cell
def onnx_gru(x, h, *, W=Input(3), U=Recurrent(3), b=Bias(3), b_n=Bias(), f=_SIGMOID, g=_TANH):
    """GRU of ONNX with linear_before_reset, any activations."""
    (xr, xz, xn), (hr, hz, hn) = W @ x + b, U @ h
    r, z = f(xr + hr), f(xz + hz)
    n = g(xn + r * (hn + b_n))
    return (1 - z) * n + z * h


@cell
def onnx_gru_reset_before(x, h, *, W=Input(3), U=Recurrent(2), U_n=Recurrent(), b=Bias(3), f=_SIGMOID, g=_TANH):
    """GRU of ONNX, any activations."""
    (xr, xz, xn), (hr, hz) = W @ x + b, U @ h
    r, z = f(xr + hr), f(xz + hz)
    n = g(xn + U_n @ (r * h))
    return (1 - z) * n + z * h


@cell
def onnx_lstm(x, h, c, *, W=Input(4), U=Recurrent(4), b=Bias(4), f=_SIGMOID, g=_TANH, k=_TANH, coupled=False):
    """LSTM of ONNX, any activations; coupled, the forget gate is 1 - i."""
    xi, xf, xg, xo = W @ x + U @ h + b
    i = f(xi)
    c = ((1 - i) if coupled else f(xf)) * c + i * g(xg)
    return f(xo) * k(c), c


@cell
def onnx_lstm_peephole(
    x, h, c, *, W=Input(4), U=Recurrent(4), b=Bias(4), p=Diagonal(3), f=_SIGMOID, g=_TANH, k=_TANH, coupled=False
):
    """LSTM of ONNX with peepholes p (of i, f and o), any activations; coupled, the forget gate is 1 - i."""
    (xi, xf, xg, xo), (p_i, p_f, p_o) = W @ x + U @ h + b, p
    i = f(xi + p_i * c)
    c_new = ((1 - i) if coupled else f(xf + p_f * c)) * c + i * g(xg)
    return f(xo + p_o * c_new) * k(c_new), c_new


@lru_cache(maxsize=64)
def rnn_cell(activations: Activations) -> Cell:
    """The cell of an RNN node with this activation (f)."""
    (f,) = activations
    named = {_TANH: "rnn_tanh", _RELU: "rnn_relu"}
    return cells.find(named[f]) if f in named else onnx_rnn(f=f)


@lru_cache(maxsize=64)
def gru_cell(activations: Activations, linear_before_reset: bool) -> Cell:
    """The cell of a GRU node with these activations (f, g)."""
    if activations == (_SIGMOID, _TANH):
        return cells.find("gru" if linear_before_reset else "gru_reset_before")
    f, g = activations
    return (onnx_gru if linear_before_reset else onnx_gru_reset_before)(f=f, g=g)


@lru_cache(maxsize=64)
def lstm_cell(activations: Activations, coupled: bool, peepholes: bool) -> Cell:
    """The cell of an LSTM node with these activations (f, g, h)."""
    if activations == (_SIGMOID, _TANH, _TANH) and not coupled:
        return cells.find("lstm_peephole" if peepholes else "lstm")
    f, g, k = activations
    return (onnx_lstm_peephole if peepholes else onnx_lstm)(f=f, g=g, k=k, coupled=coupled)
