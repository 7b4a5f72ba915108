"""Layers and models as ONNX files. That every layer's graph equals it is law 11; here is what a user does with one."""

import copy
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import layers
import recurra.onnx
from recurra import cells, nn
from recurra.checkpoint import save_model, save_weights
from recurra.cli import main
from recurra.data import Vocabulary
from recurra.errors import ArgumentError, BackendUnavailable, ShapeError
from recurra.nn.state import state_tensors
from recurra.onnx import layer_graph
from recurra.program.operations import TABLE
from recurra.tasks import LanguageModel
from recurra.testing import check_laws

onnx = pytest.importorskip("onnx", reason="onnx is an extra: pip install 'recurra[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is an extra: pip install 'recurra[onnx]'")


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


STANDARD = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "gru": "GRU", "gru_reset_before": "GRU", "lstm": "LSTM"}
STANDARD |= {"lstm_peephole": "LSTM"}


def test_a_path_in_no_folder_is_named_before_anything_is_computed(tmp_path: Path):
    layer = nn.GRU(3, 4)
    with pytest.raises(ArgumentError, match=r"there is no folder .*none'.* Make the folder first"):
        recurra.onnx.export(layer, tmp_path / "none" / "layer.onnx")
    with pytest.raises(ArgumentError, match="is a folder: expected the name of a new file"):
        recurra.onnx.export(layer, tmp_path)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors", "notes.txt"])
def test_files_of_other_kinds_are_not_overwritten(name: str, tmp_path: Path):
    layer = nn.GRU(3, 4)
    (tmp_path / name).write_bytes(b"of value")
    with pytest.raises(ArgumentError, match=rf"{name}' is a file already: expected .* ends with \.onnx"):
        recurra.onnx.export(layer, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"of value"
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ArgumentError, match="is a device or a pipe"):
        recurra.onnx.export(layer, tmp_path / "pipe.onnx")


def test_links_are_followed(tmp_path: Path):
    (tmp_path / "real.onnx").write_bytes(b"")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    recurra.onnx.export(nn.GRU(3, 4), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "real.onnx").stat().st_size > 0


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn_relu", "star"])
def test_what_is_no_number_stays_none_in_a_scan(cell: str, tmp_path: Path):
    """ONNX Runtime's own GRU, LSTM and ReLU nodes lose it, as docs/onnx.md says."""
    layer = nn.Recurrent(cell, 3, 4).eval()
    recurra.onnx.export(layer, tmp_path / "scan.onnx", with_reset=True)
    x = np.zeros((2, 6, 3), np.float32)
    x[1, 2] = np.nan
    y = session(tmp_path / "scan.onnx").run(["y"], {"x": x})[0]
    assert np.isnan(y[1, 2:]).any(axis=-1).all()
    assert not np.isnan(y[0]).any()
    assert not np.isnan(y[1, :2]).any()


@pytest.mark.parametrize("name", [*STANDARD, "mgu"])
def test_cells_that_are_exactly_standard_operators_become_those(name: str, tmp_path: Path):
    layer = nn.Recurrent(name, 3, 5)
    single = recurra.onnx.export(layer, tmp_path / "single.onnx")
    assert STANDARD.get(name, "Scan") in single.operators
    assert ("Scan" in single.operators) == (name not in STANDARD)
    # runtimes have no kernels of these in double precision
    assert "Scan" in recurra.onnx.export(layer.double(), tmp_path / "double.onnx").operators


def test_other_equations_under_the_same_name_become_a_scan(tmp_path: Path):
    @cells.cell
    def gru(x, h, *, W=cells.Input(), U=cells.Recurrent()):
        return cells.tanh(W @ x - U @ h)

    assert "Scan" in recurra.onnx.export(nn.Recurrent(gru, 3, 5), tmp_path / "layer.onnx").operators


@pytest.mark.parametrize("cell", ["gru", "slstm"])
def test_a_file_streams_with_its_state(cell: str, tmp_path: Path):
    layer = nn.Stack(nn.Recurrent(cell, 3, 4), nn.Residual(nn.Recurrent("mgu", 4, 4)))
    exported = recurra.onnx.export(layer, tmp_path / "layer.onnx")
    assert exported.inputs[:2] == ("x", "lengths")
    assert exported.states[0] == ("state.0.h", "next.0.h")
    run = session(exported.path).run
    x = torch.randn(2, 6, 3)
    whole, after = layer(x)
    given: dict[str, np.ndarray] = {}  # the first step begins from the initial state
    for t in range(6):
        y, *following = run(None, {"x": x[:, t : t + 1].numpy(), **given})
        given = dict(zip([own for own, _ in exported.states], following, strict=True))
        np.testing.assert_allclose(y[:, 0], whole[:, t].detach(), atol=1e-6)
    np.testing.assert_allclose(given["state.1.h"], after[1].h.detach(), atol=1e-6)


def test_the_file_is_valid_and_another_runtime_agrees(tmp_path: Path):
    layer = nn.Bidirectional(nn.Recurrent("lstm_projected", 3, 4, widths={"projection": 2}), nn.GRU(3, 2))
    exported = recurra.onnx.export(layer, tmp_path / "layer.onnx")
    onnx.checker.check_model(onnx.load(exported.path), full_check=True)
    x = torch.randn(2, 5, 3)
    from onnx.reference import ReferenceEvaluator

    y = ReferenceEvaluator(str(exported.path)).run(["y"], {"x": x.numpy()})[0]
    np.testing.assert_allclose(y, layer(x)[0].detach(), atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_the_language_model(tied: bool, tmp_path: Path):
    vocabulary = Vocabulary("char", list("abcé"))
    model = LanguageModel.build(vocabulary, cell="lstm", hidden=6, layers=2, embedding=4, dropout=0.5, tied=tied)
    model.train()
    exported = recurra.onnx.export(model, tmp_path / "model.onnx")
    assert model.training
    tokens = torch.randint(0, len(vocabulary), (2, 7))
    scores, *_ = session(exported.path).run(None, {"tokens": tokens.numpy()})
    np.testing.assert_allclose(scores, model.eval()(tokens)[0].detach(), atol=1e-6)
    about = {one.key: one.value for one in onnx.load(exported.path).metadata_props}
    assert Vocabulary.from_dict(json.loads(about["vocabulary"])) == vocabulary


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = LanguageModel.build(Vocabulary("char", list("ab")), cell="mgu", hidden=4)
    save_model(tmp_path / "run", model.task, model.to_spec())
    save_weights(tmp_path / "run", model.state_dict(), {})
    recurra.save_layer(nn.GRU(3, 4), tmp_path / "layer")
    for folder, options, inputs in (
        ("run", (), "tokens, lengths, state.0.h"),
        ("run", ("--with-reset",), "tokens, lengths, reset, state.0.h"),
        ("layer", ("--with-reset",), "x, lengths, reset, state.h"),
    ):
        target = tmp_path / f"{folder}{len(options)}.onnx"
        with pytest.raises(SystemExit) as caught:
            main(["export", str(tmp_path / folder), "--onnx", str(target), *options])
        assert caught.value.code in (0, None)
        printed = capsys.readouterr().out
        assert f"inputs      {inputs}" in printed
        assert "difference  " in printed
        assert target.is_file()
    for options in (("--int8",), ("--bfloat16",)):
        with pytest.raises(SystemExit) as caught:
            main(["export", str(tmp_path / "run"), "--with-reset", *options])
        assert caught.value.code == 2
        assert "--with-reset goes with --onnx FILE" in capsys.readouterr().err
    for options in (("--tolerance", "3"), ("--data", "text"), ("--out", "folder")):
        with pytest.raises(SystemExit) as caught:
            main(["export", str(tmp_path / "run"), "--onnx", str(tmp_path / "other.onnx"), *options])
        assert caught.value.code == 2
        assert "--tolerance go with --int8" in " ".join(capsys.readouterr().err.split())


def test_an_embedding_and_heads_of_ones_own(tmp_path: Path):
    embedding, layer, head = torch.nn.Embedding(9, 3), nn.Mean(nn.GRU(3, 4)), torch.nn.Linear(4, 2)
    parts = recurra.onnx.Parts(layer, embedding.weight, ((head.weight, head.bias),))
    exported = recurra.onnx.export(parts, tmp_path / "model.onnx")
    tokens, lengths = torch.randint(0, 9, (3, 5)), torch.tensor([5, 0, 2])
    found, *_ = session(exported.path).run(None, {"tokens": tokens.numpy(), "lengths": lengths.numpy()})
    expected = head(layer(embedding(tokens), lengths=lengths)[0])
    np.testing.assert_allclose(found, expected.detach(), atol=1e-6)
    with pytest.raises(ShapeError, match="head 0 has a weight of shape"):
        recurra.onnx.Parts(layer, heads=((torch.zeros(2, 3), None),))
    with pytest.raises(ShapeError, match="the embedding gives 4 features"):
        recurra.onnx.Parts(layer, torch.zeros(2, 4))


RESET = {
    "gru": lambda: nn.GRU(3, 4),
    "leaky": lambda: layers.ALL["leaky"](),
    "stack": lambda: nn.Stack(nn.LSTM(3, 4), nn.Residual(nn.Recurrent("slstm", 4, 4))),
    "zoneout and a learned initial state": lambda: layers.ALL["gru, learned and random initial states of zoneout"](),
    "mean of bidirectional": lambda: nn.Mean(nn.Bidirectional(nn.GRU(3, 2), nn.LSTM(3, 2))),
    "reversed last in continuous time": lambda: layers.ALL["reversed last in continuous time"](),
    "mlstm": lambda: layers.ALL["mlstm"](),
}


@pytest.mark.parametrize("name", RESET)
def test_rows_start_afresh_where_reset_says_so(name: str, tmp_path: Path):
    layer = RESET[name]().double().eval()
    exported = recurra.onnx.export(layer, tmp_path / "layer.onnx", with_reset=True)
    assert exported.inputs[1 + layer.uses_elapsed :][:2] == ("lengths", "reset")
    assert "Scan" in exported.operators
    assert not {"GRU", "LSTM", "RNN"} & set(exported.operators)
    run, generator = session(exported.path).run, torch.Generator().manual_seed(0)
    x, lengths = torch.randn(4, 9, 3, generator=generator).double(), torch.tensor([9, 0, 4, 7])
    times = torch.rand(4, 9, generator=generator).double() + 0.1 if layer.uses_elapsed else None
    given = {"x": x.numpy()} | ({} if times is None else {"elapsed": times.numpy()})
    for reset in (None, torch.rand(4, 9, generator=generator) < 0.3, torch.ones(4, 9, dtype=torch.bool)):
        flags = {} if reset is None else {"reset": reset.numpy()}
        for ends in (None, lengths):
            wanted, after = layer(x, lengths=ends, reset=reset, elapsed=times)
            found = run(None, given | flags | ({} if ends is None else {"lengths": ends.numpy()}))
            for value, expected in zip(found, [wanted, *state_tensors(after)], strict=True):
                np.testing.assert_allclose(value, expected.detach(), atol=1e-10)


def test_resets_are_compared_before_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = layer_graph._since_reset

    def wrong(builder, y, signals, reset):
        _, steps, afresh = right(builder, y, signals, reset)
        return y, steps, afresh

    monkeypatch.setattr(layer_graph, "_since_reset", wrong)
    recurra.onnx.export(nn.Mean(nn.GRU(3, 4)), tmp_path / "layer.onnx")
    with pytest.raises(ArgumentError, match="the ONNX graph differs from the layer"):
        recurra.onnx.export(nn.Mean(nn.GRU(3, 4)), tmp_path / "other.onnx", with_reset=True)
    assert not (tmp_path / "other.onnx").exists()


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    layer, path = nn.Recurrent("mgu", 3, 5), tmp_path / "layer.onnx"
    path.write_bytes(b"an earlier file")
    monkeypatch.setitem(TABLE, "tanh", dataclasses.replace(TABLE["tanh"], onnx=("Sin", 0)))
    with pytest.raises(ArgumentError, match=r"the ONNX graph differs from the layer by .* Nothing was written"):
        recurra.onnx.export(layer, path)
    assert path.read_bytes() == b"an earlier file"
    assert list(tmp_path.iterdir()) == [path]
    report = check_laws(layer, samples=1, raise_on_failure=False)
    assert [failure.number for failure in report.failures] == [11]


def test_what_has_no_form_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "layer.onnx"
    with pytest.raises(ArgumentError, match="the weights are bfloat16: expected all float32 or all float64"):
        recurra.onnx.export(nn.GRU(3, 4).bfloat16(), path)
    with pytest.raises(ArgumentError, match=r"model is a GRU: expected a layer of recurra\.nn"):
        recurra.onnx.export(torch.nn.GRU(3, 4), path)

    class Own(nn.Layer):
        """A layer of one's own class."""

        input_size = output_size = 3

        def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
            return x, ()

        def step(self, x_t, state, *, elapsed=None):
            return x_t, ()

        def initial_state(self, batch):
            return ()

    with pytest.raises(ArgumentError, match="a layer of class Own has no form in ONNX"):
        recurra.onnx.export(nn.Stack(nn.GRU(3, 3), Own()), path)
    assert not list(tmp_path.iterdir())


def test_without_the_packages_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recurra.onnx.packages.find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"onnx is not installed. .*pip install 'recurra\[onnx\]'"):
        recurra.onnx.export(nn.GRU(3, 4), tmp_path / "layer.onnx")
    report = check_laws(nn.GRU(2, 3), samples=1)
    assert report[11].reason == "onnx and onnxruntime not installed: pip install 'recurra[onnx]'"


def test_exporting_leaves_the_layer_as_it_was(tmp_path: Path):
    layer = nn.Stack(nn.Dropout(nn.GRU(3, 4), 0.5), nn.MaskedBatchNorm(4)).train()
    layer.layers[0].eval()
    weights = copy.deepcopy(layer.state_dict())
    recurra.onnx.export(layer, tmp_path / "layer.onnx")
    assert [one.training for one in layer.layers] == [False, True]
    assert all(torch.equal(weights[name], value) for name, value in layer.state_dict().items())
