"""The op against the reference, bit by bit where it has to be, and everything that torch may ask of it."""

from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import problems
from problems import PROGRAMS, check_close, check_equal, make, run, run_reference
from recurra import engine, ops
from recurra.errors import BackendUnavailable
from recurra.ops import native, reference, segments
from recurra.ops.autograd import scan_backward_op, scan_op
from recurra.program import Program

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")

# every, above and bfloat16
RULE = (segments.AUTOMATIC, segments.MOST_TAPE, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_equals_the_reference(name: str, dtype: torch.dtype):
    for seed, shape in enumerate(problems.SHAPES):
        plain = make(PROGRAMS[name], shape, dtype, seed)
        check_close(run(ops.scan, plain), run_reference(plain), shape)
        ragged = make(PROGRAMS[name], shape, dtype, seed, lengths=True, reset=True)
        check_close(run(ops.scan, ragged), run_reference(ragged), (shape, ragged.lengths, ragged.reset))


@hypothesis.given(
    shape=strategies.tuples(*(strategies.integers(1, most) for most in (9, 9, 20, 70))),
    name=strategies.sampled_from(sorted(PROGRAMS)),
    lengths=strategies.booleans(),
    reset=strategies.booleans(),
    seed=strategies.integers(0, 99),
)
def test_equals_the_reference_in_any_shape(
    shape: tuple[int, int, int, int], name: str, lengths: bool, reset: bool, seed: int
):
    p = make(PROGRAMS[name], shape, torch.float64, seed, lengths=lengths, reset=reset)
    check_close(run(ops.scan, p), run_reference(p))


@pytest.mark.parametrize("name", ["gru", "lstm", "ticking", "normalised", "delayed"])
def test_padding_changes_nothing(name: str):
    p = make(PROGRAMS[name], (5, 6, 3, 17), lengths=True, reset=True)
    padded = make(PROGRAMS[name], (5, 6, 3, 17), lengths=True, reset=True)
    assert padded.lengths is not None
    assert padded.reset is not None
    padding = torch.arange(6) >= padded.lengths[:, None]
    padded.x[padding] = torch.nan
    padded.reset[padding] = True
    if padded.elapsed is not None:
        padded.elapsed[padding] = torch.nan
    got = run(ops.scan, padded)
    check_equal(got, run(ops.scan, p))
    assert not got["y"][padding].any()
    assert all(torch.isfinite(value).all() for value in got.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(13, 9, 40, 64), (2, 40, 33, 129), (1, 3, 5, 300)])
@pytest.mark.parametrize("name", ["gru", "projected"])
def test_threads_change_nothing(name: str, shape: tuple[int, int, int, int], dtype: torch.dtype):
    p = make(PROGRAMS[name], shape, dtype, lengths=True, reset=True)
    torch.set_num_threads(1)
    one = run(ops.scan, p)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        check_equal(run(ops.scan, p), one, threads)


def columns_that_tie_share_a_gradient(program: Program) -> None:
    p = problems.on_a_grid(make(program, (50, 1, 3, 4)))
    check_close(run(ops.scan, p), run_reference(p))


@pytest.mark.parametrize("name", ["normalised", "kinked"])
def test_columns_that_tie_share_a_gradient(name: str):
    columns_that_tie_share_a_gradient(PROGRAMS[name])


# finite differences know nothing of a gradient that is chosen: a spike's, or one that is stopped
CHOSEN = {"spike", "stop_gradient"}
DERIVED = [name for name, p in PROGRAMS.items() if not CHOSEN & {p.nodes[i].operation for i in p.live}]


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_gradients_are_those_of_the_values(name: str):
    p = make(PROGRAMS[name], (3, 4, 2, 3), lengths=True, reset=True)
    if name == "rnn_relu":
        p = replace(p, states=tuple(s + 1 for s in p.states))
    # no difference of a start of -1e30, which stands for minus infinity, can be seen
    p = replace(p, states=tuple(s.clamp_min(-10) for s in p.states))
    assert torch.autograd.gradcheck(_scan_of_tensors(p), p.with_leaves().differentiable, fast_mode=True)


def _scan_of_tensors(p: problems.Problem) -> Any:
    """The scan as a function of its differentiable arguments."""

    def scan(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state_count, count = len(p.states), len(p.states) + len(p.parameters)
        elapsed = rest[count] if p.elapsed is not None else None
        states, parameters = rest[:state_count], rest[state_count:count]
        y, final = ops.scan(p.program, x, states, parameters, lengths=p.lengths, reset=p.reset, elapsed=elapsed)
        return y, *final

    return scan


@pytest.mark.parametrize(("name", "keep_tape"), [("delayed", False), ("ticking", True)])
def test_the_ops_keep_torchs_contract(name: str, keep_tape: bool):
    # no lengths with the tape: its rows beyond them are never written, so no two of them are equal
    p = make(PROGRAMS[name], (3, 4, 2, 5), torch.float32, lengths=not keep_tape, reset=True).with_leaves()
    rows = (p.lengths, p.reset, p.elapsed)
    core = [c.detach().requires_grad_() for c in reference.core_values(p.program, p.parameters)]
    torch.library.opcheck(scan_op, (p.x, list(p.states), core, *rows, p.program.json, keep_tape, *RULE))
    if keep_tape:
        with torch.no_grad():
            y, final, tape = scan_op(p.x, list(p.states), core, *rows, p.program.json, True, *RULE)
            wanted = [True] * (2 + len(p.states) + len(core))
            arguments = (y, final, p.x, list(p.states), core, *rows, tape, p.program.json, wanted, *RULE)
            torch.library.opcheck(scan_backward_op, arguments)


def test_a_call_without_tape_can_still_be_differentiated():
    p = make(PROGRAMS["lstm"], lengths=True).with_leaves()
    arguments = (p.x, list(p.states), list(p.parameters), p.lengths, None, None, p.program.json)
    found = []
    for keep_tape in (True, False):
        y, final, tape = torch.ops.recurra.scan(*arguments, keep_tape, *RULE)
        assert bool(tape.numel()) == keep_tape
        found.append(torch.autograd.grad(y.sin().sum() + final[1].cos().sum(), p.differentiable))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("result", ["y", "final"])
def test_gradients_through_one_result_only(result: str):
    p = make(PROGRAMS["lstm"], lengths=True).with_leaves()

    def gradients(scan: Any) -> dict[str, Tensor]:
        y, final = scan(p.program, p.x, p.states, p.parameters, lengths=p.lengths)
        loss = (y if result == "y" else final[1]).sin().sum()
        found = torch.autograd.grad(loss, p.differentiable, allow_unused=True, materialize_grads=True)
        return {str(k): g for k, g in enumerate(found)}

    check_close(gradients(ops.scan), gradients(reference.scan))


@pytest.mark.parametrize("wanted", ["x", "states", "parameters", "elapsed"])
def test_gradients_of_one_argument_only(wanted: str):
    p = make(PROGRAMS["ticking"], lengths=True)
    leaves = p.with_leaves()
    only = replace(p, **{wanted: getattr(leaves, wanted)})
    asked = [t for t in only.differentiable if t.requires_grad]

    def gradients(scan: Any) -> dict[str, Tensor]:
        y, final = scan(only.program, only.x, only.states, only.parameters, **only.rows())
        assert y.requires_grad
        return {str(k): g for k, g in enumerate(torch.autograd.grad(y.sum() + final[0].sin().sum(), asked))}

    check_close(gradients(ops.scan), gradients(reference.scan))


def test_memory_may_lie_in_any_order():
    p = make(PROGRAMS["gru"], (4, 6, 5, 8), lengths=True, reset=True)
    expected = run(ops.scan, p)
    x = p.x.transpose(0, 1).contiguous().transpose(0, 1)
    every_other = torch.stack([p.x, p.x], dim=-1)[..., 0]
    w, u, *biases = p.parameters
    assert p.lengths is not None
    assert p.reset is not None
    for other in (
        replace(p, x=x),
        replace(p, x=every_other),
        replace(p, x=torch.cat([p.x, p.x], dim=2)[..., :5]),
        replace(p, parameters=(w.T.contiguous().T, u.T.contiguous().T, *biases)),
        replace(p, states=(torch.cat([p.states[0], p.states[0]], dim=1)[:, ::2][:, :8] * 0 + p.states[0],)),
        replace(p, states=(p.states[0].T.contiguous().T,)),
        replace(p, lengths=p.lengths.to(torch.int32), reset=p.reset.T.contiguous().T),
        replace(p, lengths=torch.stack([p.lengths, p.lengths], dim=1)[:, 0]),
    ):
        with torch.no_grad():
            y, (h,) = ops.scan(other.program, other.x, other.states, other.parameters, **other.rows())
        assert torch.equal(y, expected["y"])
        assert torch.equal(h, expected["final 0"])


def test_the_cotangent_may_be_expanded():
    p = make(PROGRAMS["gru"]).with_leaves()
    y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    expanded = torch.autograd.grad(y.sum(), p.differentiable, retain_graph=True)
    spread = torch.autograd.grad(y, p.differentiable, torch.ones_like(y))
    assert all(torch.equal(a, b) for a, b in zip(expanded, spread, strict=True))


@pytest.mark.parametrize(("batch", "time"), [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("name", ["lstm", "ticking", "projecting_out"])
def test_nothing_in_gives_nothing_out(name: str, batch: int, time: int):
    p = make(PROGRAMS[name], (batch, time, 4, 6))
    check_close(run(ops.scan, p), run_reference(p))


def test_rows_of_length_zero_keep_their_state():
    p = replace(make(PROGRAMS["lstm"], (2, 3, 4, 6), reset=True), lengths=torch.zeros(2, dtype=torch.int64))
    got = run(ops.scan, p)
    check_close(got, run_reference(p))
    assert torch.equal(got["final 0"], p.states[0])
    assert not got["y"].any()


@pytest.mark.parametrize("name", ["gru", "delayed", "counting"])
def test_results_are_new_tensors(name: str):
    p = make(PROGRAMS[name])
    given = {t.untyped_storage().data_ptr() for t in p.differentiable}
    for y, final in (
        ops.scan(p.program, p.x, p.states, p.parameters),
        ops.step(p.program, p.x[:, 0], p.states, p.parameters),
    ):
        made = [t.untyped_storage().data_ptr() for t in (y, *final)]
        assert len(set(made)) == len(made)
        assert not given & set(made)


@pytest.mark.filterwarnings(problems.TORCH_SCRIPTS)
class TestTransforms:
    """What cannot pass through the op goes through the reference, and is right."""

    @pytest.fixture
    def p(self) -> problems.Problem:
        return make(PROGRAMS["antisymmetric"], (2, 3, 2, 2), lengths=True, reset=True)

    def test_double_backward(self, p: problems.Problem):
        assert torch.autograd.gradgradcheck(_scan_of_tensors(p), p.with_leaves().differentiable, fast_mode=True)

    def test_gradient_of_a_gradient_that_shares_its_history(self):
        # x depends on a parameter too: the partial derivatives must not follow that path twice
        p = make(PROGRAMS["rnn_tanh"], (2, 3, 2, 2)).with_leaves()

        def penalty(scan: Any) -> tuple[Tensor, ...]:
            y, _ = scan(p.program, p.x * p.parameters[2].sum(), p.states, p.parameters)
            first = torch.autograd.grad(y.sin().sum(), p.differentiable, create_graph=True)
            total = y.new_zeros(())
            for g in first:
                total = total + (g**2).sum()
            return torch.autograd.grad(total, p.differentiable)

        for got, expected in zip(penalty(ops.scan), penalty(reference.scan), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)

    def test_batched_gradients(self, p: problems.Problem):
        scan, leaves = _scan_of_tensors(p), p.with_leaves().differentiable
        assert torch.autograd.gradcheck(scan, leaves, fast_mode=False, check_batched_grad=True)

    def test_forward_mode(self, p: problems.Problem):
        scan, leaves = _scan_of_tensors(p), p.with_leaves().differentiable
        assert torch.autograd.gradcheck(scan, leaves, fast_mode=True, check_forward_ad=True)

    @pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
    def test_jacobians(self, p: problems.Problem, transform: Any):
        scan = _scan_of_tensors(p)
        got = transform(lambda x: scan(x, *p.differentiable[1:])[0])(p.x)
        expected = torch.autograd.functional.jacobian(lambda x: scan(x, *p.differentiable[1:])[0], p.x)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)

    def test_vmap_and_gradients_of_single_examples(self, p: problems.Problem):
        def loss(parameters: tuple[Tensor, ...], x: Tensor, h: Tensor) -> Tensor:
            y, _ = ops.scan(p.program, x[None], (h[None],), parameters)
            return y.sin().sum()

        got = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(p.parameters, p.x, p.states[0])
        for row in range(2):
            expected = torch.func.grad(loss)(p.parameters, p.x[row], p.states[0][row])
            for many, one in zip(got, expected, strict=True):
                torch.testing.assert_close(many[row], one, rtol=0, atol=1e-10)

    def test_steps(self, p: problems.Problem):
        with torch.no_grad():
            ops.step(p.program, p.x[:, 0], p.states, p.parameters)
            y, _ = torch.vmap(lambda x: ops.step(p.program, x, p.states, p.parameters))(
                torch.stack([p.x[:, 0], p.x[:, 1]])
            )
            expected, _ = ops.step(p.program, p.x[:, 1], p.states, p.parameters)
            _, tangent = torch.func.jvp(
                lambda x: ops.step(p.program, x, p.states, p.parameters)[0], (p.x[:, 0],), (p.x[:, 1],)
            )
        torch.testing.assert_close(y[1], expected, rtol=0, atol=1e-12)
        assert tangent.any()

    def test_the_bare_op_refuses(self, p: problems.Problem):
        core = reference.core_values(p.program, p.parameters)

        def bare(x: Tensor) -> Tensor:
            return torch.ops.recurra.scan(x, list(p.states), core, None, None, None, p.program.json, False, *RULE)[0]

        with pytest.raises(BackendUnavailable, match=r"recurra\.ops\.scan"):
            torch.func.jvp(bare, (p.x,), (p.x,))
        with torch.autograd.forward_ad.dual_level(), pytest.raises(BackendUnavailable, match="forward-mode"):
            bare(torch.autograd.forward_ad.make_dual(p.x, p.x))
        with pytest.raises(RuntimeError, match="recurra::scan"):
            torch.vmap(bare)(p.x[None])


def test_changing_what_was_saved_is_an_error():
    p = make(PROGRAMS["gru"]).with_leaves()
    y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    with torch.no_grad():
        p.parameters[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_autocast_its_values_stay_in_float32(dtype: torch.dtype):
    p = make(PROGRAMS["gru"], dtype=dtype).with_leaves()
    expected, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    linear = torch.nn.Linear(4, 4, dtype=dtype)
    # to float16: products in bfloat16 have their tests in test_mixed_precision.py
    with torch.autocast("cpu", torch.float16):
        y, (h,) = ops.scan(p.program, p.x, p.states, p.parameters)
        y_t, _ = ops.step(p.program, p.x[:, 0], p.states, p.parameters)
        if dtype == torch.float32:
            mixed, _ = ops.scan(p.program, linear(p.x), p.states, p.parameters)
            assert mixed.dtype == torch.float32
            core = reference.core_values(p.program, p.parameters)
            direct = torch.ops.recurra.scan(
                linear(p.x), list(p.states), core, None, None, None, p.program.json, False, *RULE
            )
            assert torch.equal(direct[0], mixed)
    assert y.dtype == h.dtype == dtype
    assert torch.equal(y, expected)
    torch.testing.assert_close(y_t, expected[:, 0])
    y.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == dtype for t in p.differentiable)


class Watch(TorchDispatchMode):
    """Notes the names of the ops that pass torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_modes_of_torch_see_the_op():
    p = make(PROGRAMS["gru"])
    with torch.no_grad():
        ops.step(p.program, p.x[:, 0], p.states, p.parameters)
        with Watch() as watch:
            ops.step(p.program, p.x[:, 0], p.states, p.parameters)
    assert "recurra.scan.default" in watch.seen


def test_what_goes_past_the_dispatcher_is_the_op_to_the_bit():
    p = make(PROGRAMS["lstm"], lengths=True, reset=True)
    expected = run(ops.scan, p)
    with Watch() as watch:
        got = run(ops.scan, p)
    assert {"recurra.scan.default", "recurra.scan_backward.default"} <= set(watch.seen)
    check_equal(got, expected)


def test_a_mode_around_the_backward_pass_alone_sees_its_op():
    p = make(PROGRAMS["gru"]).with_leaves()
    y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    with Watch() as watch:
        y.sum().backward()
    assert "recurra.scan_backward.default" in watch.seen


def test_a_plan_is_made_once(monkeypatch: pytest.MonkeyPatch):
    made = []
    compile_plan = native.compile_plan
    monkeypatch.setattr(native, "compile_plan", lambda *a: (made.append(a[2]), compile_plan(*a))[1])
    p = make(PROGRAMS["gru"], (2, 3, 37, 41))
    for _ in range(3):
        run(ops.scan, p)
        with torch.no_grad():
            ops.scan(p.program, p.x, p.states, p.parameters)
            ops.step(p.program, p.x[:, 0], p.states, p.parameters)
    assert sorted(made) == ["backward", "infer", "train"]
