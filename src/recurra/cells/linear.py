"""Recurrences without a product of the state: their gates read the input, and at most their own unit."""

from recurra.cells.initial import gate_decay, ring_decay, ring_phase, ring_scale, scaled_normal
from recurra.cells.language import (
    Bias,
    Complex,
    Diagonal,
    Input,
    Matrix,
    State,
    exp,
    exp_i,
    expm1,
    maximum,
    output,
    sigmoid,
    softplus,
    sqrt,
    tanh,
)
from recurra.cells.registry import cell, register


@cell
def sru(x, c, *, W=Input(4), v=Diagonal(2), b=Bias(2, forget=0)):
    """Simple recurrent unit (Lei et al. 2018), eq. 1 to 4. The skipped input is projected, so that it may have any
    width."""
    candidate, xf, xr, skip = W @ x
    (v_f, v_r), (b_f, b_r) = v, b
    f = sigmoid(xf + v_f * c + b_f)
    r = sigmoid(xr + v_r * c + b_r)
    c = f * c + (1 - f) * candidate
    return c, output(r * c + (1 - r) * skip)


@cell
def qrnn(x, c, *, W=Input(3), b=Bias(3, forget=1)):
    """Quasi-recurrent network (Bradbury et al. 2017) with windows of one step and fo-pooling, eq. 4."""
    z, f, o = W @ x + b
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(z)
    return c, output(sigmoid(o) * c)


@cell
def qrnn_window_2(x, c, previous=State("input"), *, W_1=Input(3), W_2=Input(3), b=Bias(3, forget=1)):
    """Quasi-recurrent network (Bradbury et al. 2017) with windows of two steps, eq. 2, and fo-pooling, eq. 4."""
    z, f, o = W_1 @ previous + W_2 @ x + b
    f = sigmoid(f)
    c = f * c + (1 - f) * tanh(z)
    return c, x, output(sigmoid(o) * c)


@cell
def minlstm(x, h, *, W=Input(3), b=Bias(3, forget=0, input=1)):
    """minLSTM (Feng et al. 2024), section 3.2: gates that read the input only, and sum to one. f / (f + i) is a sigmoid
    (appendix B), which stays finite where both gates are shut."""
    f, i, candidate = W @ x + b
    f = sigmoid(softplus(-i) - softplus(-f))
    return f * h + (1 - f) * candidate


@cell
def lru(
    x,
    h=Complex(),
    *,
    r_min=0.0,
    r_max=1.0,
    max_phase=6.283,
    nu=Diagonal(initial=ring_decay("r_min", "r_max")),
    theta=Diagonal(initial=ring_phase("max_phase")),
    gamma=Diagonal(initial=ring_scale("nu")),
    B=Complex(Input(initial=scaled_normal(0.5**0.5))),
    C=Complex(Matrix(rows="hidden", columns="hidden", initial=scaled_normal())),
    D=Input(),
):
    """Linear recurrent unit (Orvieto et al. 2023), eq. 1 and 7: a complex diagonal, its moduli on a ring at first. D is
    a full matrix, the paper's a diagonal."""
    h = exp(-exp(nu)) * exp_i(exp(theta)) * h + exp(gamma) * (B @ x)
    return h, output((C @ h).real + D @ x)


@cell
def rglru(x, h, *, c=8.0, W=Input(3), b=Bias(2), decay=Diagonal(initial=gate_decay(0.9, 0.999, "c"))):
    """Real-gated linear recurrent unit (De et al. 2024), eq. 1 to 4, of the input projected to the width of the
    state. The root has a floor, so that its gradient stays finite where nothing decays."""
    (xr, xi, value), (b_a, b_x) = W @ x, b
    log_a = -c * softplus(-decay) * sigmoid(xr + b_a)
    return exp(log_a) * h + sqrt(maximum(-expm1(2 * log_a), 1e-30)) * (sigmoid(xi + b_x) * value)


register(sru, qrnn, qrnn_window_2, minlstm, lru, rglru)
