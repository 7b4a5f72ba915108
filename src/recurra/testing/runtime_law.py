"""Law 10: what is saved and run without torch equals the layer, in calls, steps and pieces of a stream."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra import runtime
from recurra.errors import ArgumentError
from recurra.models import layer_spec
from recurra.nn import Layer
from recurra.nn.state import state_tensors
from recurra.runtime.state import from_arrays, map_state
from recurra.testing.cases import Case, Inputs, draw
from recurra.testing.compare import Values, agree, name_results


def inapplicable(layer: Layer) -> str:
    """Why there is no saved form of the layer; empty when there is one."""
    try:
        layer_spec(layer)
    except ArgumentError as error:
        return str(error)
    return ""


def runtime_is_the_layer(layer: Layer, case: Case) -> None:
    """Law 10."""
    spec = json.loads(json.dumps(layer_spec(layer)))
    model = runtime.from_data(spec, {name: _array(value) for name, value in layer.state_dict().items()})
    inputs = draw(layer, case, lengths=True, reset=True)
    with torch.no_grad():
        whole = name_results(*inputs.call(layer))
        agree(_called(model, inputs), whole, "the runtime against the layer")
        if not layer.causal:
            return
        inputs = inputs.with_(lengths=None, reset=None)
        whole = name_results(*inputs.call(layer))
        agree(_stepped(model, inputs), whole, "steps of the runtime against the layer")
        first = inputs.row(0, 0, case.time)
        agree(_streamed(model, first), {"y": first.call(layer)[0]}, "a stream of the runtime against the layer")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _maybe(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else _array(tensor)


def _state(model: runtime.Layer, inputs: Inputs) -> Any:
    return from_arrays(model.initial_state(inputs.x.shape[0]), [_array(part) for part in state_tensors(inputs.state)])


def _named(y: np.ndarray, state: Any) -> Values:
    return name_results(torch.from_numpy(y), map_state(torch.from_numpy, state))


def _called(model: runtime.Layer, inputs: Inputs) -> Values:
    rows = {name: _maybe(getattr(inputs, name)) for name in ("lengths", "reset", "elapsed")}
    return _named(*model(_array(inputs.x), _state(model, inputs), **rows))


def _stepped(model: runtime.Layer, inputs: Inputs) -> Values:
    state, outputs = _state(model, inputs), []
    for t in range(inputs.x.shape[1]):
        elapsed = None if inputs.elapsed is None else _array(inputs.elapsed[:, t])
        y_t, state = model.step(_array(inputs.x[:, t]), state, elapsed=elapsed)
        outputs.append(y_t)
    return _named(outputs[-1] if model.pools else np.stack(outputs, axis=1), state)


def _streamed(model: runtime.Layer, inputs: Inputs) -> Values:
    stream = model.stream(_state(model, inputs))
    x, elapsed = _array(inputs.x[0]), None if inputs.elapsed is None else _array(inputs.elapsed[0])
    middle = len(x) // 2
    pieces = [
        stream.push(x[part], elapsed=None if elapsed is None else elapsed[part])
        for part in (slice(0, middle), slice(middle, None))
    ]
    y = pieces[-1] if model.pools else np.concatenate(pieces)
    return {"y": torch.from_numpy(y[None])}
