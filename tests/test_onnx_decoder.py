"""The attention decoder as an ONNX file, its memory an input."""

from pathlib import Path

import numpy as np
import pytest
import torch

import recurra.onnx
from onnx_models import onnx
from recurra import nn
from recurra.errors import ArgumentError
from recurra.nested import leaves
from recurra.nn.state import state_tensors
from recurra.testing import check_laws
from test_onnx_export import session
from test_runtime import as_runtime

ATTENTIONS = {
    "additive": lambda: nn.AdditiveAttention(4, 3, 5),
    "general": lambda: nn.MultiplicativeAttention(4, 3),
    "dot": lambda: nn.MultiplicativeAttention(4, 4, score="dot"),
}


def decoder(name: str) -> nn.AttentionDecoder:
    return nn.AttentionDecoder(nn.Stack(nn.GRU(6, 3), nn.Recurrent("lstm", 3, 4)), ATTENTIONS[name]()).eval()


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_decoder_steps_on_a_memory_that_the_first_call_hands_over(name: str, with_reset: bool, tmp_path: Path):
    layer = decoder(name).double()
    exported = recurra.onnx.export(layer, tmp_path / "decoder.onnx", with_reset=with_reset)
    assert {"memory", "memory_lengths", "state.layer.0.h", "state.attentional", "state.keys"} <= set(exported.inputs)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, layer.input_size, generator=generator).double()
    memory = torch.randn(3, 5, layer.attention.memory_size, generator=generator).double()
    lengths = torch.tensor([5, 0, 2])
    memory[2, 2:] = torch.nan
    reset = torch.rand(3, 6, generator=generator) < 0.4
    expected, after = layer(x, layer.attend(memory, lengths), reset=reset if with_reset else None)
    begin = {"memory": memory.numpy(), "memory_lengths": lengths.numpy()}
    for run in (session(exported.path).run, lambda _, given: [*recurra.onnx.run(exported.path, given).values()]):
        given = begin
        for t in range(6):
            flags = {"reset": reset[:, t : t + 1].numpy()} if with_reset else {}
            y, *following = run(None, {"x": x[:, t : t + 1].numpy(), **flags, **given})
            given = dict(zip([own for own, _ in exported.states], following, strict=True))
            np.testing.assert_allclose(y[:, 0], expected[:, t].detach(), atol=1e-10)
        for value, wanted in zip(following, state_tensors(after), strict=True):
            np.testing.assert_allclose(value, wanted.detach(), atol=1e-10)


def test_memories_are_put_behind_one_another(tmp_path: Path):
    layer = decoder("general")
    exported = recurra.onnx.export(layer, tmp_path / "decoder.onnx")
    run = session(exported.path).run
    x, memory = torch.randn(2, 3, 2), torch.randn(2, 7, 3)
    y, *following = run(None, {"x": x[:, :1].numpy(), "memory": memory[:, :4].numpy()})
    expected, state = layer(x[:, :1], layer.attend(memory[:, :4]))
    np.testing.assert_allclose(y, expected.detach(), atol=1e-6)
    given = dict(zip([own for own, _ in exported.states], following, strict=True)) | {"memory": memory[:, 4:].numpy()}
    y, *_ = run(None, {"x": x[:, 1:].numpy(), **given})
    whole = layer.attend(memory)
    moving = state._replace(keys=whole.keys, values=whole.values, valid=whole.valid, weights=whole.weights)
    np.testing.assert_allclose(y, layer(x[:, 1:], moving)[0].detach(), atol=1e-6)


def test_a_decoder_with_an_embedding_and_a_head(tmp_path: Path):
    embedding, layer, head = torch.nn.Embedding(9, 2), decoder("additive"), torch.nn.Linear(4, 9)
    parts = recurra.onnx.Parts(layer, embedding.weight, ((head.weight, head.bias),))
    run = session(recurra.onnx.export(parts, tmp_path / "decoder.onnx").path).run
    tokens, memory, lengths = torch.randint(0, 9, (2, 4)), torch.randn(2, 3, 3), torch.tensor([4, 1])
    scores, *_ = run(None, {"tokens": tokens.numpy(), "memory": memory.numpy(), "lengths": lengths.numpy()})
    expected = head(layer(embedding(tokens), layer.attend(memory), lengths=lengths)[0])
    np.testing.assert_allclose(scores, expected.detach(), atol=1e-6)


def test_law_11_holds_it_too():
    report = check_laws(decoder("general"), samples=1)
    assert report[11].cases > 0


def test_optional_inputs_share_no_size(tmp_path: Path):
    # ONNX Runtime takes sizes of one name for equal, and one that is left out has one row
    layer = nn.AttentionDecoder(nn.GRU(6, 4), nn.AdditiveAttention(4, 3, 5))
    for each in (layer, nn.Stack(nn.GRU(3, 4), nn.GRU(4, 2))):
        path = recurra.onnx.export(each, tmp_path / "layer.onnx", with_reset=True).path
        graph = onnx.load(path).graph
        optional = {one.name for one in graph.initializer}
        names = [d.dim_param for i in graph.input if i.name in optional for d in i.type.tensor_type.shape.dim]
        names = [name for name in names if name]
        assert len(set(names)) == len(names)


def test_where_a_decoder_has_no_form_it_says_so(tmp_path: Path):
    within = nn.AttentionDecoder(nn.Stack(nn.GRU(6, 2), decoder("dot")), nn.AdditiveAttention(4, 4, 5))
    with pytest.raises(ArgumentError, match="an AttentionDecoder within another one has no form in ONNX"):
        recurra.onnx.export(nn.Residual(nn.Stack(within, nn.GRU(4, 2))), tmp_path / "layer.onnx")
    both = nn.Stack(decoder("dot"), nn.GRU(4, 2), decoder("general"))
    with pytest.raises(ArgumentError, match="attend to memories of 3 and 4 columns have no form in ONNX together"):
        recurra.onnx.export(both, tmp_path / "layer.onnx")
    assert not list(tmp_path.iterdir())


WITHIN = {
    "stack": lambda: nn.Stack(nn.GRU(3, 2), decoder("additive"), nn.LSTM(4, 3)),
    "twice": lambda: nn.Stack(nn.Residual(nn.Stack(decoder("general"), nn.GRU(4, 2))), decoder("additive")),
    "last": lambda: nn.Last(nn.Dropout(decoder("general"), 0.5)),
    "mean": lambda: nn.Mean(nn.Stack(nn.GRU(3, 2), decoder("additive"))),
    "both ways": lambda: nn.Bidirectional(nn.Reversed(decoder("general")), nn.Stack(nn.GRU(2, 2), decoder("additive"))),
    "weight dropout": lambda: nn.WeightDropout(nn.Stack(nn.GRU(3, 2), decoder("general")), 0.5),
}


@pytest.mark.parametrize("with_reset", [False, True])
@pytest.mark.parametrize("name", WITHIN)
def test_decoders_within_other_layers(name: str, with_reset: bool, tmp_path: Path):
    layer = WITHIN[name]().double().eval()
    exported = recurra.onnx.export(layer, tmp_path / "layer.onnx", with_reset=with_reset)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, layer.input_size, generator=generator).double()
    memory, source = torch.randn(3, 5, 3, generator=generator).double(), torch.tensor([5, 0, 2])
    lengths, reset = torch.tensor([6, 2, 5]), torch.rand(3, 6, generator=generator) < 0.4
    reset = reset if with_reset else None
    state = layer.attend(memory, source)
    y, after = layer(x, state, lengths=lengths, reset=reset)
    given = {"x": x, "memory": memory, "memory_lengths": source, "lengths": lengths}
    given |= {} if reset is None else {"reset": reset}
    found = session(exported.path).run(None, {key: value.numpy() for key, value in given.items()})
    # the runtime attends to the same memory, and takes the states as they come
    model = as_runtime(layer)
    begin = model.attend(memory.numpy(), source.numpy())
    flags = None if reset is None else reset.numpy()
    got, following = model(x.numpy(), begin, lengths=lengths.numpy(), reset=flags)
    for own, theirs, wanted in zip(found, [got, *leaves(following)], [y, *state_tensors(after)], strict=True):
        np.testing.assert_allclose(own, wanted.detach(), atol=1e-10)
        np.testing.assert_allclose(theirs, wanted.detach(), atol=1e-10)
    if not with_reset:
        again, _ = layer(x, after)
        np.testing.assert_allclose(model(x.numpy(), following)[0], again.detach(), atol=1e-10)
