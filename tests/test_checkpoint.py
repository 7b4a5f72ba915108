"""Saved models: equal after loading, whole whatever happens while saving, refused clearly when damaged."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import recurra
from recurra.cells import Bias, Input, Recurrent, cell, sigmoid, tanh
from recurra.checkpoint import MODEL_FILE, read_weights, save_model, save_weights, write_atomically
from recurra.data import Vocabulary
from recurra.errors import ArgumentError, FormatError, RecurraError
from recurra.learn.callbacks import AtomicFiles
from recurra.tasks import LanguageModel, load

VOCABULARY = Vocabulary("char", list("abc猫"))


def saved_model(folder: Path, which: object = "gru") -> LanguageModel:
    """A model with random weights, written into the folder."""
    model = LanguageModel.build(VOCABULARY, cell=which, hidden=5, layers=2, embedding=4)  # type: ignore[arg-type]
    save_model(folder, model.task, model.to_spec())
    save_weights(folder, model.state_dict(), {"step": "3", "validation_loss": "1.5"})
    return model.eval()


def test_a_loaded_model_is_bit_equal(tmp_path: Path):
    model = saved_model(tmp_path)
    again = recurra.load(tmp_path)
    assert not again.training
    assert again.vocabulary == VOCABULARY
    tokens = torch.tensor([[1, 2, 3, 4, 0]])
    assert (again(tokens)[0] == model(tokens)[0]).all()
    assert read_weights(tmp_path)[1] == {"step": "3", "validation_loss": "1.5"}
    assert str(tmp_path) not in (tmp_path / "model.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["language model", "layer", "reservoir"])
def test_one_door_opens_every_model_and_reads_each_file_once(kind: str, tmp_path: Path, monkeypatch):
    if kind == "language model":
        saved_model(tmp_path)
    elif kind == "layer":
        recurra.save_layer(recurra.nn.GRU(2, 3), tmp_path)
    else:
        x = torch.randn(40, 1).numpy()
        network = recurra.reservoir.EchoStateNetwork(recurra.reservoir.Reservoir(10), regularisation=1.0)
        network.fit(x, x).save(tmp_path)
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    model = recurra.load(tmp_path)
    assert sorted(read) == [MODEL_FILE, "weights.safetensors"]
    if kind == "layer":
        assert isinstance(recurra.load_layer(tmp_path), recurra.nn.Recurrent)
    else:
        assert not isinstance(model, recurra.nn.Layer)
        with pytest.raises(FormatError, match="was made for another task"):
            recurra.load_layer(tmp_path)


def test_a_user_s_own_cell_opens_where_it_is_not_known(tmp_path: Path):
    @cell
    def mine(x, h, *, W=Input(2), U=Recurrent(2), b=Bias(2)):
        """Tested here only."""
        (xz, xn), (hz, hn) = W @ x + b, U @ h
        z = sigmoid(xz + hz)
        return (1 - z) * tanh(xn + hn) + z * h

    model = saved_model(tmp_path, mine)
    tokens = torch.tensor([[1, 2, 3, 4, 0]])
    expected = model(tokens)[0].flatten().tolist()
    code = (
        "import sys, torch, recurra; from recurra import cells; torch.set_num_threads(1)\n"
        f"model = recurra.load({str(tmp_path)!r}); assert 'mine' not in cells.names()\n"
        "print(*map(float.hex, model(torch.tensor([[1, 2, 3, 4, 0]]))[0].flatten().tolist()))"
    )
    got = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert list(map(float.fromhex, got)) == pytest.approx(expected, rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("kind", ["missing folder", "empty folder", "no weights", "a file"])
def test_what_is_no_model_is_refused(tmp_path: Path, kind):
    path = tmp_path / "model"
    if kind == "a file":
        path.write_text("text")
    elif kind != "missing folder":
        saved_model(path)
        (path / "weights.safetensors").unlink()
        if kind == "empty folder":
            (path / "model.json").unlink()
    with pytest.raises(ArgumentError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share):
    for name in ("weights.safetensors", "model.json"):
        saved_model(tmp_path)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(FormatError) as caught:
            load(tmp_path)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(tmp_path: Path):
    saved_model(tmp_path)
    path = tmp_path / "weights.safetensors"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(FormatError):
            load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a model of recurra"),
        (b'{"format": "other"}', "not a model of recurra"),
        (b'{"format": "recurra model", "version": 99, "written_by": "recurra 9.0"}', "recurra 9.0"),
        (b'{"format": "recurra model", "version": "1"}', "version"),
        (b'{"format": "recurra model", "version": 1, "task": "language-model"}', "damaged"),
        (b'{"format": "recurra model", "version": 1, "task": "language-model", "model": {}}', "fields"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": "recurra model", "version": true, "task": "layer", "model": {}}', "version"),
        (b'{"format": "recurra model", "version": 1, "task": "other", "task": "layer", "model": {}}', "twice"),
    ],
)
def test_a_foreign_or_damaged_model_file_is_refused(tmp_path: Path, content, message):
    saved_model(tmp_path)
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        load(tmp_path)
    assert len(str(caught.value)) < 1000


def weights_file(header: dict, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def tensor(kind: str, shape: list[int], size: int) -> dict:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    "content",
    [
        weights_file({"__metadata__": None}),
        weights_file({"__metadata__": {"recurra": "[" * 100_000}}),
        weights_file({"__metadata__": {"recurra": "[]"}}),
        weights_file(tensor("F32", [1] * 65, 4), bytes(4)),
        weights_file(tensor("F32", [0, 2**63], 0)),
        weights_file(tensor("F32", [0, 2**62, 2**62], 0)),
        weights_file(tensor("F4", [2], 1), bytes(1)),
        weights_file(tensor("C64", [1], 8), bytes(8)),
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
@pytest.mark.parametrize("read", [load, recurra.runtime.load], ids=["torch", "runtime"])
def test_weights_that_say_what_cannot_be_are_refused(tmp_path: Path, content: bytes, read):
    saved_model(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match="damaged") as caught:
        read(tmp_path)
    assert "weights.safetensors" in str(caught.value)


def test_a_file_in_place_of_its_folder_is_named(tmp_path: Path):
    saved_model(tmp_path)
    with pytest.raises(ArgumentError, match=r"it is a file\. Name the folder"):
        load(tmp_path / "weights.safetensors")


def test_a_layer_that_cannot_be_built_is_a_fault_of_its_file(tmp_path: Path):
    recurra.save_layer(recurra.nn.GRU(3, 4), tmp_path)
    path = tmp_path / "model.json"
    path.write_bytes(path.read_bytes().replace(b'"hidden_size": 4', b'"hidden_size": NaN'))
    with pytest.raises(FormatError, match="hidden_size is nan") as caught:
        recurra.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_sizes_that_no_computer_has_room_for_are_refused_before_they_are_made(tmp_path: Path):
    saved_model(tmp_path)
    path = tmp_path / MODEL_FILE
    text = path.read_text(encoding="utf-8")
    places = [m for m in re.finditer(r'"(hidden_size|input_size)": ?(\d+)', text)]
    assert len(places) >= 4
    for place in places:
        for size in ("0", "-3", "6", "1000000000", "1" + "0" * 15, "1" + "0" * 30, "2.5", "true", "null", '"a"'):
            path.write_text(f"{text[: place.start(2)]}{size}{text[place.end(2) :]}", encoding="utf-8")
            with pytest.raises(RecurraError):
                recurra.load(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path):
    saved_model(tmp_path)
    weights, about = read_weights(tmp_path)
    for change in ({"bias": torch.zeros(9)}, {"extra": torch.zeros(1)}, {"bias": None}):
        changed = {name: value for name, value in {**weights, **change}.items() if value is not None}
        save_weights(tmp_path, changed, about)
        with pytest.raises(FormatError, match="do not fit"):
            load(tmp_path)


def test_damaged_programs_are_refused(tmp_path: Path):
    saved_model(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    program = content["model"]["layers"]["layers"][0]["layer"]["program"]
    for field in ("version", "states", "parameters", "nodes", "next_states", "output"):
        kept, program[field] = program[field], [[-1, "x"]]
        (tmp_path / "model.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(RecurraError):
            load(tmp_path)
        program[field] = kept


def test_a_failed_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_atomically(path, b"earlier")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, b"later")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


class Malicious:
    """Would leave a trace if anything unpickled it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path: Path):
    saved_model(tmp_path)
    trace = tmp_path / "trace"
    for name in ("model.json", "weights.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(pickle.dumps(Malicious(trace)))
        with pytest.raises(FormatError):
            load(tmp_path)
        (tmp_path / name).write_bytes(content)
    AtomicFiles().save_checkpoint({"recurra": Malicious(trace)}, tmp_path / "trainer.ckpt")
    with pytest.raises(FormatError, match="no plain data"):
        AtomicFiles().load_checkpoint(tmp_path / "trainer.ckpt")
    assert not trace.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_trainer_state_is_refused(tmp_path: Path, share):
    path = tmp_path / "trainer.ckpt"
    files = AtomicFiles()
    files.save_checkpoint({"recurra": {"carried": [torch.randn(50, 50)]}}, path)
    assert set(files.load_checkpoint(path)) == {"recurra"}
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FormatError, match="truncated or damaged") as caught:
        files.load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_the_trainer_state_is_noticed(tmp_path: Path):
    path = tmp_path / "trainer.ckpt"
    files = AtomicFiles()
    files.save_checkpoint({"recurra": {"carried": [torch.randn(50, 50)]}}, path)
    content = path.read_bytes()
    for place in range(11, len(content), 499):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(FormatError):
            files.load_checkpoint(path)
