"""An exported graph against the layer that it was made of, run by ONNX Runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import AttentionDecoder, State
from recurra.nn.state import state_tensors
from recurra.nn.streaming import memory_readers
from recurra.onnx.parts import Parts
from recurra.onnx.sessions import open_session

Memory = tuple[Tensor, Tensor]
"""A memory (batch, source time, columns) and how long it is in each row (batch,)."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}
"""The largest difference, relative to the largest value: that of the laws."""

_SIZES = ((3, 7), (1, 2))
"""(batch, time) of the sequences that are compared; the first with lengths, one of them zero."""


class Session:
    """A graph in ONNX Runtime, on one thread."""

    def __init__(self, content: bytes, state_inputs: Sequence[str]) -> None:
        self._session = open_session(content, threads=1)
        self._state_inputs = list(state_inputs)

    def run(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
        memory: Memory | None = None,
    ) -> list[NDArray[Any]]:
        """All outputs, for the arguments of a layer; `memory` are those of `AttentionDecoder.attend`."""
        given = {"x" if x.is_floating_point() else "tokens": x}
        if lengths is not None:
            given["lengths"] = lengths.long()
        if memory is not None:
            given |= {"memory": memory[0], "memory_lengths": memory[1].long()}
        if reset is not None:
            given["reset"] = reset
        if elapsed is not None:
            given["elapsed"] = elapsed
        if state is not None:
            given |= dict(zip(self._state_inputs, state_tensors(state), strict=True))
        return self._session.run(None, {name: value.detach().numpy() for name, value in given.items()})


def compare(parts: Parts, content: bytes, state_inputs: Sequence[str], *, with_reset: bool) -> float:
    """The largest difference of the graph's results from the layer's, relative to the largest value; also with resets
    where the graph has an input for them. Raises ArgumentError where it is above the tolerance."""
    session = Session(content, state_inputs)
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch, time in _SIZES:
        x, elapsed = _draw(parts, batch, time, generator)
        lengths = torch.arange(time, time - batch, -1) * (torch.arange(batch) != 1) if batch > 1 else None
        earlier, before = _draw(parts, batch, 2, generator)
        initial = parts.layers.initial_state(batch)
        begins: list[tuple[State | None, State, Memory | None]] = [(None, initial, None)]
        if reader := next(memory_readers(parts.layers), None):
            memory = _draw_memory(reader, batch, generator)
            initial = parts.layers.attend(*memory)
            begins.append((None, initial, memory))
        _, state = parts.call(earlier, initial, lengths=None, elapsed=before)
        begins.append((state, state, None))
        drawn = torch.rand(batch, time, generator=generator) < 0.3
        for (own, first, memory), reset in itertools.product(begins, (None, drawn) if with_reset else (None,)):
            y, after = parts.call(x, first, lengths=lengths, elapsed=elapsed, reset=reset)
            wanted = [y, *state_tensors(after)]
            got = session.run(x, own, lengths=lengths, elapsed=elapsed, reset=reset, memory=memory)
            largest = max(largest, *map(difference, got, wanted))
    allowed = TOLERANCE[next(iter(parts.layers.state_dict().values())).dtype]
    if not largest <= allowed:
        raise ArgumentError(
            f"the ONNX graph differs from the layer by {largest:.3g} of the largest value",
            expected=f"at most {allowed:.3g}",
            advice="Nothing was written. Where a cell jumps, as spiking ones do, try other weights or double precision",
        )
    return largest


def difference(got: NDArray[Any], wanted: Tensor) -> float:
    """The largest difference relative to the largest value; infinite where one is NaN and the other is not."""
    expected = wanted.detach().numpy()
    if got.shape != expected.shape or not np.array_equal(np.isnan(got), np.isnan(expected)):
        return float("inf")
    if expected.size == 0:
        return 0.0
    gap = float(np.nanmax(np.abs(got - expected), initial=0.0))
    return gap / max(float(np.nanmax(np.abs(expected), initial=0.0)), 1e-3)


def _draw(parts: Parts, batch: int, time: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    layers = parts.layers
    like = next(iter(layers.state_dict().values()))
    elapsed = torch.rand(batch, time, generator=generator, dtype=like.dtype) + 0.1 if layers.uses_elapsed else None
    if parts.embedding is not None:
        return torch.randint(0, len(parts.embedding), (batch, time), generator=generator), elapsed
    return torch.randn(batch, time, layers.input_size, generator=generator, dtype=like.dtype), elapsed


def _draw_memory(decoder: AttentionDecoder, batch: int, generator: torch.Generator) -> Memory:
    size, dtype = decoder.attention.memory_size, decoder.combine.weight.dtype
    memory = torch.randn(batch, 4, size, generator=generator, dtype=dtype)
    return memory, torch.randint(0, 5, (batch,), generator=generator)
