"""Thousands of damaged models, programs and weights: a clear error or a model that runs, never anything else."""

import copy
import json
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recurra import nn, runtime
from recurra.cells import zoneout
from recurra.checkpoint import save_weights
from recurra.errors import FormatError, RecurraError
from recurra.models import layer_spec
from recurra.program import Program
from recurra.storage import save_model
from test_runtime import saved_model

STRANGE: list[Any] = [
    None, True, -1, 0, 1, 2, 10**9, 2**63, 10**400, -0.5, 1e308, float("inf"), float("nan"), "", "x", "hidden",
    "3*hidden", "hidden/2", "99999999999", "0*x", "__import__('os')", [], {}, [[]], {"kind": "Stack"}, "\ud800",
    "matmul", "gate",
]  # fmt: skip

LAYERS = {
    "gru": lambda: nn.GRU(3, 4),
    "zoneout": lambda: nn.Recurrent(zoneout("lstm", 0.3), 3, 4),
    "stack": lambda: nn.Stack(nn.Dropout(nn.LSTM(3, 4), 0.1), nn.Residual(nn.GRU(4, 4)), nn.MaskedBatchNorm(4)),
    "both": lambda: nn.Mean(nn.Bidirectional(nn.GRU(3, 2), nn.Recurrent("sru", 3, 2))),
    "memories": lambda: nn.Stack(nn.MatrixLSTM(3, 4, heads=2), nn.WindowAttention(4, 4, heads=2, window=3)),
    "decoder": lambda: nn.AttentionDecoder(nn.GRU(7, 4), nn.AdditiveAttention(4, 3, 2)),
}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value within JSON."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(value: Any, rng: random.Random) -> Any:
    """JSON with one to three places changed, removed, doubled or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice([*places(value)] or [()])
        if not path:
            return value
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        change = rng.randrange(5)
        if change == 0:
            del owner[path[-1]]
        elif change == 1 and isinstance(owner, list):
            owner.insert(path[-1], copy.deepcopy(owner[path[-1]]))
        elif change == 2 and isinstance(owner[path[-1]], int | float) and abs(owner[path[-1]]) < 2**62:
            owner[path[-1]] += rng.choice([-2, -1, 1, 2, 1000])
        elif change == 3 and isinstance(owner, list):
            owner.reverse()
        else:
            owner[path[-1]] = copy.deepcopy(rng.choice(STRANGE))
    return value


def try_out(model: runtime.Layer) -> None:
    """Runs what was built: whatever a file makes of a model, results have the shapes that it promises."""
    x = (
        np.ones((2, 3), np.int64)
        if model.tokens
        else np.ones((2, 3, model.input_size), model.input_dtype or model.dtype)
    )
    if model.input_size > 1000 or model.output_size > 10_000:
        return
    elapsed = np.ones((2, 3), model.dtype) if model.uses_elapsed else None
    with np.errstate(all="ignore"):
        y, _ = model(x, lengths=[3, 1], elapsed=elapsed)
    assert y.shape == ((2, model.output_size) if model.pools else (2, 3, model.output_size))


@pytest.fixture(autouse=True)
def _no_code():
    """Fails when a model file makes Python compile, execute or import anything, or start a process."""
    watched = {"exec", "compile", "subprocess.Popen", "os.system"}
    seen: list[str] = []
    state = {"on": True}

    def hook(event: str, _arguments: tuple) -> None:
        if state["on"] and event in watched:
            frame = sys._getframe(1)
            while frame is not None:
                # named tuples and dataclasses are made by exec in the standard library
                if "collections" in frame.f_code.co_filename or "importlib" in frame.f_code.co_filename:
                    return
                frame = frame.f_back
            seen.append(event)

    sys.addaudithook(hook)
    yield
    state["on"] = False
    assert not seen


@pytest.mark.parametrize("name", LAYERS)
def test_damaged_layers_are_refused_or_run(name: str):
    layer = LAYERS[name]().eval()
    spec = json.loads(json.dumps(layer_spec(layer)))
    arrays = {key: value.numpy() for key, value in layer.state_dict().items()}
    rng = random.Random(name)
    refused = 0
    for _ in range(400):
        changed = mutated(spec, rng)
        try:
            model = runtime.from_data(changed, arrays)
        except FormatError:
            refused += 1
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try_out(model)
    assert refused > 100


def test_damaged_programs_are_refused_or_read():
    spec = json.loads(
        (layer_spec(nn.Recurrent(zoneout("gru", 0.3), 3, 4))["program"]["doc"] and json.dumps({})) or "{}"
    )
    spec = layer_spec(nn.Recurrent(zoneout("gru", 0.3), 3, 4))["program"]
    rng = random.Random(1)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(1500):
        text = json.dumps(mutated(spec, rng))
        if rng.random() < 0.2:
            cut = rng.randrange(len(text))
            text = text[:cut] + rng.choice(["", "}", "[[", '"', "\0"]) + text[cut + rng.randrange(3) :]
        try:
            Program.from_json(text)
        except RecurraError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50


def test_damaged_files_are_refused(tmp_path: Path):
    model = saved_model(tmp_path)
    good = {name: (tmp_path / name).read_bytes() for name in ("model.json", "weights.safetensors")}
    rng = random.Random(2)
    for turn in range(600):
        name = rng.choice(list(good))
        damaged = bytearray(good[name])
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged) if turn % 2 else min(len(damaged), 600))] = rng.randrange(256)
        if turn % 7 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        (tmp_path / name).write_bytes(damaged)
        try:
            opened = runtime.load(tmp_path)
        except RecurraError:
            continue
        finally:
            (tmp_path / name).write_bytes(good[name])
        # a change within a name, a comment or a number that is not of the model's shape
        try_out(opened)
    assert runtime.load(tmp_path).output_size == len(model.vocabulary)


@pytest.mark.parametrize("task", ["layer", "language-model", "echo-state-network", "echo-state-classifier", "other"])
def test_any_json_under_any_task_is_refused(task: str, tmp_path: Path):
    layer = nn.GRU(3, 4).eval()
    rng = random.Random(task)
    save_weights(tmp_path, layer.state_dict(), {})
    for _ in range(60):
        save_model(tmp_path, task, {rng.choice(["layer", "layers", "learned", "dropout"]): rng.choice(STRANGE[:-3])})
        with pytest.raises(RecurraError):
            runtime.load(tmp_path)


def test_programs_as_deep_as_can_be_are_refused_or_run():
    layer = nn.Recurrent("rnn_tanh", 3, 4).eval()
    arrays = {name: value.numpy() for name, value in layer.state_dict().items()}
    spec = json.loads(json.dumps(layer_spec(layer)))
    nodes = spec["program"]["nodes"]
    last = spec["program"]["next_states"][0]
    for _ in range(5000):
        nodes.append(["add", [last, 0 if nodes[0][0] == "state" else last], None])
        last = len(nodes) - 1
    spec["program"]["next_states"] = [last]
    try:
        try_out(runtime.from_data(spec, arrays))
    except FormatError:
        # what is too deep for this Python
        pass
    nest: Any = json.loads(json.dumps(layer_spec(layer)))
    for _ in range(3000):
        nest = {"kind": "Dropout", "probability": 0.0, "layer": nest}
    with pytest.raises(RecurraError):
        runtime.from_data(nest, arrays)
