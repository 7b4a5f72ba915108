"""Bfloat16 weights: to the bit what float32 gives with the rounded weights; files, threads, refusals."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recurra
from recurra import _engine, bfloat16
from recurra.checkpoint import read_weights, save_weights
from recurra.errors import ArgumentError, FormatError, RecurraError, ShapeError
from recurra.nn.small import SmallEmbedding, SmallMatrix, SmallRecurrent
from recurra.program.matrices import product_parameters
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

SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 130)


def small(model: nn.Module) -> nn.Module:
    return quantise(model, weights="bfloat16")


def rounded(model: nn.Module) -> nn.Module:
    """The float32 model whose weights are those of the small one."""
    model = copy.deepcopy(model)
    held = small(model).state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(held[name].float())
    return model.requires_grad_(False)


@given(st.integers(0, 2**32 - 1))
def test_rounding_is_to_the_nearest_and_then_to_the_even_one(bits: int):
    number = np.array([[bits]], np.uint32).view(np.float32)
    wanted = torch.from_numpy(number).bfloat16()
    if not wanted.isfinite().all():
        with pytest.raises(ArgumentError, match="NaN or infinity"):
            bfloat16.rounded(number)
        return
    assert same_bits(bfloat16.widened(bfloat16.rounded(number)), wanted.float().numpy())


def test_halves_go_to_the_even_one():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x00000000, 0x80000000, 0x00018000], np.uint32)
    wanted = [0x3F80, 0x3F82, 0x3F81, 0x0000, 0x8000, 0x0002]
    assert bfloat16.rounded(bits.view(np.float32)).view(np.uint16).tolist() == wanted


def check_products() -> None:
    """Layers of odd sizes against float32 with the same weights, in few rows and in many, in torch and the runtime."""
    rng = np.random.default_rng(0)
    for rows in SIZES:
        for columns in SIZES:
            torch.manual_seed(rows * 1000 + columns)
            layer = nn.Linear(columns, rows, bias=bool(rng.integers(2)))
            reference = rounded(layer)
            held = small(layer)
            program = recurra.program.matrices.projection(bias=layer.bias is not None)
            sizes = {"input": columns, "hidden": 1, "output": rows}
            bias = [] if layer.bias is None else [layer.bias.detach().numpy()]
            live = [
                recurra.runtime.kernel.Kernel(program, sizes, [weight, *bias])
                for weight in (bfloat16.rounded(layer.weight.detach().numpy()), reference.weight.numpy())
            ]
            for batch in (1, 2, 3, 4, 7, 8, 13, 33):
                x = rng.standard_normal((batch, columns)).astype(np.float32)
                got, wanted = (kernel.step(x, [], None)[0] for kernel in live)
                assert same_bits(got, wanted), (rows, columns, batch)
                y = held(torch.from_numpy(x)).numpy()
                np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
                if batch > 16:
                    assert same_bits(y, wanted), (rows, columns, batch)


@pytest.mark.parametrize("isa", _engine.available_isas())
def test_products_have_the_bits_of_float32_with_the_rounded_weights(isa):
    code = "import test_bfloat16, recurra._engine as e; test_bfloat16.check_products(); print(e.isa())"
    environment = {**os.environ, "RECURRA_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


@pytest.mark.parametrize("kind", CELLS, ids=str)
def test_every_cell_has_the_bits_of_float32_with_the_rounded_weights(kind, tmp_path):
    layer = layer_of(kind)
    held, reference = small(layer), rounded(layer)
    assert isinstance(held, SmallRecurrent)
    assert {n for n, v in held.state_dict().items() if v.dtype is torch.bfloat16} == product_parameters(layer.program)
    x, rows = sequence(layer)
    y, state = held(x, **rows)
    wanted, after = reference(x, **rows)
    # a matrix that is computed from parameters is rounded in the one and not in the other
    exact = all(layer.program.nodes[i].operation == "parameter" for i in layer.program.core_parameters)
    # of this one, ops.scan takes a product out of the loop that a layer of small weights leaves in it
    hoisted = layer.program.name == "qrnn_window_2"
    for got, one in zip((y, *state), (wanted, *after), strict=True):
        if exact and not hoisted:
            assert torch.equal(got, one)
        elif set(wanted.unique().tolist()) - {0.0, 1.0}:
            assert (got - one).abs().max() <= 0.02 * one.abs().max()
    recurra.save_layer(held, tmp_path / "held")
    recurra.save_layer(reference, tmp_path / "reference")
    models = [recurra.runtime.load(tmp_path / name) for name in ("held", "reference")]
    frames = {name: value[:, 0].numpy() for name, value in rows.items()}
    live = [model.step(x[:, 0].numpy(), model.initial_state(len(x)), **frames)[0] for model in models]
    steps = [one.step(x[:, 0], one.initial_state(len(x)), **{n: v[:, 0] for n, v in rows.items()})[0]
             for one in (held, reference)]  # fmt: skip
    if exact:
        assert same_bits(live[0], live[1])
        assert torch.equal(steps[0], steps[1])
    np.testing.assert_allclose(live[0], steps[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_layers_within_others(wrap, tmp_path):
    layer = wrapped(wrap)
    held = small(layer)
    x, _ = sequence(layer)
    y, _ = held(x)
    wanted, _ = rounded(layer)(x)
    # torch sums its linear layers in an order of its own
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    assert (y - layer(x)[0]).abs().max() > 1e-5
    assert not any(p.requires_grad for p in held.parameters())
    recurra.save_layer(held, tmp_path)
    opened = recurra.load(tmp_path)
    assert {n: v.dtype for n, v in opened.state_dict().items()} == {n: v.dtype for n, v in held.state_dict().items()}
    assert torch.equal(opened(x)[0], y)
    live, _ = recurra.runtime.load(tmp_path)(x.numpy())
    np.testing.assert_allclose(live, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_results_have_the_same_bits_for_any_threads_split_lengths_and_neighbours(kind):
    held = small(layer_of(kind, 70, 96))
    x, _ = sequence(held, 7, 11)
    lengths = torch.tensor([11, 3, 0, 7, 11, 1, 5])
    wanted = the_same_for_any_threads_and_split(held, x, lengths)
    reference = rounded(layer_of(kind, 70, 96))
    assert torch.equal(wanted, reference(x, lengths=lengths)[0])
    x[2] = torch.nan
    assert torch.equal(held(x, lengths=lengths)[0], wanted)


def test_the_model_that_is_given_does_not_change_and_its_small_self_is_for_inference():
    layer = layer_of("gru")
    held = unchanged_by(small, layer)
    x, _ = sequence(held)
    y, _ = held(x)
    with pytest.raises(ArgumentError, match="bfloat16 weights cannot be trained"):
        held.train()
    with pytest.raises(ArgumentError, match="a gradient is wanted"):
        held(x.clone().requires_grad_())
    with pytest.raises(ArgumentError, match="bfloat16 weights already"):
        quantise(nn.Sequential(held))
    # float() leaves them as they are; what is not float32 is refused and changes nothing
    assert held.float().W.dtype is torch.bfloat16
    for change in (held.double, held.bfloat16, held.half):
        with pytest.raises(ArgumentError, match="bfloat16 weights come with float32"):
            change()
    assert torch.equal(held(x)[0], y)


def test_what_cannot_be_bfloat16_is_refused():
    with pytest.raises(ArgumentError, match="no weights that can be bfloat16"):
        small(nn.ReLU())
    with pytest.raises(ArgumentError, match="no such weights can be bfloat16: b"):
        quantise(layer_of("gru"), ["W", "b"], weights="bfloat16")
    with pytest.raises(ArgumentError, match="expected int8 or bfloat16"):
        quantise(layer_of("gru"), weights="float16")
    with pytest.raises(ShapeError, match="float32"):
        small(layer_of("gru").double())
    for bad in (torch.nan, torch.inf, 3.4e38):
        layer = layer_of("gru").requires_grad_(False)
        layer.U[3, 2] = bad
        with pytest.raises(ArgumentError, match="NaN or infinity"):
            small(layer)
    held = small(layer_of("gru"))
    x, _ = sequence(held)
    for wrong in (x[..., :-1], x.double(), x.bfloat16(), x[0]):
        with pytest.raises(RecurraError):
            held(wrong)
        with pytest.raises(RecurraError):
            held.step(wrong, held.initial_state(5))
    with pytest.raises(ArgumentError, match="the model has bfloat16 weights"):
        recurra.onnx.export(held, "nowhere.onnx")


def test_the_engine_refuses_bfloat16_where_it_cannot_multiply():
    native = recurra.ops.native
    columns = native.Columns(2, (3,), ((3, 2), (3, 3), (3,)))
    program = recurra.cells.get("rnn_tanh").json
    train, infer = (native.plan_of(program, direction, columns) for direction in ("train", "infer"))
    x, y, state, after = (torch.zeros(shape) for shape in ((1, 1, 2), (1, 1, 3), (1, 3), (1, 3)))
    tape, scales = torch.zeros(64), torch.ones(3)
    values = [torch.zeros(shape, dtype=torch.int16) for shape in columns.core]

    def run(plan: object, item_size: int, scales: list[int] | None, flags: bytes) -> None:
        plan.forward(  # type: ignore[attr-defined]
            item_size, 1, 1, 1, x.data_ptr(), 2, 2, y.data_ptr(), 3, 3, 0, 0, 0, 0, 0, tape.data_ptr(),
            [v.data_ptr() for v in values], [state.data_ptr()], [after.data_ptr()], scales, flags,
        )  # fmt: skip

    with pytest.raises(ValueError, match="infer plans"):
        run(train, 4, None, bytes([1, 0, 0]))
    with pytest.raises(ValueError, match="come with float32"):
        run(infer, 8, None, bytes([1, 0, 0]))
    with pytest.raises(ValueError, match="is bfloat16, expected a dense matrix"):
        run(infer, 4, None, bytes([0, 0, 1]))
    with pytest.raises(ValueError, match="both int8 and bfloat16"):
        run(infer, 4, [scales.data_ptr(), 0, 0], bytes([1, 0, 0]))
    with pytest.raises(ValueError, match="bfloat16 in no known way"):
        run(infer, 4, None, bytes([4, 0, 0]))
    with pytest.raises(ValueError, match="a vector, and only matrices"):
        run(train, 4, None, bytes([3, 3, 3]))
    for flags in (b"", bytes(2), bytes(4)):
        with pytest.raises(ValueError, match="expected 3"):
            run(infer, 4, None, flags)
    arrays = [v.numpy().view(np.uint16) for v in values]
    with pytest.raises(ValueError, match="is bfloat16, expected a dense matrix"):
        recurra.engine.frozen(infer, 4, arrays)
    with pytest.raises(ValueError, match="come with float32"):
        recurra.engine.frozen(infer, 8, [arrays[0], np.zeros((3, 3)), np.zeros(3)])


def test_only_the_chosen_matrices_are_bfloat16(tmp_path):
    held = quantise(layer_of("gru"), ["U"], weights="bfloat16")
    kinds = {name: value.dtype for name, value in held.state_dict().items()}
    assert [name for name, dtype in kinds.items() if dtype is torch.bfloat16] == ["U"]
    recurra.save_layer(held, tmp_path)
    opened = recurra.load_layer(tmp_path)
    x, _ = sequence(held)
    assert torch.equal(opened(x)[0], held(x)[0])
    np.testing.assert_allclose(recurra.runtime.load(tmp_path)(x.numpy())[0], held(x)[0], atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_is_half_the_size_and_gives_the_same_bits_in_torch_and_the_runtime(tied, tmp_path):
    model = language_model(tied)
    held = small(model)
    assert isinstance(held.embedding, SmallEmbedding)
    opened = load(save(held, tmp_path / "small"))
    tokens = torch.randint(0, len(model.vocabulary), (3, 12))
    scores, _ = opened(tokens)
    assert torch.equal(scores, held(tokens)[0])
    assert 0 < (scores - model(tokens)[0]).abs().max() < 0.02 * scores.abs().max()
    matrices = {name for name, value in model.state_dict().items() if value.ndim == 2}
    assert {n for n, v in opened.state_dict().items() if v.dtype is torch.bfloat16} == matrices
    weights = [sum(v.nbytes for v in m.state_dict().values()) for m in (opened, model)]
    assert weights[0] < 0.6 * weights[1]
    live = recurra.runtime.load(tmp_path / "small")
    assert same_bits(live(tokens.numpy())[0], scores.numpy())
    pushed = live.stream().push(tokens[0].numpy())
    np.testing.assert_allclose(pushed, scores[0], atol=1e-5)
    many = live.streams(3)
    for t in range(12):
        np.testing.assert_allclose(many.tick(tokens[:, t].numpy()), scores[:, t], atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "slstm", "antisymmetric_rnn", "clockwork_rnn", "esn", residual], ids=str)
def test_the_runtime_in_numpy_equals_the_layer(kind, tmp_path, monkeypatch):
    held = small(layer_of(kind))
    recurra.save_layer(held, tmp_path)
    monkeypatch.setattr(recurra.engine, "_native", None)
    monkeypatch.setattr(recurra.runtime.kernel, "_said", {recurra.engine.missing()})
    model = recurra.runtime.load(tmp_path)
    x, rows = sequence(held)
    lengths = torch.tensor([9, 4, 0, 7, 9])
    monkeypatch.undo()
    wanted, _ = held(x, lengths=lengths, **rows)
    y, _ = model(x.numpy(), lengths=lengths.numpy(), **{name: value.numpy() for name, value in rows.items()})
    np.testing.assert_allclose(y, wanted, atol=2e-5)


def test_a_model_that_is_bfloat16_throughout_is_opened_as_that(tmp_path):
    # a cell without vectors, so that nothing but matrices is in the file
    @recurra.cells.cell
    def bare(x, h, *, W=recurra.cells.Input(), U=recurra.cells.Recurrent()):
        """A cell of matrices."""
        return recurra.cells.tanh(W @ x + U @ h)

    layer = recurra.nn.Recurrent(bare, 3, 4)
    recurra.save_layer(layer.bfloat16(), tmp_path / "throughout")
    opened = recurra.load_layer(tmp_path / "throughout")
    assert type(opened) is recurra.nn.Recurrent
    assert opened.W.dtype is torch.bfloat16
    held = small(layer.float())
    recurra.save_layer(held, tmp_path / "small")
    opened = recurra.load_layer(tmp_path / "small")
    assert isinstance(opened, SmallRecurrent)
    x = torch.randn(2, 3, 3)
    assert torch.equal(opened(x)[0], held(x)[0])
    np.testing.assert_allclose(recurra.runtime.load(tmp_path / "small")(x.numpy())[0], held(x)[0], atol=1e-6)


def test_the_runtime_opens_bfloat16_without_torch(tmp_path):
    held = small(language_model(True))
    save(held, tmp_path)
    code = (
        "import sys, numpy as np, recurra.runtime as r; m = r.load(sys.argv[1]); "
        "print(m.stream().push(np.arange(5)).shape); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"(5, {len(held.vocabulary)})"


U, MARK = "layers.0.layer.U", "layers.0.layer.computes_in"


def spoilt(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    folder = save(small(language_model(False)), tmp_path / "model")
    weights, about = read_weights(folder)
    change(weights)
    save_weights(folder, weights, about)
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w[U].fill_(torch.nan), "NaN or infinity"),
        (lambda w: w[U][1, :1].fill_(torch.inf), "NaN or infinity"),
        (lambda w: w.update({MARK: torch.zeros(1)}), "float32 of shape"),
        (lambda w: w.update({MARK: w[MARK].double()}), "float32"),
        (lambda w: w.update({MARK: w[MARK].bfloat16()}), "float32|a matrix"),
        (lambda w: w.update({U: w[U][:, :-1].contiguous()}), "do not fit its model"),
        (lambda w: w.update({U: w[U][0]}), "a matrix"),
        (lambda w: w.update({U: w[U].to(torch.int16)}), "do not fit its model"),
        (lambda w: w.update({U: torch.zeros(w[U].shape, dtype=torch.int8)}), "int8 and bfloat16"),
        (lambda w: w.update({"computes_in": torch.zeros(0)}), "do not fit its model"),
        (lambda w: w.update({"layers.0.layer.b": w["layers.0.layer.b"].bfloat16()}), "a matrix"),
    ],
)  # fmt: skip
def test_malformed_bfloat16_weights_are_refused(change, problem, tmp_path):
    folder = spoilt(tmp_path, change)
    with pytest.raises(FormatError, match=problem):
        load(folder)
    with pytest.raises(FormatError):
        recurra.runtime.load(folder)


def test_a_cut_file_is_refused(tmp_path):
    folder = save(small(language_model(False)), tmp_path / "model")
    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    for end in (0, 7, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        for opens in (load, recurra.runtime.load):
            with pytest.raises(FormatError):
                opens(folder)


def test_a_small_model_says_what_it_holds():
    assert "bfloat16: W, U" in repr(small(layer_of("gru")))
    matrix = next(m for m in small(language_model(True)).modules() if isinstance(m, SmallMatrix))
    assert "11, 16, bfloat16" in repr(matrix)
