"""Libraries of cells: torchrecurrent (a loop over its cells), minGRU-pytorch (a scan in log space), reservoirpy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurra.bench.cases import LEAK
from recurra.bench.contract import Foreign, Implementation, Results, gradient_of, not_installed
from recurra.bench.inputs import Inputs, States
from recurra.nn import Recurrent

TORCHRECURRENT: dict[str, tuple[str, dict[str, str]]] = {
    "antisymmetric_rnn": ("AntisymmetricRNNCell", {"weight_ih": "V", "weight_hh": "W", "bias_ih": "b"}),
    "antisymmetric_rnn_gated": (
        "GatedAntisymmetricRNNCell",
        {"weight_ih": "V/1 V/0", "weight_hh": "W", "bias_ih": "b/1 b/0", "bias_hh": ""},
    ),
    "atr": ("ATRCell", {"weight_ih": "W", "weight_hh": "U"}),
    "brc": ("BRCell", {"weight_ih": "W/1 W/2 W/0", "weight_hh": "w_a w_c"}),
    "nbrc": ("NBRCell", {"weight_ih": "W/1 W/2 W/0", "weight_hh": "U"}),
    "cfn": ("CFNCell", {"weight_ih": "V W", "weight_hh": "U", "bias_hh": "b"}),
    "cornn": ("coRNNCell", {"weight_ih": "V", "weight_hh": "W", "weight_ch": "W_z", "bias_ih": "b"}),
    "fastrnn": ("FastRNNCell", {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b", "alpha": "alpha", "beta": "beta"}),
    "fastgrnn": ("FastGRNNCell", {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b", "zeta": "zeta", "nu": "nu"}),
    "indrnn": ("IndRNNCell", {"weight_ih": "W", "vector_u": "u", "bias_ih": "b"}),
    "light_gru": ("LiGRUCell", {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b"}),
    "lstm_peephole": (
        "PeepholeLSTMCell",
        {"weight_ih": "W", "weight_hh": "U", "weight_ph": "p_i p_f p_o", "bias_ih": "b"},
    ),
    "mgu": ("MGUCell", {"weight_ih": "W", "weight_hh": "U_f U_h", "bias_ih": "b"}),
    "mut1": ("MUT1Cell", {"weight_ih": "W", "weight_hh": "U_r U_h", "bias_ih": "b/0 b/1 0", "bias_hh": "0 b/2"}),
    "mut2": ("MUT2Cell", {"weight_ih": "W", "weight_hh": "U U_h", "bias_ih": "b"}),
    "mut3": ("MUT3Cell", {"weight_ih": "W", "weight_hh": "U_z U_r U_h", "bias_ih": "b"}),
    "ran": ("RANCell", {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b"}),
    "star": ("STARCell", {"weight_ih": "W/1 W/0", "weight_hh": "U", "bias_ih": "b/1 b/0"}),
}
"""By our cell: theirs, and what of ours each of its parameters is; V/1 is gate 1 of V, what is not named is zero."""

OPTIONS: dict[str, dict[str, Any]] = {
    "antisymmetric_rnn": {"epsilon": 0.01, "gamma": 0.01},
    "antisymmetric_rnn_gated": {"epsilon": 0.01, "gamma": 0.01},
    "cornn": {"dt": 0.05, "gamma": 1.0, "epsilon": 1.0},
    "fastgrnn": {"nonlinearity": torch.sigmoid},
    "indrnn": {"nonlinearity": torch.relu},
}


def _part(layer: Recurrent, values: dict[str, Tensor], token: str) -> Tensor:
    """What a token of the table stands for, out of `values`, one for each parameter of the layer."""
    name, _, gate = token.partition("/")
    if name == "0":
        return torch.zeros(layer.hidden_size, dtype=next(iter(values.values())).dtype)
    gates = next(spec.gates for spec in layer.program.parameters if spec.name == name)
    return values[name].chunk(gates)[int(gate)] if gate else values[name]


def torchrecurrent_cell(layer: Recurrent) -> torch.nn.Module:
    """The cell of torchrecurrent that has the layer's equations, with copies of its weights, in its dtype."""
    theirs, parameters = TORCHRECURRENT[layer.program.name]
    options = OPTIONS.get(layer.program.name, {})
    kind = getattr(import_module("torchrecurrent"), theirs)
    values = {name: value.detach() for name, value in layer.named_parameters()}
    module = kind(layer.input_size, layer.hidden_size, **options).to(next(layer.parameters()).dtype)
    with torch.no_grad():
        for target, parameter in module.named_parameters():
            tokens = parameters.get(target, "").split()
            found = [_part(layer, values, token) for token in tokens]
            parameter.copy_(torch.cat(found) if found else parameter.new_zeros(()))
    return module


class TorchRecurrent:
    """A cell of torchrecurrent in a loop over time, as its layers run it."""

    def missing(self) -> str:
        return not_installed("torchrecurrent")

    def build(self, layer: Recurrent) -> Implementation:
        module = torchrecurrent_cell(layer)
        table = TORCHRECURRENT[layer.program.name][1]

        def scan(x: Tensor, states: Any) -> tuple[Tensor, States]:
            outputs = []
            for x_t in x.unbind(1):
                after = module(x_t, states if len(states) > 1 else states[0])
                states = after if isinstance(after, tuple) else (after,)
                y, *_ = states
                outputs.append(y)
            return torch.stack(outputs, dim=1), states

        def gradients() -> dict[str, Tensor]:
            mine = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
            for target, parameter in module.named_parameters():
                parts = [_part(layer, mine, token) for token in table.get(target, "").split()]
                given = gradient_of(parameter).split([part.shape[0] for part in parts]) if parts else ()
                for part, gradient in zip(parts, given, strict=True):
                    part.detach().copy_(gradient)  # a view of `mine`
            return mine

        return Implementation(scan, None, list(module.parameters()), gradients)


class MinGRU:
    """minGRU of minGRU-pytorch: an associative scan in log space, without a bias."""

    def missing(self) -> str:
        return not_installed("minGRU_pytorch")

    def build(self, layer: Recurrent) -> Implementation:
        weight = layer.get_parameter("W")
        module = import_module("minGRU_pytorch").minGRU(layer.input_size).to(weight.dtype)
        with torch.no_grad():
            module.to_hidden_and_gate.weight.copy_(weight)

        def scan(x: Tensor, states: States) -> tuple[Tensor, States]:
            y, last = module(x, states[0][:, None], return_next_prev_hidden=True)
            return y, (last[:, 0],)

        def gradients() -> dict[str, Tensor]:
            return {"W": gradient_of(module.to_hidden_and_gate.weight)}

        return Implementation(scan, None, list(module.parameters()), gradients)


class ReservoirPy:
    """A sparse Reservoir of reservoirpy over one row: it has neither batches nor gradients."""

    def missing(self) -> str:
        return not_installed("reservoirpy")

    def build(self, layer: Recurrent) -> Foreign:
        sparse, nodes = import_module("scipy.sparse"), import_module("reservoirpy.nodes")
        W, W_in, b = (layer.get_buffer(name).numpy() for name in ("W", "W_in", "b"))
        node = nodes.Reservoir(lr=LEAK, W=sparse.csr_array(W), Win=W_in, bias=b, dtype=np.float32)

        def forward(inputs: Inputs) -> Any:
            x, state = inputs.x[0].numpy(), inputs.states[0][0].numpy()
            node.initialize(x)

            def call() -> Any:
                node.state = {"out": state}
                return node.run(x), node.state["out"]

            return call

        def read(returned: Any) -> Results:
            y, last = (torch.from_numpy(np.asarray(value, dtype=np.float32))[None] for value in returned)
            return Results(y, (last,), {})

        return Foreign(forward, None, read)
