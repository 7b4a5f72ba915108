"""Gated linear attention: a matrix memory that forgets each key dimension at a rate of its own."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn.memory.chunks import Borders, Memory
from recurra.nn.plain import Parts, by_heads, check_heads, linear

TEMPERATURE = 16.0
_RANK = 16


@final
class GatedLinearAttention(Memory):
    """Gated linear attention (Yang et al. 2023, eq. 3 and section 4.4), by head:

        S' = diag(alpha) S + k v^T                                              (key x value)
        y  = W_y (RMS norm of S'^T q * silu(W_r x + b_r))

    q = W_q x / sqrt(columns), k = W_k x, v = W_v x, and alpha = sigmoid(W_2 W_1 x + b) ** (1/16) for each dimension of
    the keys, W_1 of 16 rows. The state is (S). Raises ArgumentError when `heads` does not divide `hidden_size`.
    """

    settings = ("input_size", "hidden_size", "heads", "chunk_size")
    still = (None, 0.0, None, 0.0)

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4, chunk_size: int = 64) -> None:
        check_heads("hidden_size", hidden_size, heads)
        columns = hidden_size // heads
        super().__init__(input_size, hidden_size, chunk_size, {"S": (heads, columns, columns)})
        self.hidden_size = hidden_size
        self.heads = heads
        self.query = linear(input_size, hidden_size, bias=False)
        self.key = linear(input_size, hidden_size, bias=False)
        self.value = linear(input_size, hidden_size, bias=False)
        self.forget_down = linear(input_size, _RANK, bias=False)
        self.forget_up = linear(_RANK, hidden_size)
        self.gate = linear(input_size, hidden_size)
        self.norm = nn.RMSNorm(columns, eps=1e-5)
        self.out = linear(hidden_size, hidden_size, bias=False)

    def _project(self, x: Tensor) -> Parts:
        q = self.query(x) * (self.hidden_size // self.heads) ** -0.5
        log_alpha = F.logsigmoid(self.forget_up(self.forget_down(x))) / TEMPERATURE
        q, k, v, log_alpha = (by_heads(value, self.heads) for value in (q, self.key(x), self.value(x), log_alpha))
        return q, k, v, log_alpha

    def _read_chunk(self, parts: Parts, values: Parts, borders: Borders) -> tuple[Tensor, Parts]:
        (S,) = parts
        q, k, v, log_alpha = values
        read, before, after = _read_within(q, k, v, log_alpha, borders.segment)
        old = torch.where(borders.carried[..., None], torch.exp(before), 0.0)
        written = torch.where(borders.same[..., -1, :, None], torch.exp(after) * k, 0.0)
        return read + (q * old) @ S, (old[..., -1, :, None] * S + written.mT @ v,)

    def _read_step(self, parts: Parts, values: Parts) -> tuple[Tensor, Parts]:
        (S,) = parts
        q, k, v, log_alpha = values
        S = torch.exp(log_alpha)[..., None] * S + k[..., :, None] * v[..., None, :]
        return (q[..., None, :] @ S)[..., 0, :], (S,)

    def _put_out(self, x: Tensor, read: Tensor) -> Tensor:
        return self.out(self.norm(read).flatten(-2) * F.silu(self.gate(x)))


def _read_within(
    q: Tensor, k: Tensor, v: Tensor, log_alpha: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the steps of a chunk read of one another, and the sums of log_alpha up to each step and after it.

    The decay from step j to step i differs by dimension, so it does not come out of the product of q and k. As
    exp(before_i) / exp(before_j) it would overflow. Here blocks of 1, 2, 4, ... steps are joined in pairs: the decay
    from the one to the other is that from j to the border times that from the border to i, neither above 1.
    """
    steps = k.shape[2]
    size = 1
    short = (1 << (steps - 1).bit_length()) - steps
    q, k, v, log_alpha = (F.pad(value, (0, 0, 0, short)) for value in (q, k, v, log_alpha))
    segment = None if segment is None else F.pad(segment, (0, short))
    read = (q * k).sum(-1, keepdim=True) * v
    before, after = log_alpha, torch.zeros_like(log_alpha)
    while size < k.shape[2]:
        pairs = (-1, 2, size)
        queries = q.unflatten(2, pairs)[:, :, :, 1]
        keys, values = k.unflatten(2, pairs)[:, :, :, 0], v.unflatten(2, pairs)[:, :, :, 0]
        (first, second), (rest, later) = before.unflatten(2, pairs).unbind(3), after.unflatten(2, pairs).unbind(3)
        scores = (queries * torch.exp(second)) @ (keys * torch.exp(rest)).mT
        if segment is not None:
            early, late = segment.unflatten(2, pairs).unbind(3)
            scores = torch.where(late[..., :, None] == early[..., None, :], scores, 0.0)
        crossed = scores @ values
        read = read + torch.stack((torch.zeros_like(crossed), crossed), 3).flatten(2, 4)
        before, after = (
            torch.stack((first, first[..., -1:, :] + second), 3).flatten(2, 4),
            torch.stack((rest + second[..., -1:, :], later), 3).flatten(2, 4),
        )
        size *= 2
    return read[:, :, :steps], before[:, :, :steps], after[:, :, :steps]
