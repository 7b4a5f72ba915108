"""recurra: recurrent sequence models, from one equation to a deployed stream.

Importing this package costs next to nothing: submodules and functions load on first use.
"""

from importlib import import_module

__version__ = "0.1.0"

# What `typing.TYPE_CHECKING` means to a type checker, without importing typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from recurra import cells, convert, data, nn, onnx, ops, program, reservoir, runtime, tasks, testing
    from recurra.checkpoint import load_layer, save_layer
    from recurra.opening import load
    from recurra.ops.select import backends
    from recurra.quantisation import quantise

_SUBMODULES = ("cells", "convert", "data", "nn", "onnx", "ops", "program", "reservoir", "runtime", "tasks", "testing")
_FUNCTIONS = {
    "backends": "recurra.ops.select",
    "load": "recurra.opening",
    "load_layer": "recurra.checkpoint",
    "quantise": "recurra.quantisation",
    "save_layer": "recurra.checkpoint",
}

__all__ = [
    "__version__",
    "backends",
    "cells",
    "convert",
    "data",
    "load",
    "load_layer",
    "nn",
    "onnx",
    "ops",
    "program",
    "quantise",
    "reservoir",
    "runtime",
    "save_layer",
    "tasks",
    "testing",
]


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    if name in _SUBMODULES:
        return import_module(f"recurra.{name}")
    raise AttributeError(f"module 'recurra' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
