"""How many floating-point operations a case takes: the one place where they are counted.

    forward   2 x batch x steps x (elements of all input and recurrent matrices)
    training  3 x forward: the products again for the gradient of what was multiplied, and for that of the weights
    step      2 x batch x (elements of all input and recurrent matrices)

A multiplication and an addition count as two. Element-wise operations, packing and copies are not counted, so a share
of the peak is what the products alone come to.
"""

from __future__ import annotations

from recurra.bench.cases import Case
from recurra.nn import Recurrent

_MATRICES = ("input", "recurrent")
_PASSES = {"forward": 1, "training": 3, "step": 1}


def operations(case: Case, layer: Recurrent) -> int:
    """The floating-point operations of one run of a case."""
    specs = {spec.name: spec.kind for spec in layer.program.parameters}
    # fixed matrices are buffers; those drawn with zeros are stored and multiplied without them
    matrices = [value for name, value in layer.state_dict().items() if specs.get(name) in _MATRICES]
    elements = sum(int(matrix.count_nonzero()) for matrix in matrices)
    return 2 * _PASSES[case.direction] * case.shape.batch * case.shape.steps * elements
