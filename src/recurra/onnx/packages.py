"""The optional packages that ONNX needs: imported where they are used, with an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from recurra.errors import BackendUnavailable


def require(name: str) -> Any:
    """The module of a package of the extra `onnx`. Raises BackendUnavailable where it is not installed."""
    if find_spec(name) is None:
        raise BackendUnavailable(f"{name} is not installed. Install it with: pip install 'recurra[onnx]'")
    return import_module(name)


def missing() -> str:
    """Why nothing can be exported here; empty where it can."""
    names = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    return f"{' and '.join(names)} not installed: pip install 'recurra[onnx]'" if names else ""
