"""ONNX both ways: models of recurra as ONNX files, and ONNX's recurrent operators on our engine.

The packages onnx and onnxruntime are needed only where something is read or written: pip install 'recurra[onnx]'.
What is named here loads on first use, so that `load` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recurra.onnx.exporting import Exported, export
    from recurra.onnx.file_model import Model
    from recurra.onnx.layer_graph import refusal
    from recurra.onnx.layers import to_layers
    from recurra.onnx.loading import LanguageModel, load
    from recurra.onnx.packages import missing
    from recurra.onnx.parity import Session
    from recurra.onnx.parts import HasParts, Parts
    from recurra.onnx.plain_operators import PLAIN
    from recurra.onnx.recurrent_nodes import RECURRENT
    from recurra.onnx.running import run

_PLACES = {
    "PLAIN": "plain_operators",
    "RECURRENT": "recurrent_nodes",
    "Exported": "exporting",
    "HasParts": "parts",
    "LanguageModel": "loading",
    "Model": "file_model",
    "Parts": "parts",
    "Session": "parity",
    "export": "exporting",
    "load": "loading",
    "missing": "packages",
    "refusal": "layer_graph",
    "run": "running",
    "to_layers": "layers",
}

__all__ = [
    "PLAIN",
    "RECURRENT",
    "Exported",
    "HasParts",
    "LanguageModel",
    "Model",
    "Parts",
    "Session",
    "export",
    "load",
    "missing",
    "refusal",
    "run",
    "to_layers",
]


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(f"recurra.onnx.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'recurra.onnx' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
