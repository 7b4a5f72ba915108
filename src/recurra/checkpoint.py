"""Saved models: `model.json` (what the model is) and `weights.safetensors` (its parameters) in one folder.

    model.json            {"format": "recurra model", "version": 1, "written_by": ..., "task": ..., "model": {...}}
    weights.safetensors   the parameters by name; in the metadata a checksum, and what is known about them, as JSON

Nothing is pickled, and reading runs no code from the files. A file is written beside its place and then renamed:
whatever happens meanwhile, the earlier one stays whole.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_as_bytes

import recurra
from recurra.errors import ArgumentError, FormatError

FORMAT = "recurra model"
VERSION = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"

_NOTES = "recurra"
_CHECKSUM = "sha256"


def write_atomically(path: Path, content: bytes) -> None:
    """Put the content in the file: all of it, or, when this raises OSError, nothing and the earlier file stays."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        # A full disk is noticed by `write`, which does not know the name of its file.
        raise OSError(error.errno, f"{error.strerror}; what was saved before is intact", str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def save_model(folder: Path, task: str, model: Mapping[str, Any]) -> None:
    """Write `model.json`.

    Args:
        folder: created if need be.
        task: the name of the task that can open the model again.
        model: plain JSON; what the task needs to build the module.

    Raises:
        OSError: it cannot be written; an earlier file is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"recurra {recurra.__version__}",
        "task": task,
        "model": model,
    }
    write_atomically(folder / MODEL_FILE, json.dumps(content, ensure_ascii=False).encode())


def read_model(folder: Path) -> tuple[str, dict[str, Any]]:
    """The task and the model of `model.json`, as `save_model` got them.

    Raises:
        ArgumentError: there is no saved model in the folder.
        FormatError: the file is damaged, of another format, or of a newer version.
        OSError: it cannot be read.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        where = "there is no such folder" if not folder.exists() else f"it holds no {MODEL_FILE}"
        raise ArgumentError(f"{str(folder)!r} is not a saved model: {where}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} is damaged: it is not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{str(path)!r} is not a model of recurra")
    version = content.get("version")
    if not isinstance(version, int) or version < 1:
        raise FormatError(f"the version of {str(path)!r}", got=version, expected="a number from 1 on")
    if version > VERSION:
        raise FormatError(
            f"{str(path)!r} has format version {version}, this recurra reads up to {VERSION}",
            advice=f"Install a newer recurra; it was written by {content.get('written_by')}.",
        )
    task, model = content.get("task"), content.get("model")
    if not isinstance(task, str) or not isinstance(model, dict):
        raise FormatError(f"{str(path)!r} is damaged", expected="the fields 'task' and 'model'")
    return task, model


def save_weights(folder: Path, weights: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write `weights.safetensors`.

    Args:
        folder: created if need be.
        weights: the parameters by name, on any device.
        about: what to keep with them, such as the step and the loss.

    Raises:
        OSError: it cannot be written; an earlier file is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # In one field: safetensors writes several in no fixed order, and equal weights should make equal files.
    notes = json.dumps({**about, _CHECKSUM: _checksum(plain)}, sort_keys=True)
    write_atomically(folder / WEIGHTS_FILE, tensors_as_bytes(plain, metadata={_NOTES: notes}))


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The parameters by name, and what `save_weights` kept with them.

    Raises:
        ArgumentError: there are no weights in the folder.
        FormatError: the file is truncated or damaged.
        OSError: it cannot be read.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArgumentError(f"{str(folder)!r} holds no {WEIGHTS_FILE}")
    content = path.read_bytes()
    try:
        weights = read_tensors(content)
    except SafetensorError as error:
        raise FormatError(f"{str(path)!r} is truncated or damaged ({error})") from None
    about = _notes(content)
    if about.pop(_CHECKSUM, None) != _checksum(weights):
        raise FormatError(f"{str(path)!r} is damaged: its checksum does not match its content")
    return weights, about


def _notes(content: bytes) -> dict[str, str]:
    # The header of a safetensors file: eight bytes that give its length, then JSON.
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    try:
        notes = json.loads(metadata[_NOTES])
    except (KeyError, ValueError):
        return {}
    return {str(name): str(value) for name, value in notes.items()} if isinstance(notes, dict) else {}


def _checksum(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
