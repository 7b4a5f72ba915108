"""What is given as RUN: the folder of a saved model, or an ONNX file. No torch is loaded."""

from __future__ import annotations

from pathlib import Path

from recurra import onnx, runtime


def open_model(path: Path) -> runtime.Layer | onnx.Model:
    """The model of a folder in the runtime; of a file, or what is called one (`.onnx`), in ONNX Runtime.

    Raises:
        ArgumentError, FormatError: as `recurra.runtime.load` and `recurra.onnx.load`.
        BackendUnavailable: for a file, where onnxruntime is not installed.
    """
    return onnx.load(path) if path.is_file() or path.suffix == ".onnx" else runtime.load(path)
