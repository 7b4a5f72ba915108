"""Int8 weights: products to the bit, cells near their float32 selves, threads, refusals, files; `recurra export`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import recurra
from recurra import _engine, int8
from recurra.checkpoint import read_weights, save_weights
from recurra.cli import main
from recurra.errors import ArgumentError, BackendUnavailable, FormatError, RecurraError, ShapeError
from recurra.nn.small import FORMS, SmallEmbedding, SmallLinear, SmallRecurrent
from recurra.program.matrices import product_matrices, product_parameters
from recurra.quantisation import quantise
from recurra.tasks import load
from small_weights import (
    CELLS,
    WRAPPED,
    language_model,
    layer_of,
    residual,
    same_bits,
    save,
    sequence,
    the_same_for_any_threads_and_split,
    unchanged_by,
    wrapped,
)

SIZES = (1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129)
SPECIAL = (0.0, -0.0, 1e-38, -1e-42, 3e38, np.inf, -np.inf, np.nan)


def linear(matrix: np.ndarray, bias: np.ndarray | None = None) -> SmallLinear:
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return SmallLinear(layer, FORMS["int8"])


def product_of_whole_numbers(layer: SmallLinear, x: np.ndarray) -> np.ndarray:
    """Row by row in int32, apart from recurra.int8."""
    y = np.empty((len(x), layer.weight.shape[0]), np.float32)
    for row, vector in zip(y, x, strict=True):
        largest = np.abs(vector).max()
        if not np.isfinite(largest):
            row[:] = np.nan
            continue
        scale, factor = (np.float32(0), np.float32(0))
        if largest >= np.float32(2.0**-100):
            scale, factor = largest / np.float32(127), np.float32(127) / largest
        sums = layer.weight.numpy().astype(np.int32) @ np.rint(vector * factor).astype(np.int32)
        row[:] = sums.astype(np.float32) * (scale * layer.int8_scales.weight.numpy())
    return y


def check_products() -> None:
    """Products of the engine against whole numbers in numpy, on the instruction set that runs."""
    rng = np.random.default_rng(0)
    for rows in SIZES:
        for columns in SIZES:
            matrix = rng.standard_normal((rows, columns)).astype(np.float32) * rng.choice([1e-3, 1.0, 50.0])
            matrix[rng.integers(rows)] *= rng.choice([0.0, 1.0])
            bias = rng.standard_normal(rows).astype(np.float32)
            layer = linear(matrix, bias)
            x = rng.standard_normal((int(rng.integers(1, 5)), columns)).astype(np.float32)
            x[0, rng.integers(columns)] = rng.choice(SPECIAL)
            wanted = product_of_whole_numbers(layer, x)
            matrix = int8.Int8Matrix(layer.weight.numpy(), layer.int8_scales.weight.numpy())
            assert same_bits(int8.product(matrix, x), wanted), (rows, columns)
            assert same_bits(layer.multiply(torch.from_numpy(x)).numpy(), wanted), (rows, columns)
            assert same_bits(layer(torch.from_numpy(x)).numpy(), wanted + bias), (rows, columns)
    # the largest sums that there are: every factor is 127 or -127
    for sign in (1, -1):
        layer = linear(np.full((5, 4099), sign, np.float32))
        x = np.ones((70, 4099), np.float32)
        assert same_bits(layer(torch.from_numpy(x)).numpy(), np.full((70, 5), sign * 4099, np.float32))


@pytest.mark.parametrize("isa", _engine.available_isas())
def test_products_have_the_bits_of_whole_numbers_in_numpy(isa):
    code = "import test_int8, recurra._engine as e; test_int8.check_products(); print(e.int8_isa())"
    environment = {**os.environ, "RECURRA_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(isa)


def test_rounding_is_to_the_nearest_step_of_each_row():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((7, 33)).astype(np.float32)
    matrix[3] = 0
    matrix[4] *= 1e-30
    values, scales = int8.rounded(matrix)
    assert values.dtype == np.int8
    assert np.abs(values[[0, 1, 2, 4, 5, 6]]).max(axis=1).tolist() == [127] * 6
    assert np.all(np.abs(values * scales[:, None] - matrix) <= 0.501 * scales[:, None])
    assert scales[3] == 0
    matrix[0, 0] = np.nan
    with pytest.raises(ArgumentError, match="NaN or infinity"):
        int8.rounded(matrix)


@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_every_cell_stays_near_its_float32_self_and_steps_as_it_scans(kind):
    layer = layer_of(kind)
    small = quantise(layer)
    assert isinstance(small, SmallRecurrent)
    x, rows = sequence(layer)
    y, state = small(x, **rows)
    wanted, _ = layer(x, **rows)
    # a spike is one or none; a step of 1/127 of the largest factor, through sums of dozens, is about one in a hundred
    if set(wanted.unique().tolist()) - {0.0, 1.0}:
        assert (y - wanted).abs().max() <= 0.1 * wanted.abs().max()
    steps, after = [], small.initial_state(len(x))
    for t in range(x.shape[1]):
        y_t, after = small.step(x[:, t], after, **{name: value[:, t] for name, value in rows.items()})
        steps.append(y_t)
    # a float32 matrix, such as a sparse one, is summed in another order for few rows
    tolerance = 2e-5 if layer.program.name == "esn" else 0.0
    for got, whole in zip((torch.stack(steps, 1), *after), (y, *state), strict=True):
        assert (got - whole).abs().max() <= tolerance * whole.abs().max()


def test_the_program_says_which_matrices_are_int8():
    assert product_parameters(recurra.cells.get("gru")) == {"W", "U"}
    assert product_parameters(recurra.cells.get("indrnn")) == {"W"}
    # W - W.T is rounded when the model is opened, and W itself stays
    antisymmetric = recurra.cells.get("antisymmetric_rnn")
    assert product_parameters(antisymmetric) == {"V"}
    assert product_matrices(antisymmetric).count(True) == 2
    assert "W" not in product_parameters(recurra.cells.get("esn")), "a sparse matrix stays float32"


def reference_gru(small: SmallRecurrent, x: np.ndarray) -> np.ndarray:
    """A GRU whose products are those of whole numbers in numpy; everything else is float64."""
    matrices = {n: int8.Int8Matrix(getattr(small, n).numpy(), getattr(small.int8_scales, n).numpy()) for n in "WU"}
    b, b_n = small.b.numpy().astype(np.float64), small.b_n.numpy().astype(np.float64)
    h = np.zeros((x.shape[0], small.hidden_size))
    outputs = []
    for t in range(x.shape[1]):
        xr, xz, xn = np.split(int8.product(matrices["W"], x[:, t]) + b, 3, axis=1)
        hr, hz, hn = np.split(int8.product(matrices["U"], h.astype(np.float32)).astype(np.float64), 3, axis=1)
        r, z = 1 / (1 + np.exp(-(xr + hr))), 1 / (1 + np.exp(-(xz + hz)))
        h = (1 - z) * np.tanh(xn + r * (hn + b_n)) + z * h
        outputs.append(h)
    return np.stack(outputs, 1)


def test_only_products_are_rounded():
    small = quantise(layer_of("gru"))
    x, _ = sequence(small)
    y, _ = small(x)
    # a state within a last bit of the middle between two steps may round the other way
    assert np.quantile(np.abs(y.numpy() - reference_gru(small, x.numpy())), 0.9) < 1e-6


@pytest.mark.parametrize("kind", ["gru", "lstm", "slstm"])
def test_results_have_the_same_bits_for_any_threads_split_lengths_and_neighbours(kind):
    small = quantise(layer_of(kind, 70, 96))
    x, _ = sequence(small, 7, 11)
    lengths = torch.tensor([11, 3, 0, 7, 11, 1, 5])
    wanted = the_same_for_any_threads_and_split(small, x, lengths)
    for row in range(7):
        alone, _ = small(x[row : row + 1, : int(lengths[row])])
        assert torch.equal(alone[0], wanted[row, : int(lengths[row])])


def test_padding_is_not_read_and_nan_stays_in_its_row():
    small = quantise(layer_of("gru"))
    x, _ = sequence(small)
    lengths = torch.tensor([9, 4, 9, 9, 9])
    wanted, _ = small(x, lengths=lengths)
    spoilt = x.clone()
    spoilt[1, 4:] = torch.nan
    y, _ = small(spoilt, lengths=lengths)
    assert torch.equal(y, wanted)
    spoilt[2, 3, 0] = torch.nan
    y, _ = small(spoilt, lengths=lengths)
    assert y[2, 3:].isnan().all()
    assert torch.equal(y[[0, 1, 3, 4]], wanted[[0, 1, 3, 4]])


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_layers_within_others(wrap, tmp_path):
    layer = wrapped(wrap)
    small = quantise(layer)
    x, _ = sequence(layer)
    y, _ = small(x)
    wanted, _ = layer(x)
    assert 0 < (y - wanted).abs().max() <= 0.1 * wanted.abs().max()
    assert not any(p.requires_grad for p in small.parameters())
    recurra.save_layer(small, tmp_path)
    assert torch.equal(recurra.load_layer(tmp_path)(x)[0], y)
    live, _ = recurra.runtime.load(tmp_path)(x.numpy())
    # a last bit may round the other way, which moves a factor by 1/127
    assert np.quantile(np.abs(live - y.numpy()), 0.9) <= 1e-3 * float(y.abs().max())


def test_the_model_that_is_given_does_not_change():
    layer = layer_of("gru")
    unchanged_by(quantise, layer)
    assert layer.W.requires_grad


def test_training_is_refused():
    small = quantise(layer_of("gru"))
    x, _ = sequence(small)
    with pytest.raises(ArgumentError, match="cannot be trained"):
        small.train()
    with pytest.raises(ArgumentError, match="a gradient is wanted"):
        small(x.requires_grad_())
    with pytest.raises(ArgumentError, match="a gradient is wanted"):
        small.step(x[:, 0], small.initial_state(len(x)))
    with torch.no_grad():
        small(x)
    with pytest.raises(ArgumentError, match="int8 weights already"):
        quantise(nn.Sequential(small))


@pytest.mark.parametrize(
    "made", [lambda: nn.Linear(4, 4), lambda: layer_of("gru", 4), lambda: recurra.nn.MatrixLSTM(4, 4)]
)
def test_another_dtype_than_float32_is_to_be_converted_and_the_weights_are_not(made):
    small = quantise(made().eval())
    with pytest.raises(ShapeError, match=r"Convert it: x\.float\(\)$"):
        small(torch.zeros(1, 2, 4, dtype=torch.float64))


def test_what_cannot_be_int8_is_refused():
    with pytest.raises(ArgumentError, match="no weights that can be int8"):
        quantise(nn.ReLU())
    with pytest.raises(ArgumentError, match="no such weights can be int8: b"):
        quantise(layer_of("gru"), ["W", "b"])
    with pytest.raises(ShapeError, match="float32"):
        quantise(layer_of("gru").double())
    with pytest.raises(ArgumentError, match="cannot hold W as int8"):
        SmallRecurrent(layer_of("antisymmetric_rnn"), FORMS["int8"], {"W"})
    small = quantise(layer_of("gru"))
    x, _ = sequence(small)
    for bad in (x[..., :-1], x.double(), x.numpy(), x[0]):
        with pytest.raises(RecurraError):
            small(bad)
        with pytest.raises(RecurraError):
            small.step(bad, small.initial_state(5))
    with pytest.raises(ShapeError, match="state"):
        small.step(x[:, 0], small.initial_state(4))
    with pytest.raises(BackendUnavailable), recurra.ops.backend("reference"):
        small(x)
    with pytest.raises(ArgumentError, match="traces or transforms"):
        torch.vmap(lambda row: small(row[None])[0])(x)


def test_the_engine_refuses_int8_where_it_cannot_multiply():
    plan = recurra.ops.native.plan_of(
        recurra.cells.get("rnn_tanh").json, "train", recurra.ops.native.Columns(2, (3,), ((3, 2), (3, 3), (3,)))
    )
    x, y, state = (torch.zeros(shape) for shape in ((1, 1, 2), (1, 1, 3), (1, 3)))
    tape, matrices = torch.zeros(64), [torch.zeros(3, 2, dtype=torch.int8), torch.zeros(3, 3), torch.zeros(3)]
    scales = torch.ones(3)

    def run(plan: object, item_size: int, scales: list[int]) -> None:
        plan.forward(  # type: ignore[attr-defined]
            item_size, 1, 1, 1, x.data_ptr(), 2, 2, y.data_ptr(), 3, 3, 0, 0, 0, 0, 0, tape.data_ptr(),
            [m.data_ptr() for m in matrices], [state.data_ptr()], [state.clone().data_ptr()], scales,
        )  # fmt: skip

    with pytest.raises(ValueError, match="infer plans"):
        run(plan, 4, [scales.data_ptr(), 0, 0])
    infer = recurra.ops.native.plan_of(
        recurra.cells.get("rnn_tanh").json, "infer", recurra.ops.native.Columns(2, (3,), ((3, 2), (3, 3), (3,)))
    )
    with pytest.raises(ValueError, match="come with float32"):
        run(infer, 8, [scales.data_ptr(), 0, 0])
    with pytest.raises(ValueError, match="expected a dense matrix"):
        run(infer, 4, [0, 0, scales.data_ptr()])
    with pytest.raises(ValueError, match="scales has 2 addresses, expected 3"):
        run(infer, 4, [0, 0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_int8_model_is_int8_in_memory_and_gives_the_same_bits(tied, tmp_path):
    model = language_model(tied)
    small = quantise(model)
    assert isinstance(small.embedding, SmallEmbedding)
    opened = load(save(small, tmp_path / "small"))
    tokens = torch.randint(0, len(model.vocabulary), (3, 12))
    scores, _ = opened(tokens)
    assert torch.equal(scores, small(tokens)[0])
    assert (scores - model(tokens)[0]).abs().max() < 0.1 * scores.abs().max()
    step, _ = opened.step(tokens[:, 0], opened.initial_state(3))
    assert torch.equal(step, scores[:, 0])
    kinds = {name: value.dtype for name, value in opened.state_dict().items()}
    matrices = {name for name, value in model.state_dict().items() if value.ndim == 2}
    assert {name for name, dtype in kinds.items() if dtype == torch.int8} == matrices
    weights = [sum(v.nbytes for v in m.state_dict().values()) for m in (opened, model)]
    assert weights[0] < 0.45 * weights[1]


def test_the_runtime_has_the_bits_of_torch(tmp_path):
    small = quantise(language_model(True))
    model = recurra.runtime.load(save(small, tmp_path / "model"))
    tokens = torch.randint(0, len(small.vocabulary), (3, 12))
    wanted, _ = small(tokens)
    scores, _ = model(tokens.numpy())
    assert same_bits(scores, wanted.numpy())
    assert same_bits(model.stream().push(tokens[0].numpy()), wanted[0].numpy())
    assert same_bits(small.stream().push(tokens[0].numpy()), wanted[0].numpy())
    many = model.streams(3)
    for t in range(12):
        assert same_bits(many.tick(tokens[:, t].numpy()), wanted[:, t].numpy())


@pytest.mark.parametrize(
    "kind", ["gru", "lstm", "slstm", "antisymmetric_rnn", "clockwork_rnn", "phased_lstm", "esn", residual], ids=str
)
@pytest.mark.parametrize("engine", [True, False])
def test_the_runtime_equals_the_layer(kind, engine, tmp_path, monkeypatch):
    small = quantise(layer_of(kind))
    recurra.save_layer(small, tmp_path)
    opened = recurra.load_layer(tmp_path)
    assert isinstance(opened, SmallRecurrent)
    if not engine:
        monkeypatch.setattr(recurra.engine, "_native", None)
        monkeypatch.setattr(recurra.runtime.kernel, "_said", {recurra.engine.missing()})
    model = recurra.runtime.load(tmp_path)
    x, rows = sequence(small)
    lengths = torch.tensor([9, 4, 0, 7, 9])
    monkeypatch.undo()
    wanted, _ = small(x, lengths=lengths, **rows)
    assert torch.equal(opened(x, lengths=lengths, **rows)[0], wanted)
    y, _ = model(x.numpy(), lengths=lengths.numpy(), **{name: value.numpy() for name, value in rows.items()})
    if engine:
        assert np.abs(y - wanted.numpy()).max() <= 2e-5
    else:
        # what a last bit rounds the other way moves by a step of 1/127
        assert np.quantile(np.abs(y - wanted.numpy()), 0.9) <= 1e-4
    if engine:
        y_t, _ = model.step(
            x[:, 0].numpy(), model.initial_state(5), **{name: value[:, 0].numpy() for name, value in rows.items()}
        )
        assert y_t.shape == (5, small.output_size)


def test_onnx_is_written_from_float32_only(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ArgumentError, match="the model has int8 weights"):
        recurra.onnx.export(quantise(layer_of("gru")), tmp_path / "model.onnx")


def spoilt(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    folder = save(quantise(language_model(False)), tmp_path / "model")
    weights, about = read_weights(folder)
    change(weights)
    save_weights(folder, weights, about)
    return folder


U, U_SCALES = "layers.0.layer.U", "layers.0.layer.int8_scales.U"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop(U_SCALES), "the scales of the int8 weights"),
        (lambda w: w.update({U_SCALES: w[U_SCALES][:-1]}), "the scales of the int8 weights"),
        (lambda w: w.update({U_SCALES: w[U_SCALES].double()}), "the scales of the int8 weights"),
        (lambda w: w[U_SCALES].mul_(torch.nan), "not all finite"),
        (lambda w: w[U_SCALES].neg_(), "not all finite and positive"),
        (lambda w: w[U].fill_(-128), "numbers from -127 to 127"),
        (lambda w: w.update({U: w[U][:, :-1].contiguous()}), "do not fit its model"),
        (lambda w: w.update({U: w[U].float()}), "do not fit its model"),
        (lambda w: w.update({U: w[U][0]}), "a matrix"),
        (lambda w: w.update({"bias": w["bias"].to(torch.int8)}), "a matrix"),
        (lambda w: w.update({U: w[U].to(torch.int32)}), "do not fit its model"),
    ],
)
def test_malformed_int8_weights_are_refused(change, problem, tmp_path):
    folder = spoilt(tmp_path, change)
    for opens in (load, recurra.runtime.load):
        with pytest.raises(FormatError, match=problem if opens is load else None):
            opens(folder)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.parametrize("weights", FORMS)
def test_export_writes_a_smaller_model_and_prints_what_changed(weights, cli, tmp_path):
    folder = save(language_model(True), tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 20)
    code, printed, problems = cli("export", folder, f"--{weights}", "--data", text)
    assert (code, problems) == (0, "")
    for word in ("weights", "step", "loss", "nats/char", f"run-{weights}"):
        assert word in printed
    embedding = load(tmp_path / f"run-{weights}").embedding
    assert isinstance(embedding, SmallEmbedding)
    assert embedding.form_name == weights
    code, printed, _ = cli("evaluate", tmp_path / f"run-{weights}", "--data", text)
    assert code == 0
    code, _, problems = cli("export", folder, f"--{weights}", "--data", text)
    assert code == 2
    assert "holds a model already" in problems


@pytest.mark.parametrize("weights", FORMS)
def test_export_refuses_when_the_loss_moves_and_writes_nothing(weights, cli, tmp_path):
    folder = save(language_model(False), tmp_path / "run")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat " * 20)
    out, flag = tmp_path / "out", f"--{weights}"
    code, printed, problems = cli("export", folder, flag, "--data", text, "--tolerance", 1e-9, "--out", out)
    assert (code, printed) == (2, "")
    assert "Nothing was written" in problems
    assert not out.exists()
    wrong = ((flag, "--tolerance", "-1"), (), (flag, "--data", tmp_path / "nothing.txt"), ("--int8", "--bfloat16"))
    for arguments in wrong:
        code, _, problems = cli("export", folder, "--out", out, *arguments)
        assert code == 2
        assert problems.startswith("recurra: ")
    assert not out.exists()
