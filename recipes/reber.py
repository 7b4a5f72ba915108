"""The embedded Reber grammar, experiment 1 of Hochreiter and Schmidhuber 1997."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recipes.problems import Examples, Problem, padding

SYMBOLS = "BTPSXVE"
# State by state: each legal symbol and the state after it.
_REBER = (
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)
_FINAL = len(_REBER)
STRINGS = 256


def embedded_automaton() -> list[dict[str, int]]:
    """The grammar: B, then T or P, then a string of the inner grammar, then the same T or P, then E.

    State by state, each legal symbol and the state after it; the last state has none.
    """
    branches = 2 * _FINAL + 4
    automaton: list[dict[str, int]] = [{"B": 1}, {"T": 2, "P": 3 + _FINAL}]
    for letter in "TP":
        offset = len(automaton)
        automaton += [{symbol: offset + after for symbol, after in state.items()} for state in _REBER]
        automaton.append({letter: branches})
    return [*automaton, {"E": branches + 1}, {}]


def successors(text: str) -> list[str]:
    """The symbols that may follow each symbol of a string. Raises ValueError where the string breaks the grammar."""
    automaton = embedded_automaton()
    state, found = 0, []
    for place, symbol in enumerate(text):
        if symbol not in automaton[state]:
            raise ValueError(f"{text!r} has {symbol!r} at place {place}; expected one of {''.join(automaton[state])!r}")
        state = automaton[state][symbol]
        found.append("".join(automaton[state]))
    return found


def is_whole(text: str) -> bool:
    """Whether a string belongs to the grammar, from its beginning to its end."""
    try:
        return bool(text) and successors(text)[-1] == ""
    except ValueError:
        return False


def draw(generator: Generator) -> str:
    """A string; where two symbols are legal, either with the same probability."""
    automaton = embedded_automaton()
    state, text = 0, ""
    while automaton[state]:
        legal = sorted(automaton[state])
        symbol = legal[int(torch.randint(len(legal), (), generator=generator))]
        text += symbol
        state = automaton[state][symbol]
    return text


@dataclass(frozen=True)
class EmbeddedReber(Problem):
    """Predict every next symbol. A set of 256 strings is trained, in random order; another 256 are the test.

    A sequence is wrong (1, else 0) unless at each step every legal symbol's output is above those of all others.
    With `squared`, the loss is the squared error of logistic outputs, as in 1997; otherwise cross-entropy.
    """

    set_seed: int = 0
    squared: bool = False
    input_size: ClassVar[int] = len(SYMBOLS)
    every_step: ClassVar[bool] = True

    @property
    def output_size(self) -> int:
        return len(SYMBOLS)

    def sample(self, batch: int, generator: Generator) -> Examples:
        return string_sets(self.set_seed).part(torch.randint(STRINGS, (batch,), generator=generator))

    def held_out(self, batch: int, generator: Generator) -> Examples:
        """The strings of training and of test, all of them, whatever `batch` is."""
        return string_sets(self.set_seed)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        valid = ~padding(examples.lengths)
        symbol = examples.target[valid][:, 0]
        if self.squared:
            return 0.5 * (outputs[valid].sigmoid() - F.one_hot(symbol, len(SYMBOLS))).square().sum() / len(outputs)
        return F.cross_entropy(outputs[valid], symbol, reduction="sum") / len(outputs)

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        legal = examples.target[..., 1:] == 1
        lowest = outputs.masked_fill(~legal, torch.inf).amin(2)
        highest = outputs.masked_fill(legal, -torch.inf).amax(2)
        return ((lowest <= highest) & ~padding(examples.lengths)).any(1).float()


@cache
def string_sets(seed: int) -> Examples:
    """Both sets, training first. A target is the number of the next symbol, then whether each symbol is legal."""
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    texts = [draw(generator) for _ in range(2 * STRINGS)]
    lengths = torch.tensor([len(text) - 1 for text in texts])
    number = torch.zeros(len(texts), int(lengths.max()) + 1, dtype=torch.long)
    target = torch.zeros(*number.shape, 1 + len(SYMBOLS), dtype=torch.long)
    for row, text in enumerate(texts):
        numbers = [SYMBOLS.index(symbol) for symbol in text]
        number[row, : len(text)] = torch.tensor(numbers)
        for step, legal in enumerate(successors(text)[:-1]):
            target[row, step] = torch.tensor([numbers[step + 1], *(symbol in legal for symbol in SYMBOLS)])
    x = F.one_hot(number[:, :-1], len(SYMBOLS)).float().masked_fill(padding(lengths)[..., None], 0.0)
    return Examples(x, target[:, :-1], lengths)
