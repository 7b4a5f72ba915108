"""The language model: given the text so far, how likely is each next character or word?

Embedding, a stack of recurrent layers, softmax (Mikolov et al. 2010; Graves 2013; Karpathy, Johnson and Li 2015).
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra.cells import Cell
from recurra.data import RESERVED, Chunk, Document, TokenStream, Vocabulary, exact_rows
from recurra.data.stream import IGNORED, Rows
from recurra.decode import Picker, continued
from recurra.errors import ArgumentError, FormatError
from recurra.models import build_layer, layer_spec
from recurra.nn import Dropout, Layer, Recurrent, Stack
from recurra.nn.checks import check_tokens
from recurra.nn.dropout import drop
from recurra.nn.layer import State
from recurra.nn.small import SmallEmbedding, SmallLinear, SmallMatrix
from recurra.nn.streaming import Carried
from recurra.onnx import Parts
from recurra.streams import Stream, Streams
from recurra.streams.checks import check_stream_count

# Longer chunks gain nothing; these keep the memory for a batch of documents small.
_STEPS_OF_A_CHUNK = 256
_ROWS = 32
# torch takes longer for the products of the softmax where the number of tokens is no multiple of this.
_SCORES_MULTIPLE = 8


@dataclass(frozen=True)
class Score:
    """How well a model predicts some text."""

    nats: float
    """The sum over all tokens of minus the logarithm of the probability given to each."""
    tokens: int
    """How many tokens were predicted."""
    characters: int
    """How many characters these tokens have."""
    unknown: int = 0
    """How many of the tokens the model does not know; each was scored as the reserved one."""

    @property
    def nats_per_token(self) -> float:
        """Mean cross-entropy a token, in nats."""
        return self.nats / self.tokens

    @property
    def nats_per_character(self) -> float:
        """Mean cross-entropy a character, in nats."""
        return self.nats / self.characters

    @property
    def bits_per_character(self) -> float:
        """Mean cross-entropy a character, in bits."""
        return self.nats_per_character / math.log(2)


class LanguageModel(nn.Module):
    """Embedding, dropout, recurrent layers, softmax.

    Args:
        vocabulary: the tokens; token `i` has row `i` of the embedding and score `i` of the softmax.
        layers: from an embedding's features to any number of features; a `Stack` with dropout in it, as a rule.
        dropout: share of the embedding's features set to zero in training.
        tied: the softmax takes its weights from the embedding (Press and Wolf 2017), after a linear projection if the
            layers' output has another size.

    Raises:
        ArgumentError: layers that cannot run a step at a time, or that need the time between steps.
    """

    task = "language-model"

    def __init__(self, vocabulary: Vocabulary, layers: Layer, *, dropout: float = 0.0, tied: bool = False) -> None:
        super().__init__()
        if not layers.causal or layers.pools or layers.uses_elapsed:
            raise ArgumentError(
                "the layers of a language model",
                got=type(layers).__name__,
                expected="layers that read forwards, put out a vector a step, and need no time between steps",
            )
        embedding_size = layers.input_size
        self.vocabulary = vocabulary
        self.embedding: nn.Embedding | SmallEmbedding = nn.Embedding(len(vocabulary), embedding_size)
        self.layers = layers
        self.dropout = dropout
        self.tied = tied
        sizes = (layers.output_size, embedding_size)
        self.projection: nn.Linear | SmallLinear | None = None
        self.softmax: nn.Linear | SmallLinear | None = None
        if not tied:
            self.softmax = nn.Linear(layers.output_size, len(vocabulary), bias=False)
        elif sizes[0] != sizes[1]:
            self.projection = nn.Linear(*sizes, bias=False)
        self.bias = nn.Parameter(torch.zeros(len(vocabulary)))
        # A softmax with the embedding's weights needs them small, or the first losses are far above chance.
        scale = embedding_size**-0.5 if tied else 1.0
        nn.init.normal_(self.embedding.weight, std=scale)
        if self.softmax is not None:
            nn.init.xavier_uniform_(self.softmax.weight)
        if self.projection is not None:
            nn.init.xavier_uniform_(self.projection.weight)

    @classmethod
    def build(
        cls,
        vocabulary: Vocabulary,
        *,
        cell: str | Cell,
        hidden: int,
        layers: int = 1,
        embedding: int = 64,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> "LanguageModel":
        """A model of `layers` equal layers of a cell, dropout after the embedding and after each of them."""
        stack: list[Layer] = []
        size = embedding
        for _ in range(layers):
            stack.append(Dropout(Recurrent(cell, size, hidden), dropout))
            size = stack[-1].output_size
        return cls(vocabulary, Stack(stack), dropout=dropout, tied=tied)

    def initial_state(self, batch: int) -> State:
        """The state before a document."""
        return self.layers.initial_state(batch)

    def forward(
        self, tokens: Tensor, state: State | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Log odds of the token after each token.

        Args:
            tokens: integers, shape (batch, time).
            state: from an earlier call; None to begin.
            reset: booleans, shape (batch, time); true where a row starts afresh before that step.

        Returns:
            scores, shape (batch, time, tokens of the vocabulary), and the state after the last step.

        Raises:
            ShapeError, ArgumentError: tokens of another shape or dtype, or that the vocabulary does not have; and
                whatever the layers refuse.
        """
        check_tokens(tokens, ("batch", "time"), len(self.vocabulary), self.device)
        features, after = self.layers(self._embed(tokens), state, reset=reset)
        return self._scores(features), after

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of `forward`: tokens of shape (batch,), scores of shape (batch, tokens of the vocabulary)."""
        check_tokens(tokens, ("batch",), len(self.vocabulary), self.device)
        features, after = self.layers.step(self._embed(tokens), state)
        return self._scores(features), after

    def loss(self, inputs: Tensor, targets: Tensor, state: State | None, reset: Tensor | None) -> tuple[Tensor, State]:
        """The sum of the cross-entropies of the targets in nats, those that are `IGNORED` left out; and the new state.

        All tensors have shape (batch, time). The tokens are not checked: they come from `token_stream`.
        """
        features, after = self.layers(self._embed(inputs), state, reset=reset)
        scores = self._scores(features, impossible=-len(self.vocabulary) % _SCORES_MULTIPLE)
        # under autocast the scores are in half precision, in which no sum of many is right
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        nats = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return nats, after

    def _embed(self, tokens: Tensor) -> Tensor:
        features = self.embedding(tokens)
        return drop(features, self.dropout) if self.training else features

    def _scores(self, features: Tensor, impossible: int = 0) -> Tensor:
        """Log odds of every token, then of some that cannot be (minus infinity)."""
        if self.projection is not None:
            features = self.projection(features)
        above = self.embedding if self.softmax is None else self.softmax
        if isinstance(above, SmallMatrix):
            return above.multiply(features, self.bias)
        if not impossible:
            return F.linear(features, above.weight, self.bias)
        weight = F.pad(above.weight, (0, 0, 0, impossible))
        return F.linear(features, weight, F.pad(self.bias, (0, impossible), value=-math.inf))

    def extra_repr(self) -> str:
        """What is no layer."""
        return f"dropout={self.dropout}, tied={self.tied}"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.bias.device

    def token_stream(self, documents: Sequence[Document]) -> TokenStream:
        """The documents as one stream of this model's tokens."""
        return TokenStream.from_documents([self.vocabulary.encode(document.text) for document in documents])

    @torch.no_grad()
    def score_rows(self, rows: Rows) -> tuple[float, int]:
        """The sum of the cross-entropies in nats of a reading, and how many tokens that are."""
        training = self.training
        self.eval()
        nats, state = 0.0, None
        for chunk in rows.chunks(_STEPS_OF_A_CHUNK):
            inputs, targets, reset = as_tensors(chunk, self.device)
            chunk_nats, state = self.loss(inputs, targets, state, reset)
            nats += chunk_nats.item()
        self.train(training)
        return nats, rows.predicted

    def score(self, documents: Sequence[Document]) -> Score:
        """Read the documents once, each from its beginning to its end with the state carried, and predict every token.

        Raises:
            ArgumentError: there is not a single token.
        """
        stream = self.token_stream(documents)
        nats, tokens = self.score_rows(exact_rows(stream, rows=_ROWS))
        characters = sum(len(document.text) for document in documents)
        return Score(nats, tokens, characters, unknown=int((stream.targets == RESERVED).sum()))

    def stream(self) -> Stream:
        """The model on a stream: tokens in pieces of any size go in, the log odds of the token after each come out.

        numpy in and out. A stream belongs to one thread at a time. Raises ArgumentError while the model is in training.
        """
        return Stream(self._carried(1))

    def streams(self, rows: int) -> Streams:
        """So many streams of the model, stepped as one batch. Raises ArgumentError while it is in training, and for
        another number of rows than 1 to 2**24."""
        check_stream_count(rows)
        return Streams(self._carried(rows))

    def _carried(self, rows: int) -> Carried:
        return Carried(self, rows, columns=None, output_size=len(self.vocabulary))

    def generate(self, prompt: str, pick: Picker, *, length: int) -> Iterator[str]:
        """Continue the prompt by `length` tokens, each yielded as soon as it is made. The reserved token never is.

        An empty prompt begins a document. The prompt and the pieces, joined, are the text.
        """
        self.eval()
        return continued(self.stream(), self.vocabulary, prompt, pick, length=length)

    def onnx_parts(self) -> Parts:
        """What `recurra.onnx.export` makes a graph of: from tokens to scores; the vocabulary is kept in the file."""
        heads = [] if self.projection is None else [(self.projection.weight, None)]
        softmax = self.embedding if self.softmax is None else self.softmax
        about = {"task": self.task, "vocabulary": json.dumps(self.vocabulary.to_dict(), ensure_ascii=False)}
        return Parts(self.layers, self.embedding.weight, (*heads, (softmax.weight, self.bias)), about)

    def to_spec(self) -> dict[str, Any]:
        """Everything but the weights, as plain JSON; the programs of the cells are in it."""
        return {
            "vocabulary": self.vocabulary.to_dict(),
            "dropout": self.dropout,
            "tied": self.tied,
            "layers": layer_spec(self.layers),
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> "LanguageModel":
        """The module that `to_spec` describes, its weights drawn anew.

        Raises:
            FormatError: something is missing in the spec or does not fit.
        """
        expected = {"vocabulary", "dropout", "tied", "layers"}
        if spec.keys() != expected:
            raise FormatError("the fields of a language model", got=sorted(spec), expected=", ".join(sorted(expected)))
        dropout, tied = spec["dropout"], spec["tied"]
        if type(dropout) not in (int, float) or not 0 <= dropout < 1 or type(tied) is not bool:
            raise FormatError(
                "the dropout and tying of a language model", got=(dropout, tied), expected="such as 0.2, true"
            )
        return cls(Vocabulary.from_dict(spec["vocabulary"]), build_layer(spec["layers"]), dropout=dropout, tied=tied)


def as_tensors(chunk: Chunk, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs, targets and reset of a chunk as tensors on the device."""
    inputs, targets, reset = (None if array is None else torch.from_numpy(array).to(device) for array in chunk)
    assert inputs is not None
    assert targets is not None
    return inputs, targets, reset
