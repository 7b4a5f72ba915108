"""Mixed precision: under autocast to bfloat16, what is multiplied in products is rounded, forwards and backwards, and
nothing else. Where a sum differs in its last bits, it may be rounded to the neighbouring number of bfloat16, and the
steps that follow see it: nearly all results agree as those of float32 do, the others as those of bfloat16.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import problems
import recurra
from problems import PROGRAMS, Problem, check_equal, make, run
from recurra import engine, nn, ops
from recurra.errors import ShapeError
from recurra.ops import mixed, recurrence, reference
from recurra.ops.autograd import scan_backward_op, scan_op
from recurra.program import Program
from recurra.program.hoist import hoist
from test_ops import CHOSEN, RULE

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")


ROUNDED = (*RULE[:-1], True)


def is_compared(program: Program) -> bool:
    """Not what jumps; and neither sparse matrices nor the product of a first input that is taken out of the loop: those
    are float32."""
    jumps = CHOSEN & {program.nodes[i].operation for i in program.live}
    sparse = any(spec.density < 1 for spec in program.parameters)
    return not jumps and not sparse and hoist(program).program is program


COMPARED = sorted(name for name, program in PROGRAMS.items() if is_compared(program))


def nearest(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16).to(value.dtype)


class RoundedProduct(torch.autograd.Function):
    """einsum of two operands, each rounded, as are those of its cotangents."""

    @staticmethod
    def forward(ctx: Any, equation: str, a: Tensor, b: Tensor) -> Tensor:
        ctx.equation = equation
        ctx.save_for_backward(a, b)
        return torch.einsum(equation, nearest(a), nearest(b))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        a, b = ctx.saved_tensors
        inputs, output = ctx.equation.split("->")
        first, second = inputs.split(",")
        return (
            None,
            torch.einsum(f"{output},{second}->{first}", nearest(gradient), nearest(b)),
            torch.einsum(f"{output},{first}->{second}", nearest(gradient), nearest(a)),
        )


class RoundedProducts(TorchFunctionMode):
    """Rounds what the reference multiplies by matrices."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            rows, matrix = args
            return RoundedProduct.apply("bk,kj->bj", rows.flatten(0, -2), matrix).unflatten(0, rows.shape[:-1])
        if function is torch.einsum:
            equation, blocks, parts = args
            product = RoundedProduct.apply(equation.replace("...", "b"), blocks, parts.flatten(0, -3))
            return product.unflatten(0, parts.shape[:-2])
        return function(*args, **(kwargs or {}))


def rounded_reference(problem: Problem) -> dict[str, Tensor]:
    # in float64, so that each difference is one of the engine
    wide = problems.converted(problem, torch.float64)
    core = reference.core_values(wide.program, wide.parameters)
    if len(core) != len(wide.parameters):
        pytest.skip("its matrices are computed outside of the scan")

    def scan(*arguments: Any, **rows: Any) -> Any:
        with RoundedProducts():
            return reference.scan(*arguments, **rows)

    return run(scan, wide)


def run_mixed(problem: Problem) -> dict[str, Tensor]:
    def scan(*arguments: Any, **rows: Any) -> Any:
        with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16):
            return ops.scan(*arguments, **rows)

    return run(scan, problem)


def check_rounded(problem: Problem, where: object = "") -> None:
    got, expected, exact = run_mixed(problem), rounded_reference(problem), run(ops.scan, problem)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == torch.float32
        assert got[name].shape == value.shape
        if not value.numel():
            continue
        size = max(1.0, value.abs().max().item())
        error = (got[name].double() - value).abs() / size
        assert error.max() <= 2.0**-6, f"{where} {name}: off by {error.max():.3g}"
        # what rounding changes at all is far more than what it leaves
        changed = ((exact[name].double() - value).abs() / size).mean().item()
        assert error.mean() <= 1e-6 + 0.2 * changed, f"{where} {name}: {error.mean():.3g} of {changed:.3g}"


@pytest.mark.parametrize("name", COMPARED)
def test_products_are_those_of_rounded_operands(name: str):
    for seed, shape in enumerate([(3, 5, 4, 6), (2, 3, 33, 17), (5, 4, 3, 65)]):
        check_rounded(make(PROGRAMS[name], shape, torch.float32, seed), shape)
        check_rounded(make(PROGRAMS[name], shape, torch.float32, seed, lengths=True, reset=True), shape)


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_sparse_matrices_stay_in_float32(batch: int):
    p = make(PROGRAMS["esn"], (batch, 7, 4, 64), torch.float32)
    # of an input of zeros, the sparse matrix alone multiplies something
    p = replace(p, x=torch.zeros_like(p.x))
    with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16):
        y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    assert torch.equal(y, ops.scan(p.program, p.x, p.states, p.parameters)[0])


def test_float64_is_refused_by_the_op():
    p = make(PROGRAMS["gru"])
    with pytest.raises(ShapeError, match=r"x is torch.float64 in a scan with products in bfloat16"):
        scan_op(p.x, list(p.states), list(p.parameters), None, None, None, p.program.json, False, *ROUNDED)


@pytest.mark.parametrize("name", ["gru", "projected"])
def test_threads_change_nothing(name: str):
    p = make(PROGRAMS[name], (13, 40, 33, 129), torch.float32, lengths=True, reset=True)
    torch.set_num_threads(1)
    one = run_mixed(p)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        check_equal(run_mixed(p), one, threads)


def test_recomputed_segments_change_nothing():
    p = make(PROGRAMS["lstm"], (4, 200, 5, 17), torch.float32, lengths=True)
    whole = run_mixed(p)
    with ops.recompute(every=64):
        again = run_mixed(p)
    for name in ("y", "final 0", "final 1"):
        assert torch.equal(again[name], whole[name])
    problems.check_close(again, whole)


def test_the_ops_keep_torchs_contract():
    p = make(PROGRAMS["gru"], (3, 4, 2, 5), torch.float32).with_leaves()
    core = [c.detach().requires_grad_() for c in reference.core_values(p.program, p.parameters)]
    arguments = (p.x, list(p.states), core, None, None, None)
    torch.library.opcheck(scan_op, (*arguments, p.program.json, True, *ROUNDED))
    x, states, core = p.x.detach(), [s.detach() for s in p.states], [c.detach() for c in core]
    arguments = (x, states, core, None, None, None)
    y, final, tape = scan_op(*arguments, p.program.json, True, *ROUNDED)
    wanted = [True] * (2 + len(p.states) + len(core))
    torch.library.opcheck(scan_backward_op, (y, final, *arguments, tape, p.program.json, wanted, *ROUNDED))


def test_torch_compiles_it():
    p = make(PROGRAMS["gru"], (3, 5, 4, 6), torch.float32)

    def forward(x: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ops.scan(p.program, x, p.states, parameters)[0]

    with mixed.emulated_bfloat16():
        leaves = [t.clone().requires_grad_() for t in p.parameters]
        wanted = forward(p.x, *leaves)
        got = torch.compile(forward, fullgraph=True, backend="aot_eager")(p.x, *leaves)
        assert torch.equal(got, wanted)
        found = [torch.autograd.grad(y.sin().sum(), leaves) for y in (got, wanted)]
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not torch.equal(wanted, ops.scan(p.program, p.x, p.states, p.parameters)[0])


def test_steps_are_those_of_a_scan():
    layer = nn.LSTM(9, 17)
    x = torch.randn(3, 6, 9)
    with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        y, _ = layer(x)
        state = layer.initial_state(3)
        for t in range(6):
            y_t, state = layer.step(x[:, t], state)
            torch.testing.assert_close(y_t, y[:, t], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [16, 17])
def test_few_rows_are_rounded_as_many_are(batch: int):
    check_rounded(make(PROGRAMS["gru"], (batch, 1, 33, 40), torch.float32))


def test_a_gradient_may_be_asked_for_under_autocast():
    layer, x = nn.GRU(9, 17), torch.randn(3, 20, 9, requires_grad=True)
    with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(layer(x)[0].sin().sum(), [x, *layer.parameters()])
        y, _ = layer(x)
    outside = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_a_second_derivative_under_autocast_is_that_of_float32():
    layer, x = nn.GRU(4, 6), torch.randn(2, 5, 4, requires_grad=True)
    found = []
    for inside in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            # float32 in any case
            with torch.autocast("cpu", enabled=False):
                y = layer(x)[0].sin().sum()
            (slope,) = torch.autograd.grad(y, x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0])
    torch.testing.assert_close(found[0], found[1])


def test_an_exported_graph_keeps_the_precision():
    layer, x = nn.GRU(4, 6), torch.randn(2, 9, 4)

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.layer(x)[0]

    with mixed.emulated_bfloat16():
        wanted = Mixed()(x)
        graph = torch.export.export(Mixed(), (x,)).module()
    assert torch.equal(graph(x), wanted)
    assert not torch.equal(wanted, layer(x)[0])


def test_a_step_that_rounds_nothing_stays_quick(monkeypatch: pytest.MonkeyPatch):
    layer, x = nn.GRU(4, 6).requires_grad_(requires_grad=False), torch.randn(2, 4)
    state = layer.initial_state(2)
    wanted = [layer.step(x, state)[0] for _ in range(2)][-1]
    monkeypatch.setattr(recurrence, "_scan", lambda *_: pytest.fail("the whole scan"))
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(layer.step(x, state)[0], wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_kept_in_float32(dtype: torch.dtype):
    layer = nn.GRU(4, 6).to(torch.float64 if dtype is torch.float64 else torch.float32)
    x = torch.randn(2, 5, 4).to(dtype)
    exact = layer(x.to(layer.initial_state(1).h.dtype))[0]
    with torch.autocast("cpu", torch.float16):
        y = layer(x)[0]
    # no autocast to float16, and none of float64 at all
    assert torch.equal(y, exact)
    if dtype is torch.float64:
        with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x)[0], exact)


def test_training_reaches_what_float32_reaches():
    def trained(autocast: bool) -> float:
        torch.manual_seed(0)
        layer, head = nn.GRU(8, 32), torch.nn.Linear(32, 8)
        optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
        loss = torch.tensor(0.0)
        for _ in range(60):
            x = torch.nn.functional.one_hot(torch.randint(0, 8, (16, 12)), 8).float()
            with mixed.emulated_bfloat16(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = head(layer(x)[0])
            # the symbol of two steps before
            loss = torch.nn.functional.cross_entropy(y[:, 2:].float().flatten(0, 1), x[:, :-2].argmax(-1).flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    exact, half = trained(False), trained(True)
    assert exact < 1.0
    assert abs(half - exact) < 0.1


def test_backends_say_where_it_runs():
    said = str(recurra.backends())
    if engine.bfloat16_isa():
        assert f"under torch.autocast to bfloat16: products in bfloat16 on {engine.isa()}" in said
    else:
        assert "under torch.autocast to bfloat16: float32, for the engine runs without AVX512_BF16" in said
        with mixed.emulated_bfloat16():
            assert f"products in bfloat16 on {engine.isa()}, emulated" in str(recurra.backends())
    with ops.backend("reference"):
        assert "to bfloat16: float32, for recurra.ops.backend('reference') is in force" in str(recurra.backends())


def test_a_processor_without_the_instructions_stays_in_float32():
    code = (
        "import torch, recurra\n"
        "torch.manual_seed(0); layer = recurra.nn.GRU(4, 6); x = torch.randn(2, 5, 4); y = layer(x)[0]\n"
        "with torch.autocast('cpu', torch.bfloat16): assert torch.equal(layer(x)[0], y)\n"
        "assert 'float32, for the engine runs without AVX512_BF16, on generic' in str(recurra.backends())"
    )
    environment = os.environ | {"RECURRA_ISA": "generic"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
