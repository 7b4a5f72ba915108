"""How rounding grows while the language model trains: recurra beside torch.nn, and torch.nn beside itself.

    python benchmarks/divergence.py [DATA] [--cell lstm] [--steps 200] [--double] [--set NAME=VALUE]

Three models train on the same batches, update by update: recurra's, the same on torch.nn, and that again with its first
weights disturbed in the last bit. If the first and the third go away from the second alike, rounding is amplified by
training itself; a gradient that is wrong would show in the last column, where recurra's and torch.nn's are compared at
the same weights and the same state.
"""

import argparse
import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch_layers import disturb, on_torch

from recurra.data import TrainingChunks, parse_split
from recurra.learn.budget import Budget, learning_rate_factor
from recurra.learn.language_model import build_model, open_corpus
from recurra.learn.module import Training
from recurra.learn.settings import Settings, parse_assignments
from recurra.nn import map_state
from recurra.nn.layer import State
from recurra.tasks import LanguageModel
from recurra.tasks.language_model import as_tensors

Batch = tuple[Tensor, Tensor, Tensor | None]


class Learner:
    """A model in training, without Lightning, one update at a time."""

    def __init__(self, model: LanguageModel, settings: Settings, chunks: TrainingChunks) -> None:
        self.model = model
        self.state: State | None = None
        self._settings = settings
        self._budget = Budget(steps=settings.steps, seconds=None)
        self._optimizer = Training(model, settings, chunks, None, self._budget).configure_optimizers()

    def update(self, batch: Batch, number: int) -> float:
        """Nats a token of the batch, before the update."""
        loss, self.state = gradient_of(self.model, batch, number, self.state)
        nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip)
        fraction = self._budget.fraction(number + 0.5)
        factor = learning_rate_factor(fraction, warm_up=self._settings.warm_up, decay=self._settings.decay)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * factor
        self._optimizer.step()
        return loss


def gradient_of(model: LanguageModel, batch: Batch, number: int, state: State | None) -> tuple[float, State]:
    """Leave the gradients in the parameters; nats a token, and the state after the batch."""
    inputs, targets, reset = batch
    # the masks of dropout are those of the batch, whoever draws them
    torch.manual_seed(number)
    model.zero_grad()
    nats, after = model.loss(inputs, targets, state, reset)
    loss = nats / targets.numel()
    loss.backward()
    return loss.item(), map_state(Tensor.detach, after)


def gradient_difference(model: LanguageModel, batch: Batch, number: int, state: State | None) -> float:
    """The largest difference between recurra's gradients and torch.nn's, as a share of the largest of its tensor."""
    theirs = on_torch(model)
    gradient_of(theirs, batch, number, state)
    ours = copy.deepcopy(model)
    gradient_of(ours, batch, number, state)
    # gradients are laid out as weights are
    with torch.no_grad():
        for parameter in ours.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    laid_out = dict(on_torch(ours).named_parameters())
    shares = []
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None
        largest = parameter.grad.abs().max()
        if largest:
            shares.append(((laid_out[name] - parameter.grad).abs().max() / largest).item())
    return max(shares)


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference between their parameters."""
    others = dict(other.named_parameters())
    return max((parameter - others[name]).abs().max().item() for name, parameter in one.named_parameters())


def diverge(settings: Settings, *, double: bool, every: int) -> list[Mapping[str, float]]:
    """Train, and print a row of what is found at the first, at every so many, and at the last update; all rows."""
    torch.manual_seed(settings.seed)
    corpus = open_corpus(settings)
    parts = corpus.split(parse_split(settings.split))
    model = build_model(settings, parts)
    if double:
        model.double()
    stream = model.token_stream(parts.train)
    chunks = TrainingChunks(stream, rows=settings.batch, steps=settings.window, seed=settings.seed)
    disturbed = on_torch(model)
    disturb(disturbed)
    recurra, torch_nn, torch_disturbed = (Learner(one, settings, chunks) for one in (model, on_torch(model), disturbed))
    steps = settings.steps or 1
    rows: list[Mapping[str, float]] = []
    for number in range(steps):
        batch = as_tensors(chunks.chunk(number), torch.device("cpu"))
        shown = number % every == 0 or number == steps - 1
        row = {"update": number, "gradients": gradient_difference(model, batch, number, recurra.state)} if shown else {}
        row["loss"] = loss = torch_nn.update(batch, number)
        row["recurra, loss"] = abs(recurra.update(batch, number) - loss)
        row["disturbed, loss"] = abs(torch_disturbed.update(batch, number) - loss)
        if shown:
            row["recurra, weights"] = distance(on_torch(model), torch_nn.model)
            row["disturbed, weights"] = distance(disturbed, torch_nn.model)
            print(_line(row), flush=True)
        rows.append(row)
    return rows


_COLUMNS = ("recurra, loss", "disturbed, loss", "recurra, weights", "disturbed, weights", "gradients")
_HEADING = f"| update | loss | {' | '.join(_COLUMNS)} |\n|{'--:|' * (len(_COLUMNS) + 2)}"


def _line(row: Mapping[str, float]) -> str:
    return f"| {row['update']} | {row['loss']:.3f} | {' | '.join(f'{row[name]:.0e}' for name in _COLUMNS)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", metavar="DATA", help="text; Python's own source if not given")
    parser.add_argument("--steps", type=int, default=200, help="updates (default: %(default)s)")
    parser.add_argument("--cell", default="lstm", choices=["gru", "lstm"], help="(default: %(default)s)")
    parser.add_argument("--every", type=int, default=20, help="updates from one row to the next (default: %(default)s)")
    parser.add_argument("--double", action="store_true", help="in float64")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting of the run")
    given = parser.parse_args(arguments)
    settings = Settings.create(
        {"data": given.data, "steps": given.steps, "cell": given.cell, **parse_assignments(given.set)}
    )
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    print(_HEADING)
    rows = diverge(settings, double=given.double, every=given.every)
    largest = (max(row[f"{who}, loss"] for row in rows) for who in ("recurra", "disturbed"))
    print("\nThe losses of all updates differ by {:.1e} and {:.1e} nats at most.".format(*largest))


if __name__ == "__main__":
    main()
