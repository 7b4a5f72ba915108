"""Files of Keras models, read without Keras: what their layers are, and where their weights lie.

A `.keras` file is a zip of `config.json` and `model.weights.h5`; an `.h5` file holds both. Nothing in them is run, and
no array is read before its shape is known to be the one that its layer needs.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import ArgumentError, BackendUnavailable, FormatError

Array = NDArray[Any]

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_MOST_CONFIG = 2**26
_MOST_WEIGHTS = 2**33
_MOST_RATIO = 100  # weights do not compress; a zip that unpacks to far more was made to fill the memory
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, RuntimeError, EOFError, OSError)
_MODELS = ("Sequential", "Functional", "Model")


@dataclass(frozen=True)
class KerasLayer:
    """A layer as it is described: its class, its name and its settings."""

    kind: str
    name: str
    config: dict[str, Any]


class KerasFile:
    """An open file: its layers in order, and their weights."""

    def __init__(self, path: Path, config: Any, weights: Any, new: bool) -> None:
        self.path = path
        self.layers = _layers(path, config)
        self._weights = weights
        self._new = new

    def input_size(self, layer: KerasLayer, parts: Sequence[str]) -> int:
        """The size of what a layer reads: the rows of its kernel, which is its first array."""
        kernel, *_ = self._found(layer, parts)
        shape = getattr(kernel, "shape", ())
        if len(shape) != 2 or shape[0] < 1:
            raise FormatError(f"the kernel of layer '{layer.name}' has shape {shape}", expected="two sizes from 1")
        return shape[0]

    def arrays(self, layer: KerasLayer, parts: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """The weights of a layer, in the order in which Keras makes them, with these shapes. `parts` are the places of
        its cells in a new file: "cell", or "forward_layer/cell", "backward_layer/cell"; "" of a layer without one."""
        found = self._found(layer, parts)
        where = f"layer '{layer.name}' in {str(self.path)!r}"
        if len(found) != len(shapes):
            raise FormatError(f"{where} has {len(found)} arrays", expected=str(len(shapes)))
        return [_read(where, one, shape) for one, shape in zip(found, shapes, strict=True)]

    def _found(self, layer: KerasLayer, parts: Sequence[str]) -> list[Any]:
        found = self._new_arrays(layer, parts) if self._new else self._old_arrays(layer)
        if not found:
            raise FormatError(f"layer '{layer.name}' in {str(self.path)!r} has no arrays", expected="its weights")
        return found

    def _new_arrays(self, layer: KerasLayer, parts: Sequence[str]) -> list[Any]:
        group = self._group_of(layer)
        found = []
        for part in parts:
            inner = group
            for name in (*filter(None, part.split("/")), "vars"):
                inner = _member(self.path, inner, name)
            found += [_member(self.path, inner, str(k)) for k in range(len(inner))]
        return found

    def _group_of(self, layer: KerasLayer) -> Any:
        """A group is named by the class of its layer; the layer's own name is an attribute in it."""
        groups = _member(self.path, self._weights, "layers")
        for key in groups:
            group = _member(self.path, groups, key)
            held = [group] if "vars" not in group else [_member(self.path, group, "vars"), group]
            if any(_text(one.attrs.get("name", "")) == layer.name for one in held):
                return group
        raise FormatError(f"{str(self.path)!r} has no weights of the layer '{layer.name}'", expected="some")

    def _old_arrays(self, layer: KerasLayer) -> list[Any]:
        group = _member(self.path, _member(self.path, self._weights, "model_weights"), layer.name)
        found = []
        for name in group.attrs.get("weight_names", []):
            inner = group
            for part in _text(name).split("/"):
                inner = _member(self.path, inner, part)
            found.append(inner)
        return found


@contextmanager
def open_keras(path: Path) -> Iterator[KerasFile]:
    """Opens a `.keras` or `.h5` file.

    Raises ArgumentError where there is no such file, FormatError where it is damaged or something else, and
    BackendUnavailable without the package h5py.
    """
    if find_spec("h5py") is None:
        raise BackendUnavailable("h5py is not installed. Install it with: pip install 'recurra[keras]'")
    if not path.is_file():
        raise ArgumentError(f"there is no file {str(path)!r}", expected="a .keras or .h5 file")
    new = zipfile.is_zipfile(path)
    config, source = _unzipped(path) if new else (None, str(path))
    try:
        file = import_module("h5py").File(source, "r")
    except OSError as error:
        raise FormatError(f"the weights in {str(path)!r} are damaged: {error}") from error
    with file:
        if not new:
            if "model_config" not in file.attrs:
                raise FormatError(f"{str(path)!r} holds weights only", expected="a whole model, as model.save writes")
            config = _text(file.attrs["model_config"])
        try:
            yield KerasFile(path, _parsed(path, config), file, new)
        except (KeyError, OSError, RuntimeError) as error:
            # what HDF5 raises for a file whose inside is damaged
            raise FormatError(f"{str(path)!r} is damaged: {error}") from error


def _unzipped(path: Path) -> tuple[bytes, io.BytesIO]:
    """The two parts of a .keras file."""
    parts = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name, most in ((_CONFIG, _MOST_CONFIG), (_WEIGHTS, _MOST_WEIGHTS)):
                about = archive.getinfo(name)
                if about.file_size > min(most, 2**20 + _MOST_RATIO * about.compress_size):
                    raise FormatError(
                        f"{name} in {str(path)!r} takes {about.file_size:,} bytes", expected="a size that weights have"
                    )
                parts.append(archive.read(name))
    except (*_DAMAGE, KeyError) as error:
        raise FormatError(f"{str(path)!r} is no .keras file, or damaged: {error}") from error
    return parts[0], io.BytesIO(parts[1])


def _parsed(path: Path, config: bytes | str | None) -> Any:
    try:
        return json.loads(config or "")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the description of the model in {str(path)!r} is no JSON: {error}") from error


def _layers(path: Path, config: Any) -> list[KerasLayer]:
    try:
        kind = config["class_name"]
        if kind not in _MODELS:
            raise FormatError(f"{str(path)!r} holds a {kind}", expected=" or ".join(_MODELS))
        return [described(one) for one in config["config"]["layers"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"the description of the model in {str(path)!r} is malformed: {error}") from error


def described(layer: Any) -> KerasLayer:
    """A layer out of its description in the file."""
    config = layer["config"]
    if not isinstance(config, dict):
        raise TypeError("the settings of a layer are no object")
    return KerasLayer(str(layer["class_name"]), str(config.get("name", "")), config)


def _member(path: Path, group: Any, name: str) -> Any:
    """What a group holds under a name, in this very file."""
    h5py = import_module("h5py")
    if not isinstance(group, h5py.Group) or not name or "." in name.split("/"):
        raise FormatError(f"{str(path)!r} has no '{name}' where weights lie", expected="a group of arrays")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise FormatError(f"'{name}' in {str(path)!r} is missing or a link", expected="arrays in the file itself")
    return group[name]


def _read(where: str, dataset: Any, shape: tuple[int, ...]) -> Array:
    h5py = import_module("h5py")
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f" or dataset.shape != shape:
        got = (getattr(dataset, "shape", None), str(getattr(dataset, "dtype", "")))
        raise FormatError(f"an array of {where} has shape and type {got}", expected=f"{shape}, floats")
    wanted = prod(shape) * dataset.dtype.itemsize
    if dataset.external or dataset.is_virtual or dataset.id.get_storage_size() != wanted:
        raise FormatError(f"an array of {where} does not lie in the file as it is", expected=f"{wanted} bytes there")
    return np.asarray(dataset[()])


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
