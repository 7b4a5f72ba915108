"""Law 11: the ONNX graph of a layer, run by ONNX Runtime, equals the layer; batch and time are free in it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from recurra import onnx
from recurra.nn import Layer
from recurra.testing.cases import Case, draw
from recurra.testing.compare import agree, name_results


def inapplicable(layer: Layer) -> str:
    """Why the layer has no graph here; empty when it has one."""
    return onnx.missing() or onnx.refusal(layer)


def graph_is_the_layer(layer: Layer, case: Case) -> None:
    """Law 11."""
    for with_reset in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            exported = onnx.export(layer, Path(folder) / "layer.onnx", with_reset=with_reset)
            session = onnx.Session(exported.path.read_bytes(), [name for name, _ in exported.states])
        # one graph for all of them
        for batch, time in ((case.batch, case.time), (case.batch + 2, 2 * case.time + 1)):
            inputs = draw(layer, replace(case, batch=batch, time=time), lengths=True, reset=with_reset)
            for given in (inputs, inputs.with_(lengths=None)):
                with torch.no_grad():
                    expected = name_results(*given.call(layer))
                found = session.run(
                    given.x, given.state, lengths=given.lengths, reset=given.reset, elapsed=given.elapsed
                )
                actual = dict(zip(expected, map(torch.from_numpy, found), strict=True))
                agree(actual, expected, f"the ONNX graph against the layer, batch {batch} and time {time}")
