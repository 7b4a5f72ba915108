"""Layers and models in torch on a stream: the same `Stream` and `Streams` as in `recurra.runtime`, numpy in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError
from recurra.nested import build_like
from recurra.nn.state import like_of, map_state, state_tensors
from recurra.program import Program
from recurra.storage import checksum_of, fingerprint
from recurra.streams.checks import check_memory, check_memory_lengths
from recurra.streams.memory import begun_again


def checksum(weights: Mapping[str, Tensor]) -> str:
    """What is kept with saved weights to tell whether they are whole."""
    return checksum_of(
        (
            name,
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in weights.items()
    )


def identity(model: nn.Module) -> bytes:
    """32 bytes that tell a model with its weights from every other one; the same as of its saved form."""
    found = [(name, getattr(module, "program", None)) for name, module in model.named_modules()]
    programs = [(name, program.json) for name, program in found if isinstance(program, Program)]
    return fingerprint(checksum(model.state_dict()), programs)


def memory_readers(module: nn.Module) -> Iterator[Any]:
    """The attention decoders within a layer, or the layer itself, in the order of their states; none of those within a
    decoder."""
    if getattr(module, "attends", False):
        yield module
    else:
        # children() would leave out one that stands there twice
        for child in filter(None, module._modules.values()):
            yield from memory_readers(child)


class Carried:
    """Rows of a model in torch with the states that they carry, for `recurra.streams`.

    Raises ArgumentError for a model that is in training, for on a stream nothing is dropped or drawn, and for one of
    bfloat16, which numpy does not have.
    """

    checks_out = False
    refuses_threads = False

    def __init__(self, model: Any, rows: int, *, columns: int | None, output_size: int) -> None:
        if model.training:
            raise ArgumentError("the model is in training", expected="evaluation", advice="Call eval() before stream()")
        self.model = model
        self.rows = rows
        self.input_size = columns
        self.output_size = output_size
        self._like = like_of(model)
        if self._like.dtype is torch.bfloat16:
            raise ArgumentError(
                "the model is bfloat16, which numpy does not have",
                expected="float32, float64 or float16",
                advice="Stream a float32 copy: copy.deepcopy(model).float()",
            )
        self.dtype = np.dtype(str(self._like.dtype).removeprefix("torch."))
        self.input_dtype = np.dtype(np.int64) if columns is None else self.dtype
        self.pools = getattr(model, "pools", False)
        self.uses_elapsed = getattr(model, "uses_elapsed", False)
        self._state = model.initial_state(rows)

    @torch.no_grad()
    def attending(self, memory: Any, lengths: Any) -> Carried:
        """These rows, begun on a memory (rows, source time, memory_size). Raises ShapeError where it does not fit."""
        size = next(memory_readers(self.model)).attention.memory_size
        given = check_memory(memory, self.rows, size, self.dtype)
        valid = torch.from_numpy(check_memory_lengths(lengths, self.rows, given.shape[1])).to(self._like.device)
        self._state = self.model.attend(self._tensor(given), valid)
        return self

    def _tensor(self, values: np.ndarray) -> Tensor:
        # torch does not know read-only arrays
        return torch.from_numpy(values if values.flags.writeable else values.copy()).to(self._like.device)

    def _times(self, elapsed: np.ndarray | None) -> dict[str, Tensor]:
        return {} if elapsed is None else {"elapsed": self._tensor(elapsed)}

    @torch.no_grad()
    def push(self, x: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None) -> None:
        """Steps of the one row."""
        self._check_tokens(x)
        times = self._times(None if elapsed is None else elapsed[None])
        result, self._state = self.model(self._tensor(x)[None], self._state, **times)
        y[...] = result[0].cpu().numpy()

    @torch.no_grad()
    def tick(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray | None, elapsed: np.ndarray | None) -> None:
        """One step of all rows, or of these."""
        self._check_tokens(x)
        if rows is None:
            result, self._state = self.model.step(self._tensor(x), self._state, **self._times(elapsed))
        else:
            index = torch.from_numpy(rows).to(self._like.device)
            own = map_state(lambda s: s[index], self._state)
            result, after = self.model.step(self._tensor(x), own, **self._times(elapsed))
            self._put(index, after)
        y[...] = result.cpu().numpy()

    def _check_tokens(self, x: np.ndarray) -> None:
        if self.input_size is None and x.size and not (0 <= x.min() and x.max() < self.output_size):
            raise ArgumentError(f"the tokens are {x.min()} to {x.max()}", expected=f"0 to {self.output_size - 1}")

    def _put(self, index: Tensor, values: Any) -> None:
        self._state = _zip_states(lambda s, v: s.index_copy(0, index, v), self._state, values)

    def reset(self, rows: np.ndarray | None) -> None:
        """All rows, or these, are as if they had seen nothing but their memory."""
        if rows is None:
            self._state = begun_again(self._state, self.model.initial_state(self.rows), torch.zeros_like)
        else:
            index = torch.from_numpy(rows).to(self._like.device)
            own = map_state(lambda s: s[index], self._state)
            self._put(index, begun_again(own, self.model.initial_state(len(rows)), torch.zeros_like))

    def read(self) -> list[np.ndarray]:
        """Copies of all states."""
        return [np.array(part.detach().cpu().numpy()) for part in state_tensors(self._state)]

    def write(self, states: Sequence[np.ndarray]) -> None:
        """Puts in what `read` gave."""
        given = iter(states)
        self._state = map_state(lambda _: self._tensor(np.array(next(given))), self._state)

    def another(self, rows: int) -> Carried:
        """The same model with rows that have seen nothing."""
        return type(self)(self.model, rows, columns=self.input_size, output_size=self.output_size)

    def fingerprint(self) -> bytes:
        """That of the model as it is now."""
        return identity(self.model)


def _zip_states(function: Callable[[Tensor, Tensor], Tensor], state: Any, other: Any) -> Any:
    parts = [
        _zip_states(function, a, b) if isinstance(a, tuple) else function(a, b)
        for a, b in zip(state, other, strict=True)
    ]
    return build_like(state, parts)
