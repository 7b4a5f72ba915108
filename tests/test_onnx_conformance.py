"""ONNX's own conformance cases for RNN, GRU, LSTM and Scan, run as their authors do: a backend, and their runner."""

from importlib import import_module
from unittest import mock

import pytest

backend_test = pytest.importorskip("onnx.backend.test", reason="onnx is an extra: pip install 'recurra[onnx]'")

# the cases are made when these are imported; the runner would make those of all operators, for 20 seconds
for _kind in ("gru", "lstm", "rnn", "scan"):
    import_module(f"onnx.backend.test.case.node.{_kind}")
with mock.patch("onnx.backend.test.loader.import_recursive"):
    _backend = import_module("recurra.onnx.backend").RecurraBackend
    _runner = backend_test.BackendTest(_backend, __name__).include(r"^test_(lstm|gru|rnn|simple_rnn|scan9)_.*_cpu$")

OnnxBackendNodeModelTest = _runner.test_cases["OnnxBackendNodeModelTest"]
_CASES = ("test_lstm_", "test_gru_", "test_rnn_", "test_simple_rnn_", "test_scan9_")
for _name in [name for name in vars(OnnxBackendNodeModelTest) if name.startswith("test_")]:
    # the runner makes a case for each device, and skips those of devices that there are not
    if not (_name.startswith(_CASES) and _name.endswith("_cpu")):
        delattr(OnnxBackendNodeModelTest, _name)


def test_all_18_cases_and_those_of_scan_are_run():
    names = [name for name in vars(OnnxBackendNodeModelTest) if name.startswith("test_")]
    of_scan = [name for name in names if name.startswith("test_scan9_")]
    assert len(names) - len(of_scan) == 18, names
    assert len(of_scan) >= 2, names
