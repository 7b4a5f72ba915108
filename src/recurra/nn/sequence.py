"""Sequences within a padded batch: which steps are valid, and the same sequences backwards."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_steps(lengths: Tensor, time: int) -> Tensor:
    """(batch, time), true where a step is no padding."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def reverse(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """x (batch, time, ...) with the valid part of each row reversed in time; padding stays where it is."""
    if lengths is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    order = torch.where(valid_steps(lengths, x.shape[1]), lengths[:, None] - 1 - steps, steps)
    return x.gather(1, order.view(*order.shape, *(1 for _ in x.shape[2:])).expand(x.shape))
