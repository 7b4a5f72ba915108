"""The language model: what it computes, what it writes, and how it is scored."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recurra import cells
from recurra.data import RESERVED, Document, Vocabulary
from recurra.data.stream import IGNORED
from recurra.decode import drawn, generate, likeliest
from recurra.errors import ArgumentError, FormatError, RecurraError, ShapeError
from recurra.learn import Settings
from recurra.learn import train as train_run
from recurra.models import build_layer, layer_spec
from recurra.nn import GRU, Bidirectional, Dropout, Last, Layer, Mean, Recurrent, Residual, Stack
from recurra.nn.state import state_tensors
from recurra.tasks import LanguageModel, load

TEXT = "吾輩は猫である。The cat sat on the mat.\n"
CAT = "the cat sat on the mat . the dog sat on the log . a cat and a dog sat . the mat is flat . the log is wet .\n"


def small_model(**settings) -> LanguageModel:
    chosen = {"cell": "gru", "hidden": 6, "layers": 2, "embedding": 5, "dropout": 0.1, **settings}
    return LanguageModel.build(Vocabulary.build([TEXT], "char", size=100), **chosen).eval()


def numbers(model: LanguageModel, text: str) -> torch.Tensor:
    return torch.from_numpy(model.vocabulary.encode(text)).long()[None]


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"tied": True, "hidden": 5}, {"cell": "lstm", "layers": 1}])
def test_forward_is_a_fold_of_step_and_splits_anywhere(settings):
    model = small_model(**settings)
    tokens = numbers(model, TEXT)
    whole, end = model(tokens)
    state = model.initial_state(1)
    for t in range(tokens.shape[1]):
        scores, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(scores, whole[:, t], rtol=2e-5, atol=2e-5)
    first, middle = model(tokens[:, :7])
    second, last = model(tokens[:, 7:], middle)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=2e-5, atol=2e-5)
    for a, b, c in zip(state_tensors(state), state_tensors(last), state_tensors(end), strict=True):
        torch.testing.assert_close(a, c, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(b, c, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("settings", [{}, {"tied": True}])
@pytest.mark.parametrize("more", ["", "abcdefg", "abc"])
def test_the_loss_is_the_cross_entropy_of_the_scores(settings: dict, more: str):
    torch.manual_seed(4)
    vocabulary = Vocabulary.build([TEXT + more], "char", size=100)
    model = LanguageModel.build(vocabulary, cell="gru", hidden=6, embedding=5, **settings).double()
    inputs, targets = torch.randint(1, len(vocabulary), (2, 3, 7))
    targets[1, 2:4] = IGNORED
    found = []
    for way in (0, 1):
        model.zero_grad()
        if way == 0:
            nats, _ = model.loss(inputs, targets, None, None)
        else:
            scores, _ = model(inputs)
            nats = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
        nats.backward()
        found.append([nats.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(list(model.parameters())) + 1
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_tied_softmax_shares_the_embedding():
    tied, untied = small_model(tied=True, hidden=5), small_model(hidden=5)
    assert tied.projection is None
    assert set(dict(untied.named_parameters())) - set(dict(tied.named_parameters())) == {"softmax.weight"}
    assert small_model(tied=True).projection is not None


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_makes_a_language_model(name):
    program = cells.get(name)
    if program.width_names:
        with pytest.raises(ShapeError, match="names the width"):
            small_model(cell=name)
        return
    if program.uses_elapsed:
        with pytest.raises(ArgumentError, match="time between steps"):
            small_model(cell=name)
        return
    model = small_model(cell=name).train()
    tokens = numbers(model, TEXT)
    nats, _ = model.loss(tokens[:, :-1], tokens[:, 1:], None, None)
    nats.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("layer", [Bidirectional(GRU(3, 4), GRU(3, 4)), Last(GRU(3, 4))])
def test_layers_that_cannot_write_are_refused(layer: Layer):
    with pytest.raises(ArgumentError, match="read forwards"):
        LanguageModel(Vocabulary("char", ["a"]), layer)


def test_a_score_is_the_cross_entropy_of_every_character_of_every_document():
    model = small_model()
    documents = [Document("a", TEXT), Document("b", "sat on"), Document("c", "x"), Document("d", TEXT[::-1])]
    expected = 0.0
    for document in documents:
        tokens = numbers(model, document.text)
        inputs = torch.cat((torch.tensor([[RESERVED]]), tokens[:, :-1]), 1)
        scores, _ = model(inputs)
        expected += F.cross_entropy(scores[0], tokens[0], reduction="sum").item()
    score = model.score(documents)
    assert score.characters == score.tokens == sum(len(d.text) for d in documents)
    assert score.unknown == 1
    assert score.nats == pytest.approx(expected, rel=1e-5)
    assert score.bits_per_character == pytest.approx(score.nats / score.characters / math.log(2))
    alone = sum(model.score([document]).nats for document in documents)
    assert score.nats == pytest.approx(alone, rel=1e-5)


def test_a_score_leaves_the_model_as_it_was():
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.score([Document("a", TEXT)])
    assert model.training
    assert all((before[name] == value).all() for name, value in model.state_dict().items())


def test_a_score_reads_long_documents_in_chunks_that_do_not_show():
    model = small_model()
    text = TEXT * 20
    inputs = torch.cat((torch.tensor([[RESERVED]]), numbers(model, text)[:, :-1]), 1)
    expected = F.cross_entropy(model(inputs)[0][0], numbers(model, text)[0], reduction="sum").item()
    assert model.score([Document("a", text)]).nats == pytest.approx(expected, rel=1e-5)


def test_the_reserved_token_is_never_written():
    model = small_model()
    with torch.no_grad():
        model.bias[RESERVED] = 100.0
    for temperature in (0.0, 1.0):
        text = "".join(model.generate("Ж?", drawn(temperature=temperature, seed=0), length=50))
        assert len(text) == 50
        assert set(text) <= set(TEXT)


def test_writing_goes_on_from_the_prompt_a_step_at_a_time():
    model = small_model()
    prompt = "The "
    written = "".join(model.generate(prompt, likeliest, length=5))
    text = prompt
    for _ in range(5):
        scores, _ = model(torch.cat((torch.tensor([[RESERVED]]), numbers(model, text)), 1))
        scores[..., RESERVED] = -math.inf
        text += model.vocabulary.decode([int(scores[0, -1].argmax())])
    assert prompt + written == text
    assert list(model.generate("", likeliest, length=0)) == []


def test_drawing_follows_the_odds_and_the_seed():
    odds = np.log(np.array([0.7, 0.2, 0.1, 0.0]), where=[True, True, True, False], out=np.full(4, -np.inf))

    def draws(**settings):
        pick = drawn(seed=1, **settings)
        return np.bincount([pick(odds) for _ in range(4000)], minlength=4) / 4000

    np.testing.assert_allclose(draws(temperature=1.0), [0.7, 0.2, 0.1, 0.0], atol=0.03)
    sharper = np.array([0.49, 0.04, 0.01, 0.0]) / 0.54
    np.testing.assert_allclose(draws(temperature=0.5), sharper, atol=0.03)
    np.testing.assert_allclose(draws(temperature=1.0, top_k=2), [7 / 9, 2 / 9, 0, 0], atol=0.03)
    assert draws(temperature=0.0)[0] == 1.0
    assert (draws(temperature=1.0) == draws(temperature=1.0)).all()


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": math.inf}, {"temperature": math.nan}, {"top_k": 0}, {"seed": -1}],
)
def test_impossible_ways_to_draw_are_refused(settings):
    with pytest.raises(ArgumentError):
        drawn(**{"temperature": 1.0, "seed": 0, **settings})


def test_generating_reads_its_own_tokens():
    def counting(token, state):
        scores = np.zeros(10)
        scores[(token + state) % 10] = 1.0
        return scores, state + 1

    assert list(generate(counting, 0, [1, 1], likeliest, length=4)) == [2, 4, 7, 1]
    with pytest.raises(ArgumentError):
        list(generate(counting, 0, [], likeliest, length=1))


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"cell": "lstm", "layers": 1}])
def test_a_model_comes_back_from_its_spec(settings):
    model = small_model(**settings)
    again = LanguageModel.from_spec(json.loads(json.dumps(model.to_spec()))).eval()
    again.load_state_dict(model.state_dict())
    tokens = numbers(model, TEXT)
    assert (model(tokens)[0] == again(tokens)[0]).all()
    assert again.vocabulary == model.vocabulary
    assert again.to_spec() == model.to_spec()


@pytest.mark.parametrize(
    "change",
    [
        {"vocabulary": None},
        {"dropout": 2},
        {"tied": "yes"},
        {"layers": {"kind": "Transformer"}},
        {"layers": {}},
        {"layers": []},
        {"layers": {"kind": "Stack", "layers": []}},
        {"extra": 1},
    ],
)
def test_a_damaged_spec_is_refused(change):
    with pytest.raises(RecurraError):
        LanguageModel.from_spec({**small_model().to_spec(), **change})


@pytest.mark.parametrize("field", ["program", "input_size", "hidden_size", "widths"])
@pytest.mark.parametrize("value", [[1], "x", -3])
def test_a_damaged_layer_is_refused(field, value):
    with pytest.raises(RecurraError):
        build_layer({**layer_spec(GRU(2, 3)), field: value})


def test_every_wrapper_comes_back_from_its_spec():
    layer = Stack(
        Residual(Dropout(Recurrent("gru", 4, 4), 0.25)),
        Bidirectional(Recurrent("lstm", 4, 3), Recurrent("rnn_tanh", 4, 2)),
        Mean(Recurrent("gru", 5, 2)),
    )
    again = build_layer(json.loads(json.dumps(layer_spec(layer))))
    again.load_state_dict(layer.state_dict())
    x = torch.randn(3, 7, 4)
    assert (layer.eval()(x)[0] == again.eval()(x)[0]).all()
    assert isinstance(build_layer(layer_spec(Last(GRU(2, 3)))), Last)
    with pytest.raises(ArgumentError, match="cannot be saved as data"):
        layer_spec(torch.nn.Linear(2, 3))  # type: ignore[arg-type]


def run_on(text: str, folder, **settings):
    """Train on the text and open what came of it."""
    from rich.console import Console

    (folder / "text").write_text(text, encoding="utf-8")
    chosen = {
        "data": str(folder / "text"),
        "split": "100/0",
        "dropout": 0,
        "validations": 2,
        "log_every": 20,
        **settings,
    }
    train_run(Settings.create(chosen), folder / "run", console=Console(quiet=True))
    return load(folder / "run")


def test_the_cat_sat_on_the_mat(tmp_path):
    model = run_on(CAT * 6, tmp_path, tokens="word", hidden=32, embedding=16, batch=4, window=20, steps=120)
    for prompt in ("the cat sat on the", "the cat sat on the "):
        assert prompt + "".join(model.generate(prompt, likeliest, length=1)) == "the cat sat on the mat"
    assert "".join(model.generate("the log is", likeliest, length=1)) == " wet"


def test_japanese_is_learnt_by_heart(tmp_path):
    sentence = "吾輩は猫である。名前はまだ無い。\n"
    model = run_on(sentence * 30, tmp_path, hidden=32, embedding=16, batch=4, window=20, steps=120)
    assert "".join(model.generate("吾輩は", likeliest, length=13)) == "猫である。名前はまだ無い。"


def test_a_saved_task_of_another_kind_is_refused(tmp_path):
    from recurra.checkpoint import save_model

    save_model(tmp_path, "juggling", {})
    with pytest.raises(FormatError, match="juggling"):
        load(tmp_path)
