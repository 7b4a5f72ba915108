"""Contiguous batches of a stream of tokens: for training with truncated backpropagation through time, and for scoring.

Everywhere, `inputs[t]` is the token before `targets[t]` in its document; `RESERVED` stands before a document's first
token, so that every token of every document is a target once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recurra.data.text import RESERVED
from recurra.errors import ArgumentError

IGNORED = -100
"""The target of a place that is not to be predicted; torch's cross-entropy leaves it out."""


class Chunk(NamedTuple):
    """Some steps of some rows; the state after its last step is the state before the first step of the next chunk."""

    inputs: NDArray[np.int64]
    """Shape (rows, steps)."""
    targets: NDArray[np.int64]
    """Shape (rows, steps); `IGNORED` where nothing is to be predicted."""
    reset: NDArray[np.bool_] | None
    """Shape (rows, steps): the model starts afresh before this step. None when it does so nowhere."""


@dataclass(frozen=True)
class TokenStream:
    """Documents one after another. All arrays have shape (tokens,)."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    starts: NDArray[np.bool_]
    """True at the first token of each document."""

    @classmethod
    def from_documents(cls, documents: Sequence[NDArray[np.int32]]) -> "TokenStream":
        """A stream of encoded documents, each of shape (its tokens,); empty ones are left out.

        Raises:
            ArgumentError: there is not a single token.
        """
        documents = [document for document in documents if len(document)]
        if not documents:
            raise ArgumentError("the text has no tokens")
        targets = np.concatenate(documents)
        starts = np.zeros(len(targets), dtype=np.bool_)
        starts[np.cumsum([0, *map(len, documents[:-1])])] = True
        inputs = np.empty_like(targets)
        inputs[1:] = targets[:-1]
        inputs[starts] = RESERVED
        return cls(inputs, targets, starts)

    def __len__(self) -> int:
        """How many tokens there are to predict."""
        return len(self.targets)


class TrainingChunks:
    """A stream laid out in parallel rows and cut into chunks, pass after pass, without end.

    Each pass shifts the stream by a random offset, so that rows and chunks begin elsewhere each time. Chunk `n` depends
    on `n` and the seed only: a run that was killed goes on exactly where it was.

    Args:
        rows: rows of the batch; fewer if the stream is too short to fill them with one chunk each.
        steps: steps of a chunk; fewer if the stream is shorter than that.
        seed: of the offsets.
    """

    def __init__(self, stream: TokenStream, *, rows: int, steps: int, seed: int) -> None:
        self.stream = stream
        self.steps = min(steps, len(stream))
        self.rows = min(rows, len(stream) // self.steps)
        self.seed = seed
        self.chunks_a_pass = len(stream) // self.rows // self.steps
        self._row_length = len(stream) // self.rows

    def chunk(self, number: int) -> Chunk:
        """The chunk of this number, from 0."""
        turn, place = divmod(number, self.chunks_a_pass)
        offset = int(np.random.default_rng((self.seed, turn)).integers(len(self.stream)))
        first = offset + place * self.steps + np.arange(self.rows)[:, None] * self._row_length
        where = (first + np.arange(self.steps)) % len(self.stream)
        reset = self.stream.starts[where]
        if place == 0:
            reset[:, 0] = True
        return Chunk(
            self.stream.inputs[where].astype(np.int64),
            self.stream.targets[where].astype(np.int64),
            reset if reset.any() else None,
        )

    def since(self, number: int) -> Iterator[Chunk]:
        """The chunk of this number and all that follow, without end."""
        while True:
            yield self.chunk(number)
            number += 1


@dataclass(frozen=True)
class Rows:
    """A fixed reading of a stream, row by row, to score it. All arrays have shape (rows, tokens)."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    """`IGNORED` where a row has ended, or reads only to warm up."""
    reset: NDArray[np.bool_]

    @property
    def predicted(self) -> int:
        """How many tokens are predicted."""
        return int((self.targets != IGNORED).sum())

    def chunks(self, steps: int) -> list[Chunk]:
        """The rows in chunks of so many steps; the state is carried from each to the next."""
        chunks = []
        for first in range(0, self.inputs.shape[1], steps):
            span = np.s_[:, first : first + steps]
            reset = self.reset[span]
            chunks.append(
                Chunk(
                    self.inputs[span].astype(np.int64),
                    self.targets[span].astype(np.int64),
                    reset if reset.any() else None,
                )
            )
        return chunks


class _Span(NamedTuple):
    """The tokens from `start` to `stop`; those before `scored` are only read."""

    start: int
    scored: int
    stop: int


def exact_rows(stream: TokenStream, *, rows: int) -> Rows:
    """Read the stream once, every document in order from its beginning to its end, every token predicted once.

    Documents are dealt to the rows, so the result does not depend on how many rows there are; a single document takes
    a single row.
    """
    starts = np.flatnonzero(stream.starts).tolist()
    spans = [_Span(a, a, b) for a, b in zip(starts, [*starts[1:], len(stream)], strict=True)]
    dealt: list[list[_Span]] = [[] for _ in range(min(rows, len(spans)))]
    lengths = [0] * len(dealt)
    for span in sorted(spans, key=lambda span: span.start - span.stop):
        shortest = lengths.index(min(lengths))
        dealt[shortest].append(span)
        lengths[shortest] += span.stop - span.start
    return _lay_out(stream, dealt)


def sampled_rows(stream: TokenStream, *, rows: int, tokens: int, warm_up: int) -> Rows:
    """Read about so many tokens in parallel pieces, spread evenly over the stream: quick, and nearly `exact_rows`.

    The state at the beginning of each piece comes from up to `warm_up` tokens read before it. The whole stream is
    read, each token predicted once, if it has no more than `tokens`.
    """
    rows = min(rows, len(stream))
    tokens = min(tokens, len(stream))
    starts = [row * len(stream) // rows for row in range(rows)]
    if tokens == len(stream):
        stops = [*starts[1:], len(stream)]
    else:
        stops = [start + max(1, tokens // rows) for start in starts]
    spans = [_Span(max(0, start - warm_up), start, stop) for start, stop in zip(starts, stops, strict=True)]
    return _lay_out(stream, [[span] for span in spans])


def _lay_out(stream: TokenStream, dealt: list[list[_Span]]) -> Rows:
    width = max(sum(span.stop - span.start for span in spans) for spans in dealt)
    inputs = np.full((len(dealt), width), RESERVED, dtype=np.int32)
    targets = np.full((len(dealt), width), IGNORED, dtype=np.int32)
    reset = np.zeros((len(dealt), width), dtype=np.bool_)
    for row, spans in enumerate(dealt):
        first = 0
        for start, scored, stop in spans:
            here = np.s_[row, first : first + stop - start]
            inputs[here] = stream.inputs[start:stop]
            reset[here] = stream.starts[start:stop]
            targets[row, first + scored - start : first + stop - start] = stream.targets[scored:stop]
            first += stop - start
    return Rows(inputs, targets, reset)
