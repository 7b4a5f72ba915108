"""Saved models with torch: `recurra.storage` has their format, and reads them without it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save as tensors_as_bytes

from recurra.bfloat16 import BFLOAT16
from recurra.errors import FormatError, RecurraError
from recurra.models import build_layer, layer_spec
from recurra.nn import Layer
from recurra.nn.streaming import checksum
from recurra.quantisation import Found, find_small, quantise
from recurra.storage import CHECKSUM, NOTES, make_folder, read_arrays
from recurra.storage import MODEL_FILE as MODEL_FILE
from recurra.storage import WEIGHTS_FILE as WEIGHTS_FILE
from recurra.storage import read_model as read_model
from recurra.storage import save_model as save_model
from recurra.storage import write_atomically as write_atomically

LAYER = "layer"
"""The task of a layer that is saved on its own."""

_Module = TypeVar("_Module", bound=torch.nn.Module)


def save_weights(folder: Path, weights: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write `weights.safetensors`.

    Args:
        folder: created if need be.
        weights: the parameters by name, on any device.
        about: what to keep with them, such as the step and the loss.

    Raises:
        ArgumentError: a file stands where the folder should.
        OSError: it cannot be written; an earlier file is intact.
    """
    make_folder(folder)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # In one field: safetensors writes several in no fixed order, and equal weights should make equal files.
    notes = json.dumps({**about, CHECKSUM: checksum(plain)}, sort_keys=True)
    write_atomically(folder / WEIGHTS_FILE, tensors_as_bytes(plain, metadata={NOTES: notes}))


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The parameters by name, and what `save_weights` kept with them.

    Raises:
        ArgumentError: there are no weights in the folder.
        FormatError: the file is truncated or damaged, or holds a type that recurra never writes.
        OSError: it cannot be read.
    """
    found = read_arrays(folder)
    return {name: _tensor(array) for name, array in found.arrays.items()}, found.about


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view("<i2")).view(torch.bfloat16)
    return torch.from_numpy(array)


def save_layer(layer: Layer, folder: str | Path) -> None:
    """Write any layer of recurra as `model.json` and `weights.safetensors`, for `load_layer` or `recurra.runtime.load`.

    Args:
        layer: a layer, or a nest of them; the programs of its cells are written too.
        folder: created if need be.

    Raises:
        ArgumentError: a layer, here or within, that is no program and none of recurra's wrappers; or a file stands
            where the folder should.
        OSError: it cannot be written; an earlier file is intact.
    """
    spec = layer_spec(layer)
    save_model(Path(folder), LAYER, {"layer": spec})
    save_weights(Path(folder), layer.state_dict(), {})


def load_layer(folder: str | Path) -> Layer:
    """Open what `save_layer` wrote, on the CPU, in evaluation. No code from the files is run.

    `recurra.load` opens layers too, and all else; this is for code that needs a layer: another model is refused, and a
    type checker knows what comes.

    Raises:
        ArgumentError: there is no saved model.
        FormatError: a file is damaged, of another format or task, or of a newer version.
        OSError: a file cannot be read.
    """
    path = Path(folder)
    return layer_of(path, *read_model(path))


def layer_of(folder: Path, task: str, model: Mapping[str, Any]) -> Layer:
    """`load_layer`, for a `model.json` that was read already."""
    if task != LAYER or set(model) != {"layer"}:
        raise FormatError(f"{str(folder)!r} was made for another task", got=task, expected=LAYER)
    weights, _ = read_weights(folder)
    return restored(lambda: build_layer(model["layer"]), weights, source=str(folder)).eval()


def outlined(build: Callable[[], _Module], *, source: str) -> _Module:
    """What `build` makes, without memory for its weights: sizes in a file may be any.

    Raises:
        FormatError: sizes that no computer has room for, or a model that cannot be built.
    """
    try:
        with torch.device("meta"):
            return build()
    except RecurraError as error:
        raise FormatError(f"{source!r} cannot be opened: {error}") from None
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise FormatError(f"{source!r} describes a model of impossible sizes ({error})") from None


def restored(build: Callable[[], _Module], weights: Mapping[str, torch.Tensor], *, source: str) -> _Module:
    """What `build` makes, with these weights, in their dtype. It is built only once it is known that they fit.

    Raises:
        FormatError: they are not this model's: names or shapes differ, or some are int8 or bfloat16 beside float32 and
            the model's cannot be.
    """
    small = find_small(weights, source=source)
    _check_shapes(outlined(build, source=source), weights, small, source)
    # what says something of small weights is no weight; of another dtype than theirs it has that of the others
    held = {n for n in small.names | small.beside if weights[n].dtype is not torch.float32} if small else set[str]()
    floating = next((w.dtype for n, w in weights.items() if w.is_floating_point() and n not in held), None)
    model = build()
    model = model if floating is None else model.to(floating)
    if small is not None:
        try:
            model = quantise(model, small.names, weights=small.form, activations=small.activations)
        except RecurraError as error:
            raise FormatError(f"the {small.form} weights in {source!r} do not fit its model: {error}") from None
    model.load_state_dict(weights)
    return model


def _check_shapes(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], small: Found | None, source: str
) -> None:
    names, beside = (small.names, small.beside) if small is not None else ((), ())
    wanted = {name: _shape(tensor) for name, tensor in model.state_dict().items()}
    got = {n: tuple(w.shape) if n in names else _shape(w) for n, w in weights.items() if n not in beside}
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise FormatError(
                f"the weights in {source!r} do not fit its model: {name}",
                got=got.get(name, "nothing"),
                expected=f"shape {wanted[name]}" if name in wanted else "no such weight",
            )


def _shape(tensor: torch.Tensor) -> tuple[object, ...]:
    # whole numbers are no weights
    return tuple(tensor.shape) if tensor.is_floating_point() else (*tensor.shape, tensor.dtype)
