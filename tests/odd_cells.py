"""Cells that no paper has: between them they use every feature of the language, so that the op is held to all of it."""

from recurra.cells import (
    Bias,
    Diagonal,
    Elapsed,
    Fixed,
    Input,
    Matrix,
    Recurrent,
    State,
    cell,
    clip,
    cos,
    dot_columns,
    exp,
    floor,
    log1p,
    max_columns,
    maximum,
    min_columns,
    minimum,
    output,
    relu,
    rsqrt,
    sigmoid,
    sin,
    softplus,
    spike,
    sqrt,
    stop_gradient,
    sum_columns,
    tanh,
    where,
)
from recurra.program import Program, Width

SCALAR = Width(1)


@cell
def projected(
    x,
    r=State("projection"),
    c=State(),
    *,
    W=Input(4),
    U=Recurrent(4, columns="projection"),
    b=Bias(4),
    P=Matrix(rows="projection", columns="hidden"),
):
    """States of different widths, and a product inside the step."""
    i, f, g, o = W @ x + b + U @ r
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return P @ (sigmoid(o) * tanh(c)), c


@cell
def antisymmetric(x, h, *, W=Input(), U=Recurrent(), b=Bias(), nu=Bias(initial=-1.0)):
    """Values of parameters alone: a matrix and a vector."""
    keep = exp(-exp(nu))
    return keep * h + (1 - keep) * tanh(W @ x + (U - U.T) @ h + b)


@cell
def ticking(x, h=State(initial=0.5), *, W=Input(), U=Recurrent(), b=Bias(), tau=Bias(), dt=Elapsed()):
    """Time between the steps, and a state that does not start from zero."""
    keep = exp(-dt * softplus(tau))
    return keep * h + (1 - keep) * tanh(W @ x + U @ h + b) + sin(dt) / (1 + dt)


@cell
def kinked(x, h, *, W=Input(2), U=Recurrent(), b=Bias(2), low=-0.7):
    """Operations with kinks and jumps."""
    a, g = W @ x + b
    v = a + U @ h
    v = where(v > 0.3, minimum(v, g), maximum(v % 0.9, -g))
    return clip(v, low, 0.8) + 0.1 * abs(h) - 0.05 * floor(3 * g) + 0.1 * relu(stop_gradient(h) * g)


@cell
def normalised(x, h, *, W=Input(2), U=Recurrent(2), scale=Diagonal(2, initial=1.0), b=Bias(2)):
    """Reductions over all gates inside the step."""
    v = W @ x + U @ h
    count = sum_columns(0 * v + 1)
    mean = sum_columns(v) / count
    v = (v - mean) * rsqrt(sum_columns((v - mean) ** 2) / count + 1e-3)
    z, n = v * scale + b
    z = sigmoid(z + 0.1 * max_columns(v) + 0.1 * min_columns(v))
    return (1 - z) * tanh(n) + z * h


@cell
def delayed(x, earlier=State("input"), h=State(), *, W=Input(), V=Matrix(rows="hidden", columns="input"), b=Bias()):
    """The input used as it is: a state that holds it, an output made of it."""
    h = tanh(W @ x + V @ earlier + b) + 0.5 * h
    return x, h, output(x * earlier + 0.1 * sum_columns(h) + 0.2 * dot_columns(x, earlier))


@cell
def counting(x, n=State(SCALAR, initial=1.0), h=State(), unread=State(), *, W=Input(), b=Bias(), out=Bias()):
    """A scalar state, and a state that the output does not read."""
    v = log1p(sqrt((W @ x + b) ** 2 + 0.1))
    h = h + (v - h) / n
    return n + 1, h, 0.9 * unread + h, output(out + cos(h) * 0.3)


@cell
def projecting_out(x, h, *, W=Input(), U=Recurrent(), b=Bias(), C=Matrix(3, rows="out", columns="hidden")):
    """An output of a width of its own, and a gate that nothing reads."""
    h = tanh(W @ x + U @ h + b)
    left, right, _ = C @ h
    return h, output(left * sigmoid(right))


@cell
def spiking(x, v, s, *, W=Input(), U=Recurrent(), b=Bias(initial=0.3)):
    """A jump with the derivative of something smoother."""
    v = 0.8 * v * (1 - s) + W @ x + U @ s + b
    return v, spike(v - 0.5, slope=5.0)


@cell
def headed(
    x,
    h=State("pair"),
    c=State("pair"),
    *,
    heads=2,
    W=Input(4, rows="pair"),
    U=Recurrent(4, rows="pair", columns="pair", heads="heads"),
    b=Bias(4, width="pair"),
    V=Recurrent(rows="pair", columns="pair", heads="heads"),
):
    """Block-diagonal products by head: of gates, of one gate, and of a value that is not a state."""
    i, f, g, o = W @ x + b + U @ h
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return tanh(V @ (sigmoid(o) * c)), c


@cell
def reservoir(x, h, *, W=Fixed(Input()), U=Fixed(Recurrent(), density=0.1), b=Bias()):
    """Fixed parameters, one of them sparse."""
    return 0.7 * h + 0.3 * tanh(W @ x + U @ h + b)


@cell
def turned(x, h=State("input"), *, V=Matrix(rows="input", columns="input")):
    """A product that becomes one with the transpose, below: the format has it, the language has not."""
    return tanh(V @ h + x)


ODD: dict[str, Program] = {
    c.name: c.program
    for c in (
        projected,
        antisymmetric,
        ticking,
        kinked,
        normalised,
        delayed,
        counting,
        projecting_out,
        spiking,
        headed,
        reservoir,
    )
} | {"turned": Program.from_json(turned.program.json.replace('"matmul"', '"matmul_transposed"'))}
