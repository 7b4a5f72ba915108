"""The report for people, out of nothing but `bench.json`: Markdown, and the curves as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from recurra.bench.results import Json

REPORT_FILE = "benchmarks.md"
CURVES_FILES = {
    axis: f"benchmarks-{axis.replace(' ', '-')}.png" for axis in ("steps", "batch", "hidden size", "threads")
}
_COLUMNS = {"steps": "steps", "batch": "batch", "hidden size": "hidden_size", "threads": "threads"}
RECURRA = "recurra"
CONTESTANTS_OF_CURVES = (RECURRA, "torch.nn")

_HEAD = """# Benchmarks

Measured on {date} by `{command}`, which writes this page and `bench.json`, the same figures with every row. Nothing
here is typed by hand.

{machine}

Before a case is timed, the outputs, the last states and the gradients of the input, the first states and every
parameter are compared with those of each peer, with the same weights.
{parity}

Then the contestants take turns within the same run, after a warm-up, and the peak is measured in between: threads that
do nothing but multiply and add on registers. Times are medians with the lower and upper quartile; a ratio is the median
of the ratios within each turn. A training step is a forward and a backward pass of everything: input, first state, all
parameters. Forward is without gradients. Losses stand in the same tables: a ratio below 1 is one.

Everybody gets the same number of threads: torch, recurra, torchrecurrent and minGRU-pytorch by
`torch.set_num_threads`, ONNX Runtime by `intra_op_num_threads`, TensorFlow by `set_intra_op_parallelism_threads` and
`set_inter_op_parallelism_threads`, XLA (Flax) by the variable NPROC. reservoirpy multiplies sparse matrices, in one
thread. Libraries with arrays of their own get theirs before the clock starts, ONNX Runtime time-major, as it wants
them; of these, the gate compares what is timed. Flax's GRU lacks the bias within the reset gate; it gets one.
`make bench-peers` installs all of them.
"""
_WORK = """GFLOP/s and shares of the peak count the products only: 2 × batch × steps × elements of the input and
recurrent matrices, and three times that for a training step (`recurra/bench/work.py`).

"""
_AT_PEAK = """The column "at peak" is what a ratio would be if our products ran at the measured peak and all
else took no time: where that is less than what is to be reached, no engine reaches it on this machine.
[Where the time goes](architecture.md#where-the-time-goes) has the parts of a call, and what was tried.

"""
_LANGUAGE_MODEL = """
Tiny Shakespeare is trained by commands of its own, three minutes on two cores each, and scored on the last tenth of the
text, read once in order with the state carried:

```sh
{command}
{torch_command}
```
"""
_QUICK = "\n**This was a quick run that only tries the harness: its times mean nothing.**\n"


def render(result: Json) -> str:
    """The report as Markdown."""
    text = _head(result)
    text += "\n## Figures to reach\n\n" + _AT_PEAK + targets_table(result) + _language_model(result)
    text += "\n## All cases\n\n"
    text += _WORK
    text += _cases_table(result)
    for axis, file in CURVES_FILES.items():
        if result["curves"].get(axis):
            text += f"\n## Time against {axis}\n\n"
            text += _curves_table(result) + "\n" if axis == "steps" else ""
            text += f"![Time against {axis}]({file})\n"
    text += _skipped(result)
    return text


def targets_table(result: Json) -> str:
    """The figures to reach, as a table: value, target, met or missed."""
    lines = [_target_line(row) for row in result["targets"]]
    return _table(("", "measured", "quartiles", "to reach", "at peak", "against", ""), "lrrrrll", lines)


def _target_line(row: Json) -> Sequence[str]:
    unit = row["unit"]
    wanted = f"≥ {_figure(row['at_least'], unit)}" if "at_least" in row else f"≤ {_figure(row['at_most'], unit)}"
    quartiles = ""
    if row.get("lower_quartile") is not None:
        quartiles = f"{_figure(row['lower_quartile'], '')} to {_figure(row['upper_quartile'], '')}"
    value = "" if row["value"] is None else f"**{_figure(row['value'], unit)}**"
    at_peak = "" if row.get("at_peak") is None else _figure(row["at_peak"], unit)
    verdict = "" if row["met"] is None else ("met" if row["met"] else "**missed**")
    verdict = "; ".join(filter(None, [verdict, row["note"]]))
    return row["name"], value, quartiles, wanted, at_peak, row["against"] or "", verdict


def _figure(value: float, unit: str) -> str:
    if unit == "nats/char":
        return f"{value:.3f} nats/char"
    text = f"{value:.1f}" if value >= 20 else f"{value:.2f}"
    return f"{text} %" if unit == "%" else f"{text}{unit}"


def _head(result: Json) -> str:
    machine, settings = result["machine"], result["settings"]
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items() if name != "torch_threads")
    lines = [
        ("processor", f"{machine['processor']}, {machine['cores']} cores for the process"),
        ("caches", caches),
        ("engine", f"{machine['isa']} (of {', '.join(machine['available_isas'])})"),
        ("threads", f"{settings['threads']} for everybody; {settings['dtype']}"),
        ("peak", f"{result['peak_gflops']:.0f} GFLOP/s (median over all cases)"),
        ("versions", versions),
        ("load", f"{settings['load_before'][0]} processes before the run, {settings['load_after'][0]} after it"),
    ]
    head = _HEAD.format(
        date=result["date"],
        command=result["command"],
        machine=_table(("", ""), "ll", lines).rstrip(),
        parity=_parity(result),
    )
    return head + (_QUICK if result["quick"] else "")


def _parity(result: Json) -> str:
    checks = result["parity"]
    red = [row for row in checks if not row["passed"]]
    if red:
        names = "; ".join(f"{row['case']} against {row['peer']} ({row['tensor']})" for row in red)
        return f"**{len(red)} of {len(checks)} comparisons FAILED, and their cases have no times: {names}.**"
    settled = [row for row in checks if row.get("in_float64") is not None]
    exact = [row for row in checks if row not in settled]
    passed = f"All {len(checks)} comparisons passed: the largest difference was"
    parts = [f"{passed} {_worst(row for row in exact if not _in_bfloat16(row))}."]
    rounded = [row for row in exact if _in_bfloat16(row)]
    if rounded:
        parts.append(f"With products in bfloat16 it was {_worst(rounded)}.")
    return " ".join([*parts, *map(_settled, settled)])


def _in_bfloat16(row: Json) -> bool:
    return "bfloat16" in row["dtype"]


def _worst(rows: Iterable[Json]) -> str:
    found = list(rows)
    worst = max((row["largest_relative_difference"] for row in found), default=0.0)
    return f"{worst:.1e} of the largest value; {found[0]['tolerance'] if found else 0.0:.0e} is allowed"


def _settled(row: Json) -> str:
    return (
        f"In {row['case']}, {row['peer']} differs by {row['largest_relative_difference']:.1e} ({row['tensor']}) in "
        f"float32, and by {row['in_float64']:.1e} in float64; ours in float32 is within "
        f"{row['ours_from_float64']:.1e} of float64. The rounding is the peer's, and it is timed."
    )


def _language_model(result: Json) -> str:
    row = next((row for row in result["targets"] if row["unit"] == "nats/char"), None)
    if row is None or "details" not in row:
        return ""
    return _LANGUAGE_MODEL.format(**row["details"])


def _cases_table(result: Json) -> str:
    lines = []
    for name, rows in _by_case(result["rows"]).items():
        for number, row in enumerate(rows):
            share = row["share_of_peak"]["median"]
            ratio = "" if row["who"] == RECURRA else _figure(row["ratio_to_recurra"]["median"], "x")
            lines.append(
                (
                    name if number == 0 else "",
                    row["who"],
                    _milliseconds(row),
                    f"{row['gflops']:.1f}",
                    f"{share:.0%}",
                    ratio,
                )
            )
    return _table(("case", "", "ms (quartiles)", "GFLOP/s", "of peak", "recurra is faster by"), "llrrrr", lines)


def _milliseconds(row: Json) -> str:
    spread = row["milliseconds"]
    median, lower, upper = (_three_digits(spread[name]) for name in ("median", "lower_quartile", "upper_quartile"))
    return f"{median} ({lower} to {upper})"


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4
    return f"{value:.{decimals}f}"


def _by_case(rows: Iterable[Json]) -> dict[str, list[Json]]:
    cases: dict[str, list[Json]] = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row)
    return cases


def curves(result: Json, axis: str = "steps") -> dict[str, dict[int, float]]:
    """Milliseconds by what grows, for each contestant of each curve over an axis."""
    drawn, column = set(result["curves"].get(axis, ())), _COLUMNS[axis]
    lines: dict[str, dict[int, float]] = {}
    for row in result["rows"]:
        if row["case"] in drawn and row["who"] in CONTESTANTS_OF_CURVES:
            name = f"{row['cell'].upper()} {row['direction']}, {row['who']}"
            lines.setdefault(name, {})[row[column]] = row["milliseconds"]["median"]
    return lines


def linearity(points: dict[int, float]) -> tuple[float, float]:
    """Milliseconds a step at the most steps, and that over milliseconds a step at about 100 steps: 1 is linear."""
    most = max(points)
    usual = min(points, key=lambda steps: abs(steps - 100))
    a_step = points[most] / most
    return a_step, a_step / (points[usual] / usual)


def _curves_table(result: Json) -> str:
    lines = []
    for name, points in curves(result).items():
        a_step, ratio = linearity(points)
        lines.append((name, f"{1e3 * a_step:.1f}", f"{ratio:.2f}"))
    usual = "µs a step at the most steps"
    return "The last column is time a step there over time a step at 100 steps: 1 is linear.\n\n" + _table(
        ("", usual, "growth"), "lrr", lines
    )


def _skipped(result: Json) -> str:
    if not result["skipped"]:
        return ""
    return "\n## Peers that were left out\n\n" + _table(("peer", "why"), "ll", sorted(result["skipped"].items()))


def _table(head: Sequence[str], alignment: str, lines: Iterable[Sequence[str]]) -> str:
    marks = {"l": "---", "r": "--:"}
    rows = [head, [marks[letter] for letter in alignment], *lines]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def draw_curves(result: Json, axis: str, path: Path) -> None:
    """The curves over an axis as a PNG with linear axes: one panel for each cell and direction."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[tuple[str, dict[int, float]]]] = {}
    for name, points in curves(result, axis).items():
        title, _, who = name.partition(", ")
        panels.setdefault(title, []).append((who, points))
    figure = Figure(figsize=(11, 2.8 * max(1, (len(panels) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, drawn) in enumerate(panels.items()):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, number + 1)
        for who, points in drawn:
            values = sorted(points)
            axes.plot(values, [points[count] for count in values], marker="o", markersize=3, label=who)
        axes.set(title=title, xlabel=axis, ylabel="ms", xlim=(0, None), ylim=(0, None))
        axes.legend()
    figure.savefig(path, dpi=110)


def write_report(result: Json, folder: Path, say: Callable[[str], None]) -> None:
    """Writes the Markdown and the pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for axis, file in CURVES_FILES.items():
        if result["curves"].get(axis):
            draw_curves(result, axis, folder / file)
    (folder / REPORT_FILE).write_text(render(result), encoding="utf-8")
    say(f"report: {folder / REPORT_FILE}")
