"""Attention over a padded memory: additive and multiplicative scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from recurra.errors import ShapeError
from recurra.nn import checks
from recurra.nn.plain import check_choice, linear
from recurra.nn.sequence import valid_steps


class AttendedMemory(NamedTuple):
    """A memory made ready to be read, once, by `Attention.prepare`. A value, by rows of the batch."""

    keys: Tensor
    """(batch, source time, key columns)"""
    values: Tensor
    """(batch, source time, memory_size), zero in padding"""
    valid: Tensor
    """(batch, source time), true where a step is no padding"""


class Attention(nn.Module, ABC):
    """Reads a memory by a query: ``context, weights = attention(query, attention.prepare(memory, lengths))``.

    The weights are the softmax of a score of the query with each valid step of the memory, the context is the sum of
    the memory's steps by these weights. Where a row's memory has no valid step, both are zero.
    """

    key_size: int

    def __init__(self, query_size: int, memory_size: int) -> None:
        super().__init__()
        checks.check_size("query_size", query_size)
        checks.check_size("memory_size", memory_size)
        self.query_size = query_size
        self.memory_size = memory_size

    @abstractmethod
    def _keys(self, memory: Tensor) -> Tensor:
        """What queries are compared with, (batch, source time, key_size)."""

    @abstractmethod
    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """The score of each step, (batch, source time)."""

    def prepare(self, memory: Tensor, lengths: Tensor | None = None) -> AttendedMemory:
        """The memory (batch, source time, memory_size) with its keys, which depend on no query. Steps beyond
        `lengths` (batch,) are padding, and may hold anything.

        Raises ShapeError and ArgumentError when they do not fit.
        """
        checks.check_input("memory", memory, ("batch", "source time"), self.memory_size, self._like(memory))
        batch, time = memory.shape[:2]
        if lengths is None:
            valid = torch.ones(batch, time, dtype=torch.bool, device=memory.device)
        else:
            checks.check_lengths(lengths, batch, time, memory.device, of="memory")
            valid = valid_steps(lengths, time)
            memory = torch.where(valid[..., None], memory, torch.zeros_like(memory))
        return AttendedMemory(self._keys(memory), memory, valid)

    def forward(self, query: Tensor, memory: AttendedMemory) -> tuple[Tensor, Tensor]:
        """query (batch, query_size). Returns the context (batch, memory_size) and the weights (batch, source time)."""
        if not isinstance(memory, AttendedMemory):
            raise ShapeError(
                f"memory is a {type(memory).__name__}",
                expected="what prepare returned",
                advice="Write attention(query, attention.prepare(memory, lengths))",
            )
        checks.check_input("query", query, ("batch",), self.query_size, self._like(query))
        if query.shape[0] != memory.valid.shape[0]:
            raise ShapeError(
                f"query has {query.shape[0]} rows",
                expected=f"{memory.valid.shape[0]}, as the memory",
                advice="Each row reads the memory of its own row",
            )
        weights = masked_softmax(self._scores(query, memory.keys), memory.valid)
        return (weights[:, None] @ memory.values)[:, 0], weights

    def _like(self, given: Tensor) -> Tensor:
        return next(self.parameters(), given)


@final
class AdditiveAttention(Attention):
    """Additive attention (Bahdanau et al. 2015, appendix A.1.2): the score of step j is v . tanh(W q + U memory_j),
    with `hidden_size` rows in W and U."""

    settings = ("query_size", "memory_size", "hidden_size")

    def __init__(self, query_size: int, memory_size: int, hidden_size: int) -> None:
        super().__init__(query_size, memory_size)
        checks.check_size("hidden_size", hidden_size)
        self.hidden_size = self.key_size = hidden_size
        self.query = linear(query_size, hidden_size)
        self.key = linear(memory_size, hidden_size, bias=False)
        self.score = linear(hidden_size, 1, bias=False)

    def _keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return self.score(torch.tanh(self.query(query)[:, None] + keys))[..., 0]


@final
class MultiplicativeAttention(Attention):
    """Multiplicative attention (Luong et al. 2015, section 3.1): the score of step j is q . memory_j (`"dot"`, for
    equal sizes) or q . W memory_j (`"general"`)."""

    settings = ("query_size", "memory_size", "score")

    def __init__(self, query_size: int, memory_size: int, *, score: Literal["dot", "general"] = "general") -> None:
        super().__init__(query_size, memory_size)
        check_choice("score", score, ("dot", "general"))
        if score == "dot" and query_size != memory_size:
            raise ShapeError(
                f"query_size is {query_size} and memory_size {memory_size}",
                expected="equal sizes for the score 'dot'",
                advice="Take score='general', which has a matrix between them",
            )
        self.score = score
        self.key_size = query_size
        self.key = linear(memory_size, query_size, bias=False) if score == "general" else nn.Identity()

    def _keys(self, memory: Tensor) -> Tensor:
        return self.key(memory)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return (keys @ query[..., None])[..., 0]


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where the mask is true, and zero elsewhere, also where it is true nowhere."""
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
    return weights.masked_fill(~mask, 0.0)


def is_attention(name: str, attention: Any) -> None:
    """Raises ShapeError unless it is one of the attentions of this file."""
    if not isinstance(attention, Attention):
        raise ShapeError(
            f"{name} is a {type(attention).__name__}",
            expected="an attention of recurra",
            advice="Build it with recurra.nn.AdditiveAttention or MultiplicativeAttention",
        )
