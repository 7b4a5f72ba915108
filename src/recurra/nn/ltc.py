"""Liquid time-constant networks: a sum over pairs of units, which the language of cells cannot say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.sequence import valid_steps
from recurra.nn.state import state_type


class LTC(Layer):
    """Liquid time-constant network (Hasani et al. 2021), eq. 1 by the fused solver of eq. 3, every pair connected.

    A unit i follows c_i dv_i/dt = g_i (v_leak_i - v_i) + sum_j w_ij sigmoid(gamma_ij (u_j - mu_ij)) (E_ij - v_i), where
    the sum goes over the inputs and over the units. A step of the time `elapsed` is `unfolds` steps of the solver. It
    runs in plain torch: of each row and step it computes (input_size + hidden_size) x hidden_size synapses.

    The state is (v,). What must be positive (w, g, c) is the softplus of its parameter. Raises ArgumentError for
    `unfolds` below 1.
    """

    uses_elapsed = True
    settings = ("input_size", "hidden_size", "unfolds")
    input_w: Tensor
    input_gamma: Tensor
    input_mu: Tensor
    input_E: Tensor  # noqa: N815 - the letter of the paper
    w: Tensor
    gamma: Tensor
    mu: Tensor
    E: Tensor
    g: Tensor
    v_leak: Tensor
    c: Tensor

    def __init__(self, input_size: int, hidden_size: int, *, unfolds: int = 6) -> None:
        super().__init__()
        checks.check_size("input_size", input_size)
        checks.check_size("hidden_size", hidden_size)
        checks.check_size("unfolds", unfolds)
        self.input_size = input_size
        self.hidden_size = self.output_size = hidden_size
        self.unfolds = unfolds
        self._state_type = state_type(("v",))
        for name, sources in (("input_", input_size), ("", hidden_size)):
            for synapse in ("w", "gamma", "mu", "E"):
                self.register_parameter(name + synapse, nn.Parameter(torch.empty(sources, hidden_size)))
        for name in ("g", "v_leak", "c"):
            self.register_parameter(name, nn.Parameter(torch.empty(hidden_size)))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters afresh, within the bounds that Lechner et al. (2020) use."""
        bounds = {"w": (0.001, 1.0), "gamma": (3.0, 8.0), "mu": (0.3, 0.8), "g": (0.001, 1.0), "v_leak": (-0.2, 0.2)}
        bounds["c"] = (0.4, 0.6)
        for name, parameter in self.named_parameters():
            kind = name.removeprefix("input_")
            if kind == "E":
                parameter.copy_(2.0 * torch.randint(0, 2, parameter.shape) - 1.0)
                continue
            parameter.uniform_(*bounds[kind])
            if kind in ("w", "g", "c"):
                parameter.copy_(parameter.expm1().log())

    def extra_repr(self) -> str:
        return f"input_size={self.input_size}, hidden_size={self.hidden_size}, unfolds={self.unfolds}"

    def initial_state(self, batch: int) -> State:
        checks.check_batch(batch)
        return self._state_type(self.g.new_zeros(batch, self.hidden_size))

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        checks.check_sequence(x, self.input_size, self.g)
        batch, time = x.shape[:2]
        if state is None:
            state = self.initial_state(batch)
        checks.check_state(state, self._state_type, (self.hidden_size,), batch, self.g)
        if lengths is not None:
            checks.check_lengths(lengths, batch, time, x.device)
        if reset is not None:
            checks.check_reset(reset, batch, time, x.device)
        checks.check_elapsed_wanted(elapsed, True)
        checks.check_elapsed(elapsed, (batch, time), lengths, self.g)
        assert elapsed is not None
        valid = None if lengths is None else valid_steps(lengths, time)
        if valid is not None:
            # padding may hold NaN, and the gradient of NaN times zero is NaN
            x, elapsed = x.masked_fill(~valid[..., None], 0), elapsed.masked_fill(~valid, 0)
            reset = None if reset is None else reset & valid
        v = state[0]
        outputs = []
        for t in range(time):
            if reset is not None:
                v = v.masked_fill(reset[:, t, None], 0)
            after = self._advance(x[:, t], v, elapsed[:, t])
            v = after if valid is None else torch.where(valid[:, t, None], after, v)
            outputs.append(v if valid is None else v.masked_fill(~valid[:, t, None], 0))
        y = torch.stack(outputs, dim=1) if outputs else x.new_zeros(batch, 0, self.output_size)
        return y, self._state_type(v.clone())

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        checks.check_frame(x_t, self.input_size, self.g)
        checks.check_state(state, self._state_type, (self.hidden_size,), x_t.shape[0], self.g)
        checks.check_elapsed_wanted(elapsed, True)
        checks.check_elapsed(elapsed, (x_t.shape[0],), None, self.g)
        assert elapsed is not None
        v = self._advance(x_t, state[0], elapsed)
        return v, self._state_type(v.clone())

    def _advance(self, x_t: Tensor, v: Tensor, elapsed: Tensor) -> Tensor:
        """The units after `elapsed`: each unfolded step solves its linear equation in v implicitly (eq. 3)."""
        g, rate = F.softplus(self.g), elapsed[:, None] / self.unfolds / F.softplus(self.c)
        input_w, w = F.softplus(self.input_w), F.softplus(self.w)
        from_x = input_w * torch.sigmoid(self.input_gamma * (x_t[:, :, None] - self.input_mu))
        open_, driven = g + from_x.sum(1), g * self.v_leak + (from_x * self.input_E).sum(1)
        for _ in range(self.unfolds):
            from_v = w * torch.sigmoid(self.gamma * (v[:, :, None] - self.mu))
            v = (v + rate * (driven + (from_v * self.E).sum(1))) / (1 + rate * (open_ + from_v.sum(1)))
        return v
