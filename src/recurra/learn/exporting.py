"""Write the model of a run with small weights, when it predicts as well as before."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from recurra.checkpoint import MODEL_FILE, read_weights, save_model, save_weights
from recurra.errors import ArgumentError
from recurra.learn.evaluate import documents_of
from recurra.learn.run import Run
from recurra.quantisation import quantise
from recurra.tasks import LanguageModel, load

_ROUNDS, _STEPS = 20, 50


@dataclass(frozen=True)
class Measured:
    """What a model costs, and how well it predicts."""

    bytes: int
    """The size of its weights."""
    step: float
    """The median time of one step of one row, in seconds."""
    loss: float | None
    """Nats a character on held-out text; None where there is no text."""


@dataclass(frozen=True)
class SmallExport:
    """A model before and after its weights became small."""

    before: Measured
    after: Measured
    text: str | None
    """What it was scored on."""


def export_small(folder: Path, out: Path, *, weights: str, data: Path | None, tolerance: float) -> SmallExport:
    """Write the model of a folder with small weights to the folder `out`, unless its loss moves too far.

    Args:
        folder: of a run, or of any saved language model.
        out: the folder to write to.
        weights: "int8" or "bfloat16".
        data: a text file or a folder to score both models on; None for the validation part of the run (without one,
            its test part). A model that is no run is not scored then.
        tolerance: how far the loss may move, in nats a character.

    Raises:
        ArgumentError: there is no model, `out` holds one already, or the loss moves too far; nothing is written.
        FormatError: a file is damaged, or the data are not text.
        OSError: something cannot be read or written.
    """
    if not tolerance >= 0:
        raise ArgumentError("the tolerance", got=tolerance, expected="nats a character, from 0")
    if (out / MODEL_FILE).exists():
        raise ArgumentError(f"{str(out)!r} holds a model already", advice="Name another folder with --out.")
    model = load(folder)
    small = quantise(model, weights=weights)
    texts = documents_of(folder, data) if data is not None or Run(folder).exists() else {}
    text = next(iter(texts), None)
    losses = [None, None] if text is None else [m.score(texts[text]).nats_per_character for m in (model, small)]
    before, after = (
        Measured(_bytes(m), step, loss)
        for m, step, loss in zip((model, small), _step_times(model, small), losses, strict=True)
    )
    if before.loss is not None and after.loss is not None and not abs(after.loss - before.loss) <= tolerance:
        raise ArgumentError(
            f"with {weights} weights the loss on {text} moves from {before.loss:.4f} to {after.loss:.4f} nats a "
            "character",
            expected=f"at most {tolerance:g} of difference",
            advice="Nothing was written. Allow more with --tolerance",
        )
    _, about = read_weights(folder)
    save_model(out, small.task, small.to_spec())
    save_weights(out, small.state_dict(), {**about, "weights": weights})
    return SmallExport(before, after, text)


def _bytes(model: LanguageModel) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


@torch.no_grad()
def _step_times(*models: LanguageModel) -> list[float]:
    """The median time of a step of each, in turns, for other programs may be running."""
    token = torch.zeros(1, dtype=torch.long)
    states = [model.initial_state(1) for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(_ROUNDS):
        for number, model in enumerate(models):
            for _ in range(_STEPS):
                start = time.perf_counter()
                _, states[number] = model.step(token, states[number])
                times[number].append(time.perf_counter() - start)
    return [sorted(found)[len(found) // 2] for found in times]
