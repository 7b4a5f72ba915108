"""The op in torch.compile and torch.export: one node in one graph, in any batch and time, forwards and backwards."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

from problems import PROGRAMS, Problem, converted, make
from recurra import cells, engine, ops
from recurra.errors import ShapeError
from recurra.ops import reference
from recurra.program import Program

pytestmark = [
    pytest.mark.skipif(bool(engine.missing()), reason="needs the engine"),
    # what torch says of itself while it compiles
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*lru_cache:UserWarning"),
]

NAMES = ["gru", "lstm", "antisymmetric", "ticking"]


class Layer(torch.nn.Module):
    """A program between other operations, with gradients for all that it has."""

    def __init__(self, program: Program, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.program = program
        p = make(program, dtype=dtype)
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(q) for q in p.parameters)

    def forward(
        self,
        x: Tensor,
        states: tuple[Tensor, ...],
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        y, final = ops.scan(
            self.program, 2 * x, states, tuple(self.weights), lengths=lengths, reset=reset, elapsed=elapsed
        )
        return y.sin(), final[-1]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def arguments(p: Problem) -> tuple[Any, ...]:
    return p.x, p.states, p.lengths, p.reset, p.elapsed


def differentiated(layer: Layer, call: Any, p: Problem) -> list[Tensor]:
    leaves = p.with_leaves()
    y, h = call(*arguments(leaves))
    inputs = [leaves.x, *leaves.states, *layer.parameters()] + ([] if leaves.elapsed is None else [leaves.elapsed])
    return [y, h, *torch.autograd.grad(y.sum() + h.cos().sum(), inputs)]


def check(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_to_one_graph_for_any_batch_and_time(name: str):
    layer = Layer(PROGRAMS[name])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    # no number twice at first: the compiler takes equal sizes for the same size, and the widths are fixed
    for seed, (batch, time) in enumerate(((3, 5), (5, 9), (2, 17))):
        p = make(PROGRAMS[name], (batch, time, 4, 6), seed=seed, lengths=True, reset=True)
        check(differentiated(layer, compiled, p), differentiated(layer, layer, p))
    assert counter.frame_count == 1
    with torch.no_grad():
        p = make(PROGRAMS[name], (4, 3, 4, 6), lengths=True, reset=True)
        check(list(compiled(*arguments(p))), list(layer(*arguments(p))))
    (graph, *_) = counter.graphs
    assert sum("recurra.scan" in str(node.target) for node in graph.graph.nodes) == 1


@pytest.mark.parametrize("name", ["gru"])
def test_compiles_with_the_default_backend(name: str):
    layer = Layer(PROGRAMS[name])
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for batch, time in ((3, 4), (5, 9)):
        p = make(PROGRAMS[name], (batch, time, 4, 6), lengths=True, reset=True)
        check(differentiated(layer, compiled, p), differentiated(layer, layer, p))


def test_compiles_where_the_program_was_never_looked_at():
    @cells.cell
    def fresh(x, h, *, W=cells.Input(), nu=cells.Bias()):
        return cells.tanh(W @ x) + cells.exp(-cells.exp(nu)) * h

    layer = Layer(make(Program.from_json(fresh.program.json)).program)
    untouched = Program.from_json(fresh.program.json)
    layer.program = untouched
    p = make(fresh.program)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    check(list(compiled(*arguments(p))), list(layer(*arguments(p))))


@pytest.mark.parametrize("gradients", [True, False])
def test_compiles_steps(gradients: bool):
    p = make(PROGRAMS["lstm"])

    def step(x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
        y, _ = ops.step(p.program, x, states, p.parameters)
        return 2 * y

    with torch.set_grad_enabled(gradients):
        got = torch.compile(step, fullgraph=True, backend="aot_eager")(p.x[:, 0], p.states)
        torch.testing.assert_close(got, step(p.x[:, 0], p.states), rtol=0, atol=1e-12)


def test_compiles_under_autocast():
    layer = Layer(PROGRAMS["gru"], torch.float32)
    p = make(PROGRAMS["gru"], dtype=torch.float32)
    linear = torch.nn.Linear(4, 4)

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(linear(x), p.states)[0]

    got = torch.compile(forward, fullgraph=True, backend="aot_eager")(p.x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, forward(p.x))


def test_compiles_the_reference_for_other_dtypes():
    layer = Layer(PROGRAMS["antisymmetric"], torch.bfloat16)
    p = converted(make(PROGRAMS["antisymmetric"], (2, 3, 4, 6)), torch.bfloat16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got = differentiated(layer, compiled, p)
    y, _ = reference.scan(p.program, 2 * p.x, p.states, tuple(layer.weights))
    torch.testing.assert_close(got[0], y.sin())


def test_compiles_gradients_of_functions():
    p = make(PROGRAMS["gru"])

    def loss(x: Tensor) -> Tensor:
        return ops.scan(p.program, x, p.states, p.parameters)[0].sin().sum()

    got = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")(p.x)
    x = p.x.clone().requires_grad_()
    torch.testing.assert_close(got, torch.autograd.grad(loss(x), x)[0], rtol=0, atol=1e-10)


def test_shapes_that_do_not_fit_are_named_while_compiling():
    layer = Layer(PROGRAMS["gru"])
    p = make(PROGRAMS["gru"], (3, 5, 4, 7))
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=r"(?s)states and parameters of 'gru'"):
        torch.compile(layer, fullgraph=True, backend="aot_eager")(*arguments(p))
    with pytest.raises(ShapeError):
        layer(*arguments(p))


def test_steps_are_traced_as_the_op():
    p = make(PROGRAMS["gru"])
    with torch.no_grad():
        for _ in range(2):
            ops.step(p.program, p.x[:, 0], p.states, p.parameters)
        graph = make_fx(lambda x: ops.step(p.program, x, p.states, p.parameters)[0])(p.x[:, 0])
    assert "recurra.scan" in graph.code
    torch.testing.assert_close(graph(p.x[:, 1]), ops.step(p.program, p.x[:, 1], p.states, p.parameters)[0])


def exported(name: str, strict: bool) -> tuple[Layer, torch.export.ExportedProgram]:
    layer, p = Layer(PROGRAMS[name]), make(PROGRAMS[name], lengths=True, reset=True)
    batch, time = Dim("batch"), Dim("time")
    shapes = (
        {0: batch, 1: time},
        tuple({0: batch} for _ in p.states),
        {0: batch},
        {0: batch, 1: time},
        None if p.elapsed is None else {0: batch, 1: time},
    )
    return layer, torch.export.export(layer, arguments(p), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize(("name", "strict"), [("gru", False), ("antisymmetric", True), ("ticking", False)])
def test_exports_for_any_batch_and_time(name: str, strict: bool):
    layer, program = exported(name, strict)
    assert sum("recurra.scan" in str(node.target) for node in program.graph.nodes) == 1
    # the same graph after its operations were taken apart, as a runtime wants it
    for module in (program.module(), program.run_decompositions().module()):
        for batch, time in ((3, 5), (1, 2), (7, 11)):
            p = make(PROGRAMS[name], (batch, time, 4, 6), lengths=True, reset=True)
            check(list(module(*arguments(p))), list(layer(*arguments(p))))


def test_an_exported_graph_can_be_trained():
    layer, program = exported("lstm", strict=False)
    module, p = program.module(), make(PROGRAMS["lstm"], lengths=True, reset=True)
    for one in (module, layer):
        y, h = one(*arguments(p))
        (y.sum() + h.cos().sum()).backward()
    for got, expected in zip(module.parameters(), layer.parameters(), strict=True):
        assert got.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(got.grad, expected.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["gru", "ticking"])
def test_an_exported_graph_runs_in_a_new_process(name: str, tmp_path: Path):
    layer, program = exported(name, strict=False)
    torch.export.save(program, tmp_path / "graph.pt2")
    p = make(PROGRAMS[name], (4, 8, 4, 6), lengths=True, reset=True)
    torch.save(arguments(p), tmp_path / "arguments.pt")
    # nothing but the op is known there: no cell, no layer
    code = (
        "import sys, torch, recurra.ops\n"
        f"module = torch.export.load({str(tmp_path / 'graph.pt2')!r}).module()\n"
        f"arguments = torch.load({str(tmp_path / 'arguments.pt')!r})\n"
        f"torch.save(module(*arguments), {str(tmp_path / 'results.pt')!r})\n"
        "assert 'recurra.cells' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    check(list(torch.load(tmp_path / "results.pt")), [r.detach() for r in layer(*arguments(p))])
