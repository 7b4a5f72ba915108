"""What the paper steps share: the registry of cells, and a few functions in numpy.

Written, as the steps are, from the papers alone, by an author who had not seen recurra's equations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

SPEC: dict[str, dict[str, Any]] = {}
"""For each cell its states, parameters (symbolic shapes, "a,b" is a matrix), optional parameters (absent means zero, or
the feature is off) and settings with their defaults."""


def sigmoid(a):
    return np.exp(-np.logaddexp(0.0, -a))


def log_sigmoid(a):
    return -np.logaddexp(0.0, -a)


def softplus(a):
    return np.logaddexp(0.0, a)


def silu(a):
    return a * sigmoid(a)


def relu(a):
    return np.maximum(a, 0.0)


def lecun_tanh(a):
    return 1.7159 * np.tanh(0.666 * a)


ACTIVATION = {
    "tanh": np.tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": silu,
    "lecun_tanh": lecun_tanh,
    "identity": lambda a: a,
}


def setting(p: Mapping[str, Any], cell: str, name: str) -> Any:
    """The value in p, or the default of SPEC."""
    return p.get(name, SPEC[cell]["settings"][name])


def optional(p: Mapping[str, Any], name: str, absent: float = 0.0) -> Any:
    """An optional parameter; `absent` where p lacks it."""
    return p.get(name, absent)


def column(value: Any) -> np.ndarray:
    """A number or one value a row, as (1, 1) or (batch, 1)."""
    return np.reshape(np.asarray(value, dtype=float), (-1, 1))


def affine(*gates: str) -> dict[str, str]:
    """SPEC text of one W (input), U (recurrent) and b for each gate."""
    out = {}
    for g in gates:
        out.update({f"W_{g}": "hidden,input", f"U_{g}": "hidden,hidden", f"b_{g}": "hidden"})
    return out


def gate(x, h, p, g):
    """W_g x + U_g h + b_g (the bias may be absent)."""
    return x @ p[f"W_{g}"].T + h @ p[f"U_{g}"].T + optional(p, f"b_{g}")
