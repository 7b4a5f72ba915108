"""Tasks: a model, its loss, its scores and its predictions, one file each. `recurra.learn` trains them."""

from pathlib import Path
from typing import Any

from recurra.checkpoint import read_model, read_weights, restored
from recurra.errors import FormatError
from recurra.tasks.language_model import LanguageModel, Score

TASKS = {kind.task: kind for kind in (LanguageModel,)}

__all__ = ["TASKS", "LanguageModel", "Score", "load", "model_of"]


def load(path: str | Path) -> LanguageModel:
    """Open a saved model: the module with its weights, on the CPU, ready to predict. No code from the files is run.

    Args:
        path: the folder with `model.json` and `weights.safetensors`, such as the folder of a training run.

    Raises:
        ArgumentError: there is no saved model, or no weights yet.
        FormatError: a file is damaged, of another format, or of a newer version.
        OSError: a file cannot be read.
    """
    folder = Path(path)
    return model_of(folder, *read_model(folder))


def model_of(folder: Path, task: str, model: dict[str, Any]) -> LanguageModel:
    """`load`, for a `model.json` that was read already."""
    if task not in TASKS:
        raise FormatError(f"{str(folder)!r} was made for another task", got=task, expected=" or ".join(TASKS))
    weights, _ = read_weights(folder)
    return restored(lambda: TASKS[task].from_spec(model), weights, source=str(folder)).eval()
