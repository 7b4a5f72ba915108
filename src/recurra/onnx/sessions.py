"""Sessions of ONNX Runtime. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.errors import FormatError
from recurra.onnx.packages import require

_REFUSALS = (
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NotImplemented",
    "RuntimeException",
)


def open_session(content: bytes, threads: int) -> Any:
    """A session of these bytes of a file, on the CPU. Raises FormatError where ONNX Runtime does not take them, and
    BackendUnavailable where it is not installed."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # it warns of inputs that may be left out
    with _refused("open the file"):
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, outputs: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """These outputs of a session. Raises FormatError where ONNX Runtime does not run it."""
    with _refused("run the file"):
        return [np.asarray(value) for value in session.run(list(outputs), given)]


@contextmanager
def _refused(what: str) -> Iterator[None]:
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = tuple(getattr(state, name) for name in _REFUSALS)
    try:
        yield
    except refusals as error:
        raise FormatError(f"ONNX Runtime does not {what}: {error}", expected="an ONNX model that it takes") from error
