"""One door for all saved models: a file says what it is, and the part of recurra that wrote it opens it."""

from __future__ import annotations

from pathlib import Path

from recurra import tasks
from recurra.checkpoint import LAYER, layer_of, read_model
from recurra.errors import FormatError
from recurra.nn import Layer
from recurra.reservoir import EchoStateClassifier, EchoStateNetwork, saved
from recurra.tasks import LanguageModel


def load(path: str | Path) -> LanguageModel | Layer | EchoStateNetwork | EchoStateClassifier:
    """Open any saved model, on the CPU, ready to predict. No code from the files is run.

    Args:
        path: the folder with `model.json` and `weights.safetensors`: that of a training run, of `save_layer`, or of a
            fitted echo-state network.

    Raises:
        ArgumentError: there is no saved model, or no weights yet.
        FormatError: a file is damaged, of another format, or of a newer version.
        OSError: a file cannot be read.
    """
    folder = Path(path)
    task, model = read_model(folder)
    if task == LAYER:
        return layer_of(folder, task, model)
    if task in saved.KINDS:
        return saved.estimator_of(folder, task, model)
    if task in tasks.TASKS:
        return tasks.model_of(folder, task, model)
    expected = " or ".join((LAYER, *tasks.TASKS, *saved.KINDS))
    raise FormatError(
        f"{str(folder)!r} was made for a task that this version does not know", got=task, expected=expected
    )
