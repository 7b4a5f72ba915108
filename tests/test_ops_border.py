"""The border of the op: what it refuses, which backend it takes, weights that change, and single steps."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import problems
import recurra
from problems import PROGRAMS, Problem, check_close, make, run, run_reference
from recurra import engine, ops
from recurra.errors import ArgumentError, BackendUnavailable, ShapeError
from recurra.ops import RecurraBackendWarning, reference, select, stepping

needs_engine = pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, every reason for the reference is still to be said."""
    monkeypatch.setattr(select.Choice, "said", frozenset())


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch, nothing_said: None) -> None:
    monkeypatch.setattr(engine, "_native", None)


def _without_features(p: Problem) -> Problem:
    return _with_parameter(replace(p, x=p.x[..., :0]), 0, lambda w: w[:, :0])


BAD: list[tuple[str, type[Exception], Callable[[Problem], Problem], str]] = [
    ("a sequence without batch", ShapeError, lambda p: replace(p, x=p.x[0]), r"x has shape \(5, 4\).*x\[None\]"),
    ("integers", ShapeError, lambda p: replace(p, x=p.x.long()), r"x has dtype torch.int64.*\.float\(\)"),
    ("an array", ShapeError, lambda p: replace(p, x=p.x.numpy()), r"got a ndarray.*as_tensor"),
    ("other features", ShapeError, lambda p: replace(p, x=p.x[..., :3]), r"'W'.*\(18, 4\).*input = 3"),
    ("no states", ShapeError, lambda p: replace(p, states=()), r"'gru' got 0 states: expected 1 \(h\)"),
    ("another batch", ShapeError, lambda p: replace(p, states=(p.states[0][:2],)), r"'h' has shape \(2, 6\).*\(3, "),
    ("a flat state", ShapeError, lambda p: replace(p, states=(p.states[0][0],)), r"'h' has shape \(6,\)"),
    ("another hidden size", ShapeError, lambda p: replace(p, states=(p.states[0][:, :4],)), r"'W'.*hidden = 4"),
    ("a missing parameter", ShapeError, lambda p: replace(p, parameters=p.parameters[:3]), r"3 parameters.*4 \(W"),
    ("a transposed weight", ShapeError, lambda p: _with_parameter(p, 0, lambda w: w.T), r"'W'.*\(4, 18\)"),
    ("a float32 weight", ShapeError, lambda p: _with_parameter(p, 1, Tensor.float), r"'U' has dtype torch.float32"),
    ("a weight elsewhere", ShapeError, lambda p: _with_parameter(p, 2, lambda b: b.to("meta")), r"'b' is on meta"),
    ("a float32 state", ShapeError, lambda p: replace(p, states=(p.states[0].float(),)), r"'h' has dtype"),
    ("float lengths", ShapeError, lambda p: replace(p, lengths=torch.ones(3)), r"lengths have dtype"),
    ("too few lengths", ShapeError, lambda p: replace(p, lengths=torch.ones(2).long()), r"lengths has shape \(2,\)"),
    ("a long length", ArgumentError, lambda p: replace(p, lengths=torch.tensor([1, 6, 2])), r"1 to 6: expected 0 to 5"),
    ("a negative length", ArgumentError, lambda p: replace(p, lengths=torch.tensor([1, -1, 2])), r"-1 to 2"),
    ("a reset of numbers", ShapeError, lambda p: replace(p, reset=torch.zeros(3, 5)), r"dtype.*\.bool\(\)"),
    ("a short reset", ShapeError, lambda p: replace(p, reset=torch.zeros(3, 4).bool()), r"reset has shape \(3, 4\)"),
    ("needless elapsed", ArgumentError, lambda p: replace(p, elapsed=p.x[..., 0]), r"'gru' does not read elapsed"),
    ("no features", ShapeError, _without_features, r"'input' has size 0"),
]  # fmt: skip


def _with_parameter(p: Problem, index: int, change: Callable[[Tensor], Tensor]) -> Problem:
    changed = [change(q) if k == index else q for k, q in enumerate(p.parameters)]
    return replace(p, parameters=tuple(changed))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("error", "change", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_does_not_fit_is_named(error: type[Exception], change: Callable[..., Problem], message: str, backend: str):
    good = make(PROGRAMS["gru"])
    p = change(good)
    with ops.backend(backend):
        ops.scan(good.program, good.x, good.states, good.parameters)
        with pytest.raises(error, match=message):
            ops.scan(p.program, p.x, p.states, p.parameters, **p.rows())


def test_a_missing_clock_is_named():
    p = make(PROGRAMS["ticking"])
    with pytest.raises(ArgumentError, match=r"'ticking' needs the time between its steps.*elapsed=.*\(batch, time\)"):
        ops.scan(p.program, p.x, p.states, p.parameters)
    with pytest.raises(ArgumentError, match=r"elapsed=.*\(batch,\)"):
        ops.step(p.program, p.x[:, 0], p.states, p.parameters)


def test_a_step_refuses_sequences():
    p = make(PROGRAMS["gru"])
    with pytest.raises(ShapeError, match=r"\(batch, features\)"):
        ops.step(p.program, p.x, p.states, p.parameters)


class TestBackends:
    @needs_engine
    def test_the_report_says_what_runs(self):
        report = recurra.backends()
        assert report.engine
        assert report.isa in report.available_isas
        routes = {(r.device, r.dtype): r.backend for r in report.routes}
        assert routes["cpu", "float32"] == routes["cpu", "float64"] == "native"
        assert routes["cpu", "bfloat16"] == "reference"
        assert "bfloat16" in str(report)
        assert f"{torch.get_num_threads()} threads" in str(report)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_reference_is_said_once(self, dtype: torch.dtype, nothing_said: None):
        p = make(PROGRAMS["gru"], dtype=dtype)
        with pytest.warns(RecurraBackendWarning, match="float32 and float64, not in") as caught:
            y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
        assert [w.filename for w in caught] == [__file__]
        expected, _ = reference.scan(p.program, p.x, p.states, p.parameters)
        assert torch.equal(y, expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ops.scan(p.program, p.x, p.states, p.parameters)

    def test_without_engine_everything_runs_and_says_so(self, without_engine: None):
        p = make(PROGRAMS["gru"], lengths=True)
        with pytest.warns(RecurraBackendWarning, match="not built.*C\\+\\+17 compiler"):
            got = run(ops.scan, p)
        check_close(got, run_reference(p))
        report = recurra.backends()
        assert not report.engine
        assert "missing" in str(report)
        assert {r.backend for r in report.routes} == {"reference"}
        with pytest.raises(BackendUnavailable, match="not built"), ops.backend("native"):
            pass
        for call in (engine.isa, engine.available_isas, lambda: engine.plan(object(), lambda: pytest.fail("compiled"))):
            with pytest.raises(BackendUnavailable, match="not built"):
                call()

    def test_a_graph_made_with_the_engine_runs_without(self, without_engine: None):
        p = make(PROGRAMS["gru"], lengths=True).with_leaves()
        y, final, tape = torch.ops.recurra.scan(
            p.x, list(p.states), list(p.parameters), p.lengths, None, None, p.program.json, False, 0, 0, False
        )
        assert not tape.numel()
        got = torch.autograd.grad(y.sum() + final[0].sum(), p.differentiable)
        y, final = reference.scan(p.program, p.x, p.states, p.parameters, lengths=p.lengths)
        for a, b in zip(got, torch.autograd.grad(y.sum() + final[0].sum(), p.differentiable), strict=True):
            torch.testing.assert_close(a, b)

    @needs_engine
    @pytest.mark.filterwarnings(problems.TORCH_SCRIPTS)
    def test_the_engine_can_be_demanded(self):
        p = make(PROGRAMS["gru"])
        half = problems.converted(p, torch.bfloat16)
        with ops.backend("native"):
            ops.scan(p.program, p.x, p.states, p.parameters)
            with pytest.raises(BackendUnavailable, match="bfloat16"):
                ops.scan(half.program, half.x, half.states, half.parameters)
            with pytest.raises(BackendUnavailable, match=r"torch\.func transform"):
                torch.vmap(lambda x: ops.scan(p.program, x, p.states, p.parameters)[0])(p.x[None])

    def test_the_reference_can_be_demanded(self, monkeypatch: pytest.MonkeyPatch):
        p = make(PROGRAMS["gru"])
        expected, _ = reference.scan(p.program, p.x, p.states, p.parameters)
        with torch.no_grad():
            ops.step(p.program, p.x[:, 0], p.states, p.parameters)
            monkeypatch.setattr(engine, "plan", lambda *_: pytest.fail("the engine was asked"))
            monkeypatch.setattr(stepping, "_steps", {p.program.json: [lambda *_: pytest.fail("the engine was asked")]})
            with ops.backend("reference"):
                y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
                y_t, _ = ops.step(p.program, p.x[:, 0], p.states, p.parameters)
                assert "in force" in str(recurra.backends())
        assert torch.equal(y, expected)
        torch.testing.assert_close(y_t, expected[:, 0])
        assert select.Choice.name == "auto"

    def test_an_unknown_backend_is_named(self):
        with pytest.raises(ArgumentError, match="'fast': expected one of auto, native, reference"), ops.backend("fast"):
            pass


class Layer(torch.nn.Module):
    """The least that a layer can be."""

    def __init__(self, program: recurra.program.Program, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.program = program
        p = make(program, dtype=dtype)
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(q) for q in p.parameters)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        y, _ = ops.scan(self.program, x, (h,), tuple(self.weights))
        return y

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        y, _ = ops.step(self.program, x, (h,), tuple(self.weights))
        return y

    def expected(self, x: Tensor, h: Tensor) -> Tensor:
        y, _ = reference.scan(self.program, x, (h,), tuple(self.weights))
        return y


def _fused_step(layer: Layer) -> None:
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()


def _write_data(layer: Layer) -> None:
    for p in layer.parameters():
        p.data.mul_(1.5)


def _replace_data(layer: Layer) -> None:
    for p in layer.parameters():
        p.data = p.data + 0.25


def _assign(layer: Layer) -> None:
    layer.load_state_dict({k: v + 0.5 for k, v in layer.state_dict().items()}, assign=True)


def _swap_average(layer: Layer) -> None:
    average = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    _write_data(layer)
    average.update_parameters(layer)
    _write_data(layer)
    average.update_parameters(layer)
    layer.load_state_dict(average.module.state_dict())


def _transpose_data(layer: Layer) -> None:
    u = layer.weights[1]
    u.data = (1.5 * u.data + 0.1).T.contiguous().T


CHANGES = [_fused_step, _write_data, _replace_data, _assign, _swap_average, _transpose_data]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("name", ["gru", "antisymmetric"])
def test_weights_are_never_stale(name: str, change: Callable[[Layer], None]):
    layer = Layer(PROGRAMS[name])
    p = make(PROGRAMS[name])
    for step in (None, change, change):
        before = layer.expected(p.x, p.states[0]).detach()
        if step is not None:
            step(layer)
            assert not torch.allclose(layer.expected(p.x, p.states[0]), before)
        expected = layer.expected(p.x, p.states[0])
        torch.testing.assert_close(layer(p.x, p.states[0]), expected, rtol=0, atol=1e-12)
        with torch.no_grad():
            for _ in range(2):
                got = layer.step(p.x[:, 0], p.states[0])
                torch.testing.assert_close(got, expected[:, 0], rtol=0, atol=1e-12)


def test_layers_can_be_copied():
    layer = Layer(PROGRAMS["gru"])
    p = make(PROGRAMS["gru"])
    other = copy.deepcopy(layer)
    assert torch.equal(other(p.x, p.states[0]), layer(p.x, p.states[0]))
    _write_data(other)
    torch.testing.assert_close(other(p.x, p.states[0]), other.expected(p.x, p.states[0]))


@needs_engine
class TestSteps:
    """Steps without gradients run past the dispatcher; whatever else is asked of them, they are right."""

    @pytest.fixture(autouse=True)
    def _fresh(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stepping, "_steps", {})

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
        """Did the step since the last question take the quick way?"""
        taken: list[bool] = []
        quick_step = ops.recurrence.quick_step

        def watched(*arguments: Any) -> Any:
            result = quick_step(*arguments)
            taken.append(result is not None)
            return result

        monkeypatch.setattr(ops.recurrence, "quick_step", watched)
        return taken.pop

    @staticmethod
    def check(p: Problem, x: Tensor | None = None) -> None:
        x = p.x[:, 0] if x is None else x
        elapsed = None if p.elapsed is None else p.elapsed[:, 0]
        got_y, got = ops.step(p.program, x, p.states, p.parameters, elapsed=elapsed)
        y, after = reference.step(p.program, x, p.states, p.parameters, elapsed=elapsed)
        limit = problems.TOLERANCE[y.dtype]
        for a, b in zip((got_y, *got), (y, *after), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=limit)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", sorted(PROGRAMS))
    def test_equal_the_reference(self, name: str, dtype: torch.dtype, mode: Any, quick: Callable[[], bool]):
        p = make(PROGRAMS[name], (3, 4, 5, 17), dtype).with_leaves()
        with mode():
            self.check(p)
            assert not quick()
            self.check(p)
            assert quick()

    def test_fold_to_a_scan(self):
        p = make(PROGRAMS["lstm"], (2, 9, 3, 5))
        with torch.no_grad():
            y, final = ops.scan(p.program, p.x, p.states, p.parameters)
            states, outputs = p.states, []
            for t in range(9):
                y_t, states = ops.step(p.program, p.x[:, t], states, p.parameters)
                outputs.append(y_t)
        torch.testing.assert_close(torch.stack(outputs, dim=1), y, rtol=0, atol=1e-12)
        for a, b in zip(states, final, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_differentiate_when_asked(self, quick: Callable[[], bool]):
        p = make(PROGRAMS["gru"]).with_leaves()
        with torch.no_grad():
            self.check(p)
            self.check(p)
        y, (h,) = ops.step(p.program, p.x[:, 0], p.states, p.parameters)
        assert not quick()
        got = torch.autograd.grad(y.sum() + h.sin().sum(), p.differentiable)
        y, (h,) = reference.step(p.program, p.x[:, 0], p.states, p.parameters)
        for a, b in zip(got, torch.autograd.grad(y.sum() + h.sin().sum(), p.differentiable), strict=True):
            torch.testing.assert_close(a, b)

    def test_frozen_weights_are_quick_with_gradients_enabled(self, quick: Callable[[], bool]):
        p = make(PROGRAMS["gru"])
        self.check(p)
        self.check(p)
        assert quick()

    def test_other_memory_is_never_read_as_this(self):
        p = make(PROGRAMS["gru"], (2, 4, 5, 5), torch.float32)
        w, u, b, b_n = p.parameters
        others = [
            replace(p, parameters=(w, u.T.contiguous().T, b, b_n)),
            replace(p, states=(p.states[0].T.contiguous().T,)),
            replace(p, x=p.x.transpose(1, 2).contiguous().transpose(1, 2)),
            replace(p, x=p.x[:1], states=(p.states[0][:1],)),
            replace(p, x=p.x[:, :, [0]].expand(2, 4, 5)),
            problems.converted(p, torch.float64),
            make(PROGRAMS["gru"], (2, 4, 3, 5), torch.float32),
            make(PROGRAMS["gru"], (2, 4, 5, 3), torch.float32),
            p,
        ]
        with torch.no_grad():
            for other in others * 3:
                self.check(other)
                self.check(other, other.x[:, 1])
        assert len(stepping._steps[p.program.json]) <= 8

    def test_eight_kinds_of_arguments_are_kept(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(stepping, "_steps", {})
        given = [make(PROGRAMS["gru"], (batch, 2, 3, 5), torch.float32) for batch in range(1, 9)]
        with torch.no_grad():
            for p in given:
                self.check(p)
            monkeypatch.setattr(stepping, "_make", lambda *_: pytest.fail("a kind that was known is prepared again"))
            for p in given:
                self.check(p)

    def test_with_gradients_nothing_is_prepared(self, quick: Callable[[], bool], monkeypatch: pytest.MonkeyPatch):
        p = make(PROGRAMS["gru"], (2, 4, 3, 5), torch.float32).with_leaves()
        with monkeypatch.context() as context:
            context.setattr(stepping, "_make", lambda *_: pytest.fail("prepared in vain"))
            self.check(p)
        with torch.no_grad():
            self.check(p)
            self.check(p)
        assert quick()
        self.check(p)
        assert not quick()

    def test_bad_arguments_are_still_refused(self):
        p = make(PROGRAMS["gru"])
        with torch.no_grad():
            self.check(p)
            for bad in (
                lambda: ops.step(p.program, p.x[:, 0, :3], p.states, p.parameters),
                lambda: ops.step(p.program, p.x[:, 0], p.states * 2, p.parameters),
                lambda: ops.step(p.program, p.x[:, 0], (), (*p.states, *p.parameters)),
                lambda: ops.step(p.program, p.x[:, 0], p.states, p.parameters[:3]),
                lambda: ops.step(p.program, p.x[:, 0].numpy(), p.states, p.parameters),
                lambda: ops.step(p.program, p.x[:, 0].float(), p.states, p.parameters),
                lambda: ops.step(p.program, p.x[:, 0].to("meta"), p.states, p.parameters),
            ):
                with pytest.raises(ShapeError):
                    bad()

    def test_no_rows(self):
        p = make(PROGRAMS["lstm"], (0, 1, 3, 4))
        with torch.no_grad():
            self.check(p)
            self.check(p)

    def test_other_shapes_of_one_state_only(self):
        # a batch in which every row has the same state, expanded from one
        p = make(PROGRAMS["gru"], (3, 1, 4, 6))
        expanded = replace(p, states=(p.states[0][:1].expand(3, 6),))
        with torch.no_grad():
            self.check(expanded)
            self.check(expanded)
