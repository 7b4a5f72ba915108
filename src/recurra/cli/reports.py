"""`recurra evaluate`, `recurra info` and `recurra cells`."""

from operator import itemgetter
from pathlib import Path

import torch
from rich.table import Column, Table

from recurra import cells
from recurra.checkpoint import outlined, read_model, read_weights
from recurra.cli.terminal import Terminal
from recurra.learn.evaluate import evaluate
from recurra.learn.log import read_log
from recurra.learn.run import VALIDATION_LOSS, Run
from recurra.nn.small import FORMS
from recurra.opening import load
from recurra.program import Program
from recurra.tasks import LanguageModel


def report_scores(folder: Path, data: Path | None) -> None:
    """Print a line for each part that was scored."""
    for name, score in evaluate(folder, data).items():
        words = (
            f"  {score.tokens:,} words, {score.nats_per_token:.4f} nats a word"
            if score.tokens != score.characters
            else ""
        )
        unknown = f"  ({score.unknown:,} of its tokens are unknown to the model)" if score.unknown else ""
        print(
            f"{name}  {score.characters:,} characters predicted  {score.nats_per_character:.4f} nats/char"
            f"  {score.bits_per_character:.4f} bits/char{words}{unknown}",
            flush=True,
        )


def report_run(folder: Path) -> None:
    """Print what the files of a run, or of any saved model, say."""
    run = Run(folder)
    task, spec = read_model(folder)
    if task != LanguageModel.task:
        return _report_model(folder, task)
    settings = run.read_settings() if run.exists() else None
    model = outlined(lambda: LanguageModel.from_spec(spec), source=str(folder))
    lines = {
        "task": task,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "tokens": f"{len(model.vocabulary):,} in the vocabulary, by {model.vocabulary.unit}",
    }
    if run.exists():
        about = run.read_about()
        lines["text"] = about.source
        # a run that was killed could not write down how far it came; its log has it
        last = max(read_log(run.log), key=itemgetter("step"), default={}) if about.ended is None else {}
        steps = max(about.steps, int(last.get("step", 0)))
        seconds = max(about.seconds, last.get("seconds", 0.0))
        lines["ended"] = f"{about.ended or 'not yet'} ({steps:,} updates, {seconds:,.0f} s)"
    if run.weights.exists():
        _, kept = read_weights(folder)
        form = f"{kept['weights']}, " if kept.get("weights") in FORMS else ""
        lines["weights"] = f"{form}of update {_step_and_loss(kept)}"
    else:
        lines["weights"] = "none yet; go on with: recurra train language-model --resume"
    for name, value in lines.items():
        print(f"{name:12}{value}")
    print(model)
    if settings is not None:
        print("settings:")
        for name, value in settings:
            print(f"  {name:18}{'-' if value is None else value}")


def _report_model(folder: Path, task: str) -> None:
    model = load(folder)
    print(f"{'task':12}{task}")
    if isinstance(model, torch.nn.Module):
        print(f"{'parameters':12}{sum(p.numel() for p in model.parameters()):,}")
    print(model)


def describe_weights(about: dict[str, str]) -> str:
    """In words, what `save_weights` kept with the weights of a run."""
    return f"after update {_step_and_loss(about)}"


def _step_and_loss(about: dict[str, str]) -> str:
    # what stands beside weights may be anything: the checksum does not cover it
    step, loss = _number(about.get("step", "")), _number(about.get(VALIDATION_LOSS, ""))
    words = "unknown" if step is None else f"{step:,.0f}"
    return words if loss is None else f"{words}, validation loss {loss:.4f} nats a token"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def report_cells() -> None:
    """Print a table of the registered cells."""
    others = (Column(name, overflow="fold") for name in ("states", "parameters", "what it is"))
    table = Table(Column("cell", no_wrap=True), *others, box=None, pad_edge=False)
    for name in cells.names():
        program = cells.get(name)
        table.add_row(name, ", ".join(s.name for s in program.states), _parameters(program), _first_line(program.doc))
    Terminal().print(table, highlight=False)


def _parameters(program: Program) -> str:
    return ", ".join(f"{p.name}({p.gates})" if p.gates > 1 else p.name for p in program.parameters)


def _first_line(doc: str) -> str:
    return doc.strip().split("\n", 1)[0]
