"""bfloat16 weights and activations: what is rounded, and that torch, the runtime and numpy round alike.

Two float32 sums of the same products differ by (k + 2) roundings of the sum of their magnitudes at most, in whatever
order they are taken; where instructions for bfloat16 run, what lies below the normal numbers is zero as well. A state
that so little moves may be rounded to the neighbouring number of bfloat16, 2**-8 of itself away: results of many steps
are compared with that.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import bfloat16
from recurra.checkpoint import read_weights, save_weights
from recurra.errors import ArgumentError, FormatError
from recurra.nn.small import SmallLinear
from recurra.quantisation import quantise
from recurra.tasks import load
from small_weights import (
    WRAPPED,
    language_model,
    layer_of,
    residual,
    save,
    sequence,
    the_same_for_any_threads_and_split,
    wrapped,
)

FLIPS = {"rtol": 2.0**-6, "atol": 2.0**-7}
MARK, SAID = "layers.0.layer.computes_in", "layers.0.layer.activations"
IN_FLOAT32 = not recurra.engine.bfloat16_isa()


def both(model: torch.nn.Module) -> torch.nn.Module:
    return quantise(model, weights="bfloat16", activations="bfloat16")


def nearest(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8))
def test_vectors_are_rounded_as_torch_rounds_them(bits):
    x = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(x.copy()).bfloat16().float().numpy()
        np.testing.assert_array_equal(bfloat16.nearest(x), wanted)


def test_a_product_is_that_of_rounded_vectors():
    generator = torch.Generator().manual_seed(0)
    for rows, columns, batch in [(1, 1, 1), (3, 31, 2), (5, 33, 7), (64, 130, 70), (70, 65, 4), (33, 300, 5)]:
        layer = both(torch.nn.Linear(columns, rows))
        assert isinstance(layer, SmallLinear)
        x = torch.randn(batch, columns, generator=generator) * torch.randn(batch, 1, generator=generator).exp()
        found = layer.multiply(x).double()
        weight, near = layer.weight.double(), nearest(x).double()
        size = near.abs() @ weight.abs().T
        limit = (columns + 2) * 2.0**-23 * size + columns * 2.0**-124
        assert ((found - near @ weight.T).abs() <= limit).all()
        assert torch.equal(layer.multiply(nearest(x)).double(), found)
        if columns > 1:
            assert ((found - x.double() @ weight.T).abs() > limit).any()


@pytest.mark.skipif(not IN_FLOAT32, reason="instructions for bfloat16 have an order of their own")
def test_without_instructions_the_bits_are_those_of_float32_with_rounded_vectors():
    layer = layer_of("rnn_tanh")
    weights, held = quantise(layer, weights="bfloat16"), both(layer)
    x, _ = sequence(layer)
    state = held.initial_state(x.shape[0])
    for t in range(x.shape[1]):
        wanted, _ = weights.step(nearest(x[:, t]), type(state)._make(map(nearest, state)))
        y, state = held.step(x[:, t], state)
        assert torch.equal(y, wanted)


@pytest.mark.parametrize(
    "kind", ["gru", "lstm", "slstm", "antisymmetric_rnn", "clockwork_rnn", "mgu", residual], ids=str
)
def test_torch_the_runtime_and_numpy_round_alike(kind, tmp_path, monkeypatch):
    held = both(layer_of(kind))
    recurra.save_layer(held, tmp_path)
    x, rows = sequence(held)
    lengths = torch.tensor([9, 4, 0, 7, 9])
    wanted, _ = held(x, lengths=lengths, **rows)
    opened = recurra.load(tmp_path)
    assert torch.equal(opened(x, lengths=lengths, **rows)[0], wanted)
    arrays = {name: value.numpy() for name, value in rows.items()}
    y, _ = recurra.runtime.load(tmp_path)(x.numpy(), lengths=lengths.numpy(), **arrays)
    np.testing.assert_allclose(y, wanted, **FLIPS)
    monkeypatch.setattr(recurra.engine, "_native", None)
    monkeypatch.setattr(recurra.runtime.kernel, "_said", {recurra.engine.missing()})
    y, _ = recurra.runtime.load(tmp_path)(x.numpy(), lengths=lengths.numpy(), **arrays)
    np.testing.assert_allclose(y, wanted, **FLIPS)


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_layers_within_others(wrap, tmp_path):
    layer = wrapped(wrap)
    held = both(layer)
    recurra.save_layer(held, tmp_path)
    x, rows = sequence(layer)
    wanted, _ = held(x, **rows)
    assert not torch.equal(wanted, quantise(layer, weights="bfloat16")(x, **rows)[0])
    assert torch.equal(recurra.load(tmp_path)(x, **rows)[0], wanted)
    y, _ = recurra.runtime.load(tmp_path)(x.numpy())
    np.testing.assert_allclose(y, wanted, **FLIPS)


def test_results_have_the_same_bits_for_any_threads_split_lengths_and_neighbours():
    held = both(layer_of("gru", 70, 96))
    x, _ = sequence(held, 7, 30)
    lengths = torch.tensor([30, 3, 0, 7, 11, 1, 5])
    wanted = the_same_for_any_threads_and_split(held, x, lengths)
    x[2] = torch.nan
    assert torch.equal(held(x, lengths=lengths)[0], wanted)
    x[4, 2:] = torch.nan
    y, _ = held(x, lengths=lengths)
    others = [0, 1, 2, 3, 5, 6]
    assert torch.equal(y[others], wanted[others])
    assert y[4, 2:11].isnan().all()


def test_what_the_language_model_computes_is_saved(tmp_path):
    model = both(language_model(True))
    opened = load(save(model, tmp_path))  # type: ignore[arg-type]
    tokens = torch.tensor([[1, 2, 3, 4]])
    for made in (model, opened):
        assert "bfloat16 by bfloat16" in repr(made)
    assert torch.equal(opened(tokens)[0], model(tokens)[0])  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.pop(SAID),
        lambda w: w.update({SAID: torch.zeros(0)}),
        lambda w: w.update({SAID: torch.zeros(1, dtype=torch.bfloat16)}),
        lambda w: w.pop(MARK),
    ],
)
def test_a_file_that_says_it_of_some_parts_only_or_otherwise_is_refused(change, tmp_path):
    folder = save(both(language_model(False)), tmp_path)  # type: ignore[arg-type]
    weights, about = read_weights(folder)
    change(weights)
    save_weights(folder, weights, about)
    with pytest.raises(FormatError):
        load(folder)
    with pytest.raises(FormatError):
        recurra.runtime.load(folder)


@pytest.mark.parametrize(
    ("weights", "activations"), [("int8", "bfloat16"), ("bfloat16", "int8"), ("bfloat16", "float16")]
)
def test_what_does_not_go_together_is_refused(weights, activations):
    with pytest.raises(ArgumentError, match="activations='bfloat16' with weights='bfloat16'"):
        quantise(layer_of("gru"), weights=weights, activations=activations)


def test_backends_say_where_it_runs():
    isa = recurra.engine.bfloat16_isa()
    assert (f"bfloat16 activations run on {isa}" if isa else "rounded and run in float32, without AVX512_BF16") in str(
        recurra.backends()
    )
