"""What `bench.json` holds, made from measurements. Plain dictionaries from here on: the report reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recurra.bench.cases import Case, Registry, Target
from recurra.bench.measure import RECURRA, Measurement, Speed
from recurra.bench.timing import Spread
from recurra.errors import FormatError

FORMAT = 2
LANGUAGE_MODEL_FILE = "tinyshakespeare.json"
LANGUAGE_MODEL_TARGET = 1.47
LANGUAGE_MODEL_NAME = "tiny Shakespeare, 3 minutes of training"
LANGUAGE_MODEL_FIELDS = ("nats_per_character", "command", "torch_nats_per_character", "torch_command", "machine")
SIDE_BY_SIDE_FILE = "language_model.json"
SIDE_BY_SIDE_FIELDS = (
    "ratio", "ratio_of_turns", "largest_loss_difference", "disturbed_loss_difference", "command", "machine",
)  # fmt: skip
SIDE_BY_SIDE_TARGETS = {"gru": 1.8, "lstm": 1.15}
"""By the cell of the language model: how many times as long torch.nn takes to the same loss."""

Json = dict[str, Any]


def rows(measurements: Iterable[Measurement], threads: int, date: str) -> list[Json]:
    """A row for each contestant of each case: who, what, when, the times, and how they compare."""
    return [_row(one, speed, threads, date) for one in measurements for speed in one.speeds]


def _row(measurement: Measurement, speed: Speed, threads: int, date: str) -> Json:
    return {
        **_case(measurement.case),
        "threads": measurement.case.threads or threads,
        "who": speed.who,
        "milliseconds": _spread(speed.seconds, 1e3),
        "ratio_to_recurra": _spread(speed.ratio),
        "gflops": round(speed.gflops, 2),
        "share_of_peak": _spread(speed.share_of_peak),
        "peak_gflops": round(measurement.peak, 1),
        "rounds": measurement.rounds,
        "measured": date,
    }


def parity_rows(measurements: Iterable[Measurement]) -> list[Json]:
    """A row for each case and peer of the gate."""
    return [
        {
            **_case(one.case),
            "peer": parity.peer,
            "largest_relative_difference": parity.difference,
            "tensor": parity.tensor,
            "in_float64": parity.in_float64,
            "ours_from_float64": parity.ours,
            "tolerance": parity.tolerance,
            "passed": parity.passed,
        }
        for one in measurements
        for parity in one.parities
    ]


def _case(case: Case) -> Json:
    shape = case.shape
    return {
        "case": case.name,
        "cell": case.cell,
        "direction": case.direction,
        "batch": shape.batch,
        "steps": shape.steps,
        "input_size": shape.input_size,
        "hidden_size": shape.hidden_size,
        "dtype": case.dtype,
    }


def _spread(spread: Spread, scale: float = 1.0) -> Json:
    values = {"median": spread.median, "lower_quartile": spread.lower, "upper_quartile": spread.upper}
    return {name: float(f"{value * scale:.5g}") for name, value in values.items()}


def target_rows(chosen: Registry, result: Json) -> list[Json]:
    """A row for each figure to reach: its value, and whether it was met; null for both without a measurement.

    `result` needs the rows, the parity rows and the peers that were skipped, of this run or of an earlier one.
    """
    return [_target_row(target, result) for target in chosen.targets]


def _empty(name: str, case: str | None, unit: str) -> Json:
    row: Json = {"name": name, "case": case, "unit": unit}
    names = ("value", "lower_quartile", "upper_quartile", "at_peak", "against", "met")
    return row | dict.fromkeys(names)


def _target_row(target: Target, result: Json) -> Json:
    row = _empty(target.name, target.case.name, target.unit) | {"at_least": target.at_least, "note": ""}
    cases = [target.case.name] + ([target.other.name] if target.other else [])
    if any(not one["passed"] for one in result["parity"] if one["case"] in cases):
        return row | {"note": "the parity gate is red"}
    found = {name: {r["who"]: r for r in result["rows"] if r["case"] == name} for name in cases}
    if not all(found.values()):
        reason = f": {target.case.missing}" if target.case.missing else ""
        return row | {"note": f"not measured{reason}"}
    here = found[target.case.name]
    if target.other is not None:
        ours, theirs = (found[name][RECURRA]["milliseconds"]["median"] for name in cases)
        return _judge(row, theirs / ours) | {"against": target.other.cell}
    if target.unit == "%":
        return _judge_spread(row, here[RECURRA]["share_of_peak"], 100.0)
    wanted = target.peers or target.case.peers
    measured = [here[name] for name in wanted if name in here]
    if not measured:
        reasons = [f"{name}: {result['skipped'].get(name, 'not measured')}" for name in wanted]
        return row | {"note": "; ".join(reasons)}
    fastest = min(measured, key=lambda one: one["milliseconds"]["median"])
    row |= {"against": fastest["who"]}
    if not fastest["who"].startswith(RECURRA):
        # had our products run at the peak, and nothing else taken any time
        row |= {"at_peak": round(fastest["ratio_to_recurra"]["median"] / here[RECURRA]["share_of_peak"]["median"], 2)}
    return _judge_spread(row, fastest["ratio_to_recurra"])


def _judge(row: Json, value: float) -> Json:
    return row | {"value": round(value, 3), "met": value >= row["at_least"]}


def _judge_spread(row: Json, value: Json, scale: float = 1.0) -> Json:
    quartiles = {name: round(value[name] * scale, 3) for name in ("lower_quartile", "upper_quartile")}
    return _judge(row | quartiles, value["median"] * scale)


def language_model_rows(folder: Path) -> list[Json]:
    """The figures of the language models, from the files that their own commands leave in the folder; null while there
    are none.

    Raises FormatError when a file lacks a field.
    """
    return [*(_side_by_side_row(folder, cell) for cell in SIDE_BY_SIDE_TARGETS), _tiny_shakespeare_row(folder)]


def _side_by_side_row(folder: Path, cell: str) -> Json:
    row = _empty(f"language model, {cell.upper()}, wall clock to the same loss against torch.nn", None, "x")
    row |= {"at_least": SIDE_BY_SIDE_TARGETS[cell], "note": f"not measured: there is no {SIDE_BY_SIDE_FILE}"}
    path = folder / SIDE_BY_SIDE_FILE
    if not path.exists():
        return row
    cells = read_json(path)
    if cell not in cells:
        return row | {"note": f"not measured: {SIDE_BY_SIDE_FILE} has no {cell}"}
    found = _fields(path, cells[cell], SIDE_BY_SIDE_FIELDS)
    note = (
        f"losses at the same steps differ by {found['largest_loss_difference']:.1e} at most, those of a torch.nn with "
        f"its first weights disturbed in the last bit by {found['disturbed_loss_difference']:.1e}; "
        f"`{found['command']}` on "
        f"{found['machine']}"
    )
    return _judge(row | found["ratio_of_turns"], float(found["ratio"])) | {"against": "torch.nn", "note": note}


def _tiny_shakespeare_row(folder: Path) -> Json:
    row = _empty(LANGUAGE_MODEL_NAME, None, "nats/char") | {"at_most": LANGUAGE_MODEL_TARGET}
    path = folder / LANGUAGE_MODEL_FILE
    if not path.exists():
        return row | {"note": f"not measured: there is no {LANGUAGE_MODEL_FILE}"}
    details = _fields(path, read_json(path), LANGUAGE_MODEL_FIELDS)
    value = float(details["nats_per_character"])
    peer = f"torch.nn, the same model: {details['torch_nats_per_character']:.3f}"
    met = value <= LANGUAGE_MODEL_TARGET
    return row | {"value": value, "against": peer, "met": met, "note": f"on {details['machine']}", "details": details}


def _fields(path: Path, found: Json, names: tuple[str, ...]) -> Json:
    lacking = [name for name in names if name not in found]
    if lacking:
        raise FormatError(f"{path} has no {', '.join(lacking)}", expected=", ".join(names))
    return {name: found[name] for name in names}


def merge(earlier: Json, now: Json) -> Json:
    """`now`, with what only `earlier` has: the cases that were not measured again, and the peers that they lacked."""
    again = {row["case"] for row in [*now["rows"], *now["parity"]]}
    kept = {part: [row for row in earlier[part] if row["case"] not in again] for part in ("rows", "parity")}
    skipped = {name: why for name, why in earlier["skipped"].items() if name not in now["installed"]}
    return now | {
        "rows": [*kept["rows"], *now["rows"]],
        "parity": [*kept["parity"], *now["parity"]],
        "skipped": skipped | now["skipped"],
        "versions": earlier["versions"] | now["versions"],
    }


def measured_cases(result: Json) -> set[str]:
    """The names of the cases that have times."""
    return {row["case"] for row in result["rows"]}


def read_json(path: Path) -> Json:
    """The object that a JSON file holds. Raises FormatError when it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds a {type(found).__name__}", expected="an object")
    return found


def read_result(path: Path) -> Json:
    """A `bench.json`. Raises FormatError when it is none, or of another format."""
    result = read_json(path)
    if result.get("format") != FORMAT:
        raise FormatError(f"{path} has format {result.get('format')!r}", expected=str(FORMAT))
    return result


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes beside, then renames, so that a full disk never costs the earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)
