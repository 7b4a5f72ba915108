"""`recurra train` and `recurra demo`."""

import sys
from pathlib import Path
from typing import Any

from recurra.cli import INTERRUPTED
from recurra.cli.reports import describe_weights
from recurra.cli.terminal import Terminal
from recurra.cli.writing import write
from recurra.learn.fit import Result
from recurra.learn.language_model import resume, train
from recurra.learn.run import Run
from recurra.learn.settings import Settings
from recurra.tasks import read_weights

_LONGER = {
    "steps": "--steps N",
    "time": "--minutes N",
    "early": "--set patience=N",
}
"""What makes a run that ended so longer."""
_ENDS = {
    "steps": "all its updates done",
    "time": "its time is up",
    "early": "the validation loss fell no more",
    "interrupted": "interrupted",
}


def train_language_model(given: dict[str, Any], *, out: Path | None, resumed: Path | None) -> None:
    """Train, or go on training, and tell what came of it."""
    console = Terminal()
    if resumed is None:
        result = train(Settings.create(given), out or _free_folder(Path("runs"), "{}"), console=console)
    else:
        if out is not None:
            given["out"] = str(out)
        result = resume(resumed, given, console=console)
    _report(console, result)


def run_demo(out: Path | None, *, minutes: float) -> None:
    """Train on the default text, then write a page."""
    console = Terminal()
    folder = out
    if folder is None:
        folder = Path("runs", "demo")
        if Run(folder).exists():
            folder = _free_folder(Path("runs"), "demo-{}", first=2)
    # Its rarest characters are too few to be learnt in minutes, and each costs time.
    result = train(Settings.create({"minutes": minutes, "vocabulary": 128}), folder, console=console)
    _report(console, result)
    if result.ended != "interrupted":
        console.print("\nWhat it writes:\n", highlight=False)
        write(folder, prompt="def ", length=1800, temperature=0.7, seed=1, top_k=None)


def _report(console: Terminal, result: Result) -> None:
    run = Run(result.folder)
    if result.already:
        print(
            f"{run.folder} is finished, {_ENDS[result.ended]} ({result.steps:,} updates in {result.seconds:,.0f} s); "
            f"it goes on with a larger {_LONGER[result.ended]} beside --resume"
        )
        return
    _, about = read_weights(run.folder)
    for line in (
        f"ended   {_ENDS[result.ended]}: {result.steps:,} updates in {result.seconds:,.0f} s",
        f"model   {run.weights} ({describe_weights(about)})",
        f"plot    {run.plot}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if result.ended == "interrupted":
        print(f"Go on with: recurra train language-model --resume {run.folder}")
        sys.exit(INTERRUPTED)
    print(f"Go on with: recurra generate {run.folder}    recurra evaluate {run.folder}")


def _free_folder(parent: Path, name: str, *, first: int = 1) -> Path:
    number = first
    while (parent / name.format(number)).exists():
        number += 1
    return parent / name.format(number)
