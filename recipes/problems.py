"""The tasks: fresh sequences out of a generator, the loss that is trained, and how wrong each sequence is.

All shapes are (batch, time, feature); a sequence of fewer steps is padded with zeros and `lengths` tells its true end.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Examples:
    """A batch of sequences with what is to be put out."""

    x: Tensor
    """(batch, time, input_size)."""
    target: Tensor
    """(batch,) where the last step answers, (batch, time) or (batch, time, ...) where every step does."""
    lengths: Tensor
    """(batch,), whole numbers."""

    def part(self, rows: Tensor | slice) -> Examples:
        """These rows only, without steps that are padding in all of them."""
        lengths = self.lengths[rows]
        time = int(lengths.max())
        target = self.target[rows]
        return Examples(self.x[rows, :time], target[:, :time] if target.ndim > 1 else target, lengths)


class Problem(ABC):
    """A task. Subclasses are frozen dataclasses: two that are equal draw the same sequences from the same seed."""

    input_size: ClassVar[int]
    every_step: ClassVar[bool] = False
    """Whether an answer is wanted at every step, or at the last one only."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """The width of an answer."""

    @abstractmethod
    def sample(self, batch: int, generator: Generator) -> Examples:
        """Fresh training sequences."""

    def held_out(self, batch: int, generator: Generator) -> Examples:
        """Fresh sequences to judge by; those of training unless a task says otherwise."""
        return self.sample(batch, generator)

    @abstractmethod
    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        """What is trained: a scalar out of (batch, output_size), or (batch, time, output_size)."""

    @abstractmethod
    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        """(batch,): how wrong each sequence is, in the measure in which the task's criterion is stated."""


def whole_numbers(low: int, high: int, batch: int, generator: Generator) -> Tensor:
    """(batch,), uniform from low to high, both included."""
    return torch.randint(low, high + 1, (batch,), generator=generator)


def padding(lengths: Tensor) -> Tensor:
    """(batch, time), true beyond the end of a sequence."""
    return torch.arange(int(lengths.max())) >= lengths[:, None]


@dataclass(frozen=True)
class Adding(Problem):
    """Adding, experiment 4 of Hochreiter and Schmidhuber 1997: the sum of the two marked numbers.

    Numbers are uniform in [-1, 1], a sequence has `steps` to 1.1 `steps` of them. One of the first ten and one of the
    first `steps` / 2 - 1 are marked by 1, the first and the last step by -1 (a marked first step counts as zero). The
    answer is 0.5 + (X1 + X2) / 4, an error its absolute difference.
    """

    steps: int
    input_size: ClassVar[int] = 2

    @property
    def output_size(self) -> int:
        return 1

    def sample(self, batch: int, generator: Generator) -> Examples:
        lengths = whole_numbers(self.steps, self.steps + self.steps // 10, batch, generator)
        value = 2 * torch.rand(batch, int(lengths.max()), generator=generator) - 1
        row = torch.arange(batch)
        first = whole_numbers(0, 9, batch, generator)
        # drawn among the others of the first half, so that the two differ
        second = whole_numbers(0, self.steps // 2 - 3, batch, generator)
        second = second + (second >= first)
        total = torch.zeros(batch)
        marker = torch.zeros_like(value)
        for place in (first, second):
            marker[row, place] = 1.0
            total += torch.where(place == 0, 0.0, value[row, place])
        marker[:, 0] = marker[row, lengths - 1] = -1.0
        x = torch.stack([value, marker], dim=2).masked_fill(padding(lengths)[..., None], 0.0)
        return Examples(x, 0.5 + total / 4, lengths)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        return F.mse_loss(outputs[:, 0], examples.target)

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        return (outputs[:, 0] - examples.target).abs()


@dataclass(frozen=True)
class TemporalOrder(Problem):
    """Temporal order, experiments 6a (two symbols) and 6b (three) of Hochreiter and Schmidhuber 1997.

    Between a first symbol E and a last one B stand distractors a, b, c, d, and X or Y at two or three places; the
    answer is the class that their order makes. An error is the largest difference of an output's probability from the
    target's.
    """

    symbols: int
    input_size: ClassVar[int] = 8
    places: ClassVar[dict[int, tuple[tuple[int, int], ...]]] = {
        2: ((10, 20), (50, 60)),
        3: ((10, 20), (33, 43), (66, 76)),
    }
    # E, B, a, b, c, d, X, Y
    start: ClassVar[int] = 0
    end: ClassVar[int] = 1
    first_distractor: ClassVar[int] = 2
    first_symbol: ClassVar[int] = 6

    @property
    def output_size(self) -> int:
        return 2**self.symbols

    def sample(self, batch: int, generator: Generator) -> Examples:
        lengths = whole_numbers(100, 110, batch, generator)
        text = self.first_distractor + torch.randint(4, (batch, int(lengths.max())), generator=generator)
        row = torch.arange(batch)
        target = torch.zeros(batch, dtype=torch.long)
        for low, high in self.places[self.symbols]:
            bit = whole_numbers(0, 1, batch, generator)
            text[row, whole_numbers(low, high, batch, generator)] = self.first_symbol + bit
            target = 2 * target + bit
        text[:, 0] = self.start
        text[row, lengths - 1] = self.end
        x = F.one_hot(text, self.input_size).float().masked_fill(padding(lengths)[..., None], 0.0)
        return Examples(x, target, lengths)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        return F.cross_entropy(outputs, examples.target)

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        return (outputs.softmax(1) - F.one_hot(examples.target, self.output_size)).abs().amax(1)


@dataclass(frozen=True)
class Latch(Problem):
    """The latch of Bengio, Simard and Frasconi 1994: hold the sign of the first input over `lag` steps of noise."""

    lag: int
    noise: float = 0.2
    input_size: ClassVar[int] = 1

    @property
    def output_size(self) -> int:
        return 1

    def sample(self, batch: int, generator: Generator) -> Examples:
        bit = whole_numbers(0, 1, batch, generator)
        x = self.noise * torch.randn(batch, self.lag + 1, 1, generator=generator)
        x[:, 0, 0] = 2.0 * bit - 1
        return Examples(x, bit, torch.full((batch,), self.lag + 1))

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs[:, 0], examples.target.float())

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        return ((outputs[:, 0] > 0) != (examples.target > 0)).float()


@dataclass(frozen=True)
class Parity(Problem):
    """Whether the number of ones so far is odd: trained on short sequences, judged on long ones.

    Every step is trained to answer; judged is the last answer alone: wrong (1) or right (0), so that chance is one
    half.
    """

    train_lengths: tuple[int, int] = (3, 40)
    test_lengths: tuple[int, int] = (40, 256)
    input_size: ClassVar[int] = 2
    every_step: ClassVar[bool] = True

    @property
    def output_size(self) -> int:
        return 1

    def sample(self, batch: int, generator: Generator) -> Examples:
        return self._draw(self.train_lengths, batch, generator)

    def held_out(self, batch: int, generator: Generator) -> Examples:
        return self._draw(self.test_lengths, batch, generator)

    def _draw(self, between: tuple[int, int], batch: int, generator: Generator) -> Examples:
        lengths = whole_numbers(*between, batch, generator)
        outside = padding(lengths)
        bits = torch.randint(2, outside.shape, generator=generator).masked_fill(outside, 0)
        x = F.one_hot(bits, 2).float().masked_fill(outside[..., None], 0.0)
        return Examples(x, bits.cumsum(1) % 2, lengths)

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        valid = ~padding(examples.lengths)
        return F.binary_cross_entropy_with_logits(outputs[..., 0][valid], examples.target[valid].float())

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        row, last = torch.arange(len(outputs)), examples.lengths - 1
        return ((outputs[row, last, 0] > 0) != (examples.target[row, last] > 0)).float()


@dataclass(frozen=True)
class Copying(Problem):
    """Copying memory (Arjovsky et al. 2016): ten symbols of eight, `lag` blanks, then say the ten again.

    The input has `lag` + 20 steps: the symbols (1 to 8), `lag` - 1 blanks (0), a signal (9), ten blanks. Only the last
    ten steps are to be answered; those before, whose published answer is always blank, are left out. An error is the
    sum of the ten cross-entropies over `lag` + 20 steps, in nats: what it would be if silence were learnt perfectly.
    `memoryless` is that of an answer that remembers nothing.
    """

    lag: int
    input_size: ClassVar[int] = 10
    every_step: ClassVar[bool] = True

    @property
    def output_size(self) -> int:
        return 8

    @property
    def memoryless(self) -> float:
        """10 ln 8 / (lag + 20)."""
        return 10 * math.log(8) / (self.lag + 20)

    def sample(self, batch: int, generator: Generator) -> Examples:
        symbols = 1 + torch.randint(8, (batch, 10), generator=generator)
        text = torch.zeros(batch, self.lag + 20, dtype=torch.long)
        text[:, :10] = symbols
        text[:, self.lag + 9] = 9
        return Examples(F.one_hot(text, 10).float(), symbols - 1, torch.full((batch,), self.lag + 20))

    def loss(self, outputs: Tensor, examples: Examples) -> Tensor:
        return self.errors(outputs, examples).mean() * (self.lag + 20) / 10

    def errors(self, outputs: Tensor, examples: Examples) -> Tensor:
        answers = outputs[:, -10:].transpose(1, 2)
        return F.cross_entropy(answers, examples.target, reduction="none").sum(1) / (self.lag + 20)
