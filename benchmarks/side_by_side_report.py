"""What benchmarks/language_model.py tells: the entry of a cell in language_model.json, tables, a picture."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contender import DISTURBED, RECURRA, TORCH, Report
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from step_parts import PARTS

from recurra.bench.machine import describe_machine, describe_versions
from recurra.bench.timing import ratios
from recurra.learn.settings import Settings

PAGE = "language-model.md"
_BEGIN, _END = "<!-- side-by-side:start -->", "<!-- side-by-side:end -->"


def entry(
    reports: Mapping[str, Report], turns: Mapping[str, Sequence[float]], settings: Settings, command: str
) -> dict[str, Any]:
    """What language_model.json holds of a cell. The turns are those of recurra and torch.nn."""
    ours, theirs, disturbed = reports[RECURRA], reports[TORCH], reports[DISTURBED]
    updates = len(ours.losses)
    seconds = {who: sum(taken) for who, taken in turns.items()}
    spread = ratios(turns[TORCH], turns[RECURRA])
    machine = describe_machine()
    return {
        "ratio": round(seconds[TORCH] / seconds[RECURRA], 3),
        "ratio_of_turns": {"lower_quartile": round(spread.lower, 3), "upper_quartile": round(spread.upper, 3)},
        "largest_loss_difference": max(differences(ours, theirs)),
        "largest_validation_difference": _largest_of_validations(ours, theirs),
        "disturbed_loss_difference": max(differences(disturbed, theirs)),
        "disturbed_validation_difference": _largest_of_validations(disturbed, theirs),
        "command": command,
        "machine": f"{machine['processor']}, engine {machine['isa']}, {settings.threads} threads",
        "torch": describe_versions()["torch"],
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "updates": updates,
        "seconds": {who: round(value, 2) for who, value in seconds.items()},
        "last_validation": {who: reports[who].validations.get(updates) for who in turns},
        "milliseconds": {
            who: {part: round(1e3 * reports[who].parts[part] / updates, 3) for part in PARTS} for who in turns
        },
        "engine_milliseconds": {name: round(1e3 * value / updates, 3) for name, value in ours.engine.items()},
        "settings": settings.model_dump(include={"hidden", "layers", "embedding", "dropout", "batch", "window"}),
    }


def differences(one: Report, other: Report) -> list[float]:
    """By how much the losses of each update differ, in nats."""
    return [abs(a - b) for a, b in zip(one.losses, other.losses, strict=True)]


def _largest_of_validations(one: Report, other: Report) -> float | None:
    return max((abs(one.validations[step] - other.validations[step]) for step in one.validations), default=None)


def summary(cell: str, found: Mapping[str, Any]) -> str:
    """The entry of a cell as Markdown: how the two compare, and where their time goes."""
    ours, theirs = (found["milliseconds"][who] for who in (RECURRA, TORCH))
    quartiles = found["ratio_of_turns"]
    lines = [
        f"**{cell.upper()}**: torch.nn takes {found['ratio']:.2f} times as long to the same loss "
        f"({found['seconds'][TORCH]:.1f} s against {found['seconds'][RECURRA]:.1f} s for {found['updates']} updates; "
        f"quartiles of the turns {quartiles['lower_quartile']:.2f} to {quartiles['upper_quartile']:.2f}). The losses "
        f"of an update differ by {_nats(found, 'largest')}. Those of torch.nn and of torch.nn whose first weights were "
        f"disturbed in the last bit differ by {_nats(found, 'disturbed')}.",
        "",
        f"| {cell.upper()}: ms an update | recurra | torch.nn | torch.nn / recurra |",
        "|---|--:|--:|--:|",
    ]
    rows = {part: (ours[part], theirs[part]) for part in PARTS}
    outside = [part for part in PARTS if not part.startswith(("recurrence", "validation"))]
    rows["all but recurrence and validation"] = (
        sum(ours[part] for part in outside),
        sum(theirs[part] for part in outside),
    )
    rows["all"] = (sum(ours.values()), sum(theirs.values()))
    for part, (mine, other) in rows.items():
        ratio = f"{other / mine:.2f}" if mine >= 0.05 else ""
        shares = (f"{value:.1f} ({value / whole:.0%})" for value, whole in zip((mine, other), rows["all"], strict=True))
        lines.append(f"| {part} | {' | '.join(shares)} | {ratio} |")
    return "\n".join(lines) + "\n" + _engine_line(found["engine_milliseconds"])


def _nats(found: Mapping[str, Any], which: str) -> str:
    scored = found[f"{which}_validation_difference"]
    validations = "" if scored is None else f", those of a validation by {scored:.1e}"
    return f"{found[f'{which}_loss_difference']:.1e} nats at most{validations}"


def _engine_line(parts: Mapping[str, float]) -> str:
    if not parts:
        return ""
    named = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value >= 0.05)
    return f"\nWithin the engine, ms an update: {named}.\n"


def write_section(entries: Mapping[str, Any], docs: Path) -> None:
    """Put the tables of all cells between the marks of the page of the language model, if the page is there.

    Raises ValueError when the page has no marks.
    """
    page = docs / PAGE
    if not page.exists():
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise ValueError(f"{page} has no {_BEGIN} ... {_END}")
    first = next(iter(entries.values()))
    sizes = ", ".join(f"{name} {value}" for name, value in first["settings"].items())
    text = [f"{sizes}.\n"]
    for cell, found in entries.items():
        text += [
            summary(cell, found),
            f"`{found['command']}`, {found['date']}, {found['machine']}, torch {found['torch']}.\n",
            f"![{cell.upper()}: loss against seconds]({_picture(cell)})\n",
        ]
    page.write_text(f"{before}{_BEGIN}\n{chr(10).join(text)}{_END}{after}", encoding="utf-8")


def _picture(cell: str) -> str:
    return f"language-model-{cell}.png"


def draw(cell: str, reports: Mapping[str, Report], docs: Path) -> None:
    """Training loss of both against seconds, and what it differs by at each update, as a PNG in the folder."""
    docs.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, apart = figure.subplots(1, 2)
    for who in (RECURRA, TORCH):
        losses.plot(reports[who].seconds, reports[who].losses, linewidth=1.2, label=who)
    losses.set(title=f"{cell.upper()}, the same updates", xlabel="seconds", ylabel="loss, nats a token", xlim=(0, None))
    for who in (RECURRA, DISTURBED):
        found = differences(reports[who], reports[TORCH])
        apart.semilogy([nats or math.nan for nats in found], ".", markersize=3, label=f"{who} and torch.nn")
    apart.set(title="Difference of the losses", xlabel="update", ylabel="nats a token (none where equal)")
    for axes in (losses, apart):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(docs / _picture(cell), dpi=110)
