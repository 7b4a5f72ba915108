"""The gated delta rule: a matrix memory that replaces what it holds under a key."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn.memory.chunks import Borders, Memory, decays
from recurra.nn.plain import Parts, by_heads, check_heads, linear


@final
class GatedDelta(Memory):
    """Gated delta rule (Yang et al. 2024, "Gated Delta Networks", eq. 10), by head:

        S' = alpha S (I - beta k k^T) + beta v k^T                              (value x key)
        y  = W_y (RMS norm of S' q * silu(W_g x))

    q and k are W_q x and W_k x through silu, each of length 1; v is silu(W_v x). beta = sigmoid(w_b . x), from 0 to 1;
    `negative_eigenvalues` doubles it, so that S may turn its sign under a key (Grazzi et al. 2024), which tracking a
    state needs. alpha = exp(-exp(log_rate) softplus(w_a . x + b_a)), with the start of Mamba2. The state is (S).
    Raises ArgumentError when `heads` does not divide `hidden_size`.
    """

    settings = ("input_size", "hidden_size", "heads", "negative_eigenvalues", "chunk_size")
    still = (None, None, None, 0.0, 0.0)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 4,
        negative_eigenvalues: bool = False,
        chunk_size: int = 64,
    ) -> None:
        check_heads("hidden_size", hidden_size, heads)
        columns = hidden_size // heads
        super().__init__(input_size, hidden_size, chunk_size, {"S": (heads, columns, columns)})
        self.hidden_size = hidden_size
        self.heads = heads
        self.negative_eigenvalues = negative_eigenvalues
        self.query = linear(input_size, hidden_size, bias=False)
        self.key = linear(input_size, hidden_size, bias=False)
        self.value = linear(input_size, hidden_size, bias=False)
        self.strength = linear(input_size, heads, bias=False)
        self.decay = linear(input_size, heads)
        self.log_rate = nn.Parameter(torch.empty(heads).uniform_(1, 16).log_())
        self.gate = linear(input_size, hidden_size, bias=False)
        self.norm = nn.RMSNorm(columns, eps=1e-5)
        self.out = linear(hidden_size, hidden_size, bias=False)
        start_softplus(self.decay.bias)

    def _project(self, x: Tensor) -> Parts:
        q, k, v = (by_heads(F.silu(project(x)), self.heads) for project in (self.query, self.key, self.value))
        beta = torch.sigmoid(self.strength(x)).transpose(1, 2) * (2.0 if self.negative_eigenvalues else 1.0)
        # softplus(z) = -log sigmoid(-z), whose gradient keeps the layout that torch.compile expects
        log_alpha = self.log_rate.exp() * F.logsigmoid(-self.decay(x))
        return unit(q), unit(k), v, beta, log_alpha.transpose(1, 2)

    def _read_chunk(self, parts: Parts, values: Parts, borders: Borders) -> tuple[Tensor, Parts]:
        (S,) = parts
        q, k, v, beta, log_alpha = values
        between, since_start = decays(log_alpha, borders.same)
        weights = torch.where(borders.same, torch.exp(between), 0.0)
        old = torch.where(borders.carried, torch.exp(since_start), 0.0)[..., None]
        # S' = alpha S + u k^T with u = beta (v - alpha S k), and S of the same form: a triangular system in u
        known = beta[..., None] * (v - old * (k @ S.mT))
        coupling = beta[..., None] * weights * (k @ k.mT)
        # only what stands below the diagonal is read; the diagonal counts as 1
        u = torch.linalg.solve_triangular(coupling, known, upper=False, unitriangular=True)
        read = old * (q @ S.mT) + (weights * (q @ k.mT)) @ u
        S = old[..., -1, :, None] * S + u.mT @ (weights[..., -1, :, None] * k)
        return read, (S,)

    def _read_step(self, parts: Parts, values: Parts) -> tuple[Tensor, Parts]:
        (S,) = parts
        q, k, v, beta, log_alpha = values
        S = torch.exp(log_alpha)[..., None, None] * S
        u = beta[..., None] * (v - (S @ k[..., None])[..., 0])
        S = S + u[..., :, None] * k[..., None, :]
        return (S @ q[..., None])[..., 0], (S,)

    def _put_out(self, x: Tensor, read: Tensor) -> Tensor:
        return self.out(self.norm(read).flatten(-2) * F.silu(self.gate(x)))


def unit(x: Tensor) -> Tensor:
    """x at length 1 in its last dimension; a vector of zeros stays zero."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def start_softplus(bias: Tensor) -> None:
    """Sets a bias so that softplus(bias) is drawn between 0.001 and 0.1, evenly in its logarithm (Gu and Dao 2023)."""
    with torch.no_grad():
        wanted = torch.empty_like(bias).uniform_(-3, -1).mul_(2.302585092994046).exp_()
        bias.copy_(wanted + torch.log(-torch.expm1(-wanted)))
