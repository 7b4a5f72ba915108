"""The recipes: their tasks against facts worked out by hand, their criteria, and one tiny run."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from torch import Generator, nn

from house import ROOT, needs_source_tree

pytestmark = needs_source_tree
if not (ROOT / "recipes").exists():
    pytest.skip("the recipes are in the source tree only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from recipes import report, results  # noqa: E402 - lies in the root of the source tree
from recipes.__main__ import main  # noqa: E402
from recipes.catalogue import RECIPES, TASKS  # noqa: E402
from recipes.gradients import gradient_norm  # noqa: E402
from recipes.layers import build_layer  # noqa: E402
from recipes.problems import Adding, Copying, Latch, Parity, Problem, TemporalOrder  # noqa: E402
from recipes.reber import EmbeddedReber, draw, is_whole, string_sets, successors  # noqa: E402
from recipes.run import run_all  # noqa: E402
from recipes.train import HeldOut, Recipe, Streak, _Judge, build, train  # noqa: E402

PROBLEMS = (
    Adding(20),
    TemporalOrder(2),
    TemporalOrder(3),
    Latch(9),
    Parity(),
    Copying(30),
    EmbeddedReber(),
    EmbeddedReber(squared=True),
)
TINY = Recipe(
    task="parity",
    arm="tiny",
    problem=Parity(train_lengths=(2, 4), test_lengths=(3, 5)),
    criterion=HeldOut(limit=1.0, every=2, count=16),
    cell="gru",
    hidden=4,
    sequences=32,
    batch=8,
)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_equal_seeds_give_equal_sequences(problem: Problem):
    one, two, other = (problem.sample(6, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.target, two.target)
    assert one.x.shape != other.x.shape or not torch.equal(one.x, other.x)
    assert one.x.shape[2] == problem.input_size
    assert one.x.shape[1] == int(one.lengths.max())


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_padding_is_never_read(problem: Problem):
    examples = problem.sample(6, generator())
    x = examples.x.clone()
    for row, length in enumerate(examples.lengths.tolist()):
        assert not x[row, length:].any()
    outputs = torch.randn(6, x.shape[1], problem.output_size, generator=generator())
    if problem.every_step:
        poisoned = outputs.clone()
        for row, length in enumerate(examples.lengths.tolist()):
            poisoned[row, length:] = 1e6
        assert torch.equal(problem.errors(outputs, examples), problem.errors(poisoned, examples))
        assert torch.equal(problem.loss(outputs, examples), problem.loss(poisoned, examples))
    assert problem.errors(outputs if problem.every_step else outputs[:, 0], examples).shape == (6,)


def test_reber_strings_belong_to_the_grammar():
    texts = [draw(generator(seed)) for seed in range(200)]
    assert all(is_whole(text) for text in texts)
    assert min(map(len, texts)) == 9
    assert all(text[1] == text[-2] for text in texts)


@pytest.mark.parametrize("text", ["", "BTBTXSETB", "BTBTXSEPE", "BTBTXSET", "BTBTSETE", "BTBTXSETEE"])
def test_other_strings_do_not(text: str):
    assert not is_whole(text)


def test_reber_successors_by_hand():
    assert successors("BPBTSXSEPE") == ["TP", "B", "TP", "SX", "SX", "XS", "E", "P", "E", ""]
    with pytest.raises(ValueError, match="'P' at place 4; expected one of 'SX'"):
        successors("BTBTP")


def test_a_reber_string_is_wrong_if_one_legal_symbol_is_not_on_top():
    problem = EmbeddedReber()
    examples = string_sets(0).part(slice(0, 4))
    outputs = examples.target[..., 1:].float()
    assert not problem.errors(outputs, examples).any()
    step = int(examples.lengths[2]) - 1
    outputs[2, step] = 0.0
    assert problem.errors(outputs, examples).tolist() == [0, 0, 1, 0]
    assert problem.held_out(1, generator()).x.shape[0] == 512


def test_adding_targets_by_hand():
    examples = Adding(30).sample(400, generator())
    assert set(examples.lengths.tolist()) == {30, 31, 32, 33}
    for x, target, length in zip(examples.x, examples.target, examples.lengths.tolist(), strict=True):
        values, markers = x[:length, 0], x[:length, 1]
        assert markers[0] == markers[-1] == -1
        places = (markers == 1).nonzero().flatten().tolist()
        assert len(places) in (1, 2)
        assert places[0] < 10 or len(places) == 1
        assert places[-1] < 15
        assert float(target) == pytest.approx(0.5 + float(values[places].sum()) / 4, abs=1e-6)
    assert examples.x[..., 0].abs().max() <= 1
    # a mean square of 2/3 over 16: what an answer of 0.5 is wrong by
    assert float(examples.target.var()) == pytest.approx(1 / 24, rel=0.2)


def test_temporal_order_classes_by_hand():
    for problem in (TemporalOrder(2), TemporalOrder(3)):
        examples = problem.sample(100, generator())
        for x, target, length in zip(examples.x, examples.target, examples.lengths.tolist(), strict=True):
            text = "".join("EBabcdXY"[i] for i in x[:length].argmax(1).tolist())
            assert 100 <= length <= 110
            assert text[0] == "E"
            assert text[-1] == "B"
            order = [symbol for symbol in text if symbol in "XY"]
            assert int(target) == int("".join("XY".index(symbol).__str__() for symbol in order), 2)
            places = [place for place, symbol in enumerate(text) if symbol in "XY"]
            for place, (low, high) in zip(places, problem.places[problem.symbols], strict=True):
                assert low <= place <= high


def test_parity_labels_by_hand():
    examples = Parity().sample(50, generator())
    assert examples.lengths.min() >= 3
    assert examples.lengths.max() <= 40
    for x, target, length in zip(examples.x, examples.target, examples.lengths.tolist(), strict=True):
        ones = 0
        for step in range(length):
            ones += int(x[step, 1])
            assert x[step].sum() == 1
            assert int(target[step]) == ones % 2
    long = Parity().held_out(50, generator())
    assert 40 <= int(long.lengths.min()) <= int(long.lengths.max()) <= 256


def test_latch_target_is_the_first_sign():
    examples = Latch(12).sample(300, generator())
    assert examples.x.shape == (300, 13, 1)
    assert torch.equal(examples.x[:, 0, 0] > 0, examples.target > 0)
    assert float(examples.x[:, 1:].std()) == pytest.approx(0.2, rel=0.05)


def test_copying_layout_by_hand():
    problem = Copying(20)
    examples = problem.sample(5, generator())
    text = examples.x.argmax(2)
    assert text.shape == (5, 40)
    assert text[:, :10].min() >= 1
    assert text[:, :10].max() <= 8
    assert not text[:, 10:29].any()
    assert (text[:, 29] == 9).all()
    assert not text[:, 30:].any()
    assert torch.equal(examples.target, text[:, :10] - 1)


def test_the_memoryless_answer_of_copying_has_its_known_error():
    problem = Copying(20)
    examples = problem.sample(5, generator())
    outputs = torch.randn(5, 40, 8, generator=generator())
    outputs[:, 30:] = 0.0
    assert problem.memoryless == pytest.approx(10 * math.log(8) / 40)
    assert problem.errors(outputs, examples).tolist() == pytest.approx([problem.memoryless] * 5)
    assert float(problem.loss(outputs, examples)) == pytest.approx(math.log(8))
    outputs[:, 30:] = 50.0 * nn.functional.one_hot(examples.target, 8)
    assert problem.errors(outputs, examples).tolist() == pytest.approx([0.0] * 5)


def test_the_lstm_of_1997_has_its_published_number_of_weights():
    recipe = next(r for r in RECIPES if r.cell == "lstm_1997")
    network = build(recipe, 0)
    assert sum(p.numel() for p in network.parameters()) == 264
    assert build_layer("lstm_1997", 7, 4).get_parameter("b_o").tolist() == [-1, -2, -3, -4]


@pytest.mark.parametrize("truncated", [True, False])
def test_the_lstm_of_1997_equals_its_equations_in_plain_torch(truncated: bool):
    layer = build_layer("lstm_1997" if truncated else "lstm_1997_bptt", 7, 4).double()
    W, U, U_i, U_o, b_i, b_o = (layer.get_parameter(name) for name in ("W", "U", "U_i", "U_o", "b_i", "b_o"))
    x = torch.randn(3, 11, 7, dtype=torch.double)
    h = c = i = o = torch.zeros(3, 4, dtype=torch.double)
    outputs = []
    for t in range(11):
        seen = [v.detach() if truncated else v for v in (h, i, o)]
        xi, xg, xo = (x[:, t] @ W.T + seen[0] @ U.T + seen[1] @ U_i.T + seen[2] @ U_o.T).chunk(3, dim=1)
        i, o = torch.sigmoid(xi + b_i), torch.sigmoid(xo + b_o)
        c = c + i * (4 * torch.sigmoid(xg) - 2)
        h = o * (2 * torch.sigmoid(c) - 1)
        outputs.append(h)
    expected = torch.stack(outputs, dim=1)
    y, _ = layer(x)
    assert torch.allclose(y, expected, atol=1e-12)
    cotangent = torch.randn(3, 11, 4, dtype=torch.double)
    parameters = [W, U, U_i, U_o, b_i, b_o]
    ours = torch.autograd.grad((y * cotangent).sum(), parameters)
    theirs = torch.autograd.grad((expected * cotangent).sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_streak_counts_sequences_in_succession():
    judge = _Judge(replace(TINY, problem=Latch(3), criterion=Streak(0.5, count=10), batch=4), 0)
    network = build(TINY, 0)
    right, one_wrong = torch.zeros(4), torch.tensor([0.0, 0.5, 0.0, 0.0])
    assert not judge.is_met(network, 1, right)
    assert not judge.is_met(network, 2, one_wrong)
    assert not judge.is_met(network, 3, right)
    assert judge.is_met(network, 4, right)


def test_held_out_is_looked_at_when_it_is_time():
    judge = _Judge(TINY, 0)
    network = build(TINY, 0)
    assert not judge.is_met(network, 1, torch.zeros(8))
    assert judge.is_met(network, 2, torch.ones(8))
    strict = _Judge(replace(TINY, criterion=HeldOut(limit=-1.0, every=2, count=16)), 0)
    assert not strict.is_met(network, 2, torch.zeros(8))
    assert strict.curve[0][0] == 16


def test_torch_twin_starts_from_the_same_function():
    for cell in ("lstm", "gru", "rnn_tanh"):
        recipe = replace(TINY, cell=cell, layers=2)
        ours, twin = build(recipe, 5), build(recipe, 5, torch_twin=True)
        examples = recipe.problem.sample(7, generator())
        valid = torch.arange(examples.x.shape[1]) < examples.lengths[:, None]
        a, b = (n(examples.x, examples.lengths)[valid] for n in (ours, twin))
        assert torch.allclose(a, b, atol=1e-6)


def test_gradient_of_a_linear_latch_does_not_depend_on_its_length():
    recipe = next(r for r in RECIPES if r.cell == "linear")
    rnn = next(r for r in RECIPES if r.task == "latch" and r.cell == "rnn_tanh")
    assert gradient_norm(recipe, 100, 0) == pytest.approx(gradient_norm(recipe, 5, 0), rel=0.2)
    assert gradient_norm(rnn, 100, 0) < 1e-6 * gradient_norm(rnn, 5, 0)


def test_equal_seeds_give_equal_runs_and_learning_lowers_the_loss():
    recipe = replace(TINY, criterion=HeldOut(limit=-1.0, every=2, count=16), sequences=80)
    one, two = train(recipe, 1), train(recipe, 1)
    assert (one.error, one.curve, one.sequences) == (two.error, two.curve, two.sequences)
    solved = train(replace(TINY, problem=Latch(3), criterion=HeldOut(0.0, every=10, count=64), sequences=4000), 0)
    assert solved.solved
    assert solved.error == 0.0
    assert solved.sequences < 4000


def test_results_survive_a_torn_line(tmp_path):
    file = tmp_path / "results.jsonl"
    outcome = train(TINY, 0)
    results.append(file, TINY, 0, outcome, "now")
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"task": "par')
    assert list(results.read(file)) == [results.key(TINY, 0)]
    results.repair(file)
    results.append(file, TINY, 1, outcome, "now")
    assert set(results.read(file)) == {results.key(TINY, 0), results.key(TINY, 1)}


def test_runs_go_on_where_they_were_stopped(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    run_all([(TINY, 0)], file, workers=1, torch_twin=False)
    first = results.read(file)[results.key(TINY, 0)]
    assert (first["solved"], first["sequences"]) == (True, 16)
    run_all([(TINY, 0)], file, workers=1, torch_twin=False)
    assert "1 of 1 results" in capsys.readouterr().out
    assert len(file.read_text(encoding="utf-8").splitlines()) == 1


def test_a_changed_recipe_is_another():
    assert replace(TINY, anchor="said elsewhere").fingerprint() == TINY.fingerprint()
    for change in ({"hidden": 5}, {"problem": Parity()}, {"criterion": Streak(0.1)}, {"learning_rate": 0.5}):
        assert replace(TINY, **change).fingerprint() != TINY.fingerprint()


def test_the_report_says_what_was_and_was_not_seen(tmp_path):
    outcome = train(TINY, 0)
    records = {}
    for solves, name in ((True, "can"), (False, "cannot"), (None, "unknown")):
        recipe = replace(TINY, arm=name, solves=solves, seeds=1)
        records[recipe] = json.loads(json.dumps(results.append(tmp_path / "r", recipe, 0, outcome, "now")))
    found = results.read(tmp_path / "r")
    verdicts = {row.recipe.arm: row.verdict for row in report.collect(records, found)}
    assert verdicts == {"can": "yes", "cannot": "**no**", "unknown": ""}
    more = [replace(recipe, seeds=5) for recipe in records]
    assert {row.verdict for row in report.collect(more, found)} == {"1 of 5 seeds run"}
    assert report.missed(more, found) == []
    assert report.missed(records, found) == ["parity, cannot: 1 of 1 seeds solved it"]


def test_the_report_is_whole_when_nothing_was_run(tmp_path):
    page = tmp_path / "recipes.md"
    report.write(page, RECIPES, {}, loads=(0.0, 0.0))
    text = page.read_text(encoding="utf-8")
    assert all(task.title in text for task in TASKS.values())
    assert "not run" in text
    assert (tmp_path / "recipes-latch.png").stat().st_size > 1000


def test_recipes_are_told_apart_and_have_a_section():
    assert len({(r.task, r.arm) for r in RECIPES}) == len(RECIPES)
    assert {r.task for r in RECIPES} == set(TASKS)
    assert all(r.seeds >= 5 for r in RECIPES)


def test_an_unknown_task_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["sorting"])
    assert "the tasks are reber" in capsys.readouterr().err


def test_the_network_answers_at_the_last_valid_step():
    network = build(replace(TINY, problem=Latch(3)), 0)
    x = torch.randn(2, 6, 1)
    lengths = torch.tensor([4, 6])
    both = network(x, lengths)
    assert torch.allclose(both[:1], network(x[:1, :4], lengths[:1]), atol=1e-6)
    assert isinstance(network.head, nn.Linear)
