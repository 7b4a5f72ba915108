"""Laws 12 and 13: unusual shapes and strides, and NaN."""

from __future__ import annotations

import torch
from torch import Tensor

from recurra.errors import RecurraError
from recurra.nn import Layer, map_state
from recurra.testing.cases import Case, Inputs, draw
from recurra.testing.compare import Values, agree, evaluate, hold_equal, name_results, name_tensors, require

UNUSUAL = ((0, 3), (2, 0), (0, 0), (1, 1), (1, 7), (7, 1))


def unusual_shapes_are_right(layer: Layer, case: Case) -> None:
    """Law 12."""
    for batch, time in UNUSUAL:
        _try_shape(layer, Case(batch, time, case.dtype, case.seed))
    inputs = draw(layer, case, lengths=True, reset=True)
    claim = "tensors that are not contiguous against contiguous ones"
    hold_equal(layer, inputs, lambda given: _scatter(given).call(layer), lambda given: given.call(layer), claim)


def _try_shape(layer: Layer, case: Case) -> None:
    described = f"batch {case.batch}, time {case.time}"
    try:
        inputs = draw(layer, case, lengths=True, reset=True)
        results = evaluate(layer, inputs, lambda given: given.call(layer))
    except RecurraError:
        # a layer may refuse a shape, as long as it says so
        return
    shape = (case.batch, layer.output_size) if layer.pools else (case.batch, case.time, layer.output_size)
    got = tuple(results["y"].shape)
    require(got == shape, f"{described}: y has shape {got}; expected {shape}")
    finite = all(bool(value.isfinite().all()) for value in results.values() if value.is_floating_point())
    require(finite, f"{described}: a result is not finite")
    if case.time == 0:
        agree(results, name_tensors(inputs.state), f"{described}: the state after no step against the state before")


def _scatter(inputs: Inputs) -> Inputs:
    """The same values in other places of memory."""

    def spread(tensor: Tensor) -> Tensor:
        return torch.stack((tensor, torch.zeros_like(tensor)), dim=-1)[..., 0]

    def column_major(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)

    return Inputs(
        column_major(inputs.x),
        map_state(spread, inputs.state),
        lengths=None if inputs.lengths is None else spread(inputs.lengths),
        reset=None if inputs.reset is None else column_major(inputs.reset),
        elapsed=None if inputs.elapsed is None else column_major(inputs.elapsed),
    )


def nan_stays_in_its_row(layer: Layer, case: Case) -> None:
    """Law 13: it reaches the outputs of its row (or its state), of no other row, and nothing after a reset."""
    inputs = draw(layer, case)
    generator = case.generator()
    b, t = (
        int(torch.randint(case.batch, (), generator=generator)),
        int(torch.randint(case.time, (), generator=generator)),
    )
    x = inputs.x.clone()
    x[b, t, 0] = float("nan")
    with torch.no_grad():
        clean = name_results(*inputs.call(layer))
        poisoned = name_results(*inputs.with_(x=x).call(layer))
    others = [k for k in range(case.batch) if k != b]
    _untouched(poisoned, clean, others, f"NaN in row {b}, other rows")
    require(
        any(bool(value[b].isnan().any()) for value in poisoned.values()),
        f"NaN in row {b} at step {t} reaches none of its results",
    )
    if layer.causal and t + 1 < case.time:
        _reset_ends_it(layer, inputs, x, b, t)


def _untouched(actual: Values, expected: Values, rows: list[int], claim: str) -> None:
    agree(
        {name: value[rows] for name, value in actual.items()},
        {name: value[rows] for name, value in expected.items()},
        claim,
    )


def _reset_ends_it(layer: Layer, inputs: Inputs, x: Tensor, b: int, t: int) -> None:
    reset = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    reset[b, t + 1] = True
    inputs = inputs.with_(reset=reset)
    with torch.no_grad():
        clean = name_results(*inputs.call(layer))
        poisoned = name_results(*inputs.with_(x=x).call(layer))
    if not layer.pools:
        clean["y"], poisoned["y"] = clean["y"][:, t + 1 :], poisoned["y"][:, t + 1 :]
    agree(poisoned, clean, f"NaN in row {b} at step {t}, after a reset at step {t + 1}")
