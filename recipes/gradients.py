"""How much of the gradient reaches the first step: the norm of dL/d(state before step 1), as training begins."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator

from recipes.problems import Latch
from recipes.train import Recipe, build
from recurra.nn import map_state

ROWS = 64


def gradient_norm(recipe: Recipe, lag: int, seed: int) -> float:
    """The mean, over 64 latch sequences of `lag` steps, of the norm of the loss's gradient by the whole first state.

    Computed in double precision, whose smallest numbers are far below any norm that can occur here.
    """
    problem = Latch(lag)
    chrono = None if recipe.chrono is None else float(lag)
    network = build(replace(recipe, problem=problem, chrono=chrono), seed).double()
    examples = problem.sample(ROWS, Generator().manual_seed(seed))
    layer = network.inner
    first = map_state(lambda part: part.requires_grad_(), layer.initial_state(ROWS))
    y, _ = layer(examples.x.double(), first)
    loss = problem.loss(network.head(y[:, -1]), examples)
    parts = torch.autograd.grad(loss * ROWS, first)
    return float(torch.cat(parts, dim=1).norm(dim=1).mean())
