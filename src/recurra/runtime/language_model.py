"""The language model without torch: it scores, goes on with a text, and reads one as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.data import RESERVED, Vocabulary
from recurra.decode import Picker, generate
from recurra.errors import FormatError
from recurra.runtime.build import build
from recurra.runtime.chain import Chain
from recurra.runtime.layer import Layer
from recurra.runtime.linear import Embedding, projection
from recurra.runtime.rows import Rows
from recurra.runtime.state import State
from recurra.runtime.weights import Weights
from recurra.streams import Stateful, Stream

_FIELDS = {"vocabulary", "dropout", "tied", "layers"}


class LanguageModel(Layer):
    """As `recurra.tasks.LanguageModel`, on numpy arrays: x holds tokens, y the log odds of the token after each."""

    def __init__(self, spec: Mapping[str, Any], weights: Weights) -> None:
        if set(spec) != _FIELDS or not isinstance(spec["tied"], bool):
            raise FormatError("the fields of a language model", got=sorted(spec), expected=", ".join(sorted(_FIELDS)))
        self.vocabulary = Vocabulary.from_dict(spec["vocabulary"])
        self._layers = layers = build(spec["layers"], weights.of("layers"))
        if not layers.causal or layers.pools or layers.uses_elapsed:
            raise FormatError("the layers of a language model cannot step alone")
        self.dtype = weights.dtype
        self.input_size = 1
        self.output_size = self.tokens = count = len(self.vocabulary)
        embedding = weights.of("embedding").matrix("weight", (count, layers.input_size))
        bias = weights.take("bias", (count,))
        above: list[Layer] = []
        if spec["tied"]:
            if layers.output_size != layers.input_size:
                shape = (layers.input_size, layers.output_size)
                above.append(projection(weights.of("projection").matrix("weight", shape)))
            above.append(projection(embedding, bias))
        else:
            above.append(projection(weights.of("softmax").matrix("weight", (count, layers.output_size)), bias))
        self._all = (Embedding(embedding), layers, *above)

    def initial_state(self, batch: int) -> State:
        return self._layers.initial_state(batch)

    def run(self, x: np.ndarray, state: State, rows: Rows) -> tuple[np.ndarray, State]:
        for layer in self._all:
            own = layer is self._layers
            x, after = layer.run(x, state if own else (), rows)
            state = after if own else state
        return x, state

    def advance(self, x_t: np.ndarray, state: State, elapsed: np.ndarray | None) -> tuple[np.ndarray, State]:
        for layer in self._all:
            own = layer is self._layers
            x_t, after = layer.advance(x_t, state if own else (), None)
            state = after if own else state
        return x_t, state

    def stateful(self, rows: int) -> Stateful:
        return Chain(self, [layer.stateful(rows) for layer in self._all])

    def generate(self, prompt: str, pick: Picker, *, length: int) -> Iterator[str]:
        """Continue the prompt by `length` tokens, each yielded as soon as it is made. The reserved token never is.

        An empty prompt begins a document. The prompt and the pieces, joined, are the text.
        """
        return continued(self.stream(), self.vocabulary, prompt, pick, length=length)

    def reader(self) -> Reader:
        """Reads a text as it comes and tells how well it was foreseen."""
        return Reader(self.stream(), self.vocabulary)


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
