"""Problems for scans: random arguments of a program, and what comes out of a scan with all its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from odd_cells import ODD
from recurra import cells
from recurra.ops import reference
from recurra.program import ParameterSpec, Program
from recurra.program.widths import StateSpec

PROGRAMS: dict[str, Program] = {name: cells.get(name) for name in cells.names()} | ODD
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}

# What torch says of itself when forward-mode differentiation is first used.
TORCH_SCRIPTS = "ignore:`torch.jit.script` is deprecated:DeprecationWarning"

# Batch, time, input, hidden: single ones, odd ones, and those at the ends of a vector register.
SHAPES = [
    (1, 1, 1, 1), (1, 17, 3, 3), (2, 2, 33, 17), (5, 17, 1, 64),
    (2, 17, 33, 65), (5, 1, 3, 65), (5, 2, 33, 3), (1, 2, 3, 64),
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """The arguments of a scan."""

    program: Program
    x: Tensor
    states: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    lengths: Tensor | None = None
    reset: Tensor | None = None
    elapsed: Tensor | None = None

    @property
    def differentiable(self) -> list[Tensor]:
        return [self.x, *self.states, *self.parameters] + ([] if self.elapsed is None else [self.elapsed])

    def with_leaves(self) -> Problem:
        """The same values in tensors of their own that require gradients."""

        def leaf(value: Tensor) -> Tensor:
            return value.detach().clone().requires_grad_()

        return replace(
            self,
            x=leaf(self.x),
            states=tuple(leaf(s) for s in self.states),
            parameters=tuple(leaf(p) for p in self.parameters),
            elapsed=None if self.elapsed is None else leaf(self.elapsed),
        )

    def rows(self) -> dict[str, Any]:
        return {"lengths": self.lengths, "reset": self.reset, "elapsed": self.elapsed}


def sizes(program: Program, input_size: int, hidden_size: int) -> dict[str, int]:
    """Every width in columns; those that a program names are about half as wide as its hidden one."""
    others = {name: hidden_size // 2 + 1 + k for k, name in enumerate(sorted(program.width_names))}
    # two gates side by side
    return {"input": input_size, "hidden": hidden_size, **others, "pair": 2 * hidden_size, "seen": 2}


def make(
    program: Program,
    shape: tuple[int, int, int, int] = (3, 5, 4, 6),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    lengths: bool = False,
    reset: bool = False,
) -> Problem:
    """A random problem of (batch, time, input, hidden); lengths hold 0 and the full time if there are rows enough."""
    batch, time, input_size, hidden_size = shape
    g = torch.Generator().manual_seed(seed)
    widths = sizes(program, input_size, hidden_size)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def values(spec: ParameterSpec) -> Tensor:
        drawn = normal(*spec.shape(widths)) * 0.6 / max(1, spec.shape(widths)[-1]) ** 0.5
        return drawn if spec.density == 1 else drawn * (torch.rand(drawn.shape, generator=g) < spec.density)

    row_lengths = torch.randint(0, time + 1, (batch,), generator=g)
    if batch > 2:
        row_lengths[0], row_lengths[-1] = 0, time
    problem = Problem(
        program,
        normal(batch, time, input_size),
        tuple(_state(s, normal(batch, s.columns(widths))) for s in program.states),
        tuple(values(spec) for spec in program.parameters),
        row_lengths if lengths else None,
        torch.rand(batch, time, generator=g) < 0.25 if reset else None,
        torch.rand(batch, time, generator=g, dtype=torch.float64) + 0.1 if program.uses_elapsed else None,
    )
    return converted(problem, dtype)


def on_a_grid(problem: Problem) -> Problem:
    """The same problem with every value rounded to halves, so that sums often tie."""

    def rounded(value: Tensor) -> Tensor:
        return (value * 2).round() / 2

    states, parameters = (tuple(rounded(v) for v in values) for values in (problem.states, problem.parameters))
    return replace(problem, x=rounded(problem.x), states=states, parameters=parameters)


def _state(spec: StateSpec, drawn: Tensor) -> Tensor:
    """A value that a state can have, out of one drawn from a normal distribution."""
    if spec.role in ("seed", "steps"):
        return (drawn.abs() * 1e6).round()
    if spec.role in ("begin", "started"):
        return torch.where(drawn > 0, drawn.abs().ceil(), spec.initial)
    return drawn * 0.5 + spec.initial


def converted(problem: Problem, dtype: torch.dtype) -> Problem:
    return replace(
        problem,
        x=problem.x.to(dtype),
        states=tuple(s.to(dtype) for s in problem.states),
        parameters=tuple(p.to(dtype) for p in problem.parameters),
        elapsed=None if problem.elapsed is None else problem.elapsed.to(dtype),
    )


def run(scan: Callable[..., Any], problem: Problem) -> dict[str, Tensor]:
    """Outputs, final states, and the gradient of every argument through all of them."""
    p = problem.with_leaves()
    y, final = scan(p.program, p.x, p.states, p.parameters, **p.rows())
    g = torch.Generator().manual_seed(1)
    drawn = [(r, torch.randn(r.shape, generator=g, dtype=torch.float64).to(r.dtype)) for r in (y, *final)]
    results, cotangents = zip(*((r, c) for r, c in drawn if r.requires_grad), strict=True)
    gradients = torch.autograd.grad(results, p.differentiable, cotangents, allow_unused=True, materialize_grads=True)
    found = {"y": y.detach()} | {f"final {k}": s.detach() for k, s in enumerate(final)}
    return found | {f"gradient {k}": g for k, g in enumerate(gradients)}


def run_reference(problem: Problem) -> dict[str, Tensor]:
    return run(reference.scan, problem)


def check_close(got: dict[str, Tensor], expected: dict[str, Tensor], where: object = "") -> None:
    """Every value within the tolerance of its dtype, relative to the largest one."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].shape == value.shape, (
            f"{where} {name}: {tuple(got[name].shape)}, expected {tuple(value.shape)}"
        )
        if value.numel():
            limit = TOLERANCE[value.dtype] * max(1.0, value.abs().max().item())
            error = (got[name] - value).abs().max().item()
            assert error <= limit, f"{where} {name}: off by {error:.3g}, at most {limit:.3g}"


def check_equal(got: dict[str, Tensor], expected: dict[str, Tensor], where: object = "") -> None:
    """Every value to the last bit."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), f"{where} {name} differs"
