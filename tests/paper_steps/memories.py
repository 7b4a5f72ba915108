"""One numpy step for each matrix memory, from the papers' formulas, by somebody who had not seen recurra's.

Every function is  y, new_state = step(x, state, p)  with x (batch, input), state and parameters p dicts of arrays, and
settings among p. A matrix W is applied as x @ W.T.
"""

import numpy as np

from paper_steps.words import ACTIVATION, SPEC, log_sigmoid, optional, setting, sigmoid, softplus


def linear(x, p, g):
    """W_g x + b_g (the bias may be absent)."""
    return x @ p[f"W_{g}"].T + optional(p, f"b_{g}")


def heads_of(a, heads):
    """(batch, width) -> (batch, heads, width/heads), head 0 first."""
    return a.reshape(a.shape[0], heads, -1)


SPEC["mlstm"] = {
    "states": {"C": "heads,hidden/heads,hidden/heads", "n": "heads,hidden/heads", "m": "heads"},
    "output": "hidden",
    "parameters": {
        **{f"W_{g}": "hidden,input" for g in "qkvo"},
        **{f"b_{g}": "hidden" for g in "qkvo"},
        "W_i": "heads,input",
        "b_i": "heads",
        "W_f": "heads,input",
        "b_f": "heads",
    },
    "optional": (),
    "settings": {"forget": "sigmoid", "floor": "exp(-m)", "scale_key_bias": False, "epsilon": 0.0},
}


def mlstm(x, state, p):
    """mLSTM, Beck et al. 2024 (xLSTM), eqs. 19-27, stabilised as eqs. 15-17; heads independent.

    q = W_q x + b_q; k = W_k x/sqrt(d) + b_k; v = W_v x + b_v (by head, d = hidden/heads);
    log i = W_i x + b_i, f = sigma or exp of W_f x + b_f (one number a head); o = sigma(W_o x+b_o);
    m_t = max(log f + m, log i); i' = exp(log i - m_t); f' = exp(log f + m - m_t);
    C_t = f' C + i' v k^T; n_t = f' n + i' k; h~ = C_t q / max(|n_t.q|, exp(-m_t)); y = o*h~.
    States: C (heads, d, d) with ROW index v, n (heads, d), m (heads), zero at the start.
    Parameters: W_q, W_k, W_v, W_o (hidden, input), b_* (hidden); W_i, W_f (heads, input), b_i, b_f.
    Settings: forget "sigmoid" or "exp"; floor "exp(-m)" (equals the unstabilised max(|n.q|, 1) of
    eq. 21) or "one" (eq. 21 on the stabilised n); scale_key_bias False (eq. 23; the authors' code
    also divides b_k by sqrt(d)); epsilon 0 is added to the divisor (the authors' code: 1e-6).
    """
    batch, heads = x.shape[0], p["W_i"].shape[0]

    def split(a):
        return a.reshape(batch, heads, -1)

    q, v = split(x @ p["W_q"].T + p["b_q"]), split(x @ p["W_v"].T + p["b_v"])
    root = np.sqrt(q.shape[-1])
    b_k = p["b_k"] / root if setting(p, "mlstm", "scale_key_bias") else p["b_k"]
    k = split(x @ p["W_k"].T / root + b_k)
    a_i, a_f = x @ p["W_i"].T + p["b_i"], x @ p["W_f"].T + p["b_f"]
    log_f = log_sigmoid(a_f) if setting(p, "mlstm", "forget") == "sigmoid" else a_f
    m = np.maximum(log_f + state["m"], a_i)
    i, f = np.exp(a_i - m), np.exp(log_f + state["m"] - m)
    big_c = f[..., None, None] * state["C"] + i[..., None, None] * v[..., :, None] * k[..., None, :]
    n = f[..., None] * state["n"] + i[..., None] * k
    floor = np.exp(-m) if setting(p, "mlstm", "floor") == "exp(-m)" else 1.0
    divisor = np.maximum(np.abs(np.sum(n * q, axis=-1)), floor) + setting(p, "mlstm", "epsilon")
    h = np.einsum("bhvk,bhk->bhv", big_c, q) / divisor[..., None]
    o = sigmoid(x @ p["W_o"].T + p["b_o"])
    return o * h.reshape(batch, -1), {"C": big_c, "n": n, "m": m}


def gated_linear_attention_core(q, k, v, alpha, s):
    """Yang et al. 2023, eq. 3: S_t = Diag(alpha_t) S_{t-1} + k_t v_t^T; o_t = S_t^T q_t.

    q, k, alpha (batch, heads, d_k), v (batch, heads, d_v), s (batch, heads, d_k, d_v).
    """
    s = alpha[..., :, None] * s + k[..., :, None] * v[..., None, :]
    return np.einsum("bhk,bhkv->bhv", q, s), s


SPEC["gated_linear_attention"] = {
    "states": {"S": "heads,key/heads,value/heads"},
    "output": "value",
    "parameters": {
        "W_q": "key,input",
        "W_k": "key,input",
        "W_v": "value,input",
        "W_alpha_1": "rank,input",
        "W_alpha_2": "key,rank",
        "b_alpha": "key",
    },
    "optional": ("b_alpha",),
    "settings": {"heads": 2, "tau": 16.0, "scale": 1.0},
}


def gated_linear_attention(x, state, p):
    """GLA, Yang, Wang, Shen, Panda & Kim 2023, eq. 3 and section 4.4.

    q = W_q x; k = W_k x; v = W_v x; alpha = sigma(W_alpha_2 W_alpha_1 x + b_alpha)^(1/tau);
    per head S_t = Diag(alpha) S_{t-1} + k v^T (d_k x d_v); o = scale * S_t^T q; y = heads joined.
    State: S (heads, key/heads, value/heads). Parameters: W_q, W_k (key, input), W_v
    (value, input), W_alpha_1 (rank, input), W_alpha_2 (key, rank), optional b_alpha (key).
    Settings: heads, tau 16, scale 1.0 (fla uses (key/heads)^-0.5). The layer's norm, swish
    output gate and W_O are left out.
    """
    n = setting(p, "gated_linear_attention", "heads")
    low = x @ p["W_alpha_1"].T @ p["W_alpha_2"].T + optional(p, "b_alpha")
    alpha = sigmoid(low) ** (1.0 / setting(p, "gated_linear_attention", "tau"))
    q, k, v = (heads_of(x @ p[f"W_{g}"].T, n) for g in "qkv")
    o, s = gated_linear_attention_core(q, k, v, heads_of(alpha, n), state["S"])
    return setting(p, "gated_linear_attention", "scale") * o.reshape(len(x), -1), {"S": s}


def gated_delta_core(q, k, v, alpha, beta, s):
    """Yang, Kautz & Hatamizadeh 2024, eq. 10: S_t = S_{t-1}(alpha(I - beta k k^T)) + beta v k^T.

    o = S_t q. q, k (batch, heads, d_k), v (batch, heads, d_v), alpha, beta (batch, heads),
    s (batch, heads, d_v, d_k).
    """
    eye = np.eye(k.shape[-1])
    turn = eye - beta[..., None, None] * k[..., :, None] * k[..., None, :]
    s = np.einsum("bhvk,bhkj->bhvj", s, alpha[..., None, None] * turn)
    s = s + beta[..., None, None] * v[..., :, None] * k[..., None, :]
    return np.einsum("bhvk,bhk->bhv", s, q), s


SPEC["gated_delta"] = {
    "states": {"S": "heads,value/heads,key/heads"},
    "output": "value",
    "parameters": {
        "W_q": "key,input",
        "W_k": "key,input",
        "W_v": "value,input",
        "W_beta": "heads,input",
        "b_beta": "heads",
        "W_a": "heads,input",
        "b_a": "heads",
        "A_log": "heads",
    },
    "optional": ("b_beta", "b_a", "A_log"),
    "settings": {
        "heads": 2,
        "scale": 1.0,
        "qkv_activation": "identity",
        "l2_norm": True,
        "l2_eps": 0.0,
        "decay": "mamba2",
        "beta_scale": 1.0,
    },
}


def gated_delta(x, state, p):
    """Gated DeltaNet, Yang, Kautz & Hatamizadeh 2024 (arXiv 2412.06464), eq. 10, section 3.4.

    q, k = l2(act(W_q x)), l2(act(W_k x)) by head; v = act(W_v x);
    beta = beta_scale * sigma(W_beta x + b_beta); alpha = exp(-exp(A_log) softplus(W_a x + b_a))
    (Mamba-2's form) or sigma(W_a x + b_a); then gated_delta_core; o = scale * S_t q.
    State: S (heads, value/heads, key/heads): ROW index is the value (fla stores the transpose).
    Parameters: W_q, W_k (key, input), W_v (value, input), W_beta, W_a (heads, input);
    optional b_beta, b_a, A_log (heads). Settings: heads, scale 1.0 (fla: d_k^-0.5),
    qkv_activation "identity" ("silu" in the layer, after its short convolution), l2_norm True,
    l2_eps 0 (added to the sum of squares; fla 1e-6), decay "mamba2" or "sigmoid",
    beta_scale 1.0 (2.0 allows negative eigenvalues). Conv, output gate and norm left out.
    """

    def get(name):
        return setting(p, "gated_delta", name)

    act = ACTIVATION[get("qkv_activation")]
    q, k, v = (heads_of(act(x @ p[f"W_{g}"].T), get("heads")) for g in "qkv")
    if get("l2_norm"):
        q, k = (a / np.sqrt(np.sum(a * a, axis=-1, keepdims=True) + get("l2_eps")) for a in (q, k))
    beta = get("beta_scale") * sigmoid(linear(x, p, "beta"))
    a = linear(x, p, "a")
    mamba2 = get("decay") == "mamba2"
    alpha = np.exp(-np.exp(optional(p, "A_log")) * softplus(a)) if mamba2 else sigmoid(a)
    o, s = gated_delta_core(q, k, v, alpha, beta, state["S"])
    return get("scale") * o.reshape(len(x), -1), {"S": s}


SPEC["selective_ssm"] = {
    "states": {"h": "input,state"},
    "output": "input",
    "parameters": {
        "A_log": "input,state",
        "W_B": "state,input",
        "W_C": "state,input",
        "W_dt_1": "rank,input",
        "W_dt_2": "input,rank",
        "b_dt": "input",
        "D": "input",
    },
    "optional": ("D",),
    "settings": {"discretisation": "zoh"},
}


def selective_ssm(x, state, p):
    """S6 (Mamba), Gu & Dao 2023, eqs. 2a, 4 and algorithm 2, one step.

    Delta = softplus(W_dt_2 W_dt_1 x + b_dt) (batch, input); B = W_B x, C = W_C x (batch, state);
    A = -exp(A_log); Abar = exp(Delta A); Bbar = (exp(Delta A) - 1)/A * B ("zoh", eq. 4) or
    Delta B ("euler", the released code); h_t = Abar*h_{t-1} + Bbar*x_t by channel;
    y = C h_t + D*x_t.
    State: h (input, state). Parameters: A_log (input, state), W_B, W_C (state, input),
    W_dt_1 (rank, input), W_dt_2 (input, rank), b_dt (input), optional D (input).
    Setting: discretisation "zoh" (the paper's text) or "euler".
    """
    delta = softplus(x @ p["W_dt_1"].T @ p["W_dt_2"].T + p["b_dt"])[:, :, None]
    a = -np.exp(p["A_log"])
    b, c = (x @ p["W_B"].T)[:, None, :], (x @ p["W_C"].T)[:, None, :]
    zoh = setting(p, "selective_ssm", "discretisation") == "zoh"
    b_bar = np.expm1(delta * a) / a * b if zoh else delta * b
    h = np.exp(delta * a) * state["h"] + b_bar * x[:, :, None]
    return np.sum(c * h, axis=2) + optional(p, "D") * x, {"h": h}
