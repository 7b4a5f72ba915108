"""Laws 1 to 6: a layer over a sequence is its step, folded; chunks, padding, other rows and resets change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from recurra.nested import build_like, restart
from recurra.nn import Bidirectional, Layer, State
from recurra.testing.cases import Case, Inputs, draw
from recurra.testing.compare import evaluate, hold_equal, require


def _call(layer: Layer, inputs: Inputs) -> tuple[Tensor, State]:
    return inputs.call(layer)


def _join(layer: Layer, pieces: list[Tensor]) -> Tensor:
    """What the pieces of a row put out together: a pooled vector is the last one."""
    return pieces[-1] if layer.pools else torch.cat(pieces, dim=1)


def _join_rows(results: list[tuple[Tensor, State]], time: int) -> tuple[Tensor, State]:
    """A batch out of single rows, filled up with zeros to `time` steps."""
    ys = [
        y if y.dim() == 2 else torch.cat((y, y.new_zeros(1, time - y.shape[1], y.shape[2])), dim=1) for y, _ in results
    ]
    return torch.cat(ys), _cat_states([state for _, state in results])


def _cat_states(states: list[State]) -> State:
    joined = [
        _cat_states([state[k] for state in states])
        if isinstance(part, tuple)
        else torch.cat([state[k] for state in states])
        for k, part in enumerate(states[0])
    ]
    return build_like(states[0], joined)


def forward_is_fold_of_step(layer: Layer, case: Case) -> None:
    """Law 1."""
    inputs = draw(layer, case)

    def fold(given: Inputs) -> tuple[Tensor, State]:
        state, outputs = given.state, []
        for t in range(case.time):
            y_t, state = layer.step(
                given.x[:, t], state, elapsed=None if given.elapsed is None else given.elapsed[:, t]
            )
            outputs.append(y_t if layer.pools else y_t[:, None])
        return _join(layer, outputs), state

    hold_equal(layer, inputs, fold, lambda given: _call(layer, given), "steps against the whole")


def _chunks(case: Case) -> Iterator[tuple[int, int]]:
    """Three pieces, some of them empty at times."""
    cuts = torch.randint(0, case.time + 1, (2,), generator=case.generator()).sort().values.tolist()
    borders = [0, *cuts, case.time]
    return itertools.pairwise(borders)


def chunks_are_the_whole(layer: Layer, case: Case) -> None:
    """Law 2, in evaluation and, where it holds there, in training."""

    def in_chunks(given: Inputs) -> tuple[Tensor, State]:
        state, outputs = given.state, []
        for begin, end in _chunks(case):
            y, state = layer(
                given.x[:, begin:end],
                state,
                lengths=None if given.lengths is None else (given.lengths - begin).clamp(0, end - begin),
                reset=None if given.reset is None else given.reset[:, begin:end],
                elapsed=None if given.elapsed is None else given.elapsed[:, begin:end],
            )
            outputs.append(y)
        return _join(layer, outputs), state

    try:
        for mode in (False, True):
            if mode and lawless_in_training(layer):
                break
            layer.train(mode)
            inputs = draw(layer, case, lengths=True, reset=True)
            for given in (inputs, inputs.with_(lengths=None, reset=None)):
                claim = f"chunks against the whole, {'training' if mode else 'evaluation'}"
                hold_equal(layer, given, in_chunks, lambda g: _call(layer, g), claim)
    finally:
        layer.eval()


def lawless_in_training(layer: Layer) -> str:
    """Why laws that compare several calls do not hold in training, for the layer or one inside; empty when they do."""
    inside = (module for module in layer.modules() if isinstance(module, Layer))
    return next((module.lawless_in_training for module in inside if module.lawless_in_training), "")


def padding_changes_nothing(layer: Layer, case: Case) -> None:
    """Law 3."""
    inputs = draw(layer, case, lengths=True, reset=True)
    valid = inputs.valid
    nan = torch.tensor(float("nan"), dtype=case.dtype, device=valid.device)

    def poisoned(given: Inputs) -> Inputs:
        reset = given.reset if given.reset is None else given.reset | ~valid
        elapsed = given.elapsed if given.elapsed is None else torch.where(valid, given.elapsed, nan)
        return given.with_(x=torch.where(valid[..., None], given.x, nan), reset=reset, elapsed=elapsed)

    def trimmed(given: Inputs) -> tuple[Tensor, State]:
        rows = []
        for b in range(case.batch):
            length = given.row_length(b)
            reset = None if given.reset is None else given.reset[b : b + 1, :length]
            rows.append(given.row(b, 0, length).with_(reset=reset).call(layer))
        return _join_rows(rows, case.time)

    hold_equal(layer, inputs, lambda given: poisoned(given).call(layer), trimmed, "padding of NaN against no padding")
    hold_equal(layer, inputs, lambda given: _call(layer, given), trimmed, "padding of numbers against no padding")
    if not layer.pools:
        y = _call(layer, inputs)[0]
        require(not bool((y * ~valid[..., None]).any()), "outputs beyond a row's length are not zero")
    leaf = poisoned(inputs).with_(lengths=inputs.lengths)
    gradient = evaluate(layer, leaf, lambda given: _call(layer, given))["the gradient of x"]
    require(bool((gradient[~valid] == 0).all()), "the gradient of padding is not zero")


def _take_row(value: Tensor | None, b: int) -> Tensor | None:
    return None if value is None else value[b : b + 1]


def rows_are_independent(layer: Layer, case: Case) -> None:
    """Law 4."""
    inputs = draw(layer, case, lengths=True, reset=True)

    def alone(given: Inputs) -> tuple[Tensor, State]:
        rows = []
        for b in range(case.batch):
            one = given.row(b, 0, case.time)
            one = one.with_(lengths=_take_row(given.lengths, b), reset=_take_row(given.reset, b))
            rows.append(one.call(layer))
        return _join_rows(rows, case.time)

    hold_equal(layer, inputs, alone, lambda given: _call(layer, given), "rows alone against the batch")


def reset_is_a_fresh_start(layer: Layer, case: Case) -> None:
    """Law 5."""
    inputs = draw(layer, case, lengths=True, reset=True)
    if not layer.causal:
        # the state that comes in belongs to the first piece of one direction and the last of the other
        inputs = inputs.with_(state=None)

    def pieces(given: Inputs) -> tuple[Tensor, State | None]:
        rows = [_fresh_pieces(layer, given, b) for b in range(case.batch)]
        y, state = _join_rows(rows, case.time)
        return y, state if layer.causal else None

    def whole(given: Inputs) -> tuple[Tensor, State | None]:
        y, state = given.call(layer)
        return y, state if layer.causal else None

    hold_equal(layer, inputs, whole, pieces, "resets against fresh starts")


def _fresh_pieces(layer: Layer, inputs: Inputs, b: int) -> tuple[Tensor, State]:
    """One row, cut before each reset, every piece but the first from the initial state."""
    length = inputs.row_length(b)
    assert inputs.reset is not None
    cuts = [t for t in range(length) if bool(inputs.reset[b, t])]
    borders = sorted({0, length, *cuts})
    outputs, state = [], None
    for begin, end in itertools.pairwise(borders):
        piece = inputs.row(b, begin, end)
        before = piece.state if state is None else state
        if begin in cuts:
            # what a reset leaves alone is the same in the fresh start
            fresh = layer.initial_state(1)
            before = fresh if before is None else restart(before, fresh)
        y, state = piece.with_(state=before).call(layer)
        outputs.append(y)
    if not outputs:
        return inputs.row(b, 0, 0).call(layer)
    assert state is not None
    return _join(layer, outputs), state


def reverse_keeps_padding(layer: Layer, case: Case) -> None:
    """Law 6, on the backward half of ``Bidirectional(layer, layer)``."""
    inputs = draw(layer, case, lengths=True, reset=True)
    both = Bidirectional(layer, layer)
    size = layer.output_size

    def backwards(given: Inputs) -> tuple[Tensor, State]:
        y, state = given.with_(state=both._state_type(given.state, given.state)).call(both)
        return y[..., size:], state[1]

    def by_hand(given: Inputs) -> tuple[Tensor, State]:
        rows = []
        for b in range(case.batch):
            length = given.row_length(b)
            border = torch.zeros(1, length, dtype=torch.bool, device=given.x.device)
            if given.reset is not None and length:
                border[0, :-1] = given.reset[b, 1:length]
            one = given.row(b, 0, length)
            gap = None if one.elapsed is None else torch.cat((one.elapsed[:, 1:], one.elapsed.new_zeros(1, 1)), 1)
            gap = (
                None
                if gap is None
                else torch.where(border, torch.zeros_like(border, dtype=gap.dtype), gap[:, :length]).flip(1)
            )
            flipped = one.with_(x=one.x.flip(1), reset=border.flip(1), elapsed=gap)
            y, state = flipped.call(layer)
            rows.append((y if layer.pools else y.flip(1), state))
        return _join_rows(rows, case.time)

    hold_equal(layer, inputs, backwards, by_hand, "the backward direction against rows reversed by hand")
