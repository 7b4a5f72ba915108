"""Damaged models with int8 and bfloat16 weights, with true checksums: a clear error or a model that runs, with torch
and without. `make test` tries a few hundred, `pytest --hypothesis-profile=explore` thousands."""

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

import recurra
from recurra import nn, runtime
from recurra.bfloat16 import BFLOAT16
from recurra.cells import zoneout
from recurra.errors import RecurraError
from recurra.storage import CHECKSUM, NOTES, checksum_of, described, read_arrays
from small_weights import language_model, save
from test_checkpoint import weights_file
from test_hostile_models import mutated, try_out

BUILT = {
    "gru": lambda: nn.GRU(3, 4),
    "computed": lambda: nn.Recurrent("antisymmetric_rnn_gated", 3, 4),
    "zoneout": lambda: nn.Recurrent(zoneout("lstm", 0.3), 3, 4),
    "stack": lambda: nn.Stack(nn.Dropout(nn.LSTM(3, 4), 0.1), nn.Residual(nn.GRU(4, 4)), nn.MaskedBatchNorm(4)),
    "memories": lambda: nn.Stack(nn.MatrixLSTM(3, 4, heads=2), nn.WindowAttention(4, 4, heads=2, window=3)),
    "decoder": lambda: nn.AttentionDecoder(nn.GRU(7, 4), nn.AdditiveAttention(4, 3, 2)),
    "language model": lambda: language_model(tied=True, hidden=4),
}
KINDS = {
    np.dtype(np.float32): "F32", np.dtype(np.float64): "F64", np.dtype(np.float16): "F16", np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8", np.dtype(np.int64): "I64", np.dtype(np.bool_): "BOOL", BFLOAT16: "BF16",
}  # fmt: skip
SPECIAL = [np.nan, np.inf, -np.inf, -1.0, 0.0, 1e38, 1e-45]


def write_weights(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """A file of weights whose checksum is true."""
    header: dict[str, Any] = {"__metadata__": {NOTES: json.dumps({CHECKSUM: checksum_of(described(arrays))})}}
    data = b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": KINDS[array.dtype], "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    (folder / "weights.safetensors").write_bytes(weights_file(header, data))


def changed(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another array: of another type or shape, or with other numbers."""
    change = rng.randrange(5)
    if change == 0:
        dtype = rng.choice(list(KINDS))
        return (
            np.frombuffer(rng.randbytes(array.size * dtype.itemsize), np.uint8).copy().view(dtype).reshape(array.shape)
        )
    if change == 1:
        return array.reshape(rng.choice([(-1,), (1, *array.shape), array.shape[::-1], (*array.shape, 1)]))
    if change == 2:
        return array[: rng.randrange(len(array) + 1)] if array.ndim else array
    array = array.copy()
    if not array.size:
        return np.zeros(rng.randrange(3), array.dtype)
    if change == 3 and array.dtype.kind == "f":
        array.reshape(-1)[rng.randrange(array.size)] = rng.choice(SPECIAL)
        return array
    array.reshape(-1).view(np.uint8)[rng.randrange(array.nbytes)] = rng.choice(
        [0, 0x7F, 0x80, 0xFF, rng.randrange(256)]
    )
    return array


def with_changes(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Weights of which one to three are changed, left out, renamed, doubled or exchanged."""
    arrays = dict(arrays)
    for _ in range(rng.randint(1, 3)):
        name, other = rng.choice(list(arrays)), rng.choice(list(arrays))
        change = rng.randrange(8)
        if change == 0:
            del arrays[name]
        elif change == 1:
            arrays[name + rng.choice(["x", ".W", ""])] = arrays.pop(name)
        elif change == 2:
            arrays[name], arrays[other] = arrays[other], arrays[name]
        elif change == 3:
            arrays[rng.choice(["int8_scales.W", "computes_in", "part.W", ""]) or name] = arrays[other]
        else:
            arrays[name] = changed(arrays[name], rng)
        if not arrays:
            return arrays
    return arrays


def opened(load: Any, folder: Path) -> Any:
    """The model, or None where it is refused."""
    try:
        return load(folder)
    except RecurraError:
        return None


def trained_size(model: Any) -> int:
    """How many numbers a model in torch puts out a step."""
    return len(model.vocabulary) if hasattr(model, "vocabulary") else model.output_size


@pytest.mark.parametrize("weights", ["int8", "bfloat16"])
@pytest.mark.parametrize("name", BUILT)
def test_damaged_small_models_are_refused_or_run(name: str, weights: str, tmp_path: Path):
    torch.manual_seed(0)
    small = recurra.quantise(BUILT[name]().eval(), weights=weights)
    save(small, tmp_path) if name == "language model" else recurra.save_layer(small, tmp_path)
    model = json.loads((tmp_path / "model.json").read_bytes())
    arrays = read_arrays(tmp_path).arrays
    rng = random.Random(f"{name} {weights}")
    assert opened(runtime.load, tmp_path) is not None
    assert opened(recurra.load, tmp_path) is not None
    refused = 0
    for _ in range(hypothesis.settings().max_examples):
        spec, held = copy.deepcopy(model), arrays
        if rng.random() < 0.3:
            spec["model"] = mutated(model["model"], rng)
        else:
            held = with_changes(arrays, rng)
        (tmp_path / "model.json").write_text(json.dumps(spec), encoding="utf-8")
        write_weights(tmp_path, held)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            live, trained = opened(runtime.load, tmp_path), opened(recurra.load, tmp_path)
            if live is not None:
                try_out(live)
        refused += live is None
        assert live is None or trained is None or live.output_size == trained_size(trained)
    assert refused > 0
