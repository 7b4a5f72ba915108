"""Fitted estimators on disk: `model.json` and `weights.safetensors`, as `recurra.checkpoint` writes them."""

from __future__ import annotations

from pathlib import Path as Folder
from typing import Any

import numpy as np
import torch

from recurra.checkpoint import read_weights, restored, save_model, save_weights
from recurra.errors import ArgumentError, FormatError
from recurra.models import build_layer, layer_spec
from recurra.reservoir.classifier import EchoStateClassifier
from recurra.reservoir.draw import Reservoir
from recurra.reservoir.estimator import ReservoirEstimator
from recurra.reservoir.network import EchoStateNetwork
from recurra.reservoir.ridge import Moments, Path

KINDS = {kind.task: kind for kind in (EchoStateNetwork, EchoStateClassifier)}

_LAYER, _MOMENTS = "layer.", "moments."


def save(estimator: ReservoirEstimator, folder: Folder, *, resumable: bool) -> None:
    """`ReservoirEstimator.save`."""
    weights, bias = estimator._readout()
    tensors = {_LAYER + name: tensor for name, tensor in estimator.layer_.state_dict().items()}
    tensors |= {"weights": torch.from_numpy(weights), "bias": torch.from_numpy(bias)}
    if resumable:
        moments = estimator._collected()
        tensors |= {_MOMENTS + name: torch.as_tensor(getattr(moments, name)) for name in Moments.FIELDS}
    settings = estimator.get_params(deep=False)
    reservoir = settings.pop("reservoir")
    settings["regularisation"] = estimator._regularisations().tolist()
    model = {
        "reservoir": reservoir.as_json() if isinstance(reservoir, Reservoir) else None,
        "settings": settings,
        "layer": layer_spec(estimator.layer_),
        "dtype": str(estimator._dtype).removeprefix("torch."),
        "learned": estimator._learned,
        "scores": list(estimator.scores_.items()),
        "criterion": estimator.criterion_,
        "chosen": estimator.regularisation_,
    }
    save_model(folder, estimator.task, model)
    save_weights(folder, tensors, {})


def estimator_of(folder: Folder, task: str, model: dict[str, Any]) -> EchoStateNetwork | EchoStateClassifier:
    """What `save` wrote into the folder, of which `model.json` is read: for one of `KINDS`, and this.

    Raises:
        ArgumentError: there are no weights.
        FormatError: a file is damaged.
        OSError: the weights cannot be read.
    """
    tensors, _ = read_weights(folder)
    try:
        return _restored(KINDS[task], model, tensors, str(folder))
    except (KeyError, TypeError, RuntimeError, ArgumentError) as error:
        raise FormatError(f"{str(folder)!r} is damaged ({type(error).__name__}: {error})") from None


def _restored(kind: Any, model: dict[str, Any], tensors: dict[str, torch.Tensor], source: str) -> Any:
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    own = {n.removeprefix(_LAYER): t for n, t in tensors.items() if n.startswith(_LAYER)}
    layer = restored(lambda: build_layer(model["layer"]), own, source=source).to(dtypes[model["dtype"]])
    layer = layer.requires_grad_(False).eval()
    reservoir = layer if model["reservoir"] is None else Reservoir(**model["reservoir"])
    estimator = kind(reservoir, **model["settings"])
    estimator.layer_, estimator.echo_state_, estimator._moments = layer, None, None
    estimator._learned = model["learned"]
    weights, bias = (tensors[name].numpy()[None] for name in ("weights", "bias"))
    chosen = np.array([model["chosen"]])
    estimator._choose(Path(chosen, weights, bias, np.zeros(1)), np.zeros(1), model["criterion"])
    estimator._scores = {float(regularisation): score for regularisation, score in model["scores"]}
    if _MOMENTS + "weight" in tensors:
        estimator._moments = Moments(*weights.shape[1:])
        for name in Moments.FIELDS:
            setattr(estimator._moments, name, tensors[_MOMENTS + name].numpy())
    return estimator
