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
    batch, time = x.shape[:2]
    steps = torch.arange(time, device=x.device)
    order = torch.where(valid_steps(lengths, time), lengths[:, None] - 1 - steps, steps)
    # whole rows of features are copied, several times faster than gathering element by element
    rows = order + time * torch.arange(batch, device=x.device)[:, None]
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(x.shape)
