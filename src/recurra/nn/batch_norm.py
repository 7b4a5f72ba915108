"""Batch normalisation between layers, over the steps that are no padding."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.layer import Layer, State


@final
class MaskedBatchNorm(Layer):
    """Batch normalisation between layers (Ioffe and Szegedy 2015).

    ``Stack(GRU(8, 32), MaskedBatchNorm(32), GRU(32, 32))``. While training, each feature is normalised by its mean and
    variance over all valid steps of all rows, and running averages of them are updated by `momentum`; evaluation uses
    those, so that steps, chunks and rows agree there. Padding counts nowhere. It has no state. In training a batch is
    by nature more than its rows and steps: laws that take it apart, 3, 4 and 13 among them, hold in evaluation only.
    Raises ArgumentError for a momentum outside (0, 1].
    """

    lawless_in_training = "its statistics are those of the whole batch"

    def __init__(self, size: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        checks.check_size("size", size)
        for name, value in (("momentum", momentum), ("epsilon", epsilon)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ArgumentError(f"{name} is {value!r}", expected="above 0, at most 1", advice="Leave it out")
        self.input_size = self.output_size = size
        self.momentum = float(momentum)
        self.epsilon = float(epsilon)
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_variance", torch.ones(size))
        self.running_mean: Tensor
        self.running_variance: Tensor

    def extra_repr(self) -> str:
        return f"{self.input_size}, momentum={self.momentum}, epsilon={self.epsilon}"

    def initial_state(self, batch: int) -> State:
        checks.check_batch(batch)
        return ()

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        checks.check_sequence(x, self.input_size, self.weight)
        checks.check_elapsed_wanted(elapsed, False)
        batch, time = x.shape[:2]
        if state is not None:
            checks.check_structure(state, None, 0)
        if reset is not None:
            checks.check_reset(reset, batch, time, x.device)
        if lengths is None:
            return self._normalised(x, torch.ones(batch, time, 1, dtype=torch.bool, device=x.device)), ()
        checks.check_lengths(lengths, batch, time, x.device)
        valid = (torch.arange(time, device=x.device) < lengths[:, None])[..., None]
        # padding may hold NaN, whose gradient would be NaN even times zero
        y = self._normalised(torch.where(valid, x, torch.zeros_like(x)), valid)
        return torch.where(valid, y, torch.zeros_like(y)), ()

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        checks.check_frame(x_t, self.input_size, self.weight)
        checks.check_structure(state, None, 0)
        y, _ = self.forward(x_t[:, None], elapsed=elapsed)
        return y[:, 0], ()

    def _normalised(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (batch, time, size) is zero where it is not valid (batch, time, 1)."""
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            count = valid.sum()
            steps = count.clamp(min=1).to(x.dtype)
            batch_mean = x.sum((0, 1)) / steps
            deviation = torch.where(valid, x - batch_mean, torch.zeros_like(x))
            batch_variance = (deviation * deviation).sum((0, 1)) / steps
            self._remember(batch_mean.detach(), batch_variance.detach() * (steps / (steps - 1).clamp(min=1)), count)
            # a batch without a valid step has no statistics
            mean = torch.where(count > 0, batch_mean, mean)
            variance = torch.where(count > 0, batch_variance, variance)
        return (x - mean) * (torch.rsqrt(variance + self.epsilon) * self.weight) + self.bias

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        share = torch.where(count > 0, mean.new_full((), self.momentum), mean.new_zeros(()))
        self.running_mean.lerp_(mean, share)
        self.running_variance.lerp_(variance, share)
