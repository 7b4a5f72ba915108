"""The command line: one command from text to model, exact resumption, and bad input in one line with exit code 2."""

import ast
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import recurra
from house import PACKAGE, needs_source_tree, python_files
from recurra.checkpoint import read_weights
from recurra.cli import OUTPUT_CLOSED, main
from recurra.cli.settings import FLAGS
from recurra.learn import Settings
from recurra.learn.callbacks import AtomicFiles, Limits

TEXT = "the cat sat on the mat and the dog sat on the log.\n" * 60
TINY = (
    *("--hidden", "8", "--threads", "1", "--set", "embedding=4", "--set", "batch=4", "--set", "window=10"),
    *("--set", "log_every=5", "--set", "validations=4"),
)
WEIGHTS = "weights.safetensors"

Outcome = tuple[int, str, str]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command in this process; exit code, standard output, standard error."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def train(cli, text: Path, out: Path, *more: object) -> str:
    """Train a tiny model; what was printed."""
    code, printed, problems = cli("train", "language-model", "--data", text, "--out", out, *TINY, *more)
    assert (code, problems) == (0, "")
    return printed


def in_another_process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "recurra.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_from_text_to_model(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    printed = train(cli, text, run, "--steps", 60)
    assert "3,060 characters" in printed
    assert "bits/char" in printed
    assert "\x1b" not in printed
    assert "\r" not in printed
    files = {path.name for path in run.iterdir()} - {"tensorboard"}
    assert files == {"model.json", WEIGHTS, "settings.toml", "run.json", "trainer.ckpt", "log.csv", "loss.png"}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    losses = [float(row["train_loss"]) for row in log_of(run) if row["train_loss"]]
    assert len(losses) == 12
    assert losses[-1] < 0.95 * losses[0]
    assert [int(row["step"]) for row in log_of(run) if row["validation_loss"]] == [15, 30, 45, 60]

    code, scores, _ = cli("evaluate", run)
    assert code == 0
    assert [line.split()[:4] for line in scores.splitlines()] == [
        ["validation", "153", "characters", "predicted"],
        ["test", "153", "characters", "predicted"],
    ]
    assert "nats/char" in scores
    code, whole, _ = cli("evaluate", run, "--data", text)
    assert f"{text}  3,060 characters predicted" in whole

    code, written, _ = cli("generate", run, "--prompt", "the ", "--length", 30, "--seed", 3)
    assert code == 0
    assert written.startswith("the ")
    assert len(written) == len("the ") + 30 + 1
    assert cli("generate", run, "--prompt", "the ", "--length", 30, "--seed", 3)[1] == written
    assert cli("generate", run, "--prompt", "the ", "--length", 30, "--seed", 4)[1] != written

    code, about, _ = cli("info", run)
    assert "gru" in about
    assert "60 updates" in about
    # as a killed run leaves it
    noted = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**noted, "ended": None, "steps": 0, "seconds": 0.0}), encoding="utf-8")
    assert "not yet (60 updates" in cli("info", run)[1]
    assert recurra.load(run).vocabulary.unit == "char"


def test_the_validation_while_training_is_the_one_of_evaluate(cli, text: Path, tmp_path: Path):
    train(cli, text, tmp_path / "run", "--steps", 40)
    kept = float(read_weights(tmp_path / "run")[1]["validation_loss"])
    scores = cli("evaluate", tmp_path / "run")[1].split()
    assert float(scores[4]) == pytest.approx(kept, abs=1e-4)


def test_the_same_seed_gives_the_same_bits(cli, text: Path, tmp_path: Path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(cli, text, tmp_path / name, "--steps", 30, "--seed", seed, "--layers", 2)
    a, b, c = (read_weights(tmp_path / name)[0] for name in "abc")
    assert all((a[name] == b[name]).all() for name in a)
    assert not all((a[name] == c[name]).all() for name in a)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "b")


def test_a_killed_run_goes_on_exactly(cli, text: Path, tmp_path: Path):
    steps, killed = ("--steps", 300, "--layers", 2), tmp_path / "killed"
    train(cli, text, tmp_path / "whole", *steps)
    often = ("--set", "save_every=0")
    process = in_another_process("train", "language-model", "--data", text, "--out", killed, *TINY, *steps, *often)
    wait_for(lambda: (killed / "log.csv").exists() and len(log_of(killed)) > 8, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    code, printed, problems = cli("train", "language-model", "--resume", killed)
    assert (code, problems) == (0, "")
    assert "all its updates done" in printed
    (whole, about), (resumed, about_resumed) = (read_weights(tmp_path / name) for name in ("whole", "killed"))
    assert about == about_resumed
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (killed / WEIGHTS).read_bytes()
    assert log_of(tmp_path / "whole") == log_of(killed)


def test_a_run_that_saved_nothing_says_how_to_begin_again(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 20)
    (run / "trainer.ckpt").unlink()
    code, _, problems = cli("train", "language-model", "--resume", run)
    assert (code, problems.count("\n")) == (2, 1)
    assert "holds no trainer.ckpt" in problems
    again = tmp_path / "again"
    assert f"--config {run}/settings.toml --out FOLDER" in problems
    assert cli("train", "language-model", "--config", run / "settings.toml", "--out", again)[0] == 0
    assert (run / WEIGHTS).read_bytes() == (again / WEIGHTS).read_bytes()


def test_an_ended_run_is_left_as_it_is_and_can_be_made_longer(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 20)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for more in ((), ("--steps", 20), ("--set", "patience=9")):
        code, printed, _ = cli("train", "language-model", "--resume", run, *more)
        assert (code, printed.count("\n")) == (0, 1)
        assert "is finished, all its updates done (20 updates" in printed
        assert "--steps N beside --resume" in printed
        assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert cli("train", "language-model", "--resume", run, "--steps", 40)[0] == 0
    assert "steps = 40" in (run / "settings.toml").read_text()
    # every step once: the validation at the old end is not repeated
    assert [int(row["step"]) for row in log_of(run) if row["train_loss"]] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [int(row["step"]) for row in log_of(run) if row["validation_loss"]] == [5, 10, 15, 20, 30, 40]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_when_a_validation_is_due_saves_too(cli, text: Path, tmp_path: Path, number, monkeypatch):
    run, whole, steps = tmp_path / "run", tmp_path / "whole", ("--steps", 60)
    arguments = ("train", "language-model", "--data", text, "--out", run, *TINY, *steps)
    train(cli, text, whole, *steps)
    on_train_batch_end = Limits.on_train_batch_end

    def interrupted(self, trainer, *rest):
        if trainer.global_step == 30:
            signal.raise_signal(number)
        on_train_batch_end(self, trainer, *rest)

    with monkeypatch.context() as context:
        context.setattr(Limits, "on_train_batch_end", interrupted)
        assert cli(*arguments)[0] == 130
    reached = AtomicFiles().load_checkpoint(run / "trainer.ckpt")["global_step"]
    assert 30 <= reached < 33
    losses = {row["step"]: float(row["validation_loss"]) for row in log_of(run) if row["validation_loss"]}
    best = min(losses, key=lambda step: losses[step])
    assert int(best) == reached, "the validation after the interrupt is the best one, as the test wants it"
    assert read_weights(run)[1] == {"step": best, "validation_loss": repr(losses[best])}
    code, _, problems = cli("train", "language-model", "--resume", run, "--steps", 20)
    assert (code, problems.count("\n")) == (2, 1)
    assert f"expected {reached} or more" in problems
    assert cli("train", "language-model", "--resume", run)[0] == 0
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_second_ctrl_c_ends_at_once_in_one_line(cli, text: Path, tmp_path: Path, monkeypatch):
    def impatient(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Limits, "on_train_batch_end", impatient)
    before = signal.getsignal(signal.SIGINT)
    code, _, problems = cli("train", "language-model", "--data", text, "--out", tmp_path / "run", *TINY, "--steps", 9)
    assert (code, problems) == (130, "recurra: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("where", ["recurra.cli.app", "recurra.cli.training"])
def test_ctrl_c_while_modules_load_is_one_line(where: str):
    code = (
        "import builtins, recurra.cli; load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        f"    if name == {where!r}: raise KeyboardInterrupt\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "recurra.cli.main(['train', 'language-model'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "recurra: interrupted\n")


def test_a_damaged_log_does_not_block_a_run(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 20)
    lines = (run / "log.csv").read_bytes().splitlines(keepends=True)
    (run / "log.csv").write_bytes(b"".join([*lines[:2], b"\xff\0,1\r\n", b"x,1,2,3,4\r\n", *lines[2:], lines[-1][:-4]]))
    code, printed, problems = cli("train", "language-model", "--resume", run, "--steps", 40)
    assert (code, problems) == (0, "")
    assert "3 damaged rows dropped" in printed
    assert [int(row["step"]) for row in log_of(run) if row["train_loss"]] == [5, 10, 15, 20, 25, 30, 35, 40]


def test_a_path_that_is_not_utf_8_is_one_line_and_code_2(cli, text: Path, tmp_path: Path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.write_text(TEXT)
    for data, out in ((odd, tmp_path / "run"), (text, odd.with_name(odd.name + "run"))):
        code, _, problems = cli("train", "language-model", "--data", data, "--out", out, *TINY, "--steps", 2)
        assert (code, problems.count("\n")) == (2, 1)
        assert "not UTF-8" in problems
        assert not out.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_ctrl_c_saves_and_the_run_goes_on(cli, text: Path, tmp_path: Path, number, code):
    run = tmp_path / "run"
    steps = ("--steps", 300)
    process = in_another_process("train", "language-model", "--data", text, "--out", run, *TINY, *steps)
    wait_for(lambda: (run / "log.csv").exists() and len(log_of(run)) > 8, process)
    process.send_signal(number)
    printed, problems = process.communicate(timeout=60)
    assert process.returncode == code, problems
    assert "Traceback" not in problems
    assert f"--resume {run}" in printed
    assert (run / "trainer.ckpt").exists()
    assert cli("train", "language-model", "--resume", run)[0] == 0
    train(cli, text, tmp_path / "whole", *steps)
    (whole, _), (resumed, _) = (read_weights(path) for path in (tmp_path / "whole", run))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_a_time_limit_is_kept(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    began = time.monotonic()
    printed = train(cli, text, run, "--minutes", 0.02)
    assert "its time is up" in printed
    assert 1.0 < time.monotonic() - began < 30
    rates = [float(row["learning_rate"]) for row in log_of(run) if row["learning_rate"]]
    assert max(rates) > 0.003
    assert rates[-1] < 0.0005


def test_training_stops_early_when_validation_gets_worse(cli, tmp_path: Path):
    text = tmp_path / "text"
    # Half "ab", half "ba": what is learnt on the first part is wrong on the second.
    text.write_text("ab" * 500 + "ba?" * 300)
    run = tmp_path / "run"
    printed = train(
        cli, text, run, "--split", "50/50", "--steps", 4000, "--set", "validations=400", "--set", "patience=3"
    )
    assert "fell no more" in printed
    assert max(int(row["step"]) for row in log_of(run)) < 3000
    about = read_weights(run)[1]
    losses = {row["step"]: float(row["validation_loss"]) for row in log_of(run) if row["validation_loss"]}
    assert float(about["validation_loss"]) == min(losses.values()) == losses[about["step"]]
    ended = max(int(row["step"]) for row in log_of(run))
    code, again, _ = cli("train", "language-model", "--resume", run, "--steps", 5000)
    assert (code, again.count("\n")) == (0, 1)
    assert "is finished, the validation loss fell no more" in again
    assert "--set patience=N" in again
    code, again, _ = cli("train", "language-model", "--resume", run, "--set", "patience=5")
    assert (code, "fell no more" in again) == (0, True)
    assert max(int(row["step"]) for row in log_of(run)) == ended + 20


def test_a_run_without_held_out_text(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 20, "--split", "100/0")
    assert read_weights(run)[1] == {"step": "20"}
    code, _, problems = cli("evaluate", run)
    assert code == 2
    assert "nothing of the text was held out" in problems


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_optimizers_learn_too(cli, text: Path, tmp_path: Path, optimizer):
    rate = {"adam": 0.01, "sgd": 1.0}[optimizer]
    chosen = ("--set", f"optimizer={optimizer}", "--set", f"learning_rate={rate}", "--set", "decay=none")
    train(cli, text, tmp_path / "run", "--steps", 60, *chosen)
    losses = [float(row["train_loss"]) for row in log_of(tmp_path / "run") if row["train_loss"]]
    assert losses[-1] < 0.8 * losses[0]


def test_settings_come_from_a_file_then_set_then_options(cli, text: Path, tmp_path: Path):
    (tmp_path / "file.toml").write_text('cell = "lstm"\nhidden = 5\nembedding = 3\nseed = 9\n')
    file = ("--config", tmp_path / "file.toml")
    cli("train", "language-model", "--data", text, "--out", tmp_path / "run", *file, *TINY, "--steps", 2, "--seed", 4)
    model = recurra.load(tmp_path / "run")
    assert "Recurrent(lstm, input_size=4, hidden_size=8)" in str(model)
    again = ("--config", tmp_path / "run" / "settings.toml")
    assert cli("train", "language-model", "--out", tmp_path / "again", *again)[0] == 0
    a, b = (read_weights(tmp_path / name)[0] for name in ("run", "again"))
    assert all((a[name] == b[name]).all() for name in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hiden=3"], "Did you mean 'hidden'?"),
        (["--set", "hidden"], "name=value"),
        (["--set", "dropout=2"], "'dropout'"),
        (["--set", "optimizer=lion"], "'adamw'"),
        (["--cell", "gruu"], "gru"),
        (["--split", "50/20"], "90/5/5"),
        (["--tokens", "letter"], "'char' or 'word'"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", ""], "--data names nothing"),
        (["--set", "batch=1000000"], "'batch' is 1,000,000"),
        (["--hidden", "10000000"], "does not fit into memory: expected less of one of them, got 'hidden 10,000,000"),
        (["--cell", "cfc"], "'cfc' needs the width 'backbone' and the time between steps"),
        (["--steps", "0"], "'steps'"),
        (["--minutes", "-1"], "'minutes'"),
        (["--resume", "nowhere"], "nowhere"),
        (["--set", "learning_rate=1e30", "--set", "clip=1e30"], "diverged"),
        (["--set", "learning_rate=1e30", "--set", "clip=1e30", "--set", "log_every=1000"], "the validation loss is"),
    ],
)
def test_bad_settings_are_one_line_and_code_2(cli, text: Path, tmp_path: Path, arguments, message):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "run"]
    code, _, problems = cli("train", "language-model", "--data", text, *out, *TINY, "--steps", 20, *arguments)
    assert code == 2
    assert problems.startswith("recurra: ")
    assert problems.count("\n") == 1
    assert message in problems


@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"\xff\xfe\xff"])
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_bad_data_is_one_line_and_code_2(cli, text: Path, tmp_path: Path, content, command):
    train(cli, text, tmp_path / "run", "--steps", 2)
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    words = (
        ("train", "language-model", "--out", tmp_path / "other")
        if command == "train"
        else ("evaluate", tmp_path / "run")
    )
    for data in (bad, tmp_path / "nowhere"):
        code, _, problems = cli(*words, "--data", data)
        assert code == 2
        assert problems.startswith("recurra: ")
        assert problems.count("\n") == 1
        assert data.name in problems
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["generate", "evaluate", "info"])
def test_a_missing_or_damaged_run_is_one_line_and_code_2(cli, text: Path, tmp_path: Path, command):
    run = tmp_path / "run"
    assert cli(command, run)[0] == 2
    train(cli, text, run, "--steps", 2)
    for name in ("model.json", WEIGHTS):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 2])
        code, _, problems = cli(command, run)
        assert code == 2
        assert problems.count("\n") == 1
        assert name in problems
        (run / name).write_bytes(content)


def test_a_run_is_not_overwritten_nor_resumed_on_other_text(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 2)
    code, _, problems = cli("train", "language-model", "--data", text, "--out", run)
    assert (code, "holds a run already" in problems) == (2, True)
    code, _, problems = cli("train", "language-model", "--resume", run, "--hidden", 9)
    assert (code, "cannot be changed" in problems) == (2, True)
    text.write_text(TEXT + "more")
    for command in (("train", "language-model", "--resume", run, "--steps", 9), ("evaluate", run)):
        code, _, problems = cli(*command)
        assert (code, "has changed" in problems) == (2, True)


def test_a_damaged_trainer_state_is_one_line_and_code_2(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 2)
    content = (run / "trainer.ckpt").read_bytes()
    (run / "trainer.ckpt").write_bytes(content[:-1])
    code, _, problems = cli("train", "language-model", "--resume", run, "--steps", 9)
    assert (code, problems.count("\n")) == (2, 1)
    assert "truncated or damaged" in problems


def test_a_full_disk_is_one_line_and_loses_nothing(cli, text: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(cli, text, run, "--steps", 10, "--hidden", 40)
    names = (WEIGHTS, "trainer.ckpt", "model.json")
    before = [(run / name).read_bytes() for name in names]
    # No file may grow beyond this: what a full disk does to the large files, the small ones still fit.
    most = min(len(before[0]), len(before[1])) - 1
    command = [sys.executable, "-m", "recurra.cli", "train", "language-model", "--resume", run, "--steps", "40"]
    limited = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert limited.returncode == 2, limited.stderr
    assert limited.stderr.startswith("recurra: ")
    assert limited.stderr.count("\n") == 1
    assert "what was saved before is intact" in limited.stderr
    assert [(run / name).read_bytes() for name in names] == before
    assert not list(run.glob("*.part"))
    assert cli("train", "language-model", "--resume", run, "--steps", "40")[0] == 0


def test_writing_into_a_closed_pipe_ends_quietly(cli, text: Path, tmp_path: Path):
    train(cli, text, tmp_path / "run", "--steps", 2)
    process = in_another_process("generate", tmp_path / "run", "--length", 100_000)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == OUTPUT_CLOSED


@pytest.mark.parametrize("words", [("cells",), ("--help",), ("generate", "--help"), ("doctor",)])
def test_no_command_minds_that_its_output_is_closed(words: tuple[str, ...]):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "recurra.cli", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (OUTPUT_CLOSED, "")


def test_help_is_quick_and_loads_no_torch():
    code = (
        "import sys, recurra.cli\n"
        "try: recurra.cli.main(['train', 'language-model', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted({'torch', 'lightning', 'matplotlib', 'rich', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--resume" in done.stdout
    assert not {"torch", "lightning", "matplotlib"} & set(done.stderr.split())


def test_the_tables(cli):
    code, cells, _ = cli("cells")
    assert code == 0
    assert set(recurra.cells.names()) <= {line.split(" ")[0] for line in cells.splitlines()}
    code, machine, _ = cli("doctor")
    assert code == 0
    for word in ("torch", "threads", "float32"):
        assert word in machine


def test_the_options_are_these():
    """An option more is to be thought over: the list is part of what users learn."""
    assert sorted(FLAGS) == sorted(
        ["data", "cell", "hidden", "layers", "minutes", "steps", "seed", "threads", "device", "tokens", "split"]
    )
    assert len(Settings.model_fields) == 30


@needs_source_tree
def test_every_setting_is_read_somewhere():
    read = set()
    for path in python_files("src"):
        if path.is_relative_to(PACKAGE / "learn") and path.name != "settings.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                    owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                    if owner == "settings":
                        read.add(node.attr)
    # The time limit is read through its property.
    assert set(Settings.model_fields) - read <= {"minutes"}
    assert "limit_seconds" in read


def test_every_setting_says_what_it_is():
    assert all(field.description for field in Settings.model_fields.values())


def test_asking_for_a_device_that_is_not_there(cli, text: Path, tmp_path: Path):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    code, _, problems = cli("train", "language-model", "--data", text, "--out", tmp_path / "run", "--device", "cuda")
    assert code == 2
    assert "cuda" in problems
    assert os.listdir(tmp_path) == ["text.txt"]


def test_the_version_is_that_of_the_package(cli):
    assert cli("--version") == (0, f"recurra {recurra.__version__}\n", "")


def test_cells_lose_no_letter_in_a_narrow_terminal(cli, monkeypatch: pytest.MonkeyPatch):
    listed = []
    for width in ("60", "400"):
        monkeypatch.setenv("COLUMNS", width)
        code, printed, _ = cli("cells")
        assert code == 0
        listed.append(sorted("".join(printed.split())))
    assert listed[0] == listed[1]


def test_info_tells_of_any_saved_model_and_scores_want_a_language_model(cli, text: Path, tmp_path: Path):
    recurra.save_layer(recurra.nn.GRU(3, 5), tmp_path / "layer")
    code, printed, problems = cli("info", tmp_path / "layer")
    assert (code, problems) == (0, "")
    assert "gru" in printed
    assert "140" in printed, "its parameters"
    code, _, problems = cli("evaluate", tmp_path / "layer", "--data", text)
    assert (code, problems.count("\n")) == (2, 1)
    train(cli, text, tmp_path / "run", "--steps", 4)
    assert cli("export", tmp_path / "run", "--int8", "--tolerance", 1)[0] == 0
    code, _, problems = cli("evaluate", tmp_path / "run-int8")
    assert (code, problems.count("\n")) == (2, 1)
    assert "Name a text with --data" in problems
    assert cli("evaluate", tmp_path / "run-int8", "--data", text)[0] == 0
