"""How many floating-point operations a case takes: the one place where they are counted.

    forward   2 x batch x steps x (elements of all input and recurrent matrices)
    training  3 x forward: the products again for the gradient of what was multiplied, and for that of the weights
    step      2 x batch x (elements of all input and recurrent matrices)

A multiplication and an addition count as two. Element-wise operations, packing and copies are not counted, so a share
of the peak is what the products alone come to.
"""

from __future__ import annotations

from recurra.bench.registry import Case
from recurra.nn import Recurrent

_MATRICES = ("input", "recurrent")
_PASSES = {"forward": 1, "training": 3, "step": 1}


def operations(case: Case, layer: Recurrent) -> int:
    """The floating-point operations of one run of a case."""
    specs = {spec.name: spec.kind for spec in layer.program.parameters}
    elements = sum(p.numel() for name, p in layer.named_parameters() if specs[name] in _MATRICES)
    return 2 * _PASSES[case.direction] * case.shape.batch * case.shape.steps * elements
