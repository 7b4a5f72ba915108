"""Mutants of the cells' programs, and law 14, which is to catch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import layers
import test_library_peers as library
import test_linear_cells as linear_cells
from mutants.common import Outcome, Test, check_baseline, differ, failures
from mutants.flips import flips
from paper_peers import peer_of
from recurra import cells
from recurra.ops import reference
from recurra.program import Program
from recurra.testing import check_laws
from recurra.testing.check import LAWS

KIND = "programs"
DRAWS, ROWS, STEPS = 10, 100, 20
"""The judge runs 1,000 random sequences, a hundred for each draw of the parameters."""

_OTHER_LAWS = {law.number: "only law 14 is asked" for law in LAWS}


@dataclass(frozen=True)
class Problem:
    """Sequences for a cell and its parameters, and what the right program makes of them."""

    x: Tensor
    states: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    elapsed: Tensor | None

    def run(self, program: Program) -> list[Tensor]:
        """Outputs and final states, from the reference."""
        with torch.no_grad():
            y, final = reference.scan(program, self.x, self.states, self.parameters, elapsed=self.elapsed)
        return [y, *final]

    def gradient(self, program: Program) -> list[Tensor]:
        """The gradient of x, from torch."""
        x = self.x.clone().requires_grad_()
        y, final = reference.scan(program, x, self.states, self.parameters, elapsed=self.elapsed)
        results = [v for v in (y, *final) if v.requires_grad]
        return list(torch.autograd.grad(results, x, [v.detach().cos() for v in results]))


class Judge:
    """Tells whether a mutant of a cell is another function, by the plain-torch reference alone."""

    def __init__(self, name: str) -> None:
        self.program = cells.get(name)
        self.problems = [self._draw(name, seed) for seed in range(DRAWS)]
        self.expected: list[list[Tensor]] = []

    def _draw(self, name: str, seed: int) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        layer = layers.of_cell(name).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                # of both signs
                parameter -= 0.8 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * (seed % 2)
        x = torch.randn(ROWS, STEPS, layer.input_size, generator=generator, dtype=torch.float64)
        elapsed = torch.rand(ROWS, STEPS, generator=generator, dtype=torch.float64) + 0.1
        return Problem(
            x * (1 + seed % 3),
            tuple(layer.initial_state(ROWS)),
            tuple(getattr(layer, spec.name).detach() for spec in self.program.parameters),
            elapsed if layer.uses_elapsed else None,
        )

    def changes(self, mutant: Program) -> bool:
        """Whether outputs or final states differ, and if not, the gradient."""
        for k, problem in enumerate(self.problems):
            if k == len(self.expected):
                self.expected.append(problem.run(self.program))
            if differ(problem.run(mutant), self.expected[k]):
                return True
        return any(differ(p.gradient(mutant), p.gradient(self.program)) for p in self.problems[:1])


@contextmanager
def standing_in(name: str, mutant: Program) -> Iterator[None]:
    """Within it, the registered cell has the mutant's equations."""
    cell = cells.find(name)
    right = cell.program
    cell.program = mutant
    try:
        yield
    finally:
        cell.program = right


def law_14(name: str) -> None:
    """As tests/test_laws.py asks it."""
    torch.manual_seed(0)
    layer = layers.of_cell(name)
    samples = 3 if name in layers.TRIED_MORE else 2
    check_laws(layer, peer=peer_of(name, layer), samples=samples, inapplicable=_OTHER_LAWS)


MORE: dict[str, list[Test]] = {
    "lif": [("test_library_peers.py", library.test_snntorch_has_the_recurrent_spiking_cell)],
    "spiking_lstm": [("test_library_peers.py", library.test_snntorch_has_the_spiking_lstm)],
    "cfc_pure": [("test_library_peers.py", lambda: library.test_ncps_has_the_closed_form_network("pure"))],
    "clockwork_rnn": [("test_linear_cells.py", linear_cells.test_the_clock_of_a_clockwork_starts_again)],
}
"""Tests of what law 14 does not reach: gradients that are chosen, and more steps than a law runs."""


def tests_of(name: str) -> list[Test]:
    """What is to catch a mutant of a cell."""
    return [("law 14", lambda: law_14(name)), *MORE.get(name, [])]


def subjects() -> list[str]:
    """The names of the cells."""
    return cells.names()


def try_subject(name: str, skip: int = 0, limit: int | None = None) -> Iterator[str | Outcome]:
    """Of each mutant of a cell first what it changes, then what became of it."""
    judge = Judge(name)
    with standing_in(name, replace(judge.program, name=f"{name}, no mutant")):
        check_baseline(tests_of(name), name)
    for what, mutant in flips(cells.get(name))[skip:limit]:
        yield what
        if not judge.changes(mutant):
            yield Outcome(KIND, name, what, "equivalent")
            continue
        with standing_in(name, mutant):
            by = failures(tests_of(name))
        yield Outcome(KIND, name, what, "caught" if by else "survived", by)
