"""The parts of a run: its budget, its log, its progress, its settings."""

import io
import itertools
import math
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from recurra.errors import ArgumentError, FormatError
from recurra.learn import Settings, module
from recurra.learn.budget import Budget, learning_rate_factor
from recurra.learn.callbacks import Interrupts
from recurra.learn.language_model import train
from recurra.learn.log import CsvLog, read_log
from recurra.learn.plot import plot_losses
from recurra.learn.settings import parse_assignments, read_settings
from recurra.ops import emulated_bfloat16
from recurra.tasks import load


def test_the_learning_rate_rises_then_falls():
    factors = [learning_rate_factor(i / 100, warm_up=0.1, decay="cosine") for i in range(101)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert max(factors) == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert learning_rate_factor(0.9, warm_up=0.1, decay="none") == 1
    assert learning_rate_factor(0.0, warm_up=0.0, decay="cosine") == 1


def test_a_budget_ends_by_what_is_used_up_first():
    budget = Budget(steps=10, seconds=1000.0)
    assert budget.fraction(0) == 0
    assert math.isinf(budget.seconds_left(0))
    budget.spent_before = 100.0
    assert budget.fraction(1) == pytest.approx(0.1)
    assert budget.fraction(5) == 0.5
    assert budget.seconds_left(5) == pytest.approx(100.0)
    assert (budget.is_over(9), budget.is_over(10)) == (False, True)
    assert budget.which(10) == "steps"
    budget.spent_before = 1000.0
    assert budget.is_over(3)
    assert budget.which(3) == "time"
    budget.begin()
    time.sleep(0.01)
    assert budget.spent > 1000.0


def test_settings_come_back_from_their_file(tmp_path: Path):
    settings = Settings.create({"data": 'a "b"\\\n猫', "minutes": "0.5", "tied": "true", "learning_rate": 1e-5})
    (tmp_path / "settings.toml").write_text(settings.to_toml(), encoding="utf-8")
    assert Settings.create(read_settings(tmp_path / "settings.toml")) == settings
    (tmp_path / "settings.toml").write_text("cell = gru", encoding="utf-8")
    with pytest.raises(FormatError, match="not a settings file"):
        read_settings(tmp_path / "settings.toml")


def test_the_time_limit():
    assert Settings().limit_seconds == 180
    assert Settings(steps=5).limit_seconds is None
    assert Settings(minutes=2).limit_seconds == Settings(minutes=2, steps=5).limit_seconds == 120


def test_assignments():
    assert parse_assignments(["a=1", "b = x=y"]) == {"a": "1", "b": "x=y"}
    for bad in ("a", "=1"):
        with pytest.raises(ArgumentError):
            parse_assignments([bad])


def test_a_resumed_log_forgets_what_is_written_again(tmp_path: Path):
    log = CsvLog(tmp_path / "log.csv", after=0)
    for step in (5, 10, 15):
        log.log_metrics({"train_loss": 1 / step, "epoch": 0}, step)
    log.log_metrics({"hp_metric": 1.0}, 15)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [5, 10, 15]
    CsvLog(tmp_path / "log.csv", after=10).log_metrics({"validation_loss": 2.0}, 15)
    assert read_log(tmp_path / "log.csv")[1:] == [
        {"step": 10.0, "train_loss": 0.1},
        {"step": 15.0, "validation_loss": 2.0},
    ]
    assert read_log(tmp_path / "nowhere.csv") == []


def test_a_plot_of_nothing_is_a_plot(tmp_path: Path):
    plot_losses(tmp_path / "nowhere.csv", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_ctrl_c_asks_and_the_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.received
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_the_main_thread_asks_for_signals():
    before = signal.getsignal(signal.SIGINT)

    def enter() -> None:
        with Interrupts() as interrupts:
            assert not interrupts.received

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(tmp_path: Path, terminal, monkeypatch):
    from recurra.learn import progress

    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_UPDATES", 0.0)
    (tmp_path / "text").write_text("the cat sat on the mat. " * 100)
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100)
    chosen = {"data": str(tmp_path / "text"), "hidden": 8, "steps": 20, "log_every": 2, "threads": 1, "batch": 4}
    train(Settings.create(chosen), tmp_path / "run", console=console)
    text = written.getvalue()
    assert ("\x1b[" in text) == terminal
    assert ("\r" in text) == terminal
    for words in ("bits/char", "chars/s", "left", "validation", "the lowest so far"):
        assert words in text


def test_mixed_precision_trains_in_bfloat16_and_is_validated_in_float32(tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    common = {"data": str(text), "steps": 30, "hidden": 24, "batch": 4, "window": 10, "validations": 2}
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = Settings.create({**common, "precision": precision})
        said = io.StringIO()
        with emulated_bfloat16():
            train(settings, tmp_path / precision, console=Console(file=said))
        assert "\nprecision" not in said.getvalue()
        rows = read_log(tmp_path / precision / "log.csv")
        losses[precision] = [row["validation_loss"] for row in rows if "validation_loss" in row]
        # what was validated is what the saved model scores
        model = load(tmp_path / precision)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0]


def test_mixed_precision_says_why_it_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "float32_reason", lambda device, dtype: "a reason")
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    settings = Settings.create({"data": str(text), "steps": 2, "hidden": 8, "precision": "bfloat16"})
    said = io.StringIO()
    train(settings, tmp_path / "run", console=Console(file=said))
    assert "precision float32, for a reason" in said.getvalue()
