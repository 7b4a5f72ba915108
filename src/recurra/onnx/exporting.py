"""Layers and models as ONNX files, each compared with the layer before anybody gets it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recurra.errors import ArgumentError
from recurra.nn import Layer, State
from recurra.nn.state import state_tensors
from recurra.nn.streaming import identity, memory_readers
from recurra.onnx.graph_builder import GraphBuilder
from recurra.onnx.layer_graph import refusal, write_layer
from recurra.onnx.packages import require
from recurra.onnx.parity import compare
from recurra.onnx.parts import HasParts, Parts
from recurra.onnx.program_graph import Signals
from recurra.onnx.state_names import dotted_names, flattened, nested_as
from recurra.storage import write_atomically

_MOST_BYTES = 2**31 - 2**20  # protobuf's largest message, and room for the nodes
_NO_LENGTH = np.array([2**62])


@dataclass(frozen=True)
class Exported:
    """An ONNX file that gives what the layer gives.

    `inputs` and `outputs` are its names in order, `states` the (input, output) name of each value of the state,
    `operators` the kinds of nodes in it, `difference` the largest one from the layer, relative to the largest value.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[tuple[str, str], ...]
    operators: tuple[str, ...]
    difference: float


def export(model: Layer | Parts | HasParts, path: str | os.PathLike[str], *, with_reset: bool = False) -> Exported:
    """Writes a layer, a model's parts, or the language model as an ONNX file, in evaluation.

    Inputs: ``x`` (batch, time, input_size), or with an embedding ``tokens`` (batch, time), whole numbers; ``elapsed``
    (batch, time) for layers that need it; and, to be given or left out, ``lengths`` (batch,), whole numbers, and each
    value of the state (batch, columns), initial where it is left out. Outputs: ``y``, or with heads ``scores``, and
    each value of the next state. Batch and time are free. Cells that are exactly ONNX's LSTM, GRU or RNN become those
    operators in single precision; all others a Scan over their equations.

    With AttentionDecoders in it the file has two inputs more, to be given or left out: ``memory`` (batch, source time,
    memory_size) and ``memory_lengths`` (batch,). All decoders read it. What is given stands behind the memory that the
    state has, so it is given in the first call.

    With `with_reset` the file has one input more, ``reset`` (batch, time), booleans, which may be left out: where true,
    the row starts afresh before that step. ONNX's own operators cannot do that, so all cells become a Scan then.

    The file is run by ONNX Runtime and compared with the layer; it takes its place only when both agree.

    Raises ArgumentError for a layer that has no form in ONNX, for a path in no folder or of a file that is not called
    .onnx, for half precision, for weights
    of 2 GiB or more, and where the two do not agree; BackendUnavailable where onnx or onnxruntime is not installed;
    OSError where the file cannot be written.
    """
    require("onnx")
    require("onnxruntime")
    parts = model if isinstance(model, Parts) else Parts(model) if isinstance(model, Layer) else None
    if parts is None and isinstance(model, HasParts):
        parts = model.onnx_parts()
    if parts is None:
        raise ArgumentError(
            f"model is a {type(model).__name__}",
            expected="a layer of recurra.nn, recurra.onnx.Parts, or a LanguageModel",
        )
    target = _target(Path(path))
    layers = parts.layers
    around = [weight for weight in (parts.embedding, *(head for head, _ in parts.heads)) if weight is not None]
    if reason := refusal(layers):
        raise ArgumentError(reason, advice="Layers of other classes run in torch and in recurra.runtime")
    kinds = {value.dtype for value in (*layers.buffers(), *around)} & {torch.int8, torch.bfloat16}
    if kinds:
        kind = str(kinds.pop()).removeprefix("torch.")
        raise ArgumentError(f"the model has {kind} weights", expected="float32 or float64", advice="Export that model")
    modes = [(module, module.training) for module in layers.modules()]
    layers.eval()
    try:
        with torch.no_grad():
            graph = _Graph(replace(parts, about=_about(model, parts)), with_reset)
            content = graph.model.SerializeToString()
            difference = compare(parts, content, graph.state_inputs, with_reset=with_reset)
    finally:
        for module, training in modes:
            module.training = training
    write_atomically(target, content)
    proto = graph.model.graph
    return Exported(
        target,
        tuple(one.name for one in proto.input),
        tuple(one.name for one in proto.output),
        tuple(zip(graph.state_inputs, graph.state_outputs, strict=True)),
        tuple(sorted({node.op_type for node in proto.node})),
        difference,
    )


def _target(path: Path) -> Path:
    """Where to write, links followed. Raises ArgumentError where that is no place, or holds something else."""
    if not path.is_dir() and not path.parent.is_dir():
        raise ArgumentError(
            f"there is no folder {str(path.parent)!r}",
            expected="the name of a file in a folder that is there",
            advice="Make the folder first, or name another one",
        )
    target = path.resolve()
    if target.exists() and not (target.is_file() and target.suffix == ".onnx"):
        what = "a folder" if target.is_dir() else "a file already" if target.is_file() else "a device or a pipe"
        raise ArgumentError(
            f"{str(path)!r} is {what}",
            expected="the name of a new file, or of one that ends with .onnx",
            advice="" if target.is_dir() else "Name another file",
        )
    return target


class _Graph:
    """The graph of a model's parts."""

    def __init__(self, parts: Parts, with_reset: bool) -> None:
        self.parts, self.with_reset = parts, with_reset
        self._memory_size = next((one.attention.memory_size for one in memory_readers(parts.layers)), None)
        dtype = _dtype(parts)
        self.builder = builder = GraphBuilder(dtype)
        self._onnx = require("onnx")
        initial = parts.layers.initial_state(1)
        names = list(dotted_names(initial))
        self.state_inputs = [f"state{name}" for name in names]
        self.state_outputs = [f"next{name}" for name in names]
        source = "x" if parts.embedding is None else "tokens"
        signals = self._signals(source)
        x = source if parts.embedding is None else builder.op("Gather", builder.array(_numpy(parts.embedding)), source)
        columns = [tensor.shape[1] for tensor in state_tensors(initial)]
        # a memory has as many columns as it is long, none to begin with
        held = iter(
            [
                builder.expand(name, signals.batch, n or builder.size(name, 1))
                for name, n in zip(self.state_inputs, columns, strict=True)
            ]
        )
        y, after = write_layer(builder, parts.layers, x, nested_as(initial, held), signals)
        for weight, bias in parts.heads:
            y = builder.linear(y, _numpy(weight), None if bias is None else _numpy(bias))
        target = "scores" if parts.heads else "y"
        for value, name in zip([y, *flattened(after)], [target, *self.state_outputs], strict=True):
            builder.rename(value, name)
        self.model = self._finish(source, target, initial, columns)

    def _signals(self, source: str) -> Signals:
        """What every layer reads beside its input, out of the inputs of the graph."""
        builder = self.builder
        batch, time = builder.size(source, 0), builder.size(source, 1)
        lengths, valid = self._valid("lengths", batch, time)
        elapsed = "elapsed" if self.parts.layers.uses_elapsed else None
        memory = None if self._memory_size is None else self._memory(self._memory_size, batch)
        wide = builder.whole(2)
        reset = builder.op("Unsqueeze", builder.op("And", valid, "reset"), wide) if self.with_reset else None
        return Signals(batch, lengths, builder.op("Unsqueeze", valid, wide), elapsed, reset, memory)

    def _valid(self, lengths: str, batch: str, time: str) -> tuple[str, str]:
        """Lengths (batch,) within the time, and which steps are valid (batch, time)."""
        builder = self.builder
        within = builder.op("Max", builder.op("Min", lengths, time), builder.whole(0))
        ends = builder.op("Expand", within, batch)
        scalar = builder.op("Squeeze", time)
        steps = builder.op("Range", builder.array(np.array(0)), scalar, builder.array(np.array(1)))
        return ends, builder.op("Less", steps, builder.op("Unsqueeze", ends, builder.whole(1)))

    def _memory(self, size: int, batch: str) -> tuple[str, str]:
        """The memory of decoders for all rows, and which of its steps are valid (batch, source time)."""
        time = self.builder.size("memory", 1)
        memory = self.builder.expand("memory", batch, time, size)
        return memory, self._valid("memory_lengths", batch, time)[1]

    def _finish(self, source: str, target: str, initial: State, columns: Sequence[int]) -> Any:
        builder, layers = self.builder, self.parts.layers
        whole, kind = self._onnx.TensorProto.INT64, builder.float_kind
        info = self._onnx.helper.make_tensor_value_info
        features = [] if source == "tokens" else [layers.input_size]
        inputs = [info(source, whole if source == "tokens" else kind, ["batch", "time", *features])]
        if layers.uses_elapsed:
            inputs.append(info("elapsed", kind, ["batch", "time"]))
        # where one is left out, its one row stands for all: none has the size of another, so none has its name
        inputs.append(info("lengths", whole, ["lengths.rows"]))
        optional: dict[str, NDArray[Any]] = {"lengths": _NO_LENGTH}
        if self.with_reset:
            inputs.append(info("reset", self._onnx.TensorProto.BOOL, ["reset.rows", "reset.steps"]))
            optional["reset"] = np.zeros((1, 1), np.bool_)
        if self._memory_size is not None:
            inputs.append(info("memory", kind, ["memory.rows", "memory.steps", self._memory_size]))
            inputs.append(info("memory_lengths", whole, ["memory_lengths.rows"]))
            optional |= {"memory": np.zeros((1, 0, self._memory_size), builder.dtype), "memory_lengths": _NO_LENGTH}
        size = self.parts.heads[-1][0].shape[0] if self.parts.heads else layers.output_size
        outputs = [info(target, kind, ["batch", *([] if layers.pools else ["time"]), size])]
        for own, following, tensor, n in zip(
            self.state_inputs, self.state_outputs, state_tensors(initial), columns, strict=True
        ):
            inputs.append(info(own, kind, [f"{own}.rows", n or f"{own}.columns"]))
            outputs.append(info(following, kind, ["batch", n or f"{following}.columns"]))
            optional[own] = _numpy(tensor)
        weights = sum(value.nbytes for _, value in builder.arrays.values())
        if weights > _MOST_BYTES:
            raise ArgumentError(
                f"the weights take {weights:,} bytes", expected="less than 2 GiB, which an ONNX file can hold"
            )
        return builder.model(inputs, outputs, optional, dict(self.parts.about))


def _about(model: Any, parts: Parts) -> dict[str, str]:
    """What the file says of itself: what `recurra.onnx.load` needs to know, and what the parts add."""
    found = {"written_by": "recurra", "causal": "yes" if parts.layers.causal else "no"}
    if parts.embedding is not None:
        found["tokens"] = str(len(parts.embedding))
    if isinstance(model, torch.nn.Module):
        found["fingerprint"] = identity(model).hex()
    return {**found, **parts.about}


def _dtype(parts: Parts) -> np.dtype[Any]:
    """The one dtype of all weights, which are on the CPU."""
    devices = {value.device.type for value in parts.layers.state_dict().values()}
    if devices != {"cpu"}:
        raise ArgumentError(
            f"the weights are on {', '.join(sorted(devices))}", expected="the CPU", advice="Export a copy: model.cpu()"
        )
    found = {value.dtype for value in parts.layers.state_dict().values() if value.is_floating_point()}
    found |= {weight.dtype for weight, _ in parts.heads}
    if parts.embedding is not None:
        found.add(parts.embedding.dtype)
    if len(found) != 1 or not found <= {torch.float32, torch.float64}:
        names = ", ".join(sorted(str(one).removeprefix("torch.") for one in found)) or "nothing"
        raise ArgumentError(
            f"the weights are {names}", expected="all float32 or all float64", advice="Export a copy: model.float()"
        )
    return np.dtype(str(found.pop()).removeprefix("torch."))


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()
