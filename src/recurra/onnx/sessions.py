"""Sessions of ONNX Runtime. Knows no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
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
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _refusals() as error:
        raise _refused("open the file", error) from error


def run_session(session: Any, outputs: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """These outputs of a session. Raises FormatError where ONNX Runtime does not run it."""
    try:
        return [np.asarray(value) for value in session.run(list(outputs), given)]
    except _refusals() as error:
        raise _refused("run the file", error) from error


class Binding:
    """A call of a session that reads these arrays and writes those, in place, again and again.

    The arrays are contiguous. Raises FormatError where a result has another shape or dtype.
    """

    def __init__(self, session: Any, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        values = require("onnxruntime").OrtValue
        # it holds pointers to them only
        self._arrays = (*inputs.values(), *outputs.values())
        self._session, self._binding = session, session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, values.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """Runs it on what stands in the arrays now."""
        try:
            self._session.run_with_iobinding(self._binding)
        except _refusals() as error:
            raise _refused("run the file", error) from error


@cache
def _refusals() -> tuple[type[Exception], ...]:
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    return tuple(getattr(state, name) for name in _REFUSALS)


def _refused(what: str, error: Exception) -> FormatError:
    return FormatError(f"ONNX Runtime does not {what}: {error}", expected="an ONNX model that it takes")
