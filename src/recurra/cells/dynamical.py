"""Cells that are steps of a differential equation."""

from recurra.cells.initial import uniform
from recurra.cells.language import Bias, Diagonal, Input, Matrix, Recurrent, sigmoid, tanh
from recurra.cells.registry import cell, register


@cell
def antisymmetric_rnn(x, h, *, V=Input(), W=Recurrent(), b=Bias(), epsilon=0.01, gamma=0.01):
    """AntisymmetricRNN (Chang et al. 2019), section 3: a forward Euler step with diffusion gamma."""
    return h + epsilon * tanh((W - W.T) @ h - gamma * h + V @ x + b)


@cell
def antisymmetric_rnn_gated(x, h, *, V=Input(2), W=Recurrent(), b=Bias(2), epsilon=0.01, gamma=0.01):
    """AntisymmetricRNN with input gates (Chang et al. 2019), section 3: both share the recurrent matrix."""
    vh, vz = V @ x + b
    wh = (W - W.T) @ h - gamma * h
    return h + epsilon * (sigmoid(wh + vz) * tanh(wh + vh))


@cell
def cornn(x, y, z, *, V=Input(), W=Recurrent(), W_z=Recurrent(), b=Bias(), dt=0.05, gamma=1.0, epsilon=1.0):
    """Coupled oscillatory RNN (Rusch and Mishra 2021), eq. 3 with explicit damping."""
    z = z + dt * tanh(W @ y + W_z @ z + V @ x + b) - dt * gamma * y - dt * epsilon * z
    return y + dt * z, z


@cell
def unicornn(
    x, y, z, *, V=Input(), w=Diagonal(initial=uniform(0, 1)), b=Bias(), c=Bias(initial=uniform(-0.1, 0.1)),
    dt=0.05, alpha=1.0,
):  # fmt: skip
    """Undamped independent controlled oscillatory RNN (Rusch and Mishra 2021), eq. 4."""
    rate = dt * sigmoid(c)
    z = z - rate * (tanh(w * y + V @ x + b) + alpha * y)
    return y + rate * z, z


@cell
def lem(x, y, z, *, V=Input(4), W=Recurrent(3), W_y=Recurrent(), b=Bias(4), dt=1.0):
    """Long expressive memory (Rusch et al. 2022), eq. 3."""
    (v1, v2, vz, vy), (w1, w2, wz) = V @ x + b, W @ y
    dt_z, dt_y = dt * sigmoid(v1 + w1), dt * sigmoid(v2 + w2)
    z = (1 - dt_z) * z + dt_z * tanh(vz + wz)
    return (1 - dt_y) * y + dt_y * tanh(vy + W_y @ z), z


@cell
def fastrnn(
    x, h, *, W=Input(), U=Recurrent(), b=Bias(), alpha=Bias(width=1, initial=-3), beta=Bias(width=1, initial=3)
):
    """FastRNN (Kusupati et al. 2018), section 3: a residual with two scalars, each a sigmoid."""
    candidate = tanh(W @ x + U @ h + b)
    return sigmoid(alpha) * candidate + sigmoid(beta) * h


@cell
def fastgrnn(
    x, h, *, W=Input(), U=Recurrent(), b=Bias(2, forget=0), zeta=Bias(width=1, initial=1), nu=Bias(width=1, initial=-4)
):
    """FastGRNN (Kusupati et al. 2018), section 3: gate and candidate share their matrices."""
    b_z, b_h = b
    a = W @ x + U @ h
    z, candidate = sigmoid(a + b_z), tanh(a + b_h)
    return (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * candidate + z * h


@cell
def fastgrnn_low_rank(
    x, h, *, W2=Input(rows="rank_w"), W1=Matrix(rows="hidden", columns="rank_w"), U2=Recurrent(rows="rank_u"),
    U1=Recurrent(columns="rank_u"), b=Bias(2, forget=0), zeta=Bias(width=1, initial=1),
    nu=Bias(width=1, initial=-4),
):  # fmt: skip
    """FastGRNN (Kusupati et al. 2018), W = W1 W2 and U = U1 U2 of the ranks rank_w and rank_u."""
    b_z, b_h = b
    a = W1 @ (W2 @ x) + U1 @ (U2 @ h)
    z, candidate = sigmoid(a + b_z), tanh(a + b_h)
    return (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * candidate + z * h


register(antisymmetric_rnn, antisymmetric_rnn_gated, cornn, unicornn, lem, fastrnn, fastgrnn, fastgrnn_low_rank)
