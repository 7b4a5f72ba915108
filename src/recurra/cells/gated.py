"""Gated cells of research, beside the LSTM and the GRU."""

from recurra.cells.language import Bias, Diagonal, Input, Matrix, Recurrent, State, output, relu, sigmoid, tanh
from recurra.cells.registry import cell, register


@cell
def rhn(
    x, s, *, W=Input(2), R=Recurrent(2, repeat="depth"), b=Bias(2, initial=(0, -2), input=1, repeat="depth"), depth=2
):
    """Recurrent highway network (Zilly et al. 2017), eq. 6-9, with coupled gates, c = 1 - t."""
    wh, wt = W @ x
    for layer, (R_l, b_l) in enumerate(zip(R, b, strict=True)):
        h, t = R_l @ s + b_l
        h, t = (tanh(wh + h), sigmoid(wt + t)) if layer == 0 else (tanh(h), sigmoid(t))
        s = h * t + s * (1 - t)
    return s


@cell
def cfn(x, h, *, W=Input(), V=Input(2), U=Recurrent(2), b=Bias(2, initial=(1, -1), forget=0, input=1)):
    """Chaos-free network (Laurent and von Brecht 2017), eq. 1-2."""
    theta, eta = U @ h + V @ x + b
    return sigmoid(theta) * tanh(h) + sigmoid(eta) * tanh(W @ x)


@cell
def ran(x, h, c, *, W=Input(3), U=Recurrent(2), b=Bias(2, forget=1, input=0)):
    """Recurrent additive network (Lee et al. 2017), eq. 1: the content reads the input only."""
    content, xi, xf = W @ x
    i, f = U @ h + b
    c = sigmoid(xi + i) * content + sigmoid(xf + f) * c
    return tanh(c), c


@cell
def atr(x, h, *, W=Input(), U=Recurrent()):
    """Addition-subtraction twin-gated recurrent network (Zhang et al. 2018), section 3."""
    p, q = W @ x, U @ h
    i, f = sigmoid(p + q), sigmoid(p - q)
    return i * p + f * h


@cell
def star(x, h, *, W=Input(2), U=Recurrent(), b=Bias(2, input=0)):
    """Stackable recurrent cell (STAR, Turkoglu et al. 2021)."""
    k, z = W @ x + b
    k, z = sigmoid(k + U @ h), tanh(z)
    return tanh((1 - k) * h + k * z)


@cell
def scrn(
    x, h, s=State("context"), *, A=Input(), B=Input(rows="context"), R=Recurrent(),
    P=Matrix(rows="hidden", columns="context"), U=Matrix(rows="hidden", columns="hidden"),
    V=Matrix(rows="hidden", columns="context"), alpha=0.95,
):  # fmt: skip
    """Structurally constrained recurrent network (Mikolov et al. 2015), section 3; the softmax is the task's."""
    s = (1 - alpha) * (B @ x) + alpha * s
    h = sigmoid(P @ s + A @ x + R @ h)
    return h, s, output(U @ h + V @ s)


@cell
def brc(x, h, *, W=Input(3), w_a=Diagonal(), w_c=Diagonal()):
    """Bistable recurrent cell (Vecoven et al. 2021)."""
    u, a, c = W @ x
    a, c = 1 + tanh(a + w_a * h), sigmoid(c + w_c * h)
    return c * h + (1 - c) * tanh(u + a * h)


@cell
def nbrc(x, h, *, W=Input(3), U=Recurrent(2)):
    """Recurrently neuromodulated bistable recurrent cell (Vecoven et al. 2021): full matrices modulate."""
    (u, a, c), (ha, hc) = W @ x, U @ h
    a, c = 1 + tanh(a + ha), sigmoid(c + hc)
    return c * h + (1 - c) * tanh(u + a * h)


@cell
def mut1(x, h, *, W=Input(3), U_r=Recurrent(), U_h=Recurrent(), b=Bias(3, input=0)):
    """MUT1 (Jozefowicz et al. 2015), section 3.5; W gives x the width of h."""
    z, r, xh = W @ x
    b_z, b_r, b_h = b
    z, r = sigmoid(z + b_z), sigmoid(r + U_r @ h + b_r)
    return tanh(U_h @ (r * h) + tanh(xh) + b_h) * z + h * (1 - z)


@cell
def mut2(x, h, *, W=Input(3), U=Recurrent(2), U_h=Recurrent(), b=Bias(3, input=0)):
    """MUT2 (Jozefowicz et al. 2015), section 3.5; W_r gives the x of the reset gate the width of h."""
    (z, r, xh), (hz, hr) = W @ x + b, U @ h
    z, r = sigmoid(z + hz), sigmoid(r + hr)
    return tanh(U_h @ (r * h) + xh) * z + h * (1 - z)


@cell
def mut3(x, h, *, W=Input(3), U_z=Recurrent(), U_r=Recurrent(), U_h=Recurrent(), b=Bias(3, input=0)):
    """MUT3 (Jozefowicz et al. 2015), section 3.5."""
    z, r, xh = W @ x + b
    z, r = sigmoid(z + U_z @ tanh(h)), sigmoid(r + U_r @ h)
    return tanh(U_h @ (r * h) + xh) * z + h * (1 - z)


@cell
def nas(x, h, c, *, W=Input(8), U=Recurrent(8)):
    """Cell found by architecture search (Zoph and Le 2017), appendix A, base 8, as in TensorFlow."""
    (x0, x1, x2, x3, x4, x5, x6, x7), (h0, h1, h2, h3, h4, h5, h6, h7) = W @ x, U @ h
    a = tanh(sigmoid(x0 + h0) * relu(x1 + h1))
    b = tanh(sigmoid(x2 + h2) + relu(x3 * h3))
    d = tanh(tanh(x4 + h4) * sigmoid(x5 + h5))
    e = sigmoid(tanh(x6 + h6) + sigmoid(x7 + h7))
    c = tanh(a + c) * b
    return tanh(c * tanh(d + e)), c


register(rhn, cfn, ran, atr, star, scrn, brc, nbrc, mut1, mut2, mut3, nas)
