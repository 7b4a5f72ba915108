"""Saved models: `model.json` (what the model is) and `weights.safetensors` (its parameters) in one folder.

    model.json            {"format": "recurra model", "version": 1, "written_by": ..., "task": ..., "model": {...}}
    weights.safetensors   the parameters by name; in the metadata a checksum, and what is known about them, as JSON

Nothing is pickled, and reading runs no code from the files. A file is written beside its place and then renamed:
whatever happens meanwhile, the earlier one stays whole. This part knows no torch.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize

import recurra
from recurra.bfloat16 import BFLOAT16
from recurra.errors import ArgumentError, FormatError

FORMAT = "recurra model"
VERSION = 1
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"

NOTES = "recurra"
CHECKSUM = "sha256"


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


def make_folder(folder: Path) -> None:
    """Make a folder, where there is none. Raises ArgumentError where a file stands in its place, and OSError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        taken = next((one for one in (folder, *folder.parents) if one.exists() and not one.is_dir()), folder)
        raise ArgumentError(
            f"{str(taken)!r} is a file", expected="a folder", advice="Give the name of a folder, or a new name"
        ) from None


def save_model(folder: Path, task: str, model: Mapping[str, Any]) -> None:
    """Write `model.json`.

    Args:
        folder: created if need be.
        task: the name of the task that can open the model again.
        model: plain JSON; what the task needs to build the module.

    Raises:
        ArgumentError: a file stands where the folder should.
        OSError: it cannot be written; an earlier file is intact.
    """
    make_folder(folder)
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
        where = f"it holds no {MODEL_FILE}" if folder.exists() else "there is no such folder"
        if folder.is_file():
            where = f"it is a file. Name the folder that holds {MODEL_FILE} and {WEIGHTS_FILE}"
        raise ArgumentError(f"{str(folder)!r} is not a saved model: {where}")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{str(path)!r} is damaged: it is not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"{str(path)!r} is not a model of recurra")
    version = content.get("version")
    if type(version) is not int or version < 1:
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


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


class Weights(NamedTuple):
    """What a file of weights holds."""

    arrays: dict[str, np.ndarray]
    """By name; bfloat16 as `recurra.bfloat16.BFLOAT16`."""
    about: dict[str, str]
    """What was kept with them."""
    checksum: str
    """Of names, types, shapes and bytes."""


_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": BFLOAT16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_arrays(folder: Path) -> Weights:
    """The parameters as numpy arrays, which may be written to.

    Raises:
        ArgumentError: there are no weights in the folder.
        FormatError: the file is truncated or damaged, or holds a type that recurra never writes.
        OSError: it cannot be read.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ArgumentError(f"{str(folder)!r} holds no {WEIGHTS_FILE}")
    content = path.read_bytes()
    try:
        found = deserialize(content)
    except SafetensorError as error:
        raise FormatError(f"{str(path)!r} is truncated or damaged ({error})") from None
    arrays = {}
    for name, tensor in found:
        if tensor["dtype"] not in _DTYPES:
            raise FormatError(f"{str(path)!r} is damaged: {name} has the type {tensor['dtype']}")
        try:
            arrays[name] = np.frombuffer(bytearray(tensor["data"]), _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        except (ValueError, OverflowError) as error:
            raise FormatError(f"{str(path)!r} is damaged: {name} cannot be an array ({error})") from None
    about = _notes_of(content)
    checksum = checksum_of(described(arrays))
    if about.pop(CHECKSUM, None) != checksum:
        raise FormatError(f"{str(path)!r} is damaged: its checksum does not match its content")
    return Weights(arrays, about, checksum)


def _notes_of(content: bytes) -> dict[str, str]:
    """What was kept with the weights, out of the bytes of a file that safetensors has accepted."""
    # The header of a safetensors file: eight bytes that give its length, then JSON.
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    try:
        notes = json.loads(metadata[NOTES])
    except (KeyError, ValueError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in notes.items()} if isinstance(notes, dict) else {}


def described(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
    """Arrays as `checksum_of` reads them."""
    for name, array in arrays.items():
        yield name, "bfloat16" if array.dtype == BFLOAT16 else array.dtype.name, array.shape, array.tobytes()


def checksum_of(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """The checksum of tensors, each given by its name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{name} torch.{dtype} {shape}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def fingerprint(checksum: str, programs: Iterable[tuple[str, str]]) -> bytes:
    """32 bytes that tell a model from every other one: of the checksum of its weights, and of the program of each of
    its cells, given by the cell's name within the model and as JSON."""
    described = json.dumps([checksum, *sorted(programs)], separators=(",", ":"))
    return hashlib.sha256(described.encode()).digest()
