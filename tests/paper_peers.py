"""Law 14: for each cell the numpy step that an independent author wrote from the paper, its parameters mapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paper_steps import classic, gated, linear, research
from paper_steps import other as newer
from recurra import nn
from recurra.testing.peer_law import Peer

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Paper:
    """The step of a paper in the terms of one of our cells.

    `states` names the paper's states in the order of ours. `parameters` says what each of our parameters is called
    there; several names are its gates in order. `derive` makes what is no part of one of ours, `settings` are values.
    A `timed` one needs the time between steps.
    """

    step: Callable[..., Any]
    states: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    derive: Callable[[Arrays], Mapping[str, Any]] = lambda own: {}
    timed: bool = False

    def values(self, own: Arrays) -> dict[str, Any]:
        named = {**self.settings, **self.derive(own)}
        for name, gates in self.parameters.items():
            for gate, part in zip(gates.split(), np.split(own[name], len(gates.split())), strict=True):
                named[gate] = part
        return named

    def peer(self, layer: nn.Layer) -> Peer:
        """The steps over sequences, with the weights that the layer has now."""
        own = {name: value.detach().double().numpy().copy() for name, value in layer.state_dict().items()}
        values = self.values(own)
        names = self.states.split()

        def run(x: Tensor, state: Any, elapsed: Tensor | None = None) -> tuple[Tensor, Any]:
            assert (elapsed is not None) == self.timed
            inside = {name: s.detach().numpy() for name, s in zip(names, state, strict=False)}
            outputs = []
            for t in range(x.shape[1]):
                time = {} if elapsed is None else {"dt": elapsed[:, t].detach().numpy()}
                y, inside = self.step(x[:, t].detach().numpy(), inside, {**values, **time})
                outputs.append(torch.from_numpy(np.ascontiguousarray(y)))
            after = [torch.from_numpy(np.ascontiguousarray(inside[name])) for name in names]
            # what is left are the books of a transform
            return torch.stack(outputs, dim=1), type(state)(*after, *(s.detach() for s in state[len(names) :]))

        return run


def _highway(own: Arrays) -> Arrays:
    depth = sum(name.startswith("R_") for name in own)
    split = [(np.split(own[f"R_{k + 1}"], 2), np.split(own[f"b_{k + 1}"], 2)) for k in range(depth)]
    return {
        "R_H": np.stack([R[0] for R, _ in split]),
        "R_T": np.stack([R[1] for R, _ in split]),
        "b_H": np.stack([b[0] for _, b in split]),
        "b_T": np.stack([b[1] for _, b in split]),
    }


def _low_rank(own: Arrays) -> Arrays:
    return {"W": own["W1"] @ own["W2"], "U": own["U1"] @ own["U2"]}


def _blocks_of_heads(own: Arrays) -> Arrays:
    units, columns = own["R"].shape[0] // 4, own["R"].shape[1]
    parts = np.split(own["R"], 4)
    return {f"R_{g}": part.reshape(units // columns, columns, columns) for g, part in zip("zifo", parts, strict=True)}


def _clocks(own: Arrays) -> dict[str, Any]:
    periods, sizes = np.unique(own["period"], return_counts=True)
    return {"periods": tuple(periods), "sizes": list(sizes)}


_LSTM = {"W": "W_i W_f W_g W_o", "U": "U_i U_f U_g U_o", "b": "b_i b_f b_g b_o"}
_LSTM_NORM = {
    **_LSTM,
    "gain_W": "gain_x_i gain_x_f gain_x_g gain_x_o",
    "gain_U": "gain_h_i gain_h_f gain_h_g gain_h_o",
    "gain_c": "gain_c",
}
_GRU = {"W": "W_r W_z W_h", "U": "U_r U_z U_h", "b": "b_r b_z b_h"}
_PEEPHOLES = {name: name for name in ("p_i", "p_f", "p_o")}
_MUT = {"W": "W_xz W_xr W_xh", "b": "b_z b_r b_h"}
_SQUASHED = {"squash_scalars": True}
_BACKBONE = {"W": "B_x", "U": "B_h", "b": "d_1"}
_CFC = {**_BACKBONE, "V": "W_f1 W_f2 W_ta W_tb", "c": "b_f1 b_f2 b_ta b_tb"}
_SYNAPSES = {"w": "w", "mu": "mu", "gamma": "sigma", "E": "erev"}


def _same(names: str) -> dict[str, str]:
    return {name: name for name in names.split()}


_SLSTM = Paper(newer.slstm, "h c n m", {"W": "W_z W_i W_f W_o", "b": "b_z b_i b_f b_o"}, derive=_blocks_of_heads)

PAPERS: dict[str, Paper] = {
    # classic
    "rnn_tanh": Paper(classic.rnn, "h", _same("W U b")),
    "rnn_relu": Paper(classic.rnn, "h", _same("W U b"), {"activation": "relu"}),
    "lstm": Paper(classic.lstm, "h c", _LSTM),
    "lstm_peephole": Paper(classic.lstm_peephole, "h c", {**_LSTM, **_PEEPHOLES}),
    "lstm_coupled": Paper(classic.lstm_coupled, "h c", {"W": "W_i W_g W_o", "U": "U_i U_g U_o", "b": "b_i b_g b_o"}),
    "lstm_projected": Paper(classic.lstm_projected, "r c", {**_LSTM, "P": "W_rm"}),
    "gru": Paper(
        classic.gru_reset_after,
        "h",
        {**_GRU, "b_n": "b_Uh"},
    ),
    "gru_reset_before": Paper(classic.gru, "h", {"W": "W_r W_z W_h", "U": "U_r U_z", "U_n": "U_h", "b": "b_r b_z b_h"}),
    "mgu": Paper(gated.mgu, "h", {"W": "W_f W_h", "U_f": "U_f", "U_h": "U_h", "b": "b_f b_h"}),
    "light_gru": Paper(gated.light_gru, "h", {"W": "W_z W_h", "U": "U_z U_h", "b": "b_z b_h"}),
    "janet": Paper(gated.janet, "c", {"W": "W_f W_c", "U": "U_f U_c", "b": "b_f b_c"}),
    "indrnn": Paper(classic.indrnn, "h", {"W": "W", "u": "u", "b": "b"}),
    "esn": Paper(research.echo_state, "x", _same("W_in W b")),
    "mingru": Paper(linear.min_gru, "h", {"W": "W_z W_h", "b": "b_z b_h"}),
    # without a product of the state
    "sru": Paper(linear.sru_v2, "c", {"W": "W W_f W_r W_h", "v": "v_f v_r", "b": "b_f b_r"}),
    "qrnn": Paper(linear.qrnn_fo, "c", {"W": "W_z_2 W_f_2 W_o_2", "b": "b_z b_f b_o"}, {"window": 1}),
    "qrnn_window_2": Paper(
        linear.qrnn_fo,
        "c x_prev",
        {"W_1": "W_z_1 W_f_1 W_o_1", "W_2": "W_z_2 W_f_2 W_o_2", "b": "b_z b_f b_o"},
    ),
    "minlstm": Paper(linear.min_lstm, "h", {"W": "W_f W_i W_h", "b": "b_f b_i b_h"}),
    "lru": Paper(
        linear.lru,
        "x_re x_im",
        {"nu": "nu_log", "theta": "theta_log", "gamma": "gamma_log", **_same("B_re B_im C_re C_im D")},
    ),
    "rglru": Paper(linear.rg_lru, "h", {"W": "W_a W_x W_v", "b": "b_a b_x", "decay": "Lambda"}),
    # exponential gates, clocks
    "slstm": _SLSTM,
    "slstm of two heads": _SLSTM,
    # its clock starts again after the longest period, which the steps of a law do not reach
    "clockwork_rnn": Paper(classic.clockwork_rnn, "h t", {"W": "W_I", "U": "W_H", "b": "b"}, derive=_clocks),
    # gated
    "rhn": Paper(gated.recurrent_highway, "s", {"W": "W_H W_T"}, derive=_highway),
    "cfn": Paper(gated.chaos_free, "h", {"W": "W", "V": "W_theta W_eta", "U": "U_theta U_eta", "b": "b_theta b_eta"}),
    "ran": Paper(gated.recurrent_additive, "h c", {"W": "W_c W_i W_f", "U": "U_i U_f", "b": "b_i b_f"}),
    "atr": Paper(gated.addition_subtraction, "h", _same("W U")),
    "star": Paper(gated.star, "h", {"W": "W_k W_z", "U": "U_k", "b": "b_k b_z"}),
    "scrn": Paper(classic.scrn, "h s", _same("A B P R U V")),
    "brc": Paper(gated.bistable, "h", {"W": "U U_a U_c", "w_a": "w_a", "w_c": "w_c"}),
    "nbrc": Paper(gated.neuromodulated_bistable, "h", {"W": "U U_a U_c", "U": "W_a W_c"}),
    "mut1": Paper(classic.mut1, "h", {**_MUT, "U_r": "W_hr", "U_h": "W_hh"}),
    "mut2": Paper(classic.mut2, "h", {**_MUT, "U": "W_hz W_hr", "U_h": "W_hh"}),
    "mut3": Paper(classic.mut3, "h", {**_MUT, "U_z": "W_hz", "U_r": "W_hr", "U_h": "W_hh"}),
    "nas": Paper(gated.nas, "h c", {m: " ".join(f"{m}_{k}" for k in range(8)) for m in ("W", "U")}),
    # dynamical
    "antisymmetric_rnn": Paper(research.antisymmetric, "h", {"V": "V_h", "W": "W_h", "b": "b_h"}),
    "antisymmetric_rnn_gated": Paper(research.gated_antisymmetric, "h", {"V": "V_h V_z", "W": "W_h", "b": "b_h b_z"}),
    "cornn": Paper(research.cornn, "y z", {"V": "V", "W": "W", "W_z": "W_z", "b": "b"}),
    "unicornn": Paper(research.unicornn, "y z", _same("V w b c"), {"dt": 0.05, "alpha": 1.0}),
    "lem": Paper(
        research.lem,
        "y z",
        {"V": "V_1 V_2 V_z V_y", "W": "W_1 W_2 W_z", "W_y": "W_y", "b": "b_1 b_2 b_z b_y"},
    ),
    "fastrnn": Paper(gated.fast_rnn, "h", _same("W U b alpha beta"), _SQUASHED),
    "fastgrnn": Paper(gated.fast_grnn, "h", {**_same("W U zeta nu"), "b": "b_z b_h"}, _SQUASHED),
    "fastgrnn_low_rank": Paper(gated.fast_grnn, "h", {**_same("zeta nu"), "b": "b_z b_h"}, _SQUASHED, _low_rank),
    # in continuous time
    "phased_lstm": Paper(
        research.phased_lstm,
        "h c time",
        {
            "W": "W_i W_f W_c W_o",
            "U": "U_i U_f U_c U_o",
            "b": "b_i b_f b_c b_o",
            "p_i": "w_ci",
            "p_f": "w_cf",
            "p_o": "w_co",
            "tau": "tau",
            "s": "s",
            "r_on": "r_on",
        },
        timed=True,
    ),
    # our f is positive where the paper's is negative
    "cfc": Paper(research.cfc, "h", _CFC, {"time_sign": 1.0}, timed=True),
    "cfc without a gate": Paper(research.cfc, "h", _CFC, {"time_sign": 1.0, "mode": "no_gate"}, timed=True),
    "cfc_pure": Paper(
        research.cfc,
        "h",
        {**_BACKBONE, "V": "W_f1", "c": "b_f1", "w_tau": "w_tau", "A": "A"},
        {"mode": "pure"},
        timed=True,
    ),
    "ltc": Paper(
        research.ltc,
        "v",
        {
            **_SYNAPSES,
            **{f"input_{own}": f"sensory_{theirs}" for own, theirs in _SYNAPSES.items()},
            "g": "gleak",
            "v_leak": "vleak",
            "c": "cm",
        },
        {"softplus": True, "epsilon": 0.0},
        timed=True,
    ),
    # spiking
    "lif": Paper(newer.recurrent_lif, "spk mem", _same("W V b")),
    "spiking_lstm": Paper(newer.spiking_lstm, "mem syn", _LSTM, {"reset": "subtract", "threshold": 0.5}),
    # transforms, as they run in evaluation
    "lstm, layer norm": Paper(newer.lstm_norm, "h c", {**_LSTM_NORM, "bias_c": "shift_c"}),
    "lstm, layer norm per gate": Paper(
        newer.lstm_norm, "h c", {**_LSTM_NORM, "bias_c": "shift_c"}, {"statistics": "gate"}
    ),
    "lstm, rms norm": Paper(newer.lstm_norm, "h c", _LSTM_NORM, {"norm": "rms"}),
    "gru, layer norm per gate": Paper(
        newer.gru_norm,
        "h",
        {
            **_GRU,
            "b_n": "shift_h_h",
            "gain_W": "gain_x_r gain_x_z gain_x_h",
            "gain_U": "gain_h_r gain_h_z gain_h_h",
        },
        {"statistics": "gate", "z_keeps": True},
    ),
    "lstm, zoneout": Paper(newer.lstm_zoneout, "h c", _LSTM, {"zoneout_c": 0.3, "zoneout_h": 0.3}),
    "gru, zoneout": Paper(newer.gru_zoneout, "h", {**_GRU, "b_n": "b_Uh"}, {"zoneout_h": 0.3, "reset": "after"}),
    "rnn_tanh, zoneout": Paper(newer.rnn_zoneout, "h", _same("W U b"), {"zoneout_h": 0.3}),
}
"""By the name of the layer in tests/layers.py."""


def peer_of(name: str, layer: nn.Layer) -> Peer | None:
    """The peer of a layer of tests/layers.py; None where it has none."""
    return PAPERS[name].peer(layer) if name in PAPERS else None
