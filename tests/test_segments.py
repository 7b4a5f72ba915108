"""Long sequences: what is kept between the passes, and that computing the rest again changes nothing."""

import math
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import layers
import recurra
from problems import PROGRAMS, Problem, check_close, check_equal, make, run, run_reference
from recurra import cells, engine, ops
from recurra.errors import ArgumentError, ShapeError
from recurra.ops import native, reference, segments
from recurra.ops.autograd import scan_backward_op, scan_op
from recurra.testing import check_laws

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")

NAMES = sorted(PROGRAMS)


def run_in_segments(problem: Problem, every: int | None) -> dict[str, Tensor]:
    with ops.recompute(every=every):
        return run(ops.scan, problem)


def kept_bytes(problem: Problem, **how: Any) -> int:
    """What a scan holds for its backward pass besides its arguments."""
    leaves, saved = problem.with_leaves(), []
    with ops.recompute(**how), torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        ops.scan(leaves.program, leaves.x, leaves.states, leaves.parameters, **leaves.rows())
    given = {t.data_ptr() for t in (*leaves.differentiable, leaves.lengths, leaves.reset) if t is not None}
    return sum(t.nbytes for t in saved if t.data_ptr() not in given)


@pytest.mark.parametrize("name", NAMES)
def test_segments_of_any_size_equal_the_reference(name: str):
    lengths = torch.tensor([0, 13, 4, 7, 1])
    p = replace(make(PROGRAMS[name], (5, 13, 3, 5), reset=True), lengths=lengths)
    assert p.reset is not None
    # at the borders of segments, in the middle of one, and in every step of a row
    p.reset[:, [4, 8]] = torch.tensor([True, True, False, True, False])[:, None]
    p.reset[3] = True
    expected = run_reference(p)
    for every in (1, 4, 5, 6, 13, 99):
        check_close(run_in_segments(p, every), expected, every)


@hypothesis.given(
    shape=strategies.tuples(*(strategies.integers(1, most) for most in (5, 20, 5, 9))),
    every=strategies.integers(1, 21),
    name=strategies.sampled_from(NAMES),
    lengths=strategies.booleans(),
    reset=strategies.booleans(),
    seed=strategies.integers(0, 99),
)
def test_segments_equal_the_reference_in_any_shape(
    shape: tuple[int, int, int, int], every: int, name: str, lengths: bool, reset: bool, seed: int
):
    p = make(PROGRAMS[name], shape, torch.float64, seed, lengths=lengths, reset=reset)
    check_close(run_in_segments(p, every), run_reference(p))


@pytest.mark.parametrize("name", NAMES)
def test_automatic_segments_give_the_bits_of_the_whole(name: str):
    # 128 steps a segment, the last one 172; the engine sums gradients over at most 64 steps of so many rows
    p = make(PROGRAMS[name], (64, 300, 2, 3), torch.float32, reset=True)
    assert kept_bytes(p) < kept_bytes(p, above=math.inf)
    check_equal(run_in_segments(p, None), run(ops.scan, p))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lengths_change_no_output(dtype: torch.dtype):
    p = make(PROGRAMS["lstm"], (64, 300, 2, 5), dtype, lengths=True, reset=True)
    got, whole = run_in_segments(p, None), run(ops.scan, p)
    check_close(got, whole)
    for name in ("y", "final 0", "final 1"):
        assert torch.equal(got[name], whole[name])


@pytest.mark.parametrize("name", ["gru", "projected"])
def test_threads_change_nothing(name: str):
    p = make(PROGRAMS[name], (9, 41, 40, 64), torch.float32, lengths=True, reset=True)
    torch.set_num_threads(1)
    one = run_in_segments(p, 7)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        check_equal(run_in_segments(p, 7), one, threads)


@pytest.mark.parametrize("name", ["gru", "ticking"])
def test_padding_changes_nothing(name: str):
    p = make(PROGRAMS[name], (5, 11, 3, 17), lengths=True, reset=True)
    padded = make(PROGRAMS[name], (5, 11, 3, 17), lengths=True, reset=True)
    assert padded.lengths is not None
    padding = torch.arange(11) >= padded.lengths[:, None]
    padded.x[padding] = torch.nan
    if padded.elapsed is not None:
        padded.elapsed[padding] = torch.nan
    got = run_in_segments(padded, 3)
    check_equal(got, run_in_segments(p, 3))
    assert all(torch.isfinite(value).all() for value in got.values())


@pytest.mark.parametrize("name", ["gru", "lstm", "bidirectional", "stack of bidirectional"])
def test_the_laws_hold_in_segments(name: str):
    with ops.recompute(every=2):
        check_laws(layers.ALL[name](), samples=2)


# what is kept, and when


def test_memory_grows_with_the_root_of_the_steps():
    # an LSTM of 4 units keeps 8 columns of states a segment, and in its backward pass 24 columns of a segment
    for time, steps in ((10_000, 8192), (100_000, 8192), (1_000_000, 8192), (1_000_000_000, 32768)):
        call = native.Call("", torch.empty(1, 1, 1).expand(1, time, 1), (), (), None, None, None)
        plan = native.plan_of(PROGRAMS["lstm"].json, "train", native.Columns(3, (4, 4), ((16, 3), (16, 4), (16,))))
        assert segments.segment_steps(plan, call, segments.AUTOMATIC, 0) == steps
        assert segments.kept_size(plan, call, steps) == (time // steps - 1) * 8
        assert segments.kept_size(plan, call, 0) == time * plan.tape_columns


def test_the_rule_counts_the_bytes_of_the_tape():
    p = make(PROGRAMS["lstm"], (3, 20, 4, 6), torch.float32)
    tape = kept_bytes(p, above=math.inf)
    assert tape == 3 * 20 * 6 * 6 * 4
    assert kept_bytes(p, every=5, above=tape) == tape
    assert kept_bytes(p, every=5, above=tape - 1) == kept_bytes(p, every=5) == 3 * 3 * 12 * 4
    assert kept_bytes(p, every=11) == kept_bytes(p, every=99) == 0
    double = replace(p, x=p.x.double(), states=tuple(s.double() for s in p.states))
    double = replace(double, parameters=tuple(q.double() for q in p.parameters))
    assert kept_bytes(double, every=5, above=tape) == 2 * kept_bytes(p, every=5)


def test_the_default_is_a_budget(monkeypatch: pytest.MonkeyPatch):
    p = make(PROGRAMS["gru"], (2, 9, 4, 6)).with_leaves()
    seen = []
    forward = segments.forward
    monkeypatch.setattr(segments, "forward", lambda call, *rule: (seen.append(rule), forward(call, *rule))[1])

    def scan() -> None:
        ops.scan(p.program, p.x, p.states, p.parameters)

    scan()
    with ops.recompute(every=7):
        scan()
        with ops.recompute(above=100):
            scan()
        scan()
    with ops.recompute(above=math.inf):
        scan()
    scan()
    default = (segments.AUTOMATIC, 256 << 20)
    assert seen == [default, (7, 0), (0, 100), (7, 0), (0, 1 << 62), default]


def test_the_rule_is_shown():
    assert "256 MiB keeps every k-th state" in str(recurra.backends())
    with ops.recompute(every=64, above=1 << 20):
        assert "1 MiB keeps every 64-th state" in str(recurra.backends())
    with ops.recompute(above=math.inf):
        assert "keeps its whole tape" in recurra.backends().memory


@pytest.mark.parametrize("every", [0, -1, True, 2.0, "8"])
def test_bad_steps_are_named(every: Any):
    with pytest.raises(ArgumentError, match=r"every is .*: expected 1 or more steps"), ops.recompute(every=every):
        pass


@pytest.mark.parametrize("above", [-1, math.nan])
def test_bad_bytes_are_named(above: float):
    with pytest.raises(ArgumentError, match=r"above is .*: expected 0 or more bytes"), ops.recompute(above=above):
        pass
    assert segments.Recomputation.above == segments.MOST_TAPE


def test_what_was_kept_has_to_fit():
    p = make(PROGRAMS["gru"])
    arguments = (p.x, list(p.states), list(p.parameters), None, None, None)
    y, final, kept = scan_op(*arguments, p.program.json, True, 2, 0, False)
    wanted = [True] * (2 + len(p.states) + len(p.parameters))
    with pytest.raises(ShapeError, match="the tape is"):
        scan_backward_op(y, final, *arguments, kept, p.program.json, wanted, 3, 0, False)


# whatever torch may ask


@pytest.mark.parametrize("wanted", ["x", "states", "parameters", "elapsed"])
def test_gradients_of_one_argument_only(wanted: str):
    p = make(PROGRAMS["ticking"], (3, 8, 4, 6), lengths=True)
    only = replace(p, **{wanted: getattr(p.with_leaves(), wanted)})
    asked = [t for t in only.differentiable if t.requires_grad]

    def gradients(scan: Any) -> dict[str, Tensor]:
        y, final = scan(only.program, only.x, only.states, only.parameters, **only.rows())
        return {str(k): g for k, g in enumerate(torch.autograd.grad(y.sum() + final[0].sin().sum(), asked))}

    with ops.recompute(every=3):
        got = gradients(ops.scan)
    check_close(got, gradients(reference.scan))


@pytest.mark.parametrize("result", ["y", "final"])
def test_gradients_through_one_result_only(result: str):
    p = make(PROGRAMS["lstm"], (3, 8, 4, 6), lengths=True).with_leaves()

    def gradients(scan: Any) -> dict[str, Tensor]:
        y, final = scan(p.program, p.x, p.states, p.parameters, lengths=p.lengths)
        loss = (y if result == "y" else final[1]).sin().sum()
        found = torch.autograd.grad(loss, p.differentiable, allow_unused=True, materialize_grads=True)
        return {str(k): g for k, g in enumerate(found)}

    with ops.recompute(every=3):
        got = gradients(ops.scan)
    check_close(got, gradients(reference.scan))


def test_gradients_can_be_differentiated_again():
    p = make(PROGRAMS["gru"], (2, 5, 2, 3), lengths=True, reset=True).with_leaves()

    def second(scan: Any) -> dict[str, Tensor]:
        y, _ = scan(p.program, p.x, p.states, p.parameters, **p.rows())
        (first,) = torch.autograd.grad(y.sin().sum(), p.x, create_graph=True)
        return {str(k): g for k, g in enumerate(torch.autograd.grad(first.square().sum(), p.differentiable))}

    with ops.recompute(every=2):
        got = second(ops.scan)
    check_close(got, second(reference.scan))


def test_a_call_that_kept_nothing_is_differentiated_in_segments():
    p = make(PROGRAMS["lstm"], (3, 13, 4, 6), lengths=True).with_leaves()
    arguments = (p.x, list(p.states), list(p.parameters), p.lengths, None, None, p.program.json)
    found = []
    for keep_tape in (True, False):
        y, final, kept = scan_op(*arguments, keep_tape, 6, 0, False)
        assert kept.numel() == (3 * 12 if keep_tape else 0)
        found.append(torch.autograd.grad(y.sin().sum() + final[1].cos().sum(), p.differentiable))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("every", [2, segments.AUTOMATIC])
def test_the_ops_keep_torchs_contract(every: int):
    p = make(PROGRAMS["ticking"], (3, 5, 2, 5), torch.float32, lengths=True, reset=True).with_leaves()
    core = [c.detach().requires_grad_() for c in reference.core_values(p.program, p.parameters)]
    arguments = (p.x, list(p.states), core, p.lengths, p.reset, p.elapsed)
    torch.library.opcheck(scan_op, (*arguments, p.program.json, True, every, 0, False))
    with torch.no_grad():
        y, final, kept = scan_op(*arguments, p.program.json, True, every, 0, False)
        wanted = [True] * (2 + len(p.states) + len(core))
        torch.library.opcheck(scan_backward_op, (y, final, *arguments, kept, p.program.json, wanted, every, 0, False))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*lru_cache:UserWarning")
@pytest.mark.parametrize("every", [None, 4])
def test_compiles_and_a_graph_with_given_steps_holds_for_any_batch_and_time(every: int | None):
    torch._dynamo.reset()
    layer = recurra.nn.LSTM(4, 6).double()
    counter, frames = CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)

    def results(call: Any, x: Tensor) -> list[Tensor]:
        y, state = call(x)
        return [y, *torch.autograd.grad(y.sin().sum() + state.c.sum(), [x, *layer.parameters()])]

    with ops.recompute(every=every):
        # in each of them something is kept, for the compiler takes tensors without elements apart
        for batch, time in ((3, 8), (5, 11), (2, 17)):
            x = torch.randn(batch, time, 4, dtype=torch.float64, requires_grad=True)
            for got, expected in zip(results(compiled, x), results(layer, x), strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
            frames.append(counter.frame_count)
    # automatic steps follow from the batch: there another one may need another graph
    assert every is None or frames[0] == frames[-1]
    torch._dynamo.reset()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_is_computed_again_draws_the_same_masks(cell: str):
    # seed and count are states, and so they are kept at the borders; 128 steps a segment
    layer = recurra.nn.Recurrent(cells.recurrent_dropout(cells.zoneout(cell, 0.3), 0.4), 2, 3).train()
    x, reset = torch.randn(64, 300, 2), torch.rand(64, 300) < 0.01

    def results() -> dict[str, Tensor]:
        torch.manual_seed(1)
        leaf = x.clone().requires_grad_()
        y, _ = layer(leaf, reset=reset)
        found = torch.autograd.grad(y.sin().sum(), [leaf, *layer.parameters()])
        return {"y": y.detach()} | {str(k): g for k, g in enumerate(found)}

    whole = results()
    with ops.recompute():
        check_equal(results(), whole)
    torch.manual_seed(2)
    assert not torch.equal(layer(x, reset=reset)[0], whole["y"])
