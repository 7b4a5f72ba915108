"""One numpy step for each dynamical, continuous-time, reservoir and spiking cell.

Every function is  y, new_state = cell(x, state, p)  with x (batch, input), state a dict of
(batch, width) arrays and p a dict of arrays plus plain settings. A matrix W is applied as
x @ W.T. SPEC[name] lists states, parameters (symbolic shapes, "a,b" is a matrix), optional
parameters (absent means zero, or the feature is off) and settings with their defaults.
An elapsed time "dt" may be a number or one value a row (batch,).
"(~)" marks an equation number given from memory. Written without sight of any recurra source.
"""

import numpy as np

from paper_steps.words import ACTIVATION, SPEC, affine, column, gate, optional, setting, sigmoid, softplus

SPEC["antisymmetric"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W_h": "hidden,hidden", "V_h": "hidden,input", "b_h": "hidden"},
    "optional": (),
    "settings": {"epsilon": 0.01, "gamma": 0.01},
}


def antisymmetric(x, state, p):
    """AntisymmetricRNN, Chang, Chen, Haber & Chi 2019, eq. 10 (~).

    h_t = h_{t-1} + epsilon*tanh((W_h - W_h^T - gamma I) h_{t-1} + V_h x + b_h); y = h.
    State: h (hidden). Parameters: W_h (hidden, hidden), V_h (hidden, input), b_h (hidden).
    Settings: epsilon 0.01, gamma 0.01 (the paper tunes both).
    """
    m = p["W_h"] - p["W_h"].T - setting(p, "antisymmetric", "gamma") * np.eye(len(p["W_h"]))
    step = np.tanh(state["h"] @ m.T + x @ p["V_h"].T + p["b_h"])
    h = state["h"] + setting(p, "antisymmetric", "epsilon") * step
    return h, {"h": h}


SPEC["gated_antisymmetric"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "W_h": "hidden,hidden",
        "V_h": "hidden,input",
        "b_h": "hidden",
        "V_z": "hidden,input",
        "b_z": "hidden",
    },
    "optional": (),
    "settings": {"epsilon": 0.01, "gamma": 0.01},
}


def gated_antisymmetric(x, state, p):
    """AntisymmetricRNN with gating, Chang et al. 2019, eqs. 11-12 (~).

    M = W_h - W_h^T - gamma I (one matrix for both); z = sigma(M h + V_z x + b_z);
    h_t = h_{t-1} + epsilon*z*tanh(M h + V_h x + b_h); y = h.
    State: h (hidden). Parameters: W_h (hidden, hidden), V_h, V_z (hidden, input), b_h, b_z.
    Settings: epsilon 0.01, gamma 0.01. (torchrecurrent leaves its recurrent bias out of z.)
    """
    gamma = setting(p, "gated_antisymmetric", "gamma")
    m = p["W_h"] - p["W_h"].T - gamma * np.eye(len(p["W_h"]))
    mh = state["h"] @ m.T
    z = sigmoid(mh + x @ p["V_z"].T + p["b_z"])
    step = z * np.tanh(mh + x @ p["V_h"].T + p["b_h"])
    h = state["h"] + setting(p, "gated_antisymmetric", "epsilon") * step
    return h, {"h": h}


SPEC["cornn"] = {
    "states": {"y": "hidden", "z": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,hidden", "W_z": "hidden,hidden", "V": "hidden,input", "b": "hidden"},
    "optional": (),
    "settings": {"dt": 0.05, "gamma": 1.0, "epsilon": 1.0, "damping": "explicit"},
}


def cornn(x, state, p):
    """coRNN, Rusch & Mishra 2021 (ICLR), eq. 3.

    z_n = z_{n-1} + dt*tanh(W y_{n-1} + W_z z_{n-1} + V u_n + b) - dt*gamma*y_{n-1}
          - dt*epsilon*z_nbar;   y_n = y_{n-1} + dt*z_n   (the new z); output y.
    nbar = n-1 ("explicit", the authors' code) or n ("implicit"; the paper allows both):
    implicit solves z_n (1 + dt*epsilon) = the rest.
    States: y, z (hidden). Parameters: W (on y), W_z (the paper's calligraphic W, on z)
    (hidden, hidden), V (hidden, input), b (hidden). Settings: dt, gamma, epsilon, damping.
    """
    dt, eps = setting(p, "cornn", "dt"), setting(p, "cornn", "epsilon")
    force = np.tanh(state["y"] @ p["W"].T + state["z"] @ p["W_z"].T + x @ p["V"].T + p["b"])
    z = state["z"] + dt * force - dt * setting(p, "cornn", "gamma") * state["y"]
    if setting(p, "cornn", "damping") == "explicit":
        z = z - dt * eps * state["z"]
    else:
        z = z / (1.0 + dt * eps)
    y = state["y"] + dt * z
    return y, {"y": y, "z": z}


SPEC["unicornn"] = {
    "states": {"y": "hidden", "z": "hidden"},
    "output": "hidden",
    "parameters": {"w": "hidden", "V": "hidden,input", "b": "hidden", "c": "hidden"},
    "optional": (),
    "settings": {"dt": 0.1, "alpha": 0.0},
}


def unicornn(x, state, p):
    """UnICORNN, Rusch & Mishra 2021 (ICML), eq. 4 (~), one layer.

    z_n = z_{n-1} - dt*s(c)*(tanh(w*y_{n-1} + V u_n + b) + alpha*y_{n-1});
    y_n = y_{n-1} + dt*s(c)*z_n   (the new z); s(c) = 0.5 + 0.5 tanh(c/2) = sigma(c); output y.
    States: y, z (hidden). Parameters: w, b, c (hidden), V (hidden, input). w is a VECTOR
    (independent units); torchrecurrent has a full matrix there. Settings: dt, alpha.
    """
    step = setting(p, "unicornn", "dt") * sigmoid(p["c"])
    force = np.tanh(p["w"] * state["y"] + x @ p["V"].T + p["b"])
    z = state["z"] - step * (force + setting(p, "unicornn", "alpha") * state["y"])
    y = state["y"] + step * z
    return y, {"y": y, "z": z}


SPEC["lem"] = {
    "states": {"y": "hidden", "z": "hidden"},
    "output": "hidden",
    "parameters": {
        f"{m}_{g}": s
        for g in ("1", "2", "z", "y")
        for m, s in (("W", "hidden,hidden"), ("V", "hidden,input"), ("b", "hidden"))
    },
    "optional": (),
    "settings": {"dt": 1.0},
}


def lem(x, state, p):
    """LEM, Rusch, Mishra, Erichson & Mahoney 2022, eq. 3 (~).

    dt_n = dt*sigma(W_1 y + V_1 u + b_1); dtbar_n = dt*sigma(W_2 y + V_2 u + b_2);
    z_n = (1-dt_n)*z_{n-1} + dt_n*tanh(W_z y_{n-1} + V_z u + b_z);
    y_n = (1-dtbar_n)*y_{n-1} + dtbar_n*tanh(W_y z_n + V_y u + b_y)   (the new z); output y.
    States: y, z (hidden). Parameters for 1, 2, z, y: W_* (hidden, hidden), V_* (hidden, input),
    b_* (hidden). Setting: dt 1.0.
    """
    y0, dt = state["y"], setting(p, "lem", "dt")

    def pre(g, h):
        return h @ p[f"W_{g}"].T + x @ p[f"V_{g}"].T + p[f"b_{g}"]

    dt_n = dt * sigmoid(pre("1", y0))
    dt_bar = dt * sigmoid(pre("2", y0))
    z = (1.0 - dt_n) * state["z"] + dt_n * np.tanh(pre("z", y0))
    y = (1.0 - dt_bar) * y0 + dt_bar * np.tanh(pre("y", z))
    return y, {"y": y, "z": z}


SPEC["phased_lstm"] = {
    "states": {"h": "hidden", "c": "hidden", "time": "1"},
    "output": "hidden",
    "parameters": {
        **affine("i", "f", "c", "o"),
        "w_ci": "hidden",
        "w_cf": "hidden",
        "w_co": "hidden",
        "tau": "hidden",
        "s": "hidden",
        "r_on": "hidden",
    },
    "optional": ("w_ci", "w_cf", "w_co"),
    "settings": {"alpha": 0.001, "dt": 1.0, "clock": "add_first", "open_peephole": "candidate"},
}


def phased_lstm(x, state, p):
    """Phased LSTM, Neil, Pfeiffer & Liu 2016, eqs. 1-3 (LSTM), 6 (time gate), 7-10 (update).

    phi = ((t - s) mod tau)/tau; k = 2 phi/r_on if phi < r_on/2; 2 - 2 phi/r_on if
    r_on/2 < phi < r_on; alpha*phi otherwise   (6).
    i, f = sigma(W x + U h + w_c*c_{t-1} + b); c~ = f*c_{t-1} + i*tanh(W_c x + U_c h + b_c);
    o = sigma(W_o x + U_o h + w_co*c~ + b_o); h~ = o*tanh(c~);
    c_t = k*c~ + (1-k)*c_{t-1}; h_t = k*h~ + (1-k)*h_{t-1}; y = h.
    States: h, c (hidden), time (1). Parameters: W_*, U_*, b_* for i, f, c, o; tau, s, r_on
    (hidden); optional peepholes w_ci, w_cf, w_co (hidden). Settings: alpha 0.001 (leak; the
    paper sets it to 0 after training), dt 1.0 (a step counter), clock "add_first" (this step's
    t is time + dt) or "add_last" (t is time; the new state is time + dt either way),
    open_peephole "candidate" (o reads c~: the first author's correction of eq. 4) or "updated"
    (o reads the gated c_t, as eq. 4 is printed).
    """
    h0, c0 = state["h"], state["c"]
    time = state["time"] + column(setting(p, "phased_lstm", "dt"))
    t = time if setting(p, "phased_lstm", "clock") == "add_first" else state["time"]
    phi = np.mod(t - p["s"], p["tau"]) / p["tau"]
    r_on = p["r_on"]
    k = np.where(
        phi < 0.5 * r_on,
        2.0 * phi / r_on,
        np.where(phi < r_on, 2.0 - 2.0 * phi / r_on, setting(p, "phased_lstm", "alpha") * phi),
    )
    i = sigmoid(gate(x, h0, p, "i") + optional(p, "w_ci") * c0)
    f = sigmoid(gate(x, h0, p, "f") + optional(p, "w_cf") * c0)
    c_new = f * c0 + i * np.tanh(gate(x, h0, p, "c"))
    c = k * c_new + (1.0 - k) * c0
    seen = c_new if setting(p, "phased_lstm", "open_peephole") == "candidate" else c
    o = sigmoid(gate(x, h0, p, "o") + optional(p, "w_co") * seen)
    h = k * (o * np.tanh(c_new)) + (1.0 - k) * h0
    return h, {"h": h, "c": c, "time": time}


SPEC["cfc"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "B_x": "units,input",
        "B_h": "units,hidden",
        "d_1": "units",
        "B_2": "units,units",
        "d_2": "units",
        **{f"{m}_{g}": s for g in ("f1", "f2", "ta", "tb") for m, s in (("W", "hidden,units"), ("b", "hidden"))},
        "w_tau": "hidden",
        "A": "hidden",
    },
    "optional": ("B_2", "d_2", "w_tau", "A"),
    "settings": {"mode": "default", "activation": "lecun_tanh", "depth": 1, "dt": 1.0, "time_sign": -1.0},
}


def cfc(x, state, p):
    """CfC, Hasani et al. 2022, eq. 10 (~), in the three forms of ncps.

    Backbone: v = act(B_x x + B_h h + d_1), then depth-1 further layers v = act(B_l v + d_l),
    l = 2.. (all of width units). f1 = W_f1 v + b_f1, f2 likewise.
    "default": g = sigma(time_sign*t_a*dt + t_b), t_a = W_ta v + b_ta, t_b = W_tb v + b_tb;
    h_t = tanh(f1)*(1-g) + g*tanh(f2).   "no_gate": h_t = tanh(f1) + g*tanh(f2).
    "pure": h_t = A - A*exp(-dt*(|w_tau| + |f1|))*f1   (no tanh on f1).
    State: h (hidden); y = h. Parameters: B_x (units, input), B_h (units, hidden), d_1 (units);
    B_l (units, units), d_l for l = 2..depth; W_f1, W_f2, W_ta, W_tb (hidden, units), b_* (hidden);
    "pure" uses W_f1, b_f1, w_tau, A (hidden) only. Settings: mode, activation "lecun_tanh" =
    1.7159 tanh(0.666 a), depth 1, dt 1.0, time_sign -1 (the paper's sigma(-f t) and ncps for
    TensorFlow) or +1 (ncps for PyTorch: the two backends differ).
    """
    act = ACTIVATION[setting(p, "cfc", "activation")]
    dt, mode = column(setting(p, "cfc", "dt")), setting(p, "cfc", "mode")
    v = act(x @ p["B_x"].T + state["h"] @ p["B_h"].T + p["d_1"])
    for layer in range(2, setting(p, "cfc", "depth") + 1):
        v = act(v @ p[f"B_{layer}"].T + p[f"d_{layer}"])

    def head(g):
        return v @ p[f"W_{g}"].T + p[f"b_{g}"]

    if mode == "pure":
        f1 = head("f1")
        h = p["A"] - p["A"] * np.exp(-dt * (np.abs(p["w_tau"]) + np.abs(f1))) * f1
        return h, {"h": h}
    g = sigmoid(setting(p, "cfc", "time_sign") * head("ta") * dt + head("tb"))
    f1, f2 = np.tanh(head("f1")), np.tanh(head("f2"))
    h = f1 + g * f2 if mode == "no_gate" else f1 * (1.0 - g) + g * f2
    return h, {"h": h}


SPEC["ltc"] = {
    "states": {"v": "hidden"},
    "output": "hidden",
    "parameters": {
        "gleak": "hidden",
        "vleak": "hidden",
        "cm": "hidden",
        **{n: "hidden,hidden" for n in ("w", "mu", "sigma", "erev", "mask")},
        **{f"sensory_{n}": "input,hidden" for n in ("w", "mu", "sigma", "erev", "mask")},
        "input_w": "input",
        "input_b": "input",
        "output_w": "hidden",
        "output_b": "hidden",
    },
    "optional": ("mask", "sensory_mask", "input_w", "input_b", "output_w", "output_b"),
    "settings": {"unfolds": 6, "dt": 1.0, "epsilon": 1e-8, "softplus": False},
}


def ltc(x, state, p):
    """LTC, Hasani et al. 2021, fused semi-implicit solver (eq. 3, algorithm 1) on the synaptic
    model of Lechner et al. 2020, as in ncps LTCCell.

    Weights are indexed [source, target]. Sensory: s_ij = sensory_w_ij*sigma(sensory_sigma_ij*
    (x_i - sensory_mu_ij)); recurrent: r_ij = w_ij*sigma(sigma_ij*(v_i - mu_ij)).
    `unfolds` times: v <- (cm/(dt/unfolds)*v + gleak*vleak + sum_i r_ij*erev_ij
    + sum_i s_ij*sensory_erev_ij) / (cm/(dt/unfolds) + gleak + sum_i r_ij + sum_i s_ij + epsilon).
    State: v (hidden). y = output_w*v + output_b (default v). x is first input_w*x + input_b.
    Parameters: gleak, vleak, cm (hidden), w, mu, sigma, erev (hidden, hidden), sensory_w, _mu,
    _sigma, _erev (input, hidden); optional 0/1 masks of the same shapes, input_* , output_*.
    Settings: unfolds 6, dt 1.0 (number or (batch,)), epsilon 1e-8, softplus True passes cm,
    gleak, w, sensory_w through softplus (ncps implicit_param_constraints).
    """
    positive = softplus if setting(p, "ltc", "softplus") else (lambda a: a)
    unfolds = setting(p, "ltc", "unfolds")
    u = optional(p, "input_w", 1.0) * x + optional(p, "input_b")
    s = (
        positive(p["sensory_w"])
        * sigmoid(p["sensory_sigma"] * (u[:, :, None] - p["sensory_mu"]))
        * optional(p, "sensory_mask", 1.0)
    )
    s_num, s_den = np.sum(s * p["sensory_erev"], axis=1), np.sum(s, axis=1)
    cm_t = positive(p["cm"]) / (column(setting(p, "ltc", "dt")) / unfolds)
    gleak = positive(p["gleak"])
    v = state["v"]
    for _ in range(unfolds):
        r = positive(p["w"]) * sigmoid(p["sigma"] * (v[:, :, None] - p["mu"]))
        r = r * optional(p, "mask", 1.0)
        num = cm_t * v + gleak * p["vleak"] + np.sum(r * p["erev"], axis=1) + s_num
        den = cm_t + gleak + np.sum(r, axis=1) + s_den
        v = num / (den + setting(p, "ltc", "epsilon"))
    return optional(p, "output_w", 1.0) * v + optional(p, "output_b"), {"v": v}


SPEC["ltc_paper"] = {
    "states": {"x": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b": "hidden", "tau": "hidden", "A": "hidden"},
    "optional": (),
    "settings": {"unfolds": 6, "dt": 1.0, "activation": "tanh"},
}


def ltc_paper(x, state, p):
    """LTC as the AAAI 2021 paper prints it: eq. 3 and algorithm 1 (one dense network f).

    f = act(U x(t) + W I(t) + b); x(t+d) = (x(t) + d*f*A)/(1 + d*(1/tau + f)), d = dt/unfolds,
    `unfolds` times with the same input. y = x.
    State: x (hidden). Parameters: W (hidden, input), U (hidden, hidden), b, tau, A (hidden).
    Settings: unfolds 6, dt 1.0, activation "tanh" (algorithm 1).
    """
    act = ACTIVATION[setting(p, "ltc_paper", "activation")]
    unfolds = setting(p, "ltc_paper", "unfolds")
    d, v = column(setting(p, "ltc_paper", "dt")) / unfolds, state["x"]
    for _ in range(unfolds):
        f = act(v @ p["U"].T + x @ p["W"].T + p["b"])
        v = (v + d * f * p["A"]) / (1.0 + d * (1.0 / p["tau"] + f))
    return v, {"x": v}


SPEC["echo_state"] = {
    "states": {"x": "hidden"},
    "output": "hidden",
    "parameters": {"W_in": "hidden,input", "W": "hidden,hidden", "b": "hidden"},
    "optional": ("b",),
    "settings": {"gamma": 0.3, "a": 1.0, "activation": "tanh"},
}


def echo_state(x, state, p):
    """Leaky-integrator ESN, Jaeger et al. 2007, eq. 3 (~), without output feedback or noise.

    x_n = (1 - a*gamma) x_{n-1} + gamma*f(W_in u_n + W x_{n-1} + b); y = x.
    With a = 1, gamma is the leak rate of Lukosevicius 2012 and reservoirpy; gamma = a = 1 is the
    plain ESN of Jaeger 2001, eq. 1. W is used as given (scale its spectral radius before).
    State: x (hidden). Parameters: W_in (hidden, input), W (hidden, hidden), optional b (hidden;
    Jaeger feeds a constant input instead). Settings: gamma 0.3, a 1.0, activation "tanh".
    """
    gamma, a = setting(p, "echo_state", "gamma"), setting(p, "echo_state", "a")
    f = ACTIVATION[setting(p, "echo_state", "activation")]
    new = f(x @ p["W_in"].T + state["x"] @ p["W"].T + optional(p, "b"))
    out = (1.0 - a * gamma) * state["x"] + gamma * new
    return out, {"x": out}
