"""The selective state space: a diagonal linear recurrence whose step size, input and output depend on the input."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn import checks
from recurra.nn.memory.chunks import Borders, Memory
from recurra.nn.memory.delta import start_softplus
from recurra.nn.memory.scan import linear_scan, recomputed
from recurra.nn.plain import Parts, linear


@final
class SelectiveStateSpace(Memory):
    """S6, the selective state space of Mamba (Gu and Dao 2023, algorithm 2), on u = W_u x. In each channel c:

        delta = softplus(W_2 W_1 u + b)                                         a step size a channel
        h'[c] = exp(delta[c] A[c]) h[c] + delta[c] B u[c]                       (state_size)
        y[c]  = C . h'[c] + D[c] u[c]

    B = W_B u and C = W_C u are shared by the channels; A = -exp(log_a), which starts as -1, -2, ... in each channel;
    D starts as 1, and softplus(b) between 0.001 and 0.1. W_1 has a row for each 16 channels. The state is (h).
    """

    settings = ("input_size", "hidden_size", "state_size", "chunk_size")
    still = (None, 0.0, None, None)

    def __init__(self, input_size: int, hidden_size: int, *, state_size: int = 16, chunk_size: int = 64) -> None:
        checks.check_size("hidden_size", hidden_size)
        checks.check_size("state_size", state_size)
        super().__init__(input_size, hidden_size, chunk_size, {"h": (hidden_size, state_size)})
        self.hidden_size = hidden_size
        self.state_size = state_size
        rank = -(-hidden_size // 16)
        self.input = linear(input_size, hidden_size, bias=False)
        self.select = linear(hidden_size, rank + 2 * state_size, bias=False)
        self.delta = nn.Linear(rank, hidden_size)
        nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
        start_softplus(self.delta.bias)
        self.log_a = nn.Parameter(torch.arange(1.0, state_size + 1).log().repeat(hidden_size, 1))
        self.D = nn.Parameter(torch.ones(hidden_size))

    def _project(self, x: Tensor) -> Parts:
        u = self.input(x)
        low, B, C = self.select(u).split((self.delta.in_features, self.state_size, self.state_size), dim=-1)
        return u[:, None], F.softplus(self.delta(low))[:, None], B[:, None], C[:, None]

    def _read_chunk(self, parts: Parts, values: Parts, borders: Borders) -> tuple[Tensor, Parts]:
        u, delta, B, C = (value[:, 0] for value in values)
        starts = None if borders.starts is None else borders.starts[:, 0]
        given = (parts[0], -self.log_a.exp(), delta, u, B, C, starts)
        # the states of all steps take state_size times the room of the input, and little time to compute again
        read, h = recomputed(_scan_chunk, *given)
        return (read + self.D * u)[:, None], (h,)

    def _read_step(self, parts: Parts, values: Parts) -> tuple[Tensor, Parts]:
        u, delta, B, C = (value[:, 0] for value in values)
        h = torch.exp(delta[..., None] * -self.log_a.exp()) * parts[0] + (delta * u)[..., None] * B[..., None, :]
        return ((h @ C[..., None])[..., 0] + self.D * u)[:, None], (h,)

    def _put_out(self, x: Tensor, read: Tensor) -> Tensor:
        return read.flatten(-2)


def _scan_chunk(
    h: Tensor, A: Tensor, delta: Tensor, u: Tensor, B: Tensor, C: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """C . h at each step (batch, steps, channels), and the last h. All that it reads comes in, as it may run twice."""
    decay = torch.exp(delta[..., None] * A)
    if starts is not None:
        decay = torch.where(starts[..., None, None], 0.0, decay)
    h = linear_scan(decay, (delta * u)[..., None] * B[..., None, :], h)
    # a view of the last would keep all of them
    return (h @ C[..., None])[..., 0], h[:, -1].clone()
