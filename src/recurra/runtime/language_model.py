"""The language model without torch: it scores, goes on with a text, and reads one as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recurra.data import Vocabulary
from recurra.decode import Picker, Reader, continued
from recurra.errors import FormatError
from recurra.runtime.build import build
from recurra.runtime.chain import Chain
from recurra.runtime.layer import Layer
from recurra.runtime.linear import Embedding, projection
from recurra.runtime.rows import Rows
from recurra.runtime.state import State
from recurra.runtime.weights import Weights
from recurra.streams import Stateful

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
