"""The pictures of the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipes.gradients import gradient_norm
from recurra.checkpoint import write_atomically

if TYPE_CHECKING:
    from recipes.report import Row

GRADIENT_SEEDS = 5


def curve_name(row: Row) -> str:
    """An arm of the latch without its number of steps."""
    return row.recipe.arm.partition(", ")[2]


def latch(picture: Path, rows: Sequence[Row]) -> str:
    """Draw the share of solved runs and the norm of the gradient against the number of steps. Returns Markdown: the
    picture and the norms."""
    curves: dict[str, list[Row]] = {}
    for row in rows:
        curves.setdefault(curve_name(row), []).append(row)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    success, gradient = figure.subplots(1, 2)
    table = []
    for name, own in curves.items():
        lags = [row.recipe.problem.lag for row in own]  # type: ignore[attr-defined]
        run = [(lag, row.solved / len(row.records)) for lag, row in zip(lags, own, strict=True) if row.records]
        if run:
            success.plot(*zip(*run, strict=True), "o-", markersize=4, label=name)
        norms = [
            sum(gradient_norm(row.recipe, lag, seed) for seed in range(GRADIENT_SEEDS)) / GRADIENT_SEEDS
            for lag, row in zip(lags, own, strict=True)
        ]
        gradient.plot(lags, norms, "o-", markersize=4, label=name)
        table.append(f"| {name} | " + " | ".join(f"{norm:.1e}" for norm in norms) + " |")
    success.set_ylabel("share of seeds that solve the latch")
    success.set_ylim(-0.05, 1.05)
    gradient.set_ylabel("norm of dL/d(first state) before training")
    gradient.set_yscale("log")
    for axes in (success, gradient):
        axes.set_xscale("log")
        axes.set_xlabel("steps to hold the bit")
        axes.grid(alpha=0.3)
    if success.get_legend_handles_labels()[1]:
        success.legend()
    _save(figure, picture)
    heads = [str(row.recipe.problem.lag) for row in next(iter(curves.values()))]  # type: ignore[attr-defined]
    return "\n".join(
        [
            f"![Success and gradient against the number of steps]({picture.name})",
            "",
            f"The norm of dL/d(first state) before training, per sequence, the mean of {GRADIENT_SEEDS} seeds:",
            "",
            "| steps | " + " | ".join(heads) + " |",
            "|" + " --- |" * (len(heads) + 1),
            *table,
        ]
    )


def copying(picture: Path, rows: Sequence[Row]) -> str:
    """Draw the cross-entropy of each run against the sequences trained on. Returns Markdown."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        for record in row.records:
            label = row.recipe.arm if record is row.records[0] else None
            axes.plot(*zip(*record["curve"], strict=True), color=f"C{number}", linewidth=1, label=label)
    baseline = rows[0].recipe.problem.memoryless  # type: ignore[attr-defined]
    axes.axhline(baseline, color="black", linestyle="--", linewidth=1, label="memoryless")
    axes.set_yscale("log")
    axes.set_xlabel("sequences trained on")
    axes.set_ylabel("held-out cross-entropy, nats a step")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, picture)
    return f"![Cross-entropy against sequences]({picture.name})"


def _save(figure: Figure, picture: Path) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically(picture, image.getvalue())
