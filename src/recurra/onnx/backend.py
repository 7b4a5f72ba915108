"""ONNX's own interface to whatever runs models: `onnx.backend.base.Backend`, over `recurra.onnx.run`.

With it, ONNX's conformance cases run here as their authors run them: `onnx.backend.test.BackendTest(RecurraBackend)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper
from onnx.backend.base import Backend, BackendRep

from recurra.errors import RecurraError
from recurra.onnx.files import read_source
from recurra.onnx.graph_runner import SCAN
from recurra.onnx.plain_operators import PLAIN
from recurra.onnx.recurrent_nodes import RECURRENT
from recurra.onnx.running import Prepared


class RecurraRep(BackendRep):
    """A model that is ready to run."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the order of the graph; `inputs` is a sequence in its order, or a mapping by name."""
        if not isinstance(inputs, Mapping):
            inputs = dict(zip(self._prepared.input_names, inputs, strict=True))
        return tuple(self._prepared.run(inputs).values())


class RecurraBackend(Backend):
    """Runs models on the CPU, on the engine of recurra."""

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> RecurraRep:
        """Raises FormatError for a model that is not run here."""
        return RecurraRep(Prepared(read_source(model)))

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every node of the model is of an operator that is run here."""
        try:
            cls.prepare(model, device)
        except RecurraError:
            return False
        return True

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...] | None:
        """Runs one node, its inputs in order."""
        names = [name for name in node.input if name]
        given = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True)}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in given.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        model = helper.make_model(helper.make_graph([node], "node", infos, outputs))
        return cls.prepare(model, device).run(given)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Only the CPU."""
        return device == "CPU"


OPERATORS = (*RECURRENT, SCAN, *PLAIN)
"""Every operator that is run here."""
