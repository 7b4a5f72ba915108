"""The benchmark that trains the language model on recurra and on torch.nn side by side, in tiny sizes."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from house import ROOT, needs_source_tree
from recurra.bench import results
from recurra.data import Vocabulary
from recurra.learn import Settings
from recurra.tasks import LanguageModel

pytestmark = needs_source_tree
if not (ROOT / "benchmarks").exists():
    pytest.skip("the benchmarks are in the source tree only", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import divergence  # noqa: E402 - lies in the source tree
import language_model  # noqa: E402
from contender import RECURRA, TORCH, Report, contend  # noqa: E402
from side_by_side_report import PAGE  # noqa: E402
from step_parts import PARTS  # noqa: E402
from torch_layers import TorchLayer, on_torch  # noqa: E402

TEXT = "the cat sat on the mat and the dog sat on the log.\n" * 40
TINY = {"hidden": 7, "embedding": 5, "batch": 3, "window": 9, "threads": 1, "validations": 2, "validation_tokens": 100}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small(cell: str, layers: int) -> LanguageModel:
    torch.manual_seed(1)
    vocabulary = Vocabulary.build([TEXT], "char", size=100)
    return LanguageModel.build(vocabulary, cell=cell, hidden=7, layers=layers, embedding=5, dropout=0.3).double()


def length_of_gradients(model: LanguageModel) -> float:
    return sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_same_model_on_torch(cell: str, layers: int):
    ours = small(cell, layers)
    theirs = on_torch(ours)
    tokens, targets = torch.randint(1, 15, (2, 3, 11))
    reset = torch.rand(3, 11) < 0.2
    assert reset[:, 1:].any()
    found = []
    for model in (ours, theirs):
        torch.manual_seed(2)
        nats, state = model.loss(tokens, targets, None, reset)
        after, _ = model.loss(tokens, targets, state, None)
        (nats + after).backward()
        found.append((nats, after, model.embedding.weight.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    # clipping shortens both by the same: no bias counts twice
    assert length_of_gradients(ours) == pytest.approx(length_of_gradients(theirs))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_layer_of_torch_steps_as_it_runs(cell: str):
    model = on_torch(small(cell, 1)).eval()
    tokens = torch.randint(1, 15, (2, 6))
    whole, _ = model(tokens)
    state = model.initial_state(2)
    for t in range(6):
        scores, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(scores, whole[:, t])
    layer = next(one for one in model.modules() if isinstance(one, TorchLayer))
    assert len(layer.initial_state(2)) == (2 if cell == "lstm" else 1)


class Unhindered:
    """A connection whose other end always says go."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, what: object) -> None:
        self.sent.append(what)

    def recv(self) -> str:
        return "go"


def trained(who: str, settings: Settings, folder: Path) -> list[Any]:
    connection = Unhindered()
    contend(who, cast(Any, connection), settings, folder / who, 3, double=True)
    return connection.sent


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_learn_the_same(tmp_path: Path, cell: str):
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    settings = Settings.create({**TINY, "data": str(tmp_path / "text"), "steps": 8, "cell": cell})
    sent = {who: trained(who, settings, tmp_path) for who in (RECURRA, TORCH)}
    reports = {who: cast(Report, turns[-1]) for who, turns in sent.items()}
    ours, theirs = reports[RECURRA], reports[TORCH]
    assert [len(turns) for turns in sent.values()] == [5, 5], "ready, turns of 3, 3 and 2 updates, the report"
    assert len(ours.losses) == len(ours.seconds) == 8
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-10)
    assert ours.losses[0] != ours.losses[-1]
    assert ours.validations.keys() == theirs.validations.keys() == {4, 8}
    assert list(ours.validations.values()) == pytest.approx(list(theirs.validations.values()), abs=1e-10)
    for who, report in reports.items():
        assert report.seconds == sorted(report.seconds)
        assert set(report.parts) == set(PARTS)
        assert all(report.parts[part] > 0 for part in PARTS), who
        assert sum(report.parts.values()) == pytest.approx(sum(sent[who][:-1]), rel=0.2)
    assert sum(ours.engine.values()) > 0
    assert not theirs.engine


def test_the_command_writes_what_the_table_takes_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / PAGE
    page.write_text("before\n<!-- side-by-side:start -->\nold\n<!-- side-by-side:end -->\nafter\n", encoding="utf-8")
    settings = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    arguments = [str(tmp_path / "text"), "--steps", "4", "--turn", "2", "--cells", "gru", "--out", str(tmp_path)]
    language_model.main([*arguments, *settings])
    found = json.loads((tmp_path / results.SIDE_BY_SIDE_FILE).read_text(encoding="utf-8"))["gru"]
    assert found["largest_loss_difference"] < 1e-4
    assert 0 < found["disturbed_loss_difference"] < 1e-4
    assert found["milliseconds"].keys() == {RECURRA, TORCH}
    assert found["updates"] == 4
    assert found["ratio"] > 0
    gru, lstm, _ = results.language_model_rows(tmp_path)
    assert gru["value"] == found["ratio"]
    assert lstm["value"] is None
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert found["command"] in text
    assert found["machine"] in text
    assert all(f"| {part} |" in text for part in PARTS)
    assert "of 4" not in capsys.readouterr().out
    assert (tmp_path / "docs" / "language-model-gru.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_rounding_is_followed_through_training(tmp_path: Path, cell: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    settings = Settings.create({**TINY, "data": str(tmp_path / "text"), "steps": 6, "cell": cell, "layers": 2})
    rows = divergence.diverge(settings, double=True, every=4)
    assert [row["update"] for row in rows if "update" in row] == [0, 4, 5]
    assert len(capsys.readouterr().out.splitlines()) == 3
    for row in rows:
        assert row["recurra, loss"] < 1e-12
        assert row["disturbed, loss"] < 1e-12
    last = rows[-1]
    assert last["gradients"] < 1e-12
    assert last["recurra, weights"] < 1e-12
    assert 0 < last["disturbed, weights"] < 1e-12


def test_a_wrong_gradient_is_told_from_rounding(monkeypatch: pytest.MonkeyPatch):
    def wrong(model: LanguageModel) -> LanguageModel:
        made = on_torch(model)
        made.embedding.weight.register_hook(lambda gradient: gradient * 1.001)
        return made

    model = small("lstm", 1)
    tokens, targets = torch.randint(1, 15, (2, 3, 11))
    batch = tokens, targets, torch.rand(3, 11) < 0.2
    assert divergence.gradient_difference(model, batch, 0, None) < 1e-12
    monkeypatch.setattr(divergence, "on_torch", wrong)
    assert divergence.gradient_difference(model, batch, 0, None) == pytest.approx(1e-3, rel=0.01)
