"""Layers to try things on: every built-in cell, cells that use what the built-in ones do not, every transform,
every wrapper."""

from collections.abc import Callable
from typing import TypeVar

import torch

from recurra import cells, nn
from recurra.cells import (
    Bias,
    Elapsed,
    Input,
    Matrix,
    Recurrent,
    State,
    cell,
    exp,
    layer_norm,
    learned_initial_state,
    output,
    random_initial_state,
    recurrent_dropout,
    rms_norm,
    spike,
    tanh,
    zoneout,
)

Layer = TypeVar("Layer", bound=nn.Layer)


@cell
def leaky(x, h=State(initial=0.5), *, dt=Elapsed(), W=Input(), U=Recurrent()):
    """A cell in continuous time, whose state does not start from zero."""
    keep = exp(-dt)
    return keep * h + (1 - keep) * tanh(W @ x + U @ h)


@cell
def observed(x, h, *, W=Input(), U=Recurrent(), V=Matrix(rows="seen", columns="hidden"), b=Bias(width="seen")):
    """A cell that puts out another value than its state."""
    h = tanh(W @ x + U @ h)
    return h, output(V @ h + b)


@cell
def spiking(x, s, u, *, W=Input(), U=Recurrent()):
    """Spiking units with a surrogate gradient: what they put out is 0 or 1."""
    u = 0.8 * u * (1 - s) + W @ x + U @ s
    return spike(u - 0.1), u


def of_cell(name: str) -> nn.Layer:
    """A small layer of a built-in cell, with a size for every width that the cell names."""
    sizes = {width: 2 + k for k, width in enumerate(sorted(cells.get(name).width_names))}
    return disturbed(nn.Recurrent(name, 3, 5, widths=sizes))


def disturbed(layer: Layer) -> Layer:
    """The layer with every parameter moved, so that none is zero or one and hides what it does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.4 * torch.rand(parameter.shape, generator=generator)
        for fixed in layer.buffers():
            if not fixed.any():
                fixed += 0.4 * torch.rand(fixed.shape, generator=generator)
    return layer


def alternating(size: int) -> nn.Stack:
    """A stack with a layer that needs the time between steps and one that does not."""
    return nn.Stack(nn.Recurrent(leaky, size, 4), nn.GRU(4, 3))


class OnOneMemory(nn.Layer):
    """An attention decoder whose rows all see the same memory, the beginning of it valid."""

    def __init__(self, decoder: nn.AttentionDecoder, time: int, valid: int) -> None:
        super().__init__()
        self.decoder, self.valid = decoder, valid
        self.input_size, self.output_size = decoder.input_size, decoder.output_size
        self.register_buffer("memory", torch.randn(1, time, decoder.attention.memory_size))

    def initial_state(self, batch: int) -> nn.State:
        """The decoder's, on the memory."""
        return self.decoder.attend(self.memory.expand(batch, -1, -1), torch.full((batch,), self.valid))

    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        """The decoder's."""
        return self.decoder(
            x, self.initial_state(x.shape[0]) if state is None else state, lengths=lengths, reset=reset, elapsed=elapsed
        )

    def step(self, x_t, state, *, elapsed=None):
        """The decoder's."""
        return self.decoder.step(x_t, state, elapsed=elapsed)


CELLS: dict[str, Callable[[], nn.Layer]] = {
    **{name: lambda name=name: of_cell(name) for name in cells.names()},
    "cfc without a gate": lambda: disturbed(nn.Recurrent(cells.cfc(gated=False), 3, 5, widths={"backbone": 4})),
    "ltc": lambda: nn.LTC(3, 5),
    "slstm of two heads": lambda: disturbed(nn.Recurrent(cells.slstm(heads=2), 3, 4)),
    "leaky": lambda: nn.Recurrent(leaky, 3, 5),
    "observed": lambda: nn.Recurrent(observed, 3, 5, widths={"seen": 2}),
    "spiking": lambda: nn.Recurrent(spiking, 3, 5),
}
"""A small layer of each cell."""

TRANSFORMED: dict[str, Callable[[], nn.Layer]] = (
    {
        f"{cell}, {name}": lambda cell=cell, transform=transform: disturbed(nn.Recurrent(transform(cell), 3, 5))
        for name, transform in {
            "layer norm": layer_norm,
            "layer norm per gate": lambda cell: layer_norm(cell, per_gate=True),
            "rms norm": rms_norm,
            "zoneout": lambda cell: zoneout(cell, 0.3),
            "recurrent dropout": lambda cell: recurrent_dropout(cell, 0.4),
            "learned initial state": learned_initial_state,
            "random initial state": lambda cell: random_initial_state(cell, 0.7),
        }.items()
        for cell in ("gru", "lstm", "rnn_tanh", "indrnn", "mingru")
        if name != "recurrent dropout" or cell not in ("indrnn", "mingru")
    }
    | {
        f"{cell}, {name}": lambda cell=cell, transform=transform: disturbed(nn.Recurrent(transform(cell), 3, 6))
        for name, transform in {
            "rms norm": rms_norm,
            "zoneout": lambda cell: zoneout(cell, 0.3),
            "learned initial state": learned_initial_state,
        }.items()
        for cell in ("slstm", "phased_lstm", "clockwork_rnn", "lru", "spiking_lstm")
    }
    | {
        "lstm, zoneout of layer norm of recurrent dropout": lambda: nn.Recurrent(
            zoneout(layer_norm(recurrent_dropout("lstm", 0.4)), {"h": 0.1, "c": 0.5}), 3, 5
        ),
        "gru, learned and random initial states of zoneout": lambda: nn.Recurrent(
            learned_initial_state(random_initial_state(zoneout("gru", 0.3), 0.5)), 3, 5
        ),
        "leaky, random initial states of rms norm": lambda: nn.Recurrent(
            random_initial_state(rms_norm(leaky), 0.5), 3, 5
        ),
    }
)
"""A small layer of each transform on several cells, and of transforms of transforms."""

WRAPPED: dict[str, Callable[[], nn.Layer]] = {
    "stack": lambda: nn.Stack(nn.GRU(3, 4), nn.LSTM(4, 2)),
    "stack with dropout": lambda: nn.Stack(nn.Dropout(nn.GRU(3, 4), 0.5), nn.Dropout(nn.RNN(4, 3), 0.1)),
    "stack in continuous time": lambda: alternating(3),
    "bidirectional": lambda: nn.Bidirectional(nn.GRU(3, 4), nn.LSTM(3, 2)),
    "bidirectional in continuous time": lambda: nn.Bidirectional(nn.Recurrent(leaky, 3, 2), nn.Recurrent(leaky, 3, 2)),
    "reversed": lambda: nn.Reversed(nn.Stack(nn.GRU(3, 4), nn.LSTM(4, 2))),
    "reversed last in continuous time": lambda: nn.Reversed(nn.Last(nn.Recurrent(leaky, 3, 2))),
    "stack of bidirectional": lambda: nn.Stack(
        nn.Bidirectional(nn.RNN(3, 2), nn.RNN(3, 2)), nn.Residual(nn.Bidirectional(nn.RNN(4, 2), nn.GRU(4, 2)))
    ),
    "residual": lambda: nn.Residual(nn.GRU(4, 4)),
    "last": lambda: nn.Last(nn.LSTM(3, 4)),
    "mean": lambda: nn.Mean(nn.GRU(3, 4)),
    "mean of bidirectional": lambda: nn.Mean(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2))),
    "bidirectional of last": lambda: nn.Bidirectional(nn.Last(nn.GRU(3, 2)), nn.Last(nn.GRU(3, 2))),
    "weight dropout": lambda: nn.WeightDropout(nn.Stack(nn.LSTM(3, 4), nn.GRU(4, 2)), 0.4),
    "weight dropout of bidirectional": lambda: nn.WeightDropout(nn.Bidirectional(nn.GRU(3, 2), nn.GRU(3, 2)), 0.4),
    "masked batch norm": lambda: nn.Stack(nn.GRU(3, 4), nn.MaskedBatchNorm(4), nn.GRU(4, 2)),
    "stack of transformed cells": lambda: nn.Stack(
        nn.Residual(nn.Recurrent(zoneout("gru", 0.3), 3, 3)),
        nn.Last(nn.Recurrent(recurrent_dropout("lstm", 0.3), 3, 2)),
    ),
    "bidirectional of transformed cells": lambda: nn.Bidirectional(
        nn.Recurrent(zoneout("gru", 0.3), 3, 2), nn.Recurrent(recurrent_dropout("lstm", 0.3), 3, 2)
    ),
    "stack with last": lambda: nn.Stack(nn.Residual(nn.GRU(3, 3)), nn.Last(nn.Dropout(nn.LSTM(3, 2), 0.2))),
}
"""A small layer of each wrapper, and of wrappers within wrappers."""


MEMORIES: dict[str, Callable[[], nn.Layer]] = {
    "mlstm": lambda: disturbed(nn.MatrixLSTM(3, 6, heads=2, chunk_size=4)),
    "gated delta rule": lambda: disturbed(nn.GatedDelta(3, 6, heads=3, negative_eigenvalues=True, chunk_size=4)),
    "gated linear attention": lambda: disturbed(nn.GatedLinearAttention(3, 6, heads=2, chunk_size=5)),
    "selective state space": lambda: disturbed(nn.SelectiveStateSpace(3, 5, state_size=2, chunk_size=4)),
    "stack of memories": lambda: nn.Stack(
        nn.Residual(nn.MatrixLSTM(3, 3, heads=1, chunk_size=2)),
        nn.Bidirectional(nn.SelectiveStateSpace(3, 1), nn.GatedLinearAttention(3, 2, heads=1)),
        nn.Mean(nn.GatedDelta(3, 2, heads=1)),
    ),
}
"""A small layer of each matrix memory."""

ATTENDING: dict[str, Callable[[], nn.Layer]] = {
    "window attention": lambda: disturbed(nn.WindowAttention(3, 4, heads=2, window=3)),
    "hybrid block": lambda: disturbed(nn.hybrid_block(nn.GRU(3, 4), heads=2, window=4)),
    "attention decoder": lambda: OnOneMemory(
        nn.AttentionDecoder(nn.Stack(nn.GRU(6, 3), nn.LSTM(3, 4)), nn.MultiplicativeAttention(4, 3)), 5, 4
    ),
}
"""A small layer of each that attends."""

ALL = {**CELLS, **TRANSFORMED, **WRAPPED, **MEMORIES, **ATTENDING}

TRIED_MORE = {*WRAPPED, "leaky", "observed", "spiking", "gru", "lstm", "rnn_tanh"}
"""Those that `make test` tries on more sizes than the others; `make laws` tries all on all."""
