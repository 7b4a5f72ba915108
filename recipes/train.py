"""One training loop for all recipes: fresh sequences, an optimiser step a batch, an end when the criterion is met."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

import recurra
from recipes.layers import Network, TorchTwin, build_layer
from recipes.problems import Examples, Problem

AFTER = 2560
"""Fresh sequences that are judged after a run has met its criterion."""
_ROWS = 256


@dataclass(frozen=True)
class Streak:
    """Solved when the errors of the last `count` training sequences, before they were learnt from, are all below
    `tolerance` (the criterion of 1997)."""

    tolerance: float
    count: int = 2000


@dataclass(frozen=True)
class HeldOut:
    """Solved when the mean error of `count` held-out sequences, looked at every so many updates, is at most `limit`."""

    limit: float
    every: int = 100
    count: int = 512


# The fields of a recipe that change no result.
_ABOUT = ("seeds", "solves", "anchor", "difference", "explained")


@dataclass(frozen=True)
class Recipe:
    """One way to train one layer for one problem. Equal recipes with equal seeds give equal results."""

    task: str
    """The section of the report."""
    arm: str
    """What it is called within its section."""
    problem: Problem
    criterion: Streak | HeldOut
    cell: str
    hidden: int
    sequences: int
    """At most so many are trained on."""
    layers: int = 1
    batch: int = 32
    optimiser: Literal["adam", "rmsprop", "sgd"] = "adam"
    learning_rate: float = 1e-3
    decay: bool = False
    """Whether the learning rate falls to zero along half a cosine."""
    clip: float | None = 1.0
    """The largest norm of the gradient."""
    uniform: float | None = None
    """All matrices start uniform in plus and minus this, instead of recurra's own start."""
    chrono: float | None = None
    """Forget gates start by chrono initialisation for so many steps."""
    head_bias: bool = True
    seeds: int = 5
    solves: bool | None = None
    """What is published: the cell learns the task, it does not, or nobody says."""
    anchor: str = field(default="", compare=False)
    """The published figure, with its evidence mark."""
    difference: str = field(default="", compare=False)
    """Where the recipe differs from the published one."""

    explained: str = field(default="", compare=False)
    """Why a result that is not as published is no fault of a kernel, where that was looked into."""

    def fingerprint(self) -> str:
        """Changes with anything that may change a result."""
        settings = {f: v for f, v in asdict(self).items() if f not in _ABOUT}
        text = repr([type(self.problem).__name__, type(self.criterion).__name__, settings])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Outcome:
    """What came of one recipe and one seed."""

    solved: bool
    sequences: int
    """Trained on until the criterion was met, or the run ended."""
    seconds: float
    error: float
    """The mean error of held-out sequences at the end."""
    wrong: float | None
    """The share of them above the tolerance of a `Streak`."""
    parameters: int
    curve: list[tuple[int, float]]
    """Sequences and mean error, along the way: of held-out sequences, or of the training sequences of a `Streak`."""


def build(recipe: Recipe, seed: int, *, torch_twin: bool = False) -> Network:
    """The network as a run begins with it. `torch_twin` puts torch.nn's modules, of the same weights, in its place."""
    torch.manual_seed(seed)
    problem = recipe.problem
    sizes = [problem.input_size] + [recipe.hidden] * (recipe.layers - 1)
    layers = [build_layer(recipe.cell, size, recipe.hidden) for size in sizes]
    for layer in layers:
        if recipe.chrono is not None:
            recurra.nn.init.chrono_(layer, recipe.chrono)
    stack = layers[0] if len(layers) == 1 else recurra.nn.Stack(layers)
    network = Network(stack, problem.output_size, every_step=problem.every_step, bias=recipe.head_bias)
    if recipe.uniform is not None:
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.uniform_(parameter, -recipe.uniform, recipe.uniform)
    if torch_twin:
        network.inner = TorchTwin(stack)
    return network


def train(recipe: Recipe, seed: int, *, torch_twin: bool = False) -> Outcome:
    """One run. `seed` decides the weights and every sequence."""
    began = time.perf_counter()
    network = build(recipe, seed, torch_twin=torch_twin)
    judge = _Judge(recipe, seed)
    updates = recipe.sequences // recipe.batch
    optimiser = _optimiser(recipe, network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates) if recipe.decay else None
    generator = Generator().manual_seed(seed)
    solved, update = False, 0
    while not solved and update < updates:
        examples = recipe.problem.sample(recipe.batch, generator)
        outputs = network(examples.x, examples.lengths)
        loss = recipe.problem.loss(outputs, examples)
        optimiser.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        if schedule is not None:
            schedule.step()
        update += 1
        solved = judge.is_met(network, update, recipe.problem.errors(outputs.detach(), examples))
    error, wrong = judge.final(network)
    return Outcome(
        solved=solved,
        sequences=update * recipe.batch,
        seconds=time.perf_counter() - began,
        error=error,
        wrong=wrong,
        parameters=sum(p.numel() for p in network.parameters()),
        curve=judge.curve,
    )


def _optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    parameters, rate = network.parameters(), recipe.learning_rate
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate)
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=0.9)
    return torch.optim.SGD(parameters, lr=rate)


class _Judge:
    """Applies a criterion along a run, and keeps the curve."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self._recipe = recipe
        self._generator = Generator().manual_seed(2**31 + seed)
        self.curve: list[tuple[int, float]] = []
        criterion = recipe.criterion
        self._held: Examples | None = None
        if isinstance(criterion, HeldOut):
            self._held = recipe.problem.held_out(criterion.count, self._generator)
        self._streak = 0
        self._recent: list[float] = []

    def is_met(self, network: Network, update: int, errors: Tensor) -> bool:
        """`errors` (batch,) are those of the sequences just trained on, before the update."""
        criterion, batch = self._recipe.criterion, self._recipe.batch
        if isinstance(criterion, HeldOut):
            assert self._held is not None
            if update % criterion.every:
                return False
            error = float(held_out_errors(self._recipe.problem, network, self._held).mean())
            self.curve.append((update * batch, error))
            return error <= criterion.limit
        self._recent.append(float(errors.mean()))
        if len(self._recent) * batch >= criterion.count:
            self.curve.append((update * batch, sum(self._recent) / len(self._recent)))
            self._recent = []
        missed = (errors >= criterion.tolerance).nonzero()
        self._streak = self._streak + batch if len(missed) == 0 else batch - 1 - int(missed.max())
        return self._streak >= criterion.count

    def final(self, network: Network) -> tuple[float, float | None]:
        """Mean error, and the share of wrong sequences where the criterion has a tolerance, of held-out sequences."""
        criterion, problem = self._recipe.criterion, self._recipe.problem
        examples = self._held if self._held is not None else problem.held_out(AFTER, self._generator)
        errors = held_out_errors(problem, network, examples)
        wrong = float((errors >= criterion.tolerance).float().mean()) if isinstance(criterion, Streak) else None
        return float(errors.mean()), wrong


@torch.no_grad()
def held_out_errors(problem: Problem, network: nn.Module, examples: Examples) -> Tensor:
    """(batch,): the error of each sequence, read in parts that fit a small memory."""
    return torch.cat([problem.errors(network(part.x, part.lengths), part) for part in _parts(examples)])


def _parts(examples: Examples) -> Iterator[Examples]:
    for first in range(0, len(examples.x), _ROWS):
        yield examples.part(slice(first, first + _ROWS))


def as_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain data, its figures rounded to what they mean."""
    record = asdict(outcome)
    record["seconds"] = round(outcome.seconds, 2)
    record["curve"] = [(n, float(f"{error:.4g}")) for n, error in outcome.curve]
    return record
