"""The suite can fail: a few of the mutants of `make mutants`, which docs/mutants.md has all of, are noticed."""

import sys
from collections.abc import Iterable
from dataclasses import replace

import pytest

from house import ROOT, needs_source_tree
from problems import PROGRAMS, check_close, make, run, run_reference
from recurra import cells, ops
from recurra.program.operations import TABLE

if not (ROOT / "tools" / "mutants").exists():
    pytest.skip("the mutants are in the source tree only", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))

from mutants import page, programs, rules, schemata
from mutants.common import Outcome, failures
from mutants.flips import flips

pytestmark = [needs_source_tree, pytest.mark.skipif(not ops.backends().engine, reason="mutates what the engine runs")]


def fates(found: Iterable[str | Outcome]) -> dict[str, str]:
    """What became of each mutant."""
    return {outcome.change: outcome.fate for outcome in found if isinstance(outcome, Outcome)}


# equations


def test_the_right_equations_are_no_mutant():
    assert not programs.Judge("gru").changes(cells.get("gru"))
    assert not failures(programs.tests_of("gru"))


@pytest.mark.parametrize("name", ["lstm", "slstm", "lif"])
def test_wrong_equations_are_caught(name: str):
    every = len(flips(cells.get(name)))
    found = fates(programs.try_subject(name, skip=every - 6))
    assert len(found) == 6
    assert {*found.values()} == {"caught"}


def test_flips_are_one_change_each():
    found = dict(flips(cells.get("mingru")))
    assert "add -> sub: `h' = (1 - z) * h - z * candidate`" in found
    assert any(what.startswith("gates 0 and 1 of a group exchanged") for what in found)
    assert "h not updated: `h' = h`" in found
    assert len({program.json for program in found.values()}) == len(found)
    assert all(program.name.startswith("mingru, mutant ") for program in found.values())


def test_a_mutant_that_is_the_same_function_does_not_count():
    # of the spike that is reset by, through which no gradient flows
    mutant = next(p for what, p in flips(cells.get("lif")) if what == "the slope of spike doubled")
    assert not programs.Judge("lif").changes(mutant)


# derivative rules


@pytest.mark.parametrize("rule", ["mul", "sigmoid", "where", "gate", "matmul", "normalise", "max"])
def test_wrong_derivatives_are_caught(rule: str):
    found = fates(rules.try_subject(rule, limit=6))
    assert {"caught"} <= {*found.values()} <= {"caught", "equivalent", "impossible"}


def test_the_right_rules_are_back_afterwards():
    before = TABLE["mul"]
    assert len(fates(rules.try_subject("mul", limit=1))) == 1
    assert TABLE["mul"] is before
    assert not any(probe.changes() for probe in rules.probes_of("matmul"))


# the engine: `make mutants` builds one that holds all its mutants; here the plan asks for the wrong opcode


@pytest.mark.parametrize(
    ("operation", "other"),
    [("add", "sub"), ("mul", "add"), ("sigmoid", "tanh"), ("tanh_gradient", "sigmoid_gradient"), ("one_minus", "neg")],
)
def test_a_wrong_opcode_is_caught(operation: str, other: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TABLE, operation, replace(TABLE[operation], opcode=TABLE[other].opcode))
    # under a name of its own: the engine keeps what it compiled
    problem = make(replace(PROGRAMS["gru"], name=f"gru without {operation}"), (2, 3, 3, 5))
    with pytest.raises(AssertionError, match="off by"):
        check_close(run(ops.scan, problem), run_reference(problem))


def test_every_opcode_has_mutants():
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "csrc").glob("*.?pp")}
    written, edits = schemata.rewrite(sources)
    assert [edit.number for edit in edits] == [*range(1, len(edits) + 1)]
    places = {edit.place for edit in edits}
    assert {f"opcode {row.name}" for row in TABLE.values() if row.name not in ("spike", "stop_gradient")} <= places
    assert "{ if (recurra_mutant == " in written["pointwise.hpp"]
    assert not any("recurra_mutant" in text for text in sources.values())


def test_variants_of_an_expression():
    found = dict(schemata.variants("select(x < zero, -x, T(1))"))
    assert found == {
        "'<' -> '>'": "select(x > zero, -x, T(1))",
        "'<' -> '<='": "select(x <= zero, -x, T(1))",
        "'-' left out": "select(x < zero, x, T(1))",
        "1 -> 2": "select(x < zero, -x, T(2))",
        "the branches of select exchanged": "select(x < zero, T(1), -x)",
    }


# the page


def test_the_page_counts_and_names_survivors():
    fates = ["caught", "caught", "survived", "equivalent", "impossible"]
    outcomes = [Outcome("rules", "mul", f"change {k}", fate).as_dict() for k, fate in enumerate(fates)]
    (count,) = page.count(outcomes).values()
    assert (count.made, count.other, round(count.share, 3)) == (4, 3, 0.667)
    text = page.text(outcomes, seconds=90, load=0.5)
    assert "**2 of 3 mutants" in text
    assert "- differentiation rules, mul: change 2" in text
