"""Matrix memories and liquid time-constant networks in numpy, by the equations of a step that `recurra.nn` gives."""

from __future__ import annotations

from math import log

import numpy as np

from recurra.runtime.plain import Parts, Plain, by_heads, sigmoid, silu, softplus
from recurra.runtime.weights import Linear, Weights

_TEMPERATURE = 16.0
_RANK = 16
_NORM_EPSILON = 1e-5


def _broken(x: np.ndarray) -> np.ndarray:
    # infinity counts as NaN, as it does in training
    return np.where(np.isfinite(x), x, x.dtype.type(np.nan))


class MatrixLSTM(Plain):
    """As `recurra.nn.MatrixLSTM`."""

    def __init__(self, weights: Weights, *, input_size: int, hidden_size: int, heads: int, forget: str) -> None:
        columns = hidden_size // heads
        shapes = {"C": (heads, columns, columns), "n": (heads, columns), "m": (heads,)}
        super().__init__((input_size, hidden_size), weights.dtype, shapes)
        self._heads, self._forget = heads, forget
        names = ("query", "key", "value", "output_gate")
        self._query, self._key, self._value, self._gate = (
            Linear(weights.of(name), input_size, hidden_size) for name in names
        )
        self._input_gate = Linear(weights.of("input_gate"), input_size, heads)
        self._forget_gate = Linear(weights.of("forget_gate"), input_size, heads)
        self._key.scale(columns**-0.5)

    def project(self, x: np.ndarray) -> Parts:
        x = _broken(x)
        q, k, v = (by_heads(linear(x), self._heads) for linear in (self._query, self._key, self._value))
        forget = self._forget_gate(x)
        return q, k, v, self._input_gate(x), -softplus(-forget) if self._forget == "sigmoid" else forget

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        C, n, m = parts
        q, k, v, log_input, log_forget = values
        after = np.maximum(log_forget + m, log_input)
        f, i = np.exp(log_forget + m - after)[..., None], np.exp(log_input - after)[..., None]
        C = f[..., None] * C + (i * v)[..., :, None] * k[..., None, :]
        n = f * n + i * k
        least = np.exp(np.minimum(-after, after.dtype.type(0.9 * log(np.finfo(after.dtype).max))))
        normaliser = np.maximum(np.abs((n * q).sum(-1)), least)
        return (C @ q[..., None])[..., 0] / normaliser[..., None], (C, n, after)

    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        return sigmoid(self._gate(_broken(x))) * read.reshape(*read.shape[:2], self.output_size)


class _Normed(Plain):
    """What the two gated memories share: y = W_y (RMS norm of what was read * silu of a gate)."""

    def __init__(self, weights: Weights, input_size: int, hidden_size: int, heads: int, gate_bias: bool) -> None:
        columns = hidden_size // heads
        super().__init__((input_size, hidden_size), weights.dtype, {"S": (heads, columns, columns)})
        self._heads = heads
        self._query, self._key, self._value = (
            Linear(weights.of(name), input_size, hidden_size, bias=False) for name in ("query", "key", "value")
        )
        self._gate = Linear(weights.of("gate"), input_size, hidden_size, bias=gate_bias)
        self._norm = weights.of("norm").take("weight", (columns,))
        self._out = Linear(weights.of("out"), hidden_size, hidden_size, bias=False)

    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        squares = (read * read).mean(-1, keepdims=True) + read.dtype.type(_NORM_EPSILON)
        normed = (read / np.sqrt(squares) * self._norm).reshape(*read.shape[:2], self.output_size)
        return self._out(normed * silu(self._gate(_broken(x))))


class GatedDelta(_Normed):
    """As `recurra.nn.GatedDelta`."""

    def __init__(
        self, weights: Weights, *, input_size: int, hidden_size: int, heads: int, negative_eigenvalues: bool
    ) -> None:
        super().__init__(weights, input_size, hidden_size, heads, gate_bias=False)
        self._strength = Linear(weights.of("strength"), input_size, heads, bias=False)
        self._decay = Linear(weights.of("decay"), input_size, heads)
        self._rate = np.exp(weights.take("log_rate", (heads,)))
        self._most = self.dtype.type(2.0 if negative_eigenvalues else 1.0)

    def project(self, x: np.ndarray) -> Parts:
        x = _broken(x)
        q, k, v = (by_heads(silu(linear(x)), self._heads) for linear in (self._query, self._key, self._value))
        alpha = np.exp(-self._rate * softplus(self._decay(x)))
        return _unit(q), _unit(k), v, sigmoid(self._strength(x)) * self._most, alpha

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        q, k, v, beta, alpha = values
        S = alpha[..., None, None] * parts[0]
        u = beta[..., None] * (v - (S @ k[..., None])[..., 0])
        S = S + u[..., :, None] * k[..., None, :]
        return (S @ q[..., None])[..., 0], (S,)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + x.dtype.type(1e-6))


class GatedLinearAttention(_Normed):
    """As `recurra.nn.GatedLinearAttention`."""

    def __init__(self, weights: Weights, *, input_size: int, hidden_size: int, heads: int) -> None:
        super().__init__(weights, input_size, hidden_size, heads, gate_bias=True)
        self._down = Linear(weights.of("forget_down"), input_size, _RANK, bias=False)
        self._up = Linear(weights.of("forget_up"), _RANK, hidden_size)
        self._scale = self.dtype.type((hidden_size // heads) ** -0.5)

    def project(self, x: np.ndarray) -> Parts:
        x = _broken(x)
        alpha = np.exp(-softplus(-self._up(self._down(x))) / self.dtype.type(_TEMPERATURE))
        values = (self._query(x) * self._scale, self._key(x), self._value(x), alpha)
        return tuple(by_heads(value, self._heads) for value in values)

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        q, k, v, alpha = values
        S = alpha[..., None] * parts[0] + k[..., :, None] * v[..., None, :]
        return (q[..., None, :] @ S)[..., 0, :], (S,)


class SelectiveStateSpace(Plain):
    """As `recurra.nn.SelectiveStateSpace`."""

    def __init__(self, weights: Weights, *, input_size: int, hidden_size: int, state_size: int) -> None:
        super().__init__((input_size, hidden_size), weights.dtype, {"h": (hidden_size, state_size)})
        self._rank, self._state_size = -(-hidden_size // 16), state_size
        self._input = Linear(weights.of("input"), input_size, hidden_size, bias=False)
        self._select = Linear(weights.of("select"), hidden_size, self._rank + 2 * state_size, bias=False)
        self._delta = Linear(weights.of("delta"), self._rank, hidden_size)
        self._A = -np.exp(weights.take("log_a", (hidden_size, state_size)))
        self._D = weights.take("D", (hidden_size,))

    def project(self, x: np.ndarray) -> Parts:
        u = self._input(_broken(x))
        low, B, C = np.split(self._select(u), (self._rank, self._rank + self._state_size), axis=-1)
        return u, softplus(self._delta(low)), B, C

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        u, delta, B, C = values
        h = np.exp(delta[..., None] * self._A) * parts[0] + (delta * u)[..., None] * B[..., None, :]
        return (h @ C[..., None])[..., 0] + self._D * u, (h,)

    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        return read


class LTC(Plain):
    """As `recurra.nn.LTC`."""

    uses_elapsed = True

    def __init__(self, weights: Weights, *, input_size: int, hidden_size: int, unfolds: int) -> None:
        super().__init__((input_size, hidden_size), weights.dtype, {"v": (hidden_size,)})
        self._unfolds = unfolds

        def synapses(prefix: str, sources: int) -> list[np.ndarray]:
            return [weights.take(prefix + name, (sources, hidden_size)) for name in ("w", "gamma", "mu", "E")]

        self._from_input, self._from_units = synapses("input_", input_size), synapses("", hidden_size)
        self._from_input[0], self._from_units[0] = softplus(self._from_input[0]), softplus(self._from_units[0])
        g, self._leak, c = (weights.take(name, (hidden_size,)) for name in ("g", "v_leak", "c"))
        self._g, self._c = softplus(g), softplus(c)

    def project(self, x: np.ndarray) -> Parts:
        return (x,)

    def read_step(self, parts: Parts, values: Parts, elapsed: np.ndarray | None) -> tuple[np.ndarray, Parts]:
        assert elapsed is not None
        (v,), (x,) = parts, values
        rate = elapsed[:, None] / self.dtype.type(self._unfolds) / self._c
        w, gamma, mu, E = self._from_input
        from_x = w * sigmoid(gamma * (x[:, :, None] - mu))
        opened, driven = self._g + from_x.sum(1), self._g * self._leak + (from_x * E).sum(1)
        w, gamma, mu, E = self._from_units
        for _ in range(self._unfolds):
            from_v = w * sigmoid(gamma * (v[:, :, None] - mu))
            v = (v + rate * (driven + (from_v * E).sum(1))) / (1 + rate * (opened + from_v.sum(1)))
        return v, (v,)

    def put_out(self, x: np.ndarray, read: np.ndarray) -> np.ndarray:
        return read
