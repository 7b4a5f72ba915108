"""docs/mutants.md: what was made, what was caught, and every mutant that was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recurra.bench.machine import describe_machine, describe_versions

Outcome = dict[str, Any]

TITLES = {"programs": "equations of cells", "rules": "differentiation rules", "opcodes": "engine"}

HEAD = """# Mutants, and who catches them

`make mutants` changes one operation at a time, asks plain torch whether the result is another function, and if it is,
expects the tests to fail. It wrote this page on {date}, in {minutes:.0f} minutes.

|  |  |
| --- | --- |
| processor | {processor}, {cores} cores, engine {isa} |
| versions | recurra {recurra}, python {python}, torch {torch}, numpy {numpy} |
| load | {load:.1f} processes before it began |

**{caught} of {other} mutants that are other functions were caught.** `make mutants` fails where less than 95 % of a
kind are caught.
"""

METHOD = """
## How

*Equivalent* mutants are the same function as far as the plain-torch reference tells on 1,000 random inputs; they are
not counted. No test takes part in that judgement. A mutant is caught when a test fails on it, or when the process dies.

**Equations.** Every change of one operation in the graphs of the {cells} cells: another operation in its place, an
operation left out, inputs or branches exchanged, another gate, another state or parameter of the same shape, a constant
negated or changed, a matrix transposed, gates or updates of states exchanged, a state that is not updated, another
output. The judge runs 1,000 sequences of 20 steps, with ten draws of the parameters, and compares outputs, final states
and the gradient of x. The test is law 14 as the suite runs it: the engine on the mutant against the numpy step that was
written from the paper. Laws 1 and 2 could not tell, for they compare a program with itself. {more} cells have a further
test, of what law 14 does not reach (chosen gradients, the sign of a parameter, more steps): it caught {further}.

**Rules.** Each rule of the table of operations, and those for products, gates, reductions, norms and sums, wherever it
asks for an operation or hands over a cotangent: another operation, an input for a result, a cotangent negated, doubled,
left out or exchanged. The judge runs the adjoint in plain torch against torch's autograd on 1,000 rows, ties and kinks
among them. The tests are the table's own (`tests/test_operations.py`), and the engine against the reference on the
smallest cells that need the rule (`tests/test_ops.py`). Of {rules} that were caught, {table} were caught by the first
alone, {alone} by the second alone, {both} by both.

**Engine.** `tools/mutants/schemata.py` writes all mutants into a copy of `csrc`, which is built once; a number chooses
which one is awake. They are in the arithmetic of every opcode (`pointwise.hpp`) and of the functions behind them
(`math.hpp`), expression by expression; and, by hand (`tools/mutants/edits.py`), in that of products, reductions, norms,
outer products and sums of rows, in resets and final cotangents. The judge holds every opcode, and programs with every
phase, against torch in both precisions. The tests are those of `tests/test_engine.py`, `tests/test_mix.py` and
`tests/test_ops.py`. Not changed are addresses, the sharing of work among threads, the decoder of plans and the tables
of constants. What stands in branches for other instruction sets than this processor's counts as equivalent. The C++
tests of the kernels (`make kernels`) take no part.
"""


@dataclass(frozen=True)
class Count:
    """How many mutants there are of a kind, and what became of them."""

    made: int
    equivalent: int
    caught: int
    survived: int

    @property
    def other(self) -> int:
        return self.caught + self.survived

    @property
    def share(self) -> float:
        return self.caught / self.other if self.other else 1.0

    @property
    def sentence(self) -> str:
        return f"{self.made} made, {self.equivalent} equivalent, {self.caught} of {self.other} caught"

    @property
    def cells(self) -> list[str]:
        share = f"{100 * self.share:.1f} %" if self.other else "-"
        return [str(self.made), str(self.equivalent), str(self.caught), str(self.survived), share]


def _counted(outcomes: Iterable[Outcome]) -> Count:
    fates = Counter(o["fate"] for o in outcomes if o["fate"] != "impossible")
    return Count(fates.total(), fates["equivalent"], fates["caught"], fates["survived"])


def count(outcomes: Sequence[Outcome]) -> dict[str, Count]:
    """By kind."""
    kinds = [kind for kind in TITLES if any(o["kind"] == kind for o in outcomes)]
    return {kind: _counted(o for o in outcomes if o["kind"] == kind) for kind in kinds}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


COLUMNS = ("made", "equivalent", "caught", "survived", "share caught")


def text(outcomes: Sequence[Outcome], seconds: float, load: float) -> str:
    """The page."""
    counts, machine, versions = count(outcomes), describe_machine(), describe_versions()
    everything = _counted(outcomes)
    by = Counter(o["by"] for o in outcomes if o["kind"] == "rules" and o["fate"] == "caught")
    both = "test_operations.py, test_ops.py"
    head = HEAD.format(
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", minutes=max(1.0, seconds / 60), load=load,
        caught=f"{everything.caught:,}", other=f"{everything.other:,}", **machine, **versions,
    )  # fmt: skip
    rows = [[TITLES[kind], *one.cells] for kind, one in counts.items()]
    programs = [o for o in outcomes if o["kind"] == "programs"]
    names = sorted({o["subject"] for o in programs})
    method = METHOD.format(
        cells=len(names),
        more=len({o["subject"] for o in programs if o["by"] not in ("", "law 14")}),
        further=sum(o["by"] not in ("", "law 14") for o in programs),
        rules=by.total(),
        alone=by["test_ops.py"],
        both=by[both],
        table=by["test_operations.py"],
    )
    of_cells = [[name, *_counted(o for o in programs if o["subject"] == name).cells] for name in names]
    return "\n".join(
        [
            head,
            *_table(("", *COLUMNS), rows),
            "",
            "## Survivors",
            "",
            *_survivors(outcomes),
            method,
            "## By cell",
            "",
            *_table(("cell", *COLUMNS), of_cells),
            "",
        ]
    )


def _survivors(outcomes: Sequence[Outcome]) -> list[str]:
    found = [o for o in outcomes if o["fate"] == "survived"]
    if not found:
        return ["None."]
    return [f"- {TITLES[o['kind']]}, {o['subject']}: {_code(o)}" for o in found]


def _code(outcome: Outcome) -> str:
    """What was changed; the C++ of the engine as code."""
    return f"`{outcome['change']}`" if outcome["kind"] == "opcodes" else outcome["change"]


def write(path: Path, outcomes: Sequence[Outcome], seconds: float, load: float) -> None:
    """Writes the page."""
    path.write_text(text(outcomes, seconds, load), encoding="utf-8")
