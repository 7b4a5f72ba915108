"""Causal self-attention over a window of the last steps, and a block of it with a recurrent layer."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.attention import masked_softmax
from recurra.nn.layer import Layer
from recurra.nn.plain import Parts, PlainLayer, check_heads, linear
from recurra.nn.residual import Residual
from recurra.nn.stack import Stack


@final
class WindowAttention(PlainLayer):
    """Causal self-attention of several heads over the last `window` steps, the present one among them (Vaswani et al.
    2017, eq. 1, with the window of Beltagy et al. 2020).

    The score of a step that lies d steps back is q . k / sqrt(columns) + bias[head, d]: a learned bias for each
    distance (Raffel et al. 2020), so that no position is counted and a stream may be endless. The state is (keys,
    values, seen) of the `window` - 1 steps before, the latest last; `seen` is 1 where there was such a step since the
    row started. Time and memory grow with time x window. Raises ArgumentError when `heads` does not divide
    `hidden_size` or the window is below 1.
    """

    settings = ("input_size", "hidden_size", "heads", "window")

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4, window: int = 64) -> None:
        check_heads("hidden_size", hidden_size, heads)
        checks.check_count("window", window, "A window of 1 sees the present step only")
        columns = hidden_size // heads
        before = (window - 1, heads, columns)
        super().__init__(input_size, hidden_size, {"keys": before, "values": before, "seen": (window - 1,)})
        self.hidden_size = hidden_size
        self.heads = heads
        self.window = window
        self.query = linear(input_size, hidden_size, bias=False)
        self.key = linear(input_size, hidden_size, bias=False)
        self.value = linear(input_size, hidden_size, bias=False)
        self.out = linear(hidden_size, hidden_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(heads, window))

    def _run(self, x: Tensor, parts: Parts, valid: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Parts]:
        batch, time = x.shape[:2]
        before = self.window - 1
        query = self.query(x).unflatten(-1, (self.heads, -1))
        keys = torch.cat((parts[0], self.key(x).unflatten(-1, (self.heads, -1))), dim=1)
        values = torch.cat((parts[1], self.value(x).unflatten(-1, (self.heads, -1))), dim=1)
        seen = torch.cat((parts[2], x.new_ones(batch, time)), dim=1)
        segment = seen.new_zeros(batch, before + time, dtype=torch.long)
        if starts is not None:
            segment[:, before:] = starts.cumsum(1)
        # split, not slices: the gradient of a slice is as long as the whole
        blocks = [tensor.split(self.window, dim=1) for tensor in (keys, values, seen, segment)]
        queries = query.split(self.window, dim=1)
        reads = [
            self._read_block(queries[n], *(torch.cat(block[n : n + 2], dim=1) for block in blocks))
            for n in range(len(queries))
        ]
        ends = torch.full((batch,), time, device=x.device) if valid is None else valid.sum(1)
        return self.out(torch.cat(reads, dim=1)), self._last(keys, values, seen, segment, ends)

    def _read_block(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor, segment: Tensor) -> Tensor:
        """What the steps of a block read (batch, steps, hidden_size). The keys and the like begin with those of the
        `window` - 1 steps before it."""
        steps = query.shape[1]
        part = slice(self.window - 1 + steps)
        keys, values, seen, segment = keys[:, part], values[:, part], seen[:, part] > 0.5, segment[:, part]
        # (steps, steps + window - 1): how far back a key lies of a query
        distance = torch.arange(steps, device=query.device)[:, None] + self.window - 1
        distance = distance - torch.arange(keys.shape[1], device=query.device)
        within = (distance >= 0) & (distance < self.window)
        mask = within & seen[:, None] & (segment[:, -steps:, None] == segment[:, None])
        # a masked NaN times zero is NaN, so NaN is set aside and put where it was not masked
        broken = ~(keys.isfinite() & values.isfinite()).flatten(2).all(-1)
        keys, values = (torch.where(broken[..., None, None], 0.0, tensor) for tensor in (keys, values))
        spoilt = (mask & broken[:, None]).any(-1)
        q, k, v = (tensor.transpose(1, 2) for tensor in (query, keys, values))
        bias = self.bias[:, distance.clamp(0, self.window - 1)]
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias, mask[:, None])
        read = (weights @ v).transpose(1, 2).flatten(2)
        return torch.where(spoilt[..., None], float("nan"), read)

    def _last(self, keys: Tensor, values: Tensor, seen: Tensor, segment: Tensor, ends: Tensor) -> Parts:
        """The state after each row's true end; zero where a row has started since."""
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
        places = ends[:, None] + torch.arange(self.window - 1, device=keys.device)
        now = segment[rows, ends[:, None] + self.window - 2] if self.window > 1 else segment[:, :1]
        kept = segment[rows, places] == now
        wide = kept[..., None, None]
        return (
            torch.where(wide, keys[rows, places], 0.0),
            torch.where(wide, values[rows, places], 0.0),
            torch.where(kept, seen[rows, places], 0.0),
        )

    def _advance(self, x_t: Tensor, parts: Parts) -> tuple[Tensor, Parts]:
        q, k, v = (project(x_t).unflatten(-1, (self.heads, -1)) for project in (self.query, self.key, self.value))
        keys, values = torch.cat((parts[0], k[:, None]), dim=1), torch.cat((parts[1], v[:, None]), dim=1)
        seen = torch.cat((parts[2], torch.ones_like(x_t[:, :1])), dim=1)
        scores = torch.einsum("bhc,bwhc->bhw", q, keys) * q.shape[-1] ** -0.5 + self.bias.flip(1)
        weights = masked_softmax(scores, seen[:, None] > 0.5)
        read = torch.einsum("bhw,bwhc->bhc", weights, values)
        return self.out(read.flatten(1)), (keys[:, 1:], values[:, 1:], seen[:, 1:])


def hybrid_block(layer: Layer, *, heads: int = 4, window: int = 64) -> Stack:
    """A recurrent layer, and causal attention over a window of what it puts out, added to it:
    ``Stack(layer, Residual(WindowAttention(...)))``.

    The layer carries what is old, the window finds what is recent. Raises ArgumentError when the layer pools or
    needs the future.
    """
    checks.check_layer("layer", layer)
    if layer.pools or not layer.causal:
        raise ArgumentError(
            f"layer is {type(layer).__name__}, which {'pools' if layer.pools else 'needs the future'}",
            expected="a causal layer that puts out a vector each step",
            advice="Pool, or join directions, around the block",
        )
    size = layer.output_size
    return Stack(layer, Residual(WindowAttention(size, size, heads=heads, window=window)))
