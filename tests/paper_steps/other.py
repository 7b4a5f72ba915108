"""One numpy step for xLSTM cells, spiking cells, and normalised or zoned-out LSTM/GRU/RNN cells.

Every function is  y, new_state = cell(x, state, p)  with x (batch, input), state a dict of
(batch, ...) arrays and p a dict of arrays plus plain settings. A matrix W is applied as
x @ W.T. SPEC[name] lists states, parameters (symbolic shapes, "a,b" is a matrix), optional
parameters (absent means zero, or the feature is off) and settings with their defaults.
"(~)" marks an equation number given from memory. Written without sight of any recurra source.
"""

import numpy as np

from paper_steps.words import SPEC, affine, gate, log_sigmoid, optional, setting, sigmoid

SPEC["slstm"] = {
    "states": {"h": "hidden", "c": "hidden", "n": "hidden", "m": "hidden"},
    "output": "hidden",
    "parameters": {
        n: s
        for g in "zifo"
        for n, s in ((f"W_{g}", "hidden,input"), (f"R_{g}", "heads,hidden/heads,hidden/heads"), (f"b_{g}", "hidden"))
    },
    "optional": (),
    "settings": {"forget": "sigmoid", "empty_start": False},
}


def slstm(x, state, p):
    """sLSTM, Beck et al. 2024 (xLSTM), eqs. 8-14 with the stabiliser eqs. 15-17.

    a_g = W_g x + R_g h + b_g, R_g block-diagonal: head j reads head j only.
    z = tanh(a_z); i = exp(a_i); f = sigma(a_f) or exp(a_f); o = sigma(a_o);
    m_t = max(log f + m_{t-1}, log i)   (15); i' = exp(log i - m_t)   (16);
    f' = exp(log f + m_{t-1} - m_t)   (17); c_t = f'*c + i'*z; n_t = f'*n + i'; h_t = o*c_t/n_t.
    States: h, c, n, m (hidden), all zero at the start. Parameters for z, i, f, o: W_* (hidden,
    input), R_* (heads, d, d) with d = hidden/heads, h_head @ R_*[head].T; b_* (hidden).
    Settings: forget "sigmoid" or "exp"; empty_start False = the formulas as printed; True = as
    the authors' code, m_t = a_i where n is all zero (h is the same; c, n, m differ by a factor).
    """
    batch, width = state["h"].shape
    heads = p["R_z"].shape[0]
    split = state["h"].reshape(batch, heads, width // heads)

    def pre(g):
        recurrent = np.einsum("bhi,hoi->bho", split, p[f"R_{g}"]).reshape(batch, width)
        return x @ p[f"W_{g}"].T + recurrent + p[f"b_{g}"]

    a_i, a_f = pre("i"), pre("f")
    log_f = log_sigmoid(a_f) if setting(p, "slstm", "forget") == "sigmoid" else a_f
    m = np.maximum(log_f + state["m"], a_i)
    if setting(p, "slstm", "empty_start") and not np.any(state["n"]):
        m = a_i
    i, f = np.exp(a_i - m), np.exp(log_f + state["m"] - m)
    c = f * state["c"] + i * np.tanh(pre("z"))
    n = f * state["n"] + i
    h = sigmoid(pre("o")) * c / n
    return h, {"h": h, "c": c, "n": n, "m": m}


def _reset(mem_new, mem_old, threshold, how):
    """snntorch: the reset looks at the OLD membrane, which fired if it was above threshold."""
    fired = (mem_old > threshold).astype(float)
    if how == "subtract":
        return mem_new - fired * threshold
    return mem_new - fired * mem_new if how == "zero" else mem_new


SPEC["recurrent_lif"] = {
    "states": {"spk": "hidden", "mem": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "b": "hidden", "V": "hidden,hidden", "b_V": "hidden"},
    "optional": ("W", "b", "b_V"),
    "settings": {"beta": 0.9, "threshold": 1.0, "reset": "subtract"},
}


def recurrent_lif(x, state, p):
    """Recurrent leaky integrate-and-fire, snntorch RLeaky (all_to_all, reset_delay True).

    I = W x + b (I = x where W is absent, as in snntorch itself); R = [mem_{t-1} > threshold];
    base = clip(beta, 0, 1)*mem_{t-1} + I + V spk_{t-1} + b_V;
    mem_t = base - R*threshold ("subtract"), base*(1 - R) ("zero") or base ("none");
    spk_t = [mem_t > threshold] (strictly); y = spk.
    States: spk, mem (hidden). Parameters: V (hidden, hidden); optional W (hidden, input), b, b_V.
    Settings: beta 0.9 (number or (hidden,)), threshold 1.0, reset. R comes from the old
    membrane, not from spk: with states the cell made itself both are the same.
    """
    current = x @ p["W"].T + optional(p, "b") if "W" in p else x
    beta = np.clip(setting(p, "recurrent_lif", "beta"), 0.0, 1.0)
    threshold = setting(p, "recurrent_lif", "threshold")
    base = beta * state["mem"] + current + state["spk"] @ p["V"].T + optional(p, "b_V")
    mem = _reset(base, state["mem"], threshold, setting(p, "recurrent_lif", "reset"))
    spk = (mem > threshold).astype(float)
    return spk, {"spk": spk, "mem": mem}


SPEC["spiking_lstm"] = {
    "states": {"syn": "hidden", "mem": "hidden"},
    "output": "hidden",
    "parameters": affine("i", "f", "g", "o"),
    "optional": (),
    "settings": {"threshold": 1.0, "reset": "none"},
}


def spiking_lstm(x, state, p):
    """Spiking LSTM, snntorch SLSTM: an LSTM step with h = mem and c = syn, then a threshold.

    syn_t = f*syn + i*g; mem_t = o*tanh(syn_t), then the reset on mem only, with
    R = [mem_{t-1} > threshold]; spk = [mem_t > threshold]; y = spk.
    States: syn, mem (hidden). Parameters: W_*, U_*, b_* for i, f, g, o (U reads mem).
    Settings: threshold 1.0, reset "none" (the default of snntorch), "subtract" or "zero".
    """
    i, f, o = (sigmoid(gate(x, state["mem"], p, g)) for g in "ifo")
    syn = f * state["syn"] + i * np.tanh(gate(x, state["mem"], p, "g"))
    threshold = setting(p, "spiking_lstm", "threshold")
    how = setting(p, "spiking_lstm", "reset")
    mem = _reset(o * np.tanh(syn), state["mem"], threshold, how)
    return (mem > threshold).astype(float), {"syn": syn, "mem": mem}


def normalise(a, kind, eps):
    """Ba et al. 2016: (a - mean)/sqrt(var + eps), over the last axis, biased variance. "rms":
    Zhang & Sennrich 2019, eq. 4: a/sqrt(mean(a^2) + eps). The papers print no eps (use 0)."""
    if kind == "layer":
        a = a - np.mean(a, axis=-1, keepdims=True)
    return a / np.sqrt(np.mean(a * a, axis=-1, keepdims=True) + eps)


def _normed(parts, side, p, cell):
    """LN over one gate's vector, or over the parts laid end to end; then each gate's own gain
    (alpha of the paper) and shift (beta), named gain_<side>_<gate>, shift_<side>_<gate>."""
    kind, eps = setting(p, cell, "norm"), setting(p, cell, "eps")
    if setting(p, cell, "statistics") == "all":
        whole = normalise(np.concatenate(list(parts.values()), axis=1), kind, eps)
        done = dict(zip(parts, np.split(whole, len(parts), axis=1), strict=True))
    else:
        done = {g: normalise(a, kind, eps) for g, a in parts.items()}
    return {g: p[f"gain_{side}_{g}"] * a + optional(p, f"shift_{side}_{g}") for g, a in done.items()}


def _norm_spec(gates, **more):
    names = [f"{side}_{g}" for side in "xh" for g in gates]
    parameters = {
        **affine(*gates),
        **{f"gain_{n}": "hidden" for n in names},
        **{f"shift_{n}": "hidden" for n in names},
        **more,
    }
    shifts = tuple(n for n in parameters if n.startswith("shift"))
    return {
        "states": {"h": "hidden"},
        "output": "hidden",
        "parameters": parameters,
        "optional": shifts + tuple(f"b_{g}" for g in gates),
        "settings": {"norm": "layer", "eps": 1e-5, "statistics": "all"},
    }


SPEC["lstm_norm"] = _norm_spec("ifgo", gain_c="hidden", shift_c="hidden")
SPEC["lstm_norm"]["states"] = {"h": "hidden", "c": "hidden"}


def lstm_norm(x, state, p):
    """Layer-normalised LSTM, Ba, Kiros & Hinton 2016, eqs. 20-22; "rms" swaps LN for RMSNorm.

    (f, i, o, g) = LN(W_h h; alpha_1, beta_1) + LN(W_x x; alpha_2, beta_2) + b   (20);
    c_t = sigma(f)*c + sigma(i)*tanh(g)   (21); h_t = sigma(o)*tanh(LN(c_t; alpha_3, beta_3)) (22).
    The carried c_t is NOT normalised. States: h, c (hidden). Parameters: W_*, U_* for i, f, g, o,
    optional b_*; gain_x_*, gain_h_* (hidden), gain_c; optional shift_x_*, shift_h_*, shift_c.
    Settings: norm "layer" or "rms"; eps 1e-5 inside the root; statistics "all" (eq. 20: one LN
    over the 4*hidden vector) or "gate" (each gate by itself, as TensorFlow contrib does).
    """
    wx = _normed({g: x @ p[f"W_{g}"].T for g in "ifgo"}, "x", p, "lstm_norm")
    uh = _normed({g: state["h"] @ p[f"U_{g}"].T for g in "ifgo"}, "h", p, "lstm_norm")
    i, f, g, o = (wx[k] + uh[k] + optional(p, f"b_{k}") for k in "ifgo")
    c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
    kind, eps = setting(p, "lstm_norm", "norm"), setting(p, "lstm_norm", "eps")
    h = sigmoid(o) * np.tanh(p["gain_c"] * normalise(c, kind, eps) + optional(p, "shift_c"))
    return h, {"h": h, "c": c}


SPEC["gru_norm"] = _norm_spec("zrh")
SPEC["gru_norm"]["settings"]["z_keeps"] = False


def gru_norm(x, state, p):
    """Layer-normalised GRU, Ba et al. 2016, supplementary, eqs. 23-29 (~); "rms" as in lstm_norm.

    (z, r) = LN(W_h h; alpha_1, beta_1) + LN(W_x x; alpha_2, beta_2);
    h~ = tanh(LN(W x; alpha_3, beta_3) + sigma(r)*LN(U h; alpha_4, beta_4))   (reset AFTER);
    h_t = (1 - sigma(z))*h_{t-1} + sigma(z)*h~; y = h.
    State: h (hidden). Parameters: W_*, U_*, gain_x_*, gain_h_* for z, r, h; optional shift_*;
    optional b_* (the paper has none here; b_h is added outside the reset product).
    Settings: norm, eps 1e-5, statistics "all" (one LN over the 2*hidden vector of z and r; h by
    itself) or "gate"; z_keeps False (paper); True gives z*h_{t-1} + (1-z)*h~, as torch and the
    authors' own code have (that code also adds its bias to W x before the norm).
    """
    h0 = state["h"]
    wx = _normed({g: x @ p[f"W_{g}"].T for g in "zr"}, "x", p, "gru_norm")
    uh = _normed({g: h0 @ p[f"U_{g}"].T for g in "zr"}, "h", p, "gru_norm")
    z, r = (sigmoid(wx[g] + uh[g] + optional(p, f"b_{g}")) for g in "zr")
    new_x = _normed({"h": x @ p["W_h"].T}, "x", p, "gru_norm")["h"]
    new_h = _normed({"h": h0 @ p["U_h"].T}, "h", p, "gru_norm")["h"]
    new = np.tanh(new_x + optional(p, "b_h") + r * new_h)
    z = 1.0 - z if setting(p, "gru_norm", "z_keeps") else z
    h = (1.0 - z) * h0 + z * new
    return h, {"h": h}


SPEC["rnn_norm"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "gain": "hidden", "shift": "hidden"},
    "optional": ("shift",),
    "settings": {"norm": "layer", "eps": 1e-5},
}


def rnn_norm(x, state, p):
    """Layer-normalised RNN, Ba et al. 2016, eq. 4: h_t = tanh(gain*norm(W x + U h) + shift).

    ONE norm, over the sum. State: h (hidden); y = h. Parameters: W (hidden, input),
    U (hidden, hidden), gain (hidden), optional shift (hidden). Settings: norm, eps 1e-5.
    """
    kind, eps = setting(p, "rnn_norm", "norm"), setting(p, "rnn_norm", "eps")
    a = normalise(x @ p["W"].T + state["h"] @ p["U"].T, kind, eps)
    h = np.tanh(p["gain"] * a + optional(p, "shift"))
    return h, {"h": h}


SPEC["lstm_zoneout"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": affine("i", "f", "g", "o"),
    "optional": (),
    "settings": {"zoneout_c": 0.5, "zoneout_h": 0.05, "output_reads": "fresh"},
}


def lstm_zoneout(x, state, p):
    """Zoneout LSTM, Krueger et al. 2017, section 3.1, in evaluation (masks at their mean).

    c^ = f*c + i*g; c_t = d_c*c + (1-d_c)*c^; h_t = d_h*h + (1-d_h)*o*tanh(c^); y = h_t.
    States: h, c (hidden). Parameters: W_*, U_*, b_* for i, f, g, o. Settings: zoneout_c 0.5,
    zoneout_h 0.05 (the paper's d, the probability of keeping the old value); output_reads
    "fresh" (the paper's formula: tanh of f*c + i*g) or "zoned" (tanh of c_t, as some code has).
    """
    d_c, d_h = setting(p, "lstm_zoneout", "zoneout_c"), setting(p, "lstm_zoneout", "zoneout_h")
    i, f, o = (sigmoid(gate(x, state["h"], p, g)) for g in "ifo")
    fresh = f * state["c"] + i * np.tanh(gate(x, state["h"], p, "g"))
    c = d_c * state["c"] + (1.0 - d_c) * fresh
    seen = fresh if setting(p, "lstm_zoneout", "output_reads") == "fresh" else c
    h = d_h * state["h"] + (1.0 - d_h) * o * np.tanh(seen)
    return h, {"h": h, "c": c}


SPEC["gru_zoneout"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {**affine("z", "r", "h"), "b_Uh": "hidden"},
    "optional": ("b_Uh",),
    "settings": {"zoneout_h": 0.1, "reset": "before"},
}


def gru_zoneout(x, state, p):
    """Zoneout GRU, Krueger et al. 2017, section 3, in evaluation: h_t = d*h + (1-d)*GRU(x, h).

    State: h (hidden); y = h. Parameters: W_*, U_*, b_* for z, r, h; optional b_Uh (hidden, with
    reset "after"). The GRU is Cho's z*h + (1-z)*h~. Settings: zoneout_h 0.1 (d); reset "before"
    (U_h (r*h)) or "after" (r*(U_h h + b_Uh)), as in gru and gru_reset_after.
    """
    h0, d = state["h"], setting(p, "gru_zoneout", "zoneout_h")
    z, r = (sigmoid(gate(x, h0, p, g)) for g in "zr")
    if setting(p, "gru_zoneout", "reset") == "before":
        recurrent = (r * h0) @ p["U_h"].T
    else:
        recurrent = r * (h0 @ p["U_h"].T + optional(p, "b_Uh"))
    fresh = z * h0 + (1.0 - z) * np.tanh(x @ p["W_h"].T + p["b_h"] + recurrent)
    h = d * h0 + (1.0 - d) * fresh
    return h, {"h": h}


SPEC["rnn_zoneout"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b": "hidden"},
    "optional": (),
    "settings": {"zoneout_h": 0.1},
}


def rnn_zoneout(x, state, p):
    """Zoneout RNN, Krueger et al. 2017, eq. 1 (~), in evaluation.

    h_t = d*h_{t-1} + (1-d)*tanh(W x + U h_{t-1} + b); y = h. State: h (hidden). Parameters:
    W (hidden, input), U (hidden, hidden), b (hidden). Setting: zoneout_h 0.1 (d).
    """
    d = setting(p, "rnn_zoneout", "zoneout_h")
    fresh = np.tanh(x @ p["W"].T + state["h"] @ p["U"].T + p["b"])
    h = d * state["h"] + (1.0 - d) * fresh
    return h, {"h": h}
