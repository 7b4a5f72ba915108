"""One numpy step for each classic recurrent cell, written from the papers' formulas.

Every function is  y, new_state = cell(x, state, p)  with x (batch, input), state a dict of
(batch, width) arrays and p a dict of arrays plus plain settings. A matrix W is applied as
x @ W.T. SPEC[name] lists states, parameters (symbolic shapes, "a,b" is a matrix), optional
parameters (absent means zero, or the feature is off) and settings with their defaults.
"(~)" marks an equation number given from memory. Written without sight of any recurra source.
"""

import numpy as np

from paper_steps.words import ACTIVATION, SPEC, affine, gate, optional, setting, sigmoid

SPEC["rnn"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b": "hidden"},
    "optional": (),
    "settings": {"activation": "tanh"},
}


def rnn(x, state, p):
    """Elman 1990 (no numbered equation): h_t = f(W x_t + U h_{t-1} + b); y = h.

    State: h (hidden). Parameters: W (hidden, input), U (hidden, hidden), b (hidden).
    Setting: activation "tanh" (default) or "relu" (Le, Jaitly, Hinton 2015).
    torch has two biases; b is their sum.
    """
    f = ACTIVATION[setting(p, "rnn", "activation")]
    h = f(x @ p["W"].T + state["h"] @ p["U"].T + p["b"])
    return h, {"h": h}


SPEC["lstm"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": affine("i", "f", "g", "o"),
    "optional": (),
    "settings": {},
}


def lstm(x, state, p):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, no peepholes.

    i,f,o = sigma(W x + U h + b); g = tanh(W_g x + U_g h + b_g);
    c_t = f*c + i*g; h_t = o*tanh(c_t); y = h.
    States: h, c (hidden). Parameters for gate in i, f, g, o: W_gate (hidden, input),
    U_gate (hidden, hidden), b_gate (hidden). Biases are used as given (no hidden +1).
    """
    i = sigmoid(gate(x, state["h"], p, "i"))
    f = sigmoid(gate(x, state["h"], p, "f"))
    o = sigmoid(gate(x, state["h"], p, "o"))
    g = np.tanh(gate(x, state["h"], p, "g"))
    c = f * state["c"] + i * g
    h = o * np.tanh(c)
    return h, {"h": h, "c": c}


SPEC["lstm_peephole"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": {**affine("i", "f", "g", "o"), "p_i": "hidden", "p_f": "hidden", "p_o": "hidden"},
    "optional": (),
    "settings": {"output_squash": "tanh"},
}


def lstm_peephole(x, state, p):
    """Gers & Schmidhuber 2000, "Recurrent Nets that Time and Count"; Graves 2013 eqs. 7-11.

    i = sigma(W_i x + U_i h + p_i*c_{t-1} + b_i); f likewise with p_f; g = tanh(...), no peephole;
    c_t = f*c_{t-1} + i*g; o = sigma(W_o x + U_o h + p_o*c_t + b_o)   (the NEW c);
    h_t = o*tanh(c_t); y = h.
    States: h, c (hidden). Parameters: W_*, U_*, b_* for i, f, g, o; p_i, p_f, p_o (hidden):
    peepholes are diagonal. Setting: output_squash "tanh" (default) or "identity"; Gers,
    Schraudolph & Schmidhuber 2002 drop the output squashing, Graves and Greff keep tanh.
    """
    h0, c0 = state["h"], state["c"]
    i = sigmoid(gate(x, h0, p, "i") + p["p_i"] * c0)
    f = sigmoid(gate(x, h0, p, "f") + p["p_f"] * c0)
    g = np.tanh(gate(x, h0, p, "g"))
    c = f * c0 + i * g
    o = sigmoid(gate(x, h0, p, "o") + p["p_o"] * c)
    h = o * ACTIVATION[setting(p, "lstm_peephole", "output_squash")](c)
    return h, {"h": h, "c": c}


SPEC["lstm_coupled"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": {**affine("i", "g", "o"), "p_i": "hidden", "p_o": "hidden"},
    "optional": ("p_i", "p_o"),
    "settings": {"learned_gate": "input"},
}


def lstm_coupled(x, state, p):
    """CIFG, Greff et al. 2015, appendix A.3 (variants), "f_t = 1 - i_t".

    i = sigma(W_i x + U_i h + p_i*c + b_i); f = 1 - i; c_t = f*c + i*g;
    o = sigma(W_o x + U_o h + p_o*c_t + b_o); h_t = o*tanh(c_t); y = h.
    States: h, c (hidden). Parameters: W_*, U_*, b_* for i, g, o; optional p_i, p_o (hidden),
    since the variants of Greff et al. keep peepholes. Setting: learned_gate "input" (paper) or
    "forget": then the parameters named i give f = sigma(...) and i = 1 - f.
    """
    h0, c0 = state["h"], state["c"]
    learned = sigmoid(gate(x, h0, p, "i") + optional(p, "p_i") * c0)
    is_input = setting(p, "lstm_coupled", "learned_gate") == "input"
    i = learned if is_input else 1.0 - learned
    c = (1.0 - i) * c0 + i * np.tanh(gate(x, h0, p, "g"))
    o = sigmoid(gate(x, h0, p, "o") + optional(p, "p_o") * c)
    h = o * np.tanh(c)
    return h, {"h": h, "c": c}


SPEC["lstm_projected"] = {
    "states": {"r": "projection", "c": "hidden"},
    "output": "projection",
    "parameters": {
        **{f"W_{g}": "hidden,input" for g in "ifgo"},
        **{f"U_{g}": "hidden,projection" for g in "ifgo"},
        **{f"b_{g}": "hidden" for g in "ifgo"},
        "W_rm": "projection,hidden",
        "W_pm": "nonrecurrent,hidden",
        "p_i": "hidden",
        "p_f": "hidden",
        "p_o": "hidden",
    },
    "optional": ("W_pm", "p_i", "p_f", "p_o"),
    "settings": {},
}


def lstm_projected(x, state, p):
    """LSTMP, Sak, Senior & Beaufays 2014, equations of section 2.2 (numbered 7-14 (~)).

    i = sigma(W_i x + U_i r + p_i*c + b_i); f likewise; c_t = f*c + i*tanh(W_g x + U_g r + b_g);
    o = sigma(W_o x + U_o r + p_o*c_t + b_o); m = o*tanh(c_t); r_t = W_rm m; p_t = W_pm m.
    States: r (projection), c (hidden). Parameters: W_* (hidden, input), U_* (hidden, projection),
    b_* (hidden) for i, f, g, o; W_rm (projection, hidden), no bias. Optional: W_pm
    (nonrecurrent, hidden), p_i, p_f, p_o (hidden; the paper has them, torch's proj_size does not).
    y = r, or [r, p] side by side where W_pm is given. The paper's output layer is left out.
    """
    r0, c0 = state["r"], state["c"]
    i = sigmoid(gate(x, r0, p, "i") + optional(p, "p_i") * c0)
    f = sigmoid(gate(x, r0, p, "f") + optional(p, "p_f") * c0)
    c = f * c0 + i * np.tanh(gate(x, r0, p, "g"))
    o = sigmoid(gate(x, r0, p, "o") + optional(p, "p_o") * c)
    m = o * np.tanh(c)
    r = m @ p["W_rm"].T
    y = np.concatenate([r, m @ p["W_pm"].T], axis=1) if "W_pm" in p else r
    return y, {"r": r, "c": c}


SPEC["gru"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": affine("z", "r", "h"),
    "optional": (),
    "settings": {"z_keeps": True},
}


def gru(x, state, p):
    """Cho et al. 2014, eqs. 5-8: reset BEFORE the product.

    r = sigma(W_r x + U_r h + b_r)   (5);  z = sigma(W_z x + U_z h + b_z)   (6)
    h_t = z*h_{t-1} + (1-z)*h~   (7);  h~ = tanh(W_h x + U_h (r*h_{t-1}) + b_h)   (8); y = h.
    State: h (hidden). Parameters: W_*, U_*, b_* for z, r, h (the paper leaves biases out).
    Setting: z_keeps True (Cho, torch, Keras) or False (Chung et al. 2014 swap z and 1-z).
    """
    h0 = state["h"]
    r = sigmoid(gate(x, h0, p, "r"))
    z = sigmoid(gate(x, h0, p, "z"))
    new = np.tanh(gate(x, r * h0, p, "h"))
    z = z if setting(p, "gru", "z_keeps") else 1.0 - z
    h = z * h0 + (1.0 - z) * new
    return h, {"h": h}


SPEC["gru_reset_after"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {**affine("z", "r", "h"), "b_Uh": "hidden"},
    "optional": (),
    "settings": {},
}


def gru_reset_after(x, state, p):
    """GRU as in cuDNN (developer guide, CUDNN_GRU) and torch: reset AFTER the product.

    h~ = tanh(W_h x + b_h + r*(U_h h + b_Uh)); h_t = z*h + (1-z)*h~; y = h.
    State: h (hidden). Parameters: W_*, U_*, b_* for z, r, h; b_Uh (hidden) the recurrent-side
    bias of the candidate. b_z and b_r are the sums of the two cuDNN biases.
    """
    h0 = state["h"]
    r = sigmoid(gate(x, h0, p, "r"))
    z = sigmoid(gate(x, h0, p, "z"))
    new = np.tanh(x @ p["W_h"].T + p["b_h"] + r * (h0 @ p["U_h"].T + p["b_Uh"]))
    h = z * h0 + (1.0 - z) * new
    return h, {"h": h}


SPEC["indrnn"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "u": "hidden", "b": "hidden"},
    "optional": (),
    "settings": {"activation": "relu"},
}


def indrnn(x, state, p):
    """IndRNN, Li et al. 2018, eq. 2 (~): h_t = f(W x_t + u*h_{t-1} + b); y = h.

    State: h (hidden). Parameters: W (hidden, input), u (hidden), b (hidden).
    Setting: activation "relu" (the paper's default) or "tanh".
    """
    f = ACTIVATION[setting(p, "indrnn", "activation")]
    h = f(x @ p["W"].T + p["u"] * state["h"] + p["b"])
    return h, {"h": h}


SPEC["clockwork_rnn"] = {
    "states": {"h": "hidden", "t": "1"},
    "output": "hidden",
    "parameters": {"W_I": "hidden,input", "W_H": "hidden,hidden", "b": "hidden"},
    "optional": ("b",),
    "settings": {"periods": (1, 2), "sizes": None, "first_step": 0, "activation": "tanh"},
}


def clockwork_rnn(x, state, p):
    """CW-RNN, Koutnik et al. 2014, eq. 1 with the rule "t MOD T_i = 0" and block-upper W_H.

    Groups are laid out in the order of `periods`. At step t a unit of period T with
    t mod T = 0 becomes f(W_H h_{t-1} + W_I x_t + b); any other unit keeps its value. A unit
    reads only units whose period is the same or longer (W_H masked here, so the other blocks
    of W_H do not matter). y = h (the paper's output layer is left out).
    States: h (hidden), t (1) the count of steps done. Parameters: W_I (hidden, input),
    W_H (hidden, hidden), optional b (hidden). Settings: periods (one a group), sizes (units a
    group; None = equal), first_step (0: the first step has t = 0, so every group runs; 1: the
    first step is t = 1; the paper leaves it open), activation "tanh".
    """
    periods = setting(p, "clockwork_rnn", "periods")
    width = state["h"].shape[1]
    sizes = setting(p, "clockwork_rnn", "sizes") or [width // len(periods)] * len(periods)
    period = np.repeat(np.asarray(periods), sizes)
    assert period.shape[0] == width
    reads = period[None, :] >= period[:, None]  # row: reader, column: source
    f = ACTIVATION[setting(p, "clockwork_rnn", "activation")]
    new = f(state["h"] @ (p["W_H"] * reads).T + x @ p["W_I"].T + optional(p, "b"))
    t = state["t"] + setting(p, "clockwork_rnn", "first_step")
    h = np.where(np.mod(t, period[None, :]) == 0, new, state["h"])
    return h, {"h": h, "t": state["t"] + 1}


SPEC["scrn"] = {
    "states": {"s": "context", "h": "hidden"},
    "output": "hidden",
    "parameters": {
        "A": "hidden,input",
        "B": "context,input",
        "P": "hidden,context",
        "R": "hidden,hidden",
        "b_h": "hidden",
        "b_s": "context",
        "U": "output,hidden",
        "V": "output,context",
        "b_y": "output",
    },
    "optional": ("b_h", "b_s", "U", "V", "b_y"),
    "settings": {"alpha": 0.95, "output_activation": "identity"},
}


def scrn(x, state, p):
    """SCRN, Mikolov et al. 2015 ("Learning Longer Memory in RNNs"), eqs. 5-7 (~).

    s_t = (1-alpha) B x_t + alpha s_{t-1};  h_t = sigma(P s_t + A x_t + R h_{t-1});
    y_t = f(U h_t + V s_t).
    States: s (context), h (hidden). Parameters: A (hidden, input), B (context, input),
    P (hidden, context), R (hidden, hidden); the paper has no biases: optional b_h, b_s, b_y.
    Optional U (output, hidden), V (output, context): y is f(U h + V s + b_y), else y = h.
    Settings: alpha (0.95; a number, or an array for the learned variant), output_activation
    "identity" (the paper's f is a softmax in the loss; torchrecurrent applies tanh).
    torchrecurrent stores tanh(U h + V s) as its "hidden state"; the paper recurs on h itself.
    """
    alpha = setting(p, "scrn", "alpha")
    s = (1.0 - alpha) * (x @ p["B"].T + optional(p, "b_s")) + alpha * state["s"]
    h = sigmoid(s @ p["P"].T + x @ p["A"].T + state["h"] @ p["R"].T + optional(p, "b_h"))
    y = h
    if "U" in p:
        f = ACTIVATION[setting(p, "scrn", "output_activation")]
        y = f(h @ p["U"].T + s @ p["V"].T + optional(p, "b_y"))
    return y, {"s": s, "h": h}


def _raw_input(x, p, name):
    """x_t itself (needs input = hidden), or W x_t where the widths differ."""
    return x @ p[name].T + optional(p, "b" + name[1:]) if name in p else x


SPEC["mut1"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "W_xz": "hidden,input",
        "b_z": "hidden",
        "W_xr": "hidden,input",
        "W_hr": "hidden,hidden",
        "b_r": "hidden",
        "W_hh": "hidden,hidden",
        "b_h": "hidden",
        "W_xh": "hidden,input",
        "b_xh": "hidden",
    },
    "optional": ("W_xh", "b_xh"),
    "settings": {},
}


def mut1(x, state, p):
    """MUT1, Jozefowicz, Zaremba & Sutskever 2015, unnumbered (section 3.5, "MUT1").

    z = sigm(W_xz x + b_z); r = sigm(W_xr x + W_hr h + b_r);
    h_t = tanh(W_hh (r*h) + tanh(x_t) + b_h)*z + h*(1-z); y = h.
    State: h (hidden). Parameters: W_xz, W_xr (hidden, input), W_hr, W_hh (hidden, hidden),
    b_z, b_r, b_h (hidden). The paper's bare tanh(x_t) needs input = hidden; optional
    W_xh (hidden, input), b_xh (hidden) give tanh(W_xh x + b_xh), as torchrecurrent has it.
    """
    h0 = state["h"]
    z = sigmoid(x @ p["W_xz"].T + p["b_z"])
    r = sigmoid(x @ p["W_xr"].T + h0 @ p["W_hr"].T + p["b_r"])
    new = np.tanh((r * h0) @ p["W_hh"].T + np.tanh(_raw_input(x, p, "W_xh")) + p["b_h"])
    h = new * z + h0 * (1.0 - z)
    return h, {"h": h}


SPEC["mut2"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "W_xz": "hidden,input",
        "W_hz": "hidden,hidden",
        "b_z": "hidden",
        "W_hr": "hidden,hidden",
        "b_r": "hidden",
        "W_hh": "hidden,hidden",
        "W_xh": "hidden,input",
        "b_h": "hidden",
        "W_xr": "hidden,input",
        "b_xr": "hidden",
    },
    "optional": ("W_xr", "b_xr"),
    "settings": {},
}


def mut2(x, state, p):
    """MUT2, Jozefowicz et al. 2015, unnumbered (section 3.5, "MUT2").

    z = sigm(W_xz x + W_hz h + b_z); r = sigm(x_t + W_hr h + b_r);
    h_t = tanh(W_hh (r*h) + W_xh x + b_h)*z + h*(1-z); y = h.
    State: h (hidden). Parameters: W_xz, W_xh (hidden, input), W_hz, W_hr, W_hh (hidden, hidden),
    b_z, b_r, b_h (hidden). The bare x_t in r needs input = hidden; optional W_xr (hidden, input)
    and b_xr (hidden) give W_xr x + b_xr there, as torchrecurrent has it.
    """
    h0 = state["h"]
    z = sigmoid(x @ p["W_xz"].T + h0 @ p["W_hz"].T + p["b_z"])
    r = sigmoid(_raw_input(x, p, "W_xr") + h0 @ p["W_hr"].T + p["b_r"])
    new = np.tanh((r * h0) @ p["W_hh"].T + x @ p["W_xh"].T + p["b_h"])
    h = new * z + h0 * (1.0 - z)
    return h, {"h": h}


SPEC["mut3"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        f"{n}": s
        for n, s in [
            ("W_xz", "hidden,input"),
            ("W_hz", "hidden,hidden"),
            ("b_z", "hidden"),
            ("W_xr", "hidden,input"),
            ("W_hr", "hidden,hidden"),
            ("b_r", "hidden"),
            ("W_xh", "hidden,input"),
            ("W_hh", "hidden,hidden"),
            ("b_h", "hidden"),
        ]
    },
    "optional": (),
    "settings": {},
}


def mut3(x, state, p):
    """MUT3, Jozefowicz et al. 2015, unnumbered (section 3.5, "MUT3").

    z = sigm(W_xz x + W_hz tanh(h) + b_z); r = sigm(W_xr x + W_hr h + b_r);
    h_t = tanh(W_hh (r*h) + W_xh x + b_h)*z + h*(1-z); y = h.
    State: h (hidden). Parameters: W_xz, W_xr, W_xh (hidden, input), W_hz, W_hr, W_hh
    (hidden, hidden), b_z, b_r, b_h (hidden). (The docstring of torchrecurrent says otherwise,
    but its code, like RecurrentLayers.jl, agrees with the formulas here.)
    """
    h0 = state["h"]
    z = sigmoid(x @ p["W_xz"].T + np.tanh(h0) @ p["W_hz"].T + p["b_z"])
    r = sigmoid(x @ p["W_xr"].T + h0 @ p["W_hr"].T + p["b_r"])
    new = np.tanh((r * h0) @ p["W_hh"].T + x @ p["W_xh"].T + p["b_h"])
    h = new * z + h0 * (1.0 - z)
    return h, {"h": h}
