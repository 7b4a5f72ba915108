"""Weights of any safetensors or npz file, by a map of names."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from torch import nn

from recurra.errors import ArgumentError, FormatError

Array = NDArray[Any]

_DAMAGE = (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError)
_MOST_RATIO = 100  # what unpacks to far more was made to fill the memory


@dataclass(frozen=True)
class Taken:
    """Where one weight comes from: arrays of a file, put below one another along their rows.

    `transposed` where the file has (in, out); each array is turned before. `gates` gives the order of the gates in
    which the rows are taken: ``gates=(1, 0, 2)`` of (z, r, n) gives (r, z, n).
    """

    names: str | Sequence[str]
    transposed: bool = False
    gates: Sequence[int] = ()


def fill(module: nn.Module, path: str | os.PathLike[str], names: Mapping[str, str | Taken]) -> None:
    """Gives a module the weights of a `.safetensors` or `.npz` file.

    `names` says for each weight of `module.state_dict()` where it comes from: the name of an array of the file, or a
    `Taken`. All weights must be there, and fit; the module is changed only when all do. Nothing is unpickled.

    Raises ArgumentError for a missing file and for weights that the map leaves out, FormatError for a damaged file and
    for arrays that do not fit.
    """
    arrays = _read(Path(path))
    own = module.state_dict()
    for name in sorted(own.keys() ^ names.keys()):
        what = "leaves out the weight" if name in own else "names"
        raise ArgumentError(f"names {what} '{name}'", expected=f"the weights {', '.join(own)}, and no other")
    values = {name: _taken(arrays, name, source, tuple(own[name].shape)) for name, source in names.items()}
    module.load_state_dict({name: torch.from_numpy(value).to(own[name].dtype) for name, value in values.items()})


def _taken(arrays: Mapping[str, Array], name: str, source: str | Taken, shape: tuple[int, ...]) -> Array:
    source = Taken(source) if isinstance(source, str) else source
    wanted = [source.names] if isinstance(source.names, str) else list(source.names)
    missing = [one for one in wanted if one not in arrays]
    if missing or not wanted:
        raise ArgumentError(f"the file has no array '{missing[0] if missing else ''}'", expected=", ".join(arrays))
    parts = [arrays[one].T if source.transposed else arrays[one] for one in wanted]
    if any(part.ndim != len(shape) or part.shape[1:] != shape[1:] for part in parts):
        raise FormatError(f"'{name}' is taken of shapes {[part.shape for part in parts]}", expected=f"rows of {shape}")
    value = np.concatenate(parts)
    if source.gates:
        if sorted(source.gates) != list(range(len(source.gates))) or value.shape[0] % len(source.gates):
            raise ArgumentError(f"the gates of '{name}'", got=source.gates, expected="each gate once")
        gates = np.split(value, len(source.gates))
        value = np.concatenate([gates[k] for k in source.gates])
    if value.shape != shape or value.dtype.kind != "f":
        raise FormatError(f"'{name}' is taken of {value.shape} {value.dtype}", expected=f"{shape}, floats")
    return np.ascontiguousarray(value)


def _read(path: Path) -> dict[str, Array]:
    if path.suffix not in (".safetensors", ".npz") or not path.is_file():
        raise ArgumentError(f"{str(path)!r} is no such file", expected="a .safetensors or .npz file")
    if path.suffix == ".safetensors":
        try:
            return load_safetensors(path.read_bytes())
        except (SafetensorError, KeyError, ValueError) as error:
            raise FormatError(f"{str(path)!r} is truncated or damaged: {error}") from error
    try:
        return _read_npz(path)
    except (*_DAMAGE, KeyError, ValueError) as error:
        raise FormatError(f"{str(path)!r} is damaged, or holds objects: {error}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an npz file; what an array says of its size must be what the file holds of it."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for about in archive.infolist():
            if about.file_size > 2**20 + _MOST_RATIO * about.compress_size:
                raise FormatError(f"{about.filename} in {str(path)!r} unpacks to {about.file_size:,} bytes")
            with archive.open(about) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if dtype.hasobject or prod(shape) * dtype.itemsize > about.file_size:
                raise FormatError(
                    f"{about.filename} in {str(path)!r} says {shape} of {dtype}", expected="plain numbers"
                )
            with archive.open(about) as file:
                found[about.filename.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    return found
