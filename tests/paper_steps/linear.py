"""One numpy step for each linear / parallelisable recurrent cell, from the papers' formulas.

Every function is  y, new_state = cell(x, state, p)  with x (batch, input), state a dict of
(batch, ...) arrays and p a dict of arrays plus plain settings. A matrix W is applied as
x @ W.T. SPEC[name] lists states, parameters (symbolic shapes, "a,b" is a matrix), optional
parameters (absent means zero, or the feature is off) and settings with their defaults.
"(~)" marks an equation number given from memory. Written without sight of any recurra source.
"""

import numpy as np

from paper_steps.words import ACTIVATION, SPEC, optional, setting, sigmoid, softplus


def linear(x, p, g):
    """W_g x + b_g (the bias may be absent)."""
    return x @ p[f"W_{g}"].T + optional(p, f"b_{g}")


def weights(shape_w, shape_b, *gates):
    """SPEC text of one W and b for each gate."""
    out = {}
    for g in gates:
        out.update({f"W_{g}": shape_w, f"b_{g}": shape_b})
    return out


SPEC["sru"] = {
    "states": {"c": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", **weights("hidden,input", "hidden", "f", "r"), "W_h": "hidden,input"},
    "optional": ("W_h",),
    "settings": {"activation": "tanh"},
}


def sru(x, state, p):
    """SRU version 1, Lei & Zhang 2017 (arXiv 1709.02755v1/v2), eqs. 3-7 (~), with highway.

    x~ = W x; f = sigma(W_f x + b_f); r = sigma(W_r x + b_r); c_t = f*c_{t-1} + (1-f)*x~;
    h_t = r*g(c_t) + (1-r)*x_t; y = h_t.
    State: c (hidden). Parameters: W, W_f, W_r (hidden, input), b_f, b_r (hidden). The highway
    x_t needs input = hidden; optional W_h (hidden, input) gives W_h x there (authors' code).
    Setting: activation g "tanh" ("identity" and "relu" are the authors' other choices).
    """
    f, r = sigmoid(linear(x, p, "f")), sigmoid(linear(x, p, "r"))
    c = f * state["c"] + (1.0 - f) * (x @ p["W"].T)
    skip = x @ p["W_h"].T if "W_h" in p else x
    h = r * ACTIVATION[setting(p, "sru", "activation")](c) + (1.0 - r) * skip
    return h, {"c": c}


SPEC["sru_v2"] = {
    "states": {"c": "hidden"},
    "output": "hidden",
    "parameters": {**SPEC["sru"]["parameters"], "v_f": "hidden", "v_r": "hidden"},
    "optional": ("W_h",),
    "settings": {"highway_scale": 1.0},
}


def sru_v2(x, state, p):
    """SRU as published, Lei, Zhang, Wang, Dai & Artzi 2018 (EMNLP), eqs. 1-4.

    f = sigma(W_f x + v_f*c_{t-1} + b_f); c_t = f*c_{t-1} + (1-f)*(W x);
    r = sigma(W_r x + v_r*c_{t-1} + b_r)  (the OLD c in both); h_t = r*c_t + (1-r)*x_t*alpha.
    State: c (hidden). Parameters: those of sru and v_f, v_r (hidden). Setting: highway_scale
    1.0 (alpha; section 3.2 proposes sqrt(1 + 2 exp(bias of r)), sqrt 3 at bias 0).
    """
    f = sigmoid(linear(x, p, "f") + p["v_f"] * state["c"])
    r = sigmoid(linear(x, p, "r") + p["v_r"] * state["c"])
    c = f * state["c"] + (1.0 - f) * (x @ p["W"].T)
    skip = x @ p["W_h"].T if "W_h" in p else x
    h = r * c + (1.0 - r) * skip * setting(p, "sru_v2", "highway_scale")
    return h, {"c": c}


def _qrnn_spec(gates, memory):
    parameters = {}
    for g in gates:
        parameters.update({f"W_{g}_2": "hidden,input", f"W_{g}_1": "hidden,input", f"b_{g}": "hidden"})
    return {
        "states": {memory: "hidden", "x_prev": "input"},
        "output": "hidden",
        "parameters": parameters,
        "optional": tuple(f"b_{g}" for g in gates),
        "settings": {"window": 2},
    }


def _qrnn_gate(x, state, p, cell, g):
    """W^2 x_t + W^1 x_{t-1} (+ b): eq. 2, a masked convolution of width 1 or 2."""
    a = x @ p[f"W_{g}_2"].T + optional(p, f"b_{g}")
    if setting(p, cell, "window") == 2:
        a = a + state["x_prev"] @ p[f"W_{g}_1"].T
    return a


SPEC["qrnn_f"] = _qrnn_spec("zf", "h")


def qrnn_f(x, state, p):
    """QRNN f-pooling, Bradbury, Merity, Xiong & Socher 2017, eqs. 2-3.

    z = tanh(W_z_1 x_{t-1} + W_z_2 x_t); f = sigma(W_f_1 x_{t-1} + W_f_2 x_t);
    h_t = f*h_{t-1} + (1-f)*z; y = h.
    States: h (hidden), x_prev (input; zero before the sequence; kept with window 1 too).
    Parameters: W_z_1, W_z_2, W_f_1, W_f_2 (hidden, input), the _1 ones with window 2 only;
    optional b_z, b_f (hidden; not in the paper's formulas). Setting: window 2 or 1.
    """
    z = np.tanh(_qrnn_gate(x, state, p, "qrnn_f", "z"))
    f = sigmoid(_qrnn_gate(x, state, p, "qrnn_f", "f"))
    h = f * state["h"] + (1.0 - f) * z
    return h, {"h": h, "x_prev": x}


SPEC["qrnn_fo"] = _qrnn_spec("zfo", "c")


def qrnn_fo(x, state, p):
    """QRNN fo-pooling, Bradbury et al. 2017, eq. 4: c_t = f*c_{t-1} + (1-f)*z; h_t = o*c_t.

    o = sigma(W_o_1 x_{t-1} + W_o_2 x_t); the rest, states (c, x_prev) and names as in qrnn_f.
    """
    z = np.tanh(_qrnn_gate(x, state, p, "qrnn_fo", "z"))
    f = sigmoid(_qrnn_gate(x, state, p, "qrnn_fo", "f"))
    o = sigmoid(_qrnn_gate(x, state, p, "qrnn_fo", "o"))
    c = f * state["c"] + (1.0 - f) * z
    return o * c, {"c": c, "x_prev": x}


SPEC["qrnn_ifo"] = _qrnn_spec("zfoi", "c")


def qrnn_ifo(x, state, p):
    """QRNN ifo-pooling, Bradbury et al. 2017, eq. 5: c_t = f*c_{t-1} + i*z; h_t = o*c_t.

    i = sigma(W_i_1 x_{t-1} + W_i_2 x_t); the rest, states (c, x_prev) and names as in qrnn_fo.
    """
    z = np.tanh(_qrnn_gate(x, state, p, "qrnn_ifo", "z"))
    f = sigmoid(_qrnn_gate(x, state, p, "qrnn_ifo", "f"))
    o = sigmoid(_qrnn_gate(x, state, p, "qrnn_ifo", "o"))
    i = sigmoid(_qrnn_gate(x, state, p, "qrnn_ifo", "i"))
    c = f * state["c"] + i * z
    return o * c, {"c": c, "x_prev": x}


def _positive(a):
    """g of Feng et al., appendix B: a + 0.5 where a >= 0, else sigma(a)."""
    return np.where(a >= 0.0, a + 0.5, sigmoid(a))


SPEC["min_gru"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": weights("hidden,input", "hidden", "z", "h"),
    "optional": ("b_z", "b_h"),
    "settings": {"positive_candidate": False},
}


def min_gru(x, state, p):
    """minGRU, Feng et al. 2024, section 3.1: h_t = (1-z)*h_{t-1} + z*h~; y = h.

    z = sigma(W_z x + b_z); h~ = W_h x + b_h (no activation).
    State: h (hidden). Parameters: W_z, W_h (hidden, input), b_z, b_h (hidden).
    Setting: positive_candidate False; True gives h~ = g(W_h x + b_h), the log-space form of
    appendix B.
    """
    z, new = sigmoid(linear(x, p, "z")), linear(x, p, "h")
    new = _positive(new) if setting(p, "min_gru", "positive_candidate") else new
    h = (1.0 - z) * state["h"] + z * new
    return h, {"h": h}


SPEC["min_lstm"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": weights("hidden,input", "hidden", "f", "i", "h"),
    "optional": ("b_f", "b_i", "b_h"),
    "settings": {"normalise": True, "positive_candidate": False},
}


def min_lstm(x, state, p):
    """minLSTM, Feng et al. 2024, section 3.2, with f' = f/(f+i), i' = i/(f+i); y = h.

    f = sigma(W_f x + b_f); i = sigma(W_i x + b_i); h~ = W_h x + b_h; h_t = f'*h_{t-1} + i'*h~.
    State: h (hidden). Parameters: W_f, W_i, W_h (hidden, input), b_* (hidden). Settings:
    normalise True (length independence), positive_candidate False (as in min_gru).
    """
    f, i, new = sigmoid(linear(x, p, "f")), sigmoid(linear(x, p, "i")), linear(x, p, "h")
    if setting(p, "min_lstm", "normalise"):
        f, i = f / (f + i), i / (f + i)
    new = _positive(new) if setting(p, "min_lstm", "positive_candidate") else new
    h = f * state["h"] + i * new
    return h, {"h": h}


SPEC["lru"] = {
    "states": {"x_re": "state", "x_im": "state"},
    "output": "output",
    "parameters": {
        "nu_log": "state",
        "theta_log": "state",
        "gamma_log": "state",
        "B_re": "state,input",
        "B_im": "state,input",
        "C_re": "output,state",
        "C_im": "output,state",
        "D": "output,input",
    },
    "optional": ("gamma_log", "D"),
    "settings": {},
}


def lru(x, state, p):
    """LRU, Orvieto et al. 2023, eqs. 1 and 7 (~), appendix A code.

    lambda = exp(-exp(nu_log) + i exp(theta_log)); x_k = lambda*x_{k-1} + gamma*(B u_k);
    y_k = Re(C x_k) + D u_k; gamma = exp(gamma_log), by default sqrt(1 - |lambda|^2) (its
    initial value; the paper trains gamma_log afterwards).
    States: x_re, x_im (state), the two parts of the complex state. Parameters: nu_log,
    theta_log (state), B_re, B_im (state, input), C_re, C_im (output, state). Optional
    gamma_log (state); D, a matrix (output, input), or a vector (input,) applied elementwise,
    as the appendix code has it (needs output = input).
    """
    lam = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    gamma = np.exp(p["gamma_log"]) if "gamma_log" in p else np.sqrt(1.0 - np.abs(lam) ** 2)
    z = lam * (state["x_re"] + 1j * state["x_im"]) + gamma * (x @ (p["B_re"] + 1j * p["B_im"]).T)
    y = np.real(z @ (p["C_re"] + 1j * p["C_im"]).T)
    if "D" in p:
        y = y + (x @ p["D"].T if p["D"].ndim == 2 else p["D"] * x)
    return y, {"x_re": z.real, "x_im": z.imag}


SPEC["rg_lru"] = {
    "states": {"h": "input"},
    "output": "input",
    "parameters": {**weights("input,input", "input", "a", "x"), "Lambda": "input", "W_v": "input,input"},
    "optional": ("W_v",),
    "settings": {"c": 8.0, "decay": "sigmoid"},
}


def rg_lru(x, state, p):
    """RG-LRU, De et al. 2024 (Griffin), eqs. 1-4 of section 2.4.

    r = sigma(W_a x + b_a); i = sigma(W_x x + b_x); a_t = a^(c r), a = sigma(Lambda), c = 8;
    h_t = a_t*h_{t-1} + sqrt(1 - a_t^2)*(i*x_t); y = h. Hidden width = input width.
    State: h (input). Parameters: W_a, W_x (input, input; the released code has block-diagonal
    ones: pass them filled with zeros), b_a, b_x, Lambda (input).
    Settings: c 8.0; decay "sigmoid": log a_t = c r log sigma(Lambda) (section 2.4), or
    "softplus": log a_t = -c r softplus(Lambda) (appendix A and the released code; it equals
    "sigmoid" with the sign of Lambda flipped, so the paper's two places do not agree).
    Optional W_v: the recurrence is over W_v x in place of x, as wide as W_v has rows; the gates still read x.
    The released code multiplies the first step of a sequence by 1 instead of sqrt(1 - a_t^2).
    """
    r, i = sigmoid(linear(x, p, "a")), sigmoid(linear(x, p, "x"))
    sign = -1.0 if setting(p, "rg_lru", "decay") == "sigmoid" else 1.0
    log_a = -setting(p, "rg_lru", "c") * r * softplus(sign * p["Lambda"])
    value = x @ p["W_v"].T if "W_v" in p else x
    h = np.exp(log_a) * state["h"] + np.sqrt(-np.expm1(2.0 * log_a)) * (i * value)
    return h, {"h": h}
