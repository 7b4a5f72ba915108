"""What `bench.json` holds, made from measurements. Plain dictionaries from here on: the report reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recurra.bench.measure import Measurement, Speed
from recurra.bench.parity import TOLERANCE
from recurra.bench.registry import DTYPE, Case, Target
from recurra.bench.timing import Spread
from recurra.errors import FormatError

FORMAT = 1
LANGUAGE_MODEL_FILE = "tinyshakespeare.json"
LANGUAGE_MODEL_TARGET = 1.50
LANGUAGE_MODEL_NAME = "tiny Shakespeare, 3 minutes of training"
LANGUAGE_MODEL_FIELDS = ("nats_per_character", "command", "torch_nats_per_character", "torch_command")

Json = dict[str, Any]


def rows(measurements: Iterable[Measurement]) -> list[Json]:
    """A row for each contestant of each case: who, what, the times, and how they compare."""
    return [_row(one, speed) for one in measurements for speed in one.speeds]


def _row(measurement: Measurement, speed: Speed) -> Json:
    return {
        **_case(measurement.case),
        "who": speed.who,
        "milliseconds": _spread(speed.seconds, 1e3),
        "ratio_to_recurra": _spread(speed.ratio),
        "gflops": round(speed.gflops, 2),
        "share_of_peak": _spread(speed.share_of_peak),
        "rounds": measurement.rounds,
    }


def parity_rows(measurements: Iterable[Measurement]) -> list[Json]:
    """A row for each case and peer of the gate."""
    return [
        {
            **_case(one.case),
            "peer": parity.peer,
            "largest_relative_difference": parity.difference,
            "tensor": parity.tensor,
            "tolerance": TOLERANCE,
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
        "dtype": DTYPE,
    }


def _spread(spread: Spread, scale: float = 1.0) -> Json:
    values = {"median": spread.median, "lower_quartile": spread.lower, "upper_quartile": spread.upper}
    return {name: float(f"{value * scale:.5g}") for name, value in values.items()}


def target_rows(targets: Iterable[Target], measurements: Iterable[Measurement]) -> list[Json]:
    """A row for each figure to reach: its value, and whether it was met; null for both without a measurement."""
    known = {one.case.name: one for one in measurements}
    return [_target_row(target, known.get(target.case.name)) for target in targets]


def _target_row(target: Target, measurement: Measurement | None) -> Json:
    row: Json = {"name": target.name, "case": target.case.name, "unit": target.unit, "at_least": target.at_least}
    row |= {"value": None, "lower_quartile": None, "upper_quartile": None, "against": None, "met": None, "note": ""}
    if measurement is None:
        return row | {"note": "not measured"}
    if not measurement.passed:
        return row | {"note": "the parity gate is red"}
    if target.unit == "%":
        spread, scale = measurement.speeds[0].share_of_peak, 100.0
    else:
        peer = measurement.fastest_peer
        if peer is None:
            return row | {"note": "; ".join(f"{name}: {why}" for name, why in measurement.skipped.items())}
        spread, scale = peer.ratio, 1.0
        row["against"] = peer.who
    value = spread.median * scale
    quartiles = {"lower_quartile": round(spread.lower * scale, 3), "upper_quartile": round(spread.upper * scale, 3)}
    return row | {"value": round(value, 3), **quartiles, "met": value >= target.at_least}


def language_model_row(folder: Path) -> Json:
    """The language model's figure, from the file that its own command leaves in the folder; null while there is none.

    Raises FormatError when the file lacks a field.
    """
    row: Json = {"name": LANGUAGE_MODEL_NAME, "case": None, "unit": "nats/char", "at_most": LANGUAGE_MODEL_TARGET}
    row |= {"value": None, "against": None, "met": None, "note": f"not measured: there is no {LANGUAGE_MODEL_FILE}"}
    path = folder / LANGUAGE_MODEL_FILE
    if not path.exists():
        return row
    found = read_json(path)
    lacking = [name for name in LANGUAGE_MODEL_FIELDS if name not in found]
    if lacking:
        raise FormatError(f"{path} has no {', '.join(lacking)}", expected=", ".join(LANGUAGE_MODEL_FIELDS))
    value = float(found["nats_per_character"])
    peer = f"torch.nn, the same model: {found['torch_nats_per_character']:.3f}"
    details = {name: found[name] for name in LANGUAGE_MODEL_FIELDS}
    return row | {
        "value": value,
        "against": peer,
        "met": value <= LANGUAGE_MODEL_TARGET,
        "note": "",
        "details": details,
    }


def read_json(path: Path) -> Json:
    """The object that a JSON file holds. Raises FormatError when it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path} holds a {type(found).__name__}", expected="an object")
    return found


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Writes beside, then renames, so that a full disk never costs the earlier file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)
