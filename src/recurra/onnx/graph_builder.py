"""Builds an ONNX graph: an operator at a time, each result under a name of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recurra.onnx.packages import require

Array = NDArray[Any]

OPSET, IR_VERSION = 18, 8


class GraphBuilder:
    """A graph, or the body of a loop within one. `dtype` is that of its floats.

    Values are named by strings. Arrays stand in the outermost graph, equal ones once; a body reads them from there.
    """

    def __init__(self, dtype: np.dtype[Any], parent: GraphBuilder | None = None) -> None:
        self._onnx = require("onnx")
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.root: GraphBuilder = parent.root if parent else self
        self.arrays: dict[tuple[str, tuple[int, ...], str], tuple[str, Array]] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        """A name that no other value has."""
        self.root._count += 1
        return f"{hint}_{self.root._count}"

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator with one result, and returns that."""
        return self.ops(kind, inputs, 1, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Adds an operator with `count` results, and returns them."""
        outputs = [self.name(kind.lower()) for _ in range(count)]
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def rename(self, value: str, name: str) -> None:
        """Gives a value another name, such as that of an output."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name=name))

    def array(self, value: Array) -> str:
        """A constant array."""
        value = np.ascontiguousarray(value)
        key = (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest())
        if key not in self.root.arrays:
            self.root.arrays[key] = (self.name("array"), value)
        return self.root.arrays[key][0]

    def number(self, value: float) -> str:
        """A scalar of the graph's dtype."""
        return self.array(np.array(value, self.dtype))

    def whole(self, *values: int) -> str:
        """A list of whole numbers: axes, sizes."""
        return self.array(np.array(values, np.int64))

    @property
    def float_kind(self) -> int:
        """ONNX's number for the dtype of floats."""
        return self._onnx.helper.np_dtype_to_tensor_dtype(self.dtype)

    def cast(self, value: str) -> str:
        """A value as floats."""
        return self.op("Cast", value, to=self.float_kind)

    def size(self, value: str, axis: int) -> str:
        """How large a value is along an axis: a list of one number."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def slice(self, value: str, start: int, end: int, axis: int) -> str:
        """A part of a value along an axis."""
        return self.op("Slice", value, *(self.whole(one) for one in (start, end, axis, 1)))

    def reshape(self, value: str, *sizes: int) -> str:
        """A value in another shape; 0 keeps a size, -1 follows from the others."""
        return self.op("Reshape", value, self.whole(*sizes))

    def expand(self, value: str, *sizes: str | int) -> str:
        """A value repeated along sizes, each a number or the name of a list of one."""
        shape = self.op("Concat", *(one if isinstance(one, str) else self.whole(one) for one in sizes), axis=0)
        return self.op("Expand", value, shape)

    def linear(self, x: str, weight: Array, bias: Array | None = None) -> str:
        """weight @ x + bias of vectors in the last dimension; weight is (rows, columns)."""
        product = self.op("MatMul", x, self.array(weight.T))
        return product if bias is None else self.op("Add", product, self.array(bias))

    def loop(
        self,
        states: Sequence[str],
        flags: Sequence[str],
        sequences: Sequence[str],
        step: Callable[[GraphBuilder, list[str], list[str]], tuple[list[str], list[str]]],
    ) -> tuple[list[str], list[str]]:
        """A Scan over the time of sequences (batch, time, columns); flags are such of booleans.

        `step(body, states, values)` gives the next states and what is put out; the flags come first among the values.
        Returns the last states and the sequences put out.
        """
        sequences = [*flags, *sequences]
        body = GraphBuilder(self.dtype, self)
        held = [body.name("state") for _ in states]
        values = [body.name("value") for _ in sequences]
        after, out = step(body, list(held), list(values))
        results = []
        for value in (*after, *out):
            results.append(body.name("result"))
            body.rename(value, results[-1])
        info = self._onnx.helper.make_tensor_value_info
        boolean = self._onnx.TensorProto.BOOL
        kinds = [self.float_kind] * len(states) + [boolean] * len(flags)
        kinds += [self.float_kind] * (len(sequences) - len(flags))
        graph = self._onnx.helper.make_graph(
            body.nodes,
            body.name("step"),
            [info(name, kind, None) for name, kind in zip([*held, *values], kinds, strict=True)],
            [info(name, self.float_kind, None) for name in results],
        )
        # time first: not every runtime scans along another axis
        steps = [self.op("Transpose", one, perm=[1, 0, 2]) for one in sequences]
        found = self.ops("Scan", [*states, *steps], len(results), body=graph, num_scan_inputs=len(sequences))
        return found[: len(states)], [self.op("Transpose", one, perm=[1, 0, 2]) for one in found[len(states) :]]

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], optional: dict[str, Array], about: dict[str, str]):
        """The finished onnx.ModelProto. `optional` has what an input is where the caller gives none."""
        onnx = self._onnx
        arrays = [onnx.numpy_helper.from_array(value, name) for name, value in self.arrays.values()]
        arrays += [onnx.numpy_helper.from_array(value, name) for name, value in optional.items()]
        graph = onnx.helper.make_graph(self.nodes, "recurra", list(inputs), list(outputs), arrays)
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="recurra",
        )
        onnx.helper.set_model_props(model, about)
        return model
