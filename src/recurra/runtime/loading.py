"""Opens saved models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from recurra.errors import FormatError, RecurraError
from recurra.runtime.build import MALFORMED, build, programs
from recurra.runtime.language_model import LanguageModel
from recurra.runtime.layer import Layer
from recurra.runtime.reservoir import EchoStateClassifier, EchoStateNetwork
from recurra.runtime.weights import Weights
from recurra.storage import checksum_of, described, fingerprint, read_arrays, read_model


def load(path: str | Path) -> Layer:
    """Open a saved model with numpy and the engine only; torch is never imported, and no code from the files is run.

    Without the engine it runs in numpy, and a RecurraBackendWarning says that this is slow.

    Args:
        path: the folder with `model.json` and `weights.safetensors`, such as the folder of a training run.

    Returns:
        the model: a call runs sequences, `step` one step, `stream()` and `streams(n)` go on where they were. What a
        language model has besides (`vocabulary`, `generate`, `reader`) is in `LanguageModel`.

    Raises:
        ArgumentError: there is no saved model, or no weights yet.
        FormatError: a file is damaged, of another format or task, or of a newer version.
        OSError: a file cannot be read.
    """
    folder = Path(path)
    task, spec = read_model(folder)
    if task not in _TASKS:
        raise FormatError(f"{str(folder)!r} was made for another task", got=task, expected=" or ".join(_TASKS))
    weights = read_arrays(folder)
    try:
        # a number that is too large becomes infinite without a word
        with np.errstate(all="ignore"):
            model = _TASKS[task](spec, weights.arrays)
    except RecurraError as error:
        raise FormatError(f"{str(folder)!r} cannot be opened: {error}") from None
    except MALFORMED as error:
        raise FormatError(f"{str(folder)!r} is malformed ({type(error).__name__}: {error})") from None
    name, layer = ("layers", spec["layers"]) if task == "language-model" else ("", spec["layer"])
    model.identity = cache(lambda: fingerprint(weights.checksum, programs(layer, name)))
    return model


def from_data(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Layer:
    """A layer out of what `recurra.models.layer_spec` and its `state_dict` (as numpy arrays) say.

    Raises:
        FormatError: they are malformed or do not fit.
    """
    layer, checksum = _built(spec, arrays), checksum_of(described(arrays))
    layer.identity = cache(lambda: fingerprint(checksum, programs(spec, "")))
    return layer


def _built(spec: Any, arrays: Mapping[str, np.ndarray]) -> Layer:
    weights = Weights(arrays)
    try:
        with np.errstate(all="ignore"):
            layer = build(spec, weights)
    except RecurraError as error:
        raise FormatError(f"the layer cannot be built: {error}") from None
    except MALFORMED as error:
        raise FormatError(f"the layer is malformed ({type(error).__name__}: {error})") from None
    weights.all_used()
    return layer


def _layer(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Layer:
    return _built(spec["layer"], arrays)


def _language_model(spec: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Layer:
    weights = Weights(arrays)
    model = LanguageModel(spec, weights)
    weights.all_used()
    return model


_TASKS: dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Layer]] = {
    "echo-state-classifier": EchoStateClassifier,
    "echo-state-network": EchoStateNetwork,
    "language-model": _language_model,
    "layer": _layer,
}
