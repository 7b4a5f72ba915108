"""One numpy step for each newer gated cell, written from the papers' formulas.

Every function is  y, new_state = cell(x, state, p)  with x (batch, input), state a dict of
(batch, width) arrays and p a dict of arrays plus plain settings. A matrix W is applied as
x @ W.T. SPEC[name] lists states, parameters (symbolic shapes, "a,b" is a matrix), optional
parameters (absent means zero, or the feature is off) and settings with their defaults.
"(~)" marks an equation number given from memory. Written without sight of any recurra source.
"""

import numpy as np

from paper_steps.words import ACTIVATION, SPEC, affine, gate, optional, relu, setting, sigmoid

SPEC["mgu"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": affine("f", "h"),
    "optional": (),
    "settings": {},
}


def mgu(x, state, p):
    """MGU, Zhou, Wu, Zhang & Zhou 2016, eqs. 6 (~) of section 3.

    f = sigma(W_f x + U_f h + b_f); h~ = tanh(W_h x + U_h (f*h) + b_h);
    h_t = (1-f)*h_{t-1} + f*h~; y = h.
    State: h (hidden). Parameters: W_*, U_*, b_* for f, h (the paper's W_f [h, x] in two parts).
    """
    h0 = state["h"]
    f = sigmoid(gate(x, h0, p, "f"))
    new = np.tanh(gate(x, f * h0, p, "h"))
    h = (1.0 - f) * h0 + f * new
    return h, {"h": h}


SPEC["light_gru"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": affine("z", "h"),
    "optional": ("b_z", "b_h"),
    "settings": {"activation": "relu"},
}


def light_gru(x, state, p):
    """Li-GRU, Ravanelli, Brakel, Omologo & Bengio 2018, section III (eqs. 8-10 (~)), BN left out.

    z = sigma(W_z x + U_z h); h~ = ReLU(W_h x + U_h h); h_t = z*h_{t-1} + (1-z)*h~; y = h.
    State: h (hidden). Parameters: W_z, W_h (hidden, input), U_z, U_h (hidden, hidden); optional
    b_z, b_h (hidden), since the paper's biases sit in the batch norm. Setting: activation "relu".
    """
    h0 = state["h"]
    z = sigmoid(gate(x, h0, p, "z"))
    new = ACTIVATION[setting(p, "light_gru", "activation")](gate(x, h0, p, "h"))
    h = z * h0 + (1.0 - z) * new
    return h, {"h": h}


SPEC["janet"] = {
    "states": {"c": "hidden"},
    "output": "hidden",
    "parameters": affine("f", "c"),
    "optional": (),
    "settings": {"beta": 1.0},
}


def janet(x, state, p):
    """JANET, van der Westhuizen & Lasenby 2018, the beta form (section 3, eqs. 7-8 (~)).

    s = W_f x + U_f h + b_f; c~ = tanh(W_c x + U_c h + b_c);
    c_t = sigma(s)*c_{t-1} + (1 - sigma(s - beta))*c~; h_t = c_t; y = h.
    State: c (hidden), which is also h. Parameters: W_*, U_*, b_* for f, c.
    Setting: beta 1.0 (the paper's value; beta = 0 gives the plain form).
    """
    c0 = state["c"]
    s = gate(x, c0, p, "f")
    new = np.tanh(gate(x, c0, p, "c"))
    c = sigmoid(s) * c0 + (1.0 - sigmoid(s - setting(p, "janet", "beta"))) * new
    return c, {"c": c}


SPEC["recurrent_highway"] = {
    "states": {"s": "hidden"},
    "output": "hidden",
    "parameters": {
        "W_H": "hidden,input",
        "W_T": "hidden,input",
        "W_C": "hidden,input",
        "R_H": "depth,hidden,hidden",
        "R_T": "depth,hidden,hidden",
        "R_C": "depth,hidden,hidden",
        "b_H": "depth,hidden",
        "b_T": "depth,hidden",
        "b_C": "depth,hidden",
    },
    "optional": ("W_C", "R_C", "b_C"),
    "settings": {"carry": "coupled"},
}


def recurrent_highway(x, state, p):
    """RHN, Zilly, Srivastava, Koutnik & Schmidhuber 2017, eqs. 6-9.

    s_0 = y_{t-1}; for l = 1..L: s_l = h_l*t_l + s_{l-1}*c_l   (6), with
    h_l = tanh(W_H x [l=1] + R_H[l] s_{l-1} + b_H[l])   (7), t_l = sigma(W_T ...)   (8),
    c_l = 1 - t_l (coupled; section 5), or sigma(W_C ...)   (9). y = s_L.
    State: s (hidden). Parameters: W_H, W_T (hidden, input), read at l = 1 only; R_H, R_T
    (depth, hidden, hidden), b_H, b_T (depth, hidden). Optional W_C, R_C, b_C, needed with
    carry "separate". Setting: carry "coupled". The depth L is R_H.shape[0].
    """

    def part(k, layer, s):
        first = x @ p[f"W_{k}"].T if layer == 0 else 0.0
        return first + s @ p[f"R_{k}"][layer].T + p[f"b_{k}"][layer]

    s = state["s"]
    for layer in range(p["R_H"].shape[0]):
        h = np.tanh(part("H", layer, s))
        t = sigmoid(part("T", layer, s))
        coupled = setting(p, "recurrent_highway", "carry") == "coupled"
        c = 1.0 - t if coupled else sigmoid(part("C", layer, s))
        s = h * t + s * c
    return s, {"s": s}


SPEC["fast_rnn"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b": "hidden", "alpha": "1", "beta": "1"},
    "optional": (),
    "settings": {"activation": "tanh", "squash_scalars": False},
}


def fast_rnn(x, state, p):
    """FastRNN, Kusupati et al. 2018, eq. 2 (~).

    h~ = f(W x + U h + b); h_t = alpha*h~ + beta*h_{t-1}; y = h.
    State: h (hidden). Parameters: W (hidden, input), U (hidden, hidden), b (hidden),
    alpha, beta (1). Settings: activation "tanh"; squash_scalars False = alpha and beta are the
    values in the equation; True = they are passed through a sigmoid (the paper keeps them in
    [0, 1] that way; torchrecurrent does not).
    """
    squash = sigmoid if setting(p, "fast_rnn", "squash_scalars") else ACTIVATION["identity"]
    f = ACTIVATION[setting(p, "fast_rnn", "activation")]
    new = f(x @ p["W"].T + state["h"] @ p["U"].T + p["b"])
    h = squash(p["alpha"]) * new + squash(p["beta"]) * state["h"]
    return h, {"h": h}


SPEC["fast_grnn"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b_z": "hidden", "b_h": "hidden", "zeta": "1", "nu": "1"},
    "optional": (),
    "settings": {"squash_scalars": False},
}


def fast_grnn(x, state, p):
    """FastGRNN, Kusupati et al. 2018, eq. 4 (~). W and U are shared by gate and candidate.

    z = sigma(W x + U h + b_z); h~ = tanh(W x + U h + b_h);
    h_t = (zeta*(1-z) + nu)*h~ + z*h_{t-1}; y = h.
    State: h (hidden). Parameters: W (hidden, input), U (hidden, hidden), b_z, b_h (hidden),
    zeta, nu (1). Setting: squash_scalars False = zeta and nu are the values in the equation;
    True = they are passed through a sigmoid (as the paper trains them).
    """
    squash = sigmoid if setting(p, "fast_grnn", "squash_scalars") else ACTIVATION["identity"]
    shared = x @ p["W"].T + state["h"] @ p["U"].T
    z = sigmoid(shared + p["b_z"])
    new = np.tanh(shared + p["b_h"])
    h = (squash(p["zeta"]) * (1.0 - z) + squash(p["nu"])) * new + z * state["h"]
    return h, {"h": h}


SPEC["chaos_free"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {**affine("theta", "eta"), "W": "hidden,input", "b": "hidden"},
    "optional": ("b",),
    "settings": {},
}


def chaos_free(x, state, p):
    """CFN, Laurent & von Brecht 2017, eqs. 1-2 (~). Here W_* reads x, U_* reads h.

    theta = sigma(U_theta h + W_theta x + b_theta); eta = sigma(U_eta h + W_eta x + b_eta);
    h_t = theta*tanh(h_{t-1}) + eta*tanh(W x); y = h.
    State: h (hidden). Parameters: W_theta, W_eta, W (hidden, input), U_theta, U_eta
    (hidden, hidden), b_theta, b_eta (hidden); the paper has no bias beside W: optional b (hidden).
    """
    h0 = state["h"]
    theta = sigmoid(gate(x, h0, p, "theta"))
    eta = sigmoid(gate(x, h0, p, "eta"))
    h = theta * np.tanh(h0) + eta * np.tanh(x @ p["W"].T + optional(p, "b"))
    return h, {"h": h}


SPEC["recurrent_additive"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": {**affine("i", "f"), "W_c": "hidden,input", "b_c": "hidden"},
    "optional": ("b_c",),
    "settings": {"output_activation": "tanh"},
}


def recurrent_additive(x, state, p):
    """RAN, Lee, Levy & Zettlemoyer 2017, eq. 1.

    c~ = W_c x; i = sigma(U_i h + W_i x + b_i); f = sigma(U_f h + W_f x + b_f);
    c_t = i*c~ + f*c_{t-1}; h_t = g(c_t); y = h.
    States: h, c (hidden). Parameters: W_i, W_f, W_c (hidden, input), U_i, U_f (hidden, hidden),
    b_i, b_f (hidden); the paper has no bias in c~: optional b_c. Setting: output_activation
    "tanh" or "identity" (the paper uses both).
    """
    h0 = state["h"]
    i = sigmoid(gate(x, h0, p, "i"))
    f = sigmoid(gate(x, h0, p, "f"))
    c = i * (x @ p["W_c"].T + optional(p, "b_c")) + f * state["c"]
    h = ACTIVATION[setting(p, "recurrent_additive", "output_activation")](c)
    return h, {"h": h, "c": c}


SPEC["addition_subtraction"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {"W": "hidden,input", "U": "hidden,hidden", "b_p": "hidden", "b_q": "hidden"},
    "optional": ("b_p", "b_q"),
    "settings": {},
}


def addition_subtraction(x, state, p):
    """ATR (addition-subtraction twin-gated recurrent), Zhang et al. 2018, eqs. 10-14 (~).

    p = W x; q = U h; i = sigma(p + q); f = sigma(p - q); h_t = i*p + f*h_{t-1}; y = h.
    State: h (hidden). Parameters: W (hidden, input), U (hidden, hidden); the paper has no
    biases: optional b_p beside W x and b_q beside U h (torchrecurrent has both).
    """
    pt = x @ p["W"].T + optional(p, "b_p")
    qt = state["h"] @ p["U"].T + optional(p, "b_q")
    h = sigmoid(pt + qt) * pt + sigmoid(pt - qt) * state["h"]
    return h, {"h": h}


SPEC["star"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {**affine("k"), "W_z": "hidden,input", "b_z": "hidden"},
    "optional": (),
    "settings": {},
}


def star(x, state, p):
    """STAR, Turkoglu, D'Aronco, Wegner & Schindler 2019, eqs. 16-18 (~).

    k = sigma(W_k x + U_k h + b_k); z = tanh(W_z x + b_z);
    h_t = tanh((1-k)*h_{t-1} + k*z); y = h.
    State: h (hidden). Parameters: W_k, W_z (hidden, input), U_k (hidden, hidden),
    b_k, b_z (hidden).
    """
    k = sigmoid(gate(x, state["h"], p, "k"))
    z = np.tanh(x @ p["W_z"].T + p["b_z"])
    h = np.tanh((1.0 - k) * state["h"] + k * z)
    return h, {"h": h}


SPEC["bistable"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "U": "hidden,input",
        "U_a": "hidden,input",
        "U_c": "hidden,input",
        "w_a": "hidden",
        "w_c": "hidden",
        "b": "hidden",
        "b_a": "hidden",
        "b_c": "hidden",
    },
    "optional": ("b", "b_a", "b_c"),
    "settings": {},
}


def bistable(x, state, p):
    """BRC, Vecoven, Ernst & Drion 2021, eq. 5 (~). The paper's U reads the INPUT.

    a = 1 + tanh(U_a x + w_a*h); c = sigma(U_c x + w_c*h);
    h_t = c*h_{t-1} + (1-c)*tanh(U x + a*h_{t-1}); y = h.
    State: h (hidden). Parameters: U, U_a, U_c (hidden, input), w_a, w_c (hidden). The paper has
    no biases: optional b, b_a, b_c (hidden); the authors' code has b_a and b_c.
    """
    h0 = state["h"]
    a = 1.0 + np.tanh(x @ p["U_a"].T + p["w_a"] * h0 + optional(p, "b_a"))
    c = sigmoid(x @ p["U_c"].T + p["w_c"] * h0 + optional(p, "b_c"))
    h = c * h0 + (1.0 - c) * np.tanh(x @ p["U"].T + optional(p, "b") + a * h0)
    return h, {"h": h}


SPEC["neuromodulated_bistable"] = {
    "states": {"h": "hidden"},
    "output": "hidden",
    "parameters": {
        "U": "hidden,input",
        "U_a": "hidden,input",
        "U_c": "hidden,input",
        "W_a": "hidden,hidden",
        "W_c": "hidden,hidden",
        "b": "hidden",
        "b_a": "hidden",
        "b_c": "hidden",
    },
    "optional": ("b", "b_a", "b_c"),
    "settings": {},
}


def neuromodulated_bistable(x, state, p):
    """nBRC, Vecoven, Ernst & Drion 2021, eq. 6 (~): BRC with full W_a, W_c on h.

    a = 1 + tanh(U_a x + W_a h); c = sigma(U_c x + W_c h);
    h_t = c*h_{t-1} + (1-c)*tanh(U x + a*h_{t-1}); y = h.
    State: h (hidden). Parameters: U, U_a, U_c (hidden, input), W_a, W_c (hidden, hidden);
    optional b, b_a, b_c (hidden) as in bistable.
    """
    h0 = state["h"]
    a = 1.0 + np.tanh(x @ p["U_a"].T + h0 @ p["W_a"].T + optional(p, "b_a"))
    c = sigmoid(x @ p["U_c"].T + h0 @ p["W_c"].T + optional(p, "b_c"))
    h = c * h0 + (1.0 - c) * np.tanh(x @ p["U"].T + optional(p, "b") + a * h0)
    return h, {"h": h}


SPEC["nas"] = {
    "states": {"h": "hidden", "c": "hidden"},
    "output": "hidden",
    "parameters": affine(*"01234567"),
    "optional": tuple(f"b_{k}" for k in range(8)),
    "settings": {"node3": "multiply"},
}


def nas(x, state, p):
    """NAS cell, Zoph & Le 2017, the drawing of appendix A (base 8) as TensorFlow contrib writes it.

    a_k = W_k x + U_k h + b_k. Leaves: n0 = sigma(a_0), n1 = relu(a_1), n2 = sigma(a_2),
    n3 = relu((W_3 x)*(U_3 h + b_3)), n4 = tanh(a_4), n5 = sigma(a_5), n6 = tanh(a_6),
    n7 = sigma(a_7). Then q0 = tanh(n0*n1), q1 = tanh(n2+n3), q2 = tanh(n4*n5), q3 = sigma(n6+n7);
    c_t = tanh(q0 + c_{t-1})*q1; h_t = tanh(c_t*tanh(q2 + q3)); y = h.
    States: h, c (hidden). Parameters: W_0..W_7 (hidden, input), U_0..U_7 (hidden, hidden);
    optional b_0..b_7 (hidden; TF adds them to the U side, which matters for node 3 alone).
    Setting: node3 "multiply" (TensorFlow contrib and addons, by the paper's authors) or "add"
    (torchrecurrent: n3 = relu(a_3)). The two libraries differ here.
    """
    h0 = state["h"]
    wx = [x @ p[f"W_{k}"].T for k in range(8)]
    uh = [h0 @ p[f"U_{k}"].T + optional(p, f"b_{k}") for k in range(8)]
    n0 = sigmoid(wx[0] + uh[0])
    n1 = relu(wx[1] + uh[1])
    n2 = sigmoid(wx[2] + uh[2])
    n3 = relu(wx[3] * uh[3] if setting(p, "nas", "node3") == "multiply" else wx[3] + uh[3])
    n4 = np.tanh(wx[4] + uh[4])
    n5 = sigmoid(wx[5] + uh[5])
    n6 = np.tanh(wx[6] + uh[6])
    n7 = sigmoid(wx[7] + uh[7])
    q0 = np.tanh(n0 * n1)
    q1 = np.tanh(n2 + n3)
    q2 = np.tanh(n4 * n5)
    q3 = sigmoid(n6 + n7)
    c = np.tanh(q0 + state["c"]) * q1
    h = np.tanh(c * np.tanh(q2 + q3))
    return h, {"h": h, "c": c}
