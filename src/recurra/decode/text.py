"""Text out of a stream of tokens: going on with one, and reading one as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recurra.data import RESERVED, Vocabulary
from recurra.decode.sampling import Picker, generate
from recurra.streams import Stream


def continued(stream: Stream, vocabulary: Vocabulary, prompt: str, pick: Picker, *, length: int) -> Iterator[str]:
    """What a model writes after the prompt, token by token, on a stream of it that is at its beginning. The prompt and
    the pieces, joined, are the text."""
    # A word brings its own space along.
    spaced = vocabulary.unit == "word" and prompt.endswith(" ")
    read = [RESERVED, *vocabulary.encode(prompt[:-1] if spaced else prompt).tolist()]
    for token in generate(_next_scores, stream, read, pick, length=length):
        piece = vocabulary.decode([token])
        yield piece.removeprefix(" ") if spaced else piece
        spaced = False


def _next_scores(token: int, stream: Stream) -> tuple[NDArray[np.floating], Stream]:
    scores = stream.push(token)
    scores[RESERVED] = -math.inf
    return scores, stream


class Reader:
    """Reads a text piece by piece. It belongs to one thread at a time."""

    def __init__(self, stream: Stream, vocabulary: Vocabulary) -> None:
        self._stream = stream
        self._vocabulary = vocabulary
        self._scores = stream.push(RESERVED)

    def read(self, text: str) -> tuple[float, int]:
        """Reads on. Returns how many nats the piece took, given all before it, and how many tokens it has."""
        tokens = self._vocabulary.encode(text)
        if not len(tokens):
            return 0.0, 0
        scores = self._stream.push(tokens)
        before = np.concatenate((self._scores[None], scores[:-1])).astype(np.float64)
        self._scores = scores[-1].copy()
        before -= before.max(1, keepdims=True)
        chosen = before[np.arange(len(tokens)), tokens]
        return float((np.log(np.exp(before).sum(1)) - chosen).sum()), len(tokens)
