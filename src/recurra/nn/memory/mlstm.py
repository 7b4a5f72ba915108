"""The mLSTM: a matrix memory with exponential gates."""

from __future__ import annotations

from math import log
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn.memory.chunks import Borders, Memory, decays
from recurra.nn.plain import Parts, by_heads, check_choice, check_heads, linear
from recurra.nn.small import linear_scaled


@final
class MatrixLSTM(Memory):
    """mLSTM (Beck et al. 2024, eq. 19 to 27), stabilised (appendix A). In each head:

        q = W_q x + b_q,  k = W_k x / sqrt(columns) + b_k,  v = W_v x + b_v,  o = sigmoid(W_o x + b_o)
        m' = max(log f + m, log i)                                              the stabiliser
        C' = exp(log f + m - m') C + exp(log i - m') v k^T                      (value x key)
        n' = exp(log f + m - m') n + exp(log i - m') k
        y  = o * C' q / max(|n' . q|, exp(-m'))

    log i = w_i . x + b_i; f is the sigmoid (or the exponential) of w_f . x + b_f. The state is (C, n, m). The
    weights of i and f start at zero, b_f so that f lies between sigmoid(3) and sigmoid(6), evenly over the heads.
    Raises ArgumentError when `heads` does not divide `hidden_size`.
    """

    settings = ("input_size", "hidden_size", "heads", "forget", "chunk_size")
    still = (None, None, None, -torch.inf, 0.0)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 4,
        forget: Literal["sigmoid", "exponential"] = "sigmoid",
        chunk_size: int = 64,
    ) -> None:
        check_heads("hidden_size", hidden_size, heads)
        check_choice("forget", forget, ("sigmoid", "exponential"))
        columns = hidden_size // heads
        shapes = {"C": (heads, columns, columns), "n": (heads, columns), "m": (heads,)}
        super().__init__(input_size, hidden_size, chunk_size, shapes)
        self.hidden_size = hidden_size
        self.heads = heads
        self.forget = forget
        self.query = linear(input_size, hidden_size)
        self.key = linear(input_size, hidden_size)
        self.value = linear(input_size, hidden_size)
        self.output_gate = linear(input_size, hidden_size)
        self.input_gate = linear(input_size, heads)
        self.forget_gate = linear(input_size, heads)
        nn.init.zeros_(self.input_gate.weight)
        nn.init.zeros_(self.forget_gate.weight)
        with torch.no_grad():
            start = torch.linspace(3, 6, heads)
            self.forget_gate.bias.copy_(start if forget == "sigmoid" else F.logsigmoid(start))

    def _project(self, x: Tensor) -> Parts:
        heads = self.heads
        key = linear_scaled(self.key, x, (self.hidden_size // heads) ** -0.5)
        log_input, forget = self.input_gate(x).transpose(1, 2), self.forget_gate(x).transpose(1, 2)
        log_forget = F.logsigmoid(forget) if self.forget == "sigmoid" else forget
        return (
            by_heads(self.query(x), heads),
            by_heads(key, heads),
            by_heads(self.value(x), heads),
            log_input,
            log_forget,
        )

    def _read_chunk(self, parts: Parts, values: Parts, borders: Borders) -> tuple[Tensor, Parts]:
        C, n, m = parts
        q, k, v, log_input, log_forget = values
        between, since_start = decays(log_forget, borders.same)
        weights = torch.where(borders.same, between + log_input[..., None, :], -torch.inf)
        # a row that starts afresh has m = 0, which decays like any other
        old = since_start + torch.where(borders.carried, m[..., None], 0.0)
        m = torch.maximum(old, weights.amax(-1))
        weights = torch.exp(weights - m[..., None])
        old = torch.where(borders.carried, torch.exp(old - m), 0.0)

        scores = weights * (q @ k.mT)
        numerator = scores @ v + old[..., None] * (q @ C.mT)
        normaliser = scores.sum(-1) + old * (q @ n[..., None])[..., 0]
        written = weights[..., -1, :, None] * k
        C = old[..., -1, None, None] * C + v.mT @ written
        n = old[..., -1, None] * n + written.sum(-2)
        return _normalised(numerator, normaliser, m), (C, n, m[..., -1])

    def _read_step(self, parts: Parts, values: Parts) -> tuple[Tensor, Parts]:
        C, n, m = parts
        q, k, v, log_input, log_forget = values
        after = torch.maximum(log_forget + m, log_input)
        f, i = torch.exp(log_forget + m - after)[..., None], torch.exp(log_input - after)[..., None]
        C = f[..., None] * C + (i * v)[..., :, None] * k[..., None, :]
        n = f * n + i * k
        return _normalised((C @ q[..., None])[..., 0], (n * q).sum(-1), after), (C, n, after)

    def _put_out(self, x: Tensor, read: Tensor) -> Tensor:
        return torch.sigmoid(self.output_gate(x)) * read.flatten(-2)


def _normalised(numerator: Tensor, normaliser: Tensor, m: Tensor) -> Tensor:
    # exp(-m) may overflow where a memory is all but empty, and infinity has no gradient
    least = torch.exp(torch.clamp(-m, max=0.9 * log(torch.finfo(m.dtype).max)))
    return numerator / torch.maximum(normaliser.abs(), least)[..., None]
