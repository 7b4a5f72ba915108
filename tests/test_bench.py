"""The benchmark: its gate closes, its figures are what they say, and nothing is lost on the way to the report.

No test looks at a time.
"""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recurra import bench, engine
from recurra.bench import Options, cases, parity, registry, report, results, timing
from recurra.bench.cases import ALSO_IN_TORCHRECURRENT, LAYERS, Case, Registry, Shape, Target
from recurra.bench.cell_libraries import TORCHRECURRENT
from recurra.bench.contract import Foreign, Implementation, Results, own
from recurra.bench.inputs import Inputs
from recurra.bench.measure import RECURRA, Measurement, measure_case
from recurra.bench.peers import PEERS
from recurra.bench.timing import QUICK, Effort, Spread
from recurra.bench.work import operations
from recurra.errors import ArgumentError, FormatError
from recurra.nn import GRU, Recurrent

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="measures the engine")

FOREIGN = ("Keras", "Flax nnx", "ONNX Runtime", "reservoirpy")
TINY = Shape(batch=2, steps=3, input_size=4, hidden_size=5)
GRU_TRAINING = Case("gru", "training", TINY, ("torch.nn",))


class Wrong:
    """A peer with one parameter changed a little."""

    def __init__(self, peer: str, parameter: int) -> None:
        self._peer, self._parameter = PEERS[peer], parameter

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        made = self._peer.build(layer)
        with torch.no_grad():
            made.parameters[self._parameter][0] += 0.01
        return made


class Absent:
    """A peer that is not installed."""

    def missing(self) -> str:
        return "not installed here"

    def build(self, layer: Recurrent) -> Implementation:
        raise AssertionError("a missing peer was built")


class Arrays:
    """recurra's own layer behind the interface of a library with arrays of its own."""

    def __init__(self, gradient_scale: float = 1.0) -> None:
        self._scale = gradient_scale

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Foreign:
        made = own(layer)

        def results_of(inputs: Inputs, cotangents: tuple[torch.Tensor, ...] | None) -> Results:
            x, states = inputs.leaves
            assert made.scan is not None
            y, last = made.scan(x, states)
            if cotangents is None:
                return Results(y.detach(), tuple(s.detach() for s in last), {})
            inputs.clear_gradients(made.parameters)
            torch.autograd.backward([y, *last], [inputs.output_cotangent, *cotangents])
            found = {"x": x.grad, **{f"state {k}": s.grad for k, s in enumerate(states)}, **made.gradients()}
            gradients = {name: self._scale * value for name, value in found.items() if value is not None}
            return Results(y.detach(), tuple(s.detach() for s in last), gradients)

        def training(inputs: Inputs, whole: bool):
            cotangents = inputs.state_cotangents if whole else tuple(map(torch.zeros_like, inputs.state_cotangents))
            return lambda: results_of(inputs, cotangents)

        return Foreign(lambda inputs: lambda: results_of(inputs, None), training, lambda returned: returned)


def figure(target: Target, *measurements: Measurement) -> results.Json:
    """The row of one figure."""
    result = {
        "rows": results.rows(measurements, 1, "today"),
        "parity": results.parity_rows(measurements),
        "skipped": {name: why for one in measurements for name, why in one.skipped.items()},
    }
    (row,) = results.target_rows(Registry((), (target,), {}), result)
    return row


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """A quick run of the whole benchmark: its folder, what it said, what it returned."""
    folder, said = tmp_path_factory.mktemp("bench"), []
    red = bench.run(folder, Options(quick=True), say=said.append)
    return folder, said, red


# timing


def test_spread_is_the_median_and_the_quartiles():
    assert Spread.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="one or more"):
        Spread.of([])


def test_contestants_take_turns_and_every_second_round_runs_backwards():
    order: list[str] = []

    def note(name: str) -> timing.Sampler:
        def sample() -> float:
            order.append(name)
            assert not gc.isenabled()
            return float(len(order))

        return sample

    effort = Effort(sample_seconds=0.0, case_seconds=0.0, fewest=3, most=9, peak_seconds=0.0)
    samples = timing.alternate({name: note(name) for name in "abc"}, effort)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc", "a warm-up, then three rounds"
    assert samples == {"a": [4, 9, 10], "b": [5, 8, 11], "c": [6, 7, 12]}
    assert gc.isenabled()


def test_rounds_end_at_the_most():
    effort = Effort(sample_seconds=0.0, case_seconds=60.0, fewest=1, most=4, peak_seconds=0.0)
    assert timing.alternate({"a": lambda: 1.0}, effort) == {"a": [1.0] * 4}


def test_ratios_pair_the_samples_of_a_round():
    # the second round met a machine ten times as slow
    assert timing.ratios([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == Spread(2.0, 2.0, 2.0)


def test_a_sample_repeats_a_short_call():
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    timing.sampler(call, sample_seconds=0.01)()
    assert calls > 3 + 10


# the work of a case


def test_operations_count_the_products_only():
    layer = GRU(4, 5)
    products = 2 * 2 * 3 * (3 * 5 * 4 + 3 * 5 * 5)
    assert operations(GRU_TRAINING, layer) == 3 * products
    assert operations(replace(GRU_TRAINING, direction="forward"), layer) == products


def test_a_diagonal_is_no_product():
    layer = LAYERS["leaky_gate"](4, 5)
    assert operations(Case("leaky_gate", "forward", TINY, ()), layer) == 2 * 2 * 3 * 15 * (4 + 5)


# the gate


@pytest.mark.parametrize("case", registry.quick().asked, ids=lambda case: case.name)
def test_the_gate_compares_outputs_states_and_every_gradient(case: Case):
    layer = LAYERS[case.cell](case.shape.input_size, case.shape.hidden_size)
    parity.randomise(layer)
    inputs = Inputs(case, layer)
    ours = parity.evaluate(own(layer, bfloat16=case.bfloat16), inputs)
    expected = {f"gradient of {name}" for name, _ in layer.named_parameters()} | {
        "gradient of x",
        "gradient of state 0",
    }
    assert expected <= ours.keys()
    for peer in case.peers:
        if not PEERS[peer].missing() and peer not in FOREIGN:
            theirs = parity.evaluate(PEERS[peer].build(layer), inputs)
            assert theirs.keys() == ours.keys()
            assert parity.compare(ours, theirs, peer, parity.tolerance_of(case)).passed
    assert all(value.abs().max() > 0 for value in ours.values()), "a gradient of zeros shows nothing"


@pytest.mark.parametrize("parameter", range(4))
@pytest.mark.parametrize(
    ("cell", "peer", "direction"),
    [("gru", "torch.nn", "forward"), ("lstm", "torch.nn", "training"), ("leaky_gate", "torch loop", "training")],
)
def test_a_peer_with_wrong_weights_gets_no_figure(cell: str, peer: str, direction, parameter: int):
    case = Case(cell, direction, TINY, (peer,))
    measurement = measure_case(case, {peer: Wrong(peer, parameter)}, QUICK, threads=1)
    assert not measurement.passed
    assert measurement.speeds == ()
    target = Target("a figure", case, "x", 1.0)
    row = figure(target, measurement)
    assert row["value"] is None
    assert row["met"] is None
    assert "parity" in row["note"]


def test_the_gate_is_red_on_nan_on_other_shapes_and_on_what_one_side_lacks():
    value = torch.ones(3)
    assert parity.compare({"y": value}, {"y": value.clone()}, "peer").passed
    for ours, theirs in (
        ({"y": value}, {"y": torch.tensor([1.0, torch.nan, 1.0])}),
        ({"y": torch.tensor([1.0, torch.nan, 1.0])}, {"y": value}),
        ({"y": value}, {"y": torch.ones(3, 1)}),
        ({"y": value}, {}),
        ({"y": value}, {"y": value, "z": value}),
    ):
        assert not parity.compare(ours, theirs, "peer").passed


class Rough:
    """torch.nn in float32 as if it rounded badly, and as it is in float64."""

    def missing(self) -> str:
        return ""

    def build(self, layer: Recurrent) -> Implementation:
        made = PEERS["torch.nn"].build(layer)
        assert isinstance(made, Implementation)
        if layer.W.dtype == torch.float64:
            return made
        scan = made.scan
        assert scan is not None

        def rough(x: torch.Tensor, states: tuple[torch.Tensor, ...]):
            y, last = scan(x, states)
            return y + 1e-3, last

        return replace(made, scan=rough)


def test_a_peer_that_only_rounds_badly_is_told_from_one_that_computes_something_else():
    measurement = measure_case(GRU_TRAINING, {"torch.nn": Rough()}, QUICK, threads=1)
    (found,) = measurement.parities
    assert found.passed
    assert found.difference > parity.TOLERANCE > 1e-9 > found.in_float64
    assert measurement.speeds
    wrong = measure_case(GRU_TRAINING, {"torch.nn": Wrong("torch.nn", 0)}, QUICK, threads=1)
    assert wrong.parities[0].in_float64 > parity.TOLERANCE


# a figure and its target


def test_a_ratio_is_to_the_fastest_peer():
    case = replace(GRU_TRAINING, peers=("torch.nn", "recurra.nn.GRU"))
    measurement = measure_case(case, PEERS, QUICK, threads=1)
    times = {speed.who: speed.seconds.median for speed in measurement.speeds}
    assert list(times) == [RECURRA, "torch.nn", "recurra.nn.GRU"]
    row = figure(Target("a figure", case, "x", 0.0), measurement)
    assert row["against"] == min(list(times)[1:], key=times.__getitem__)
    assert row["met"] is True
    row = figure(Target("a figure", case, "x", 1e9), measurement)
    assert row["met"] is False


def test_a_missing_peer_is_skipped_with_its_reason():
    measurement = measure_case(GRU_TRAINING, {"torch.nn": Absent()}, QUICK, threads=1)
    assert [speed.who for speed in measurement.speeds] == [RECURRA]
    row = figure(Target("a figure", GRU_TRAINING, "x", 1.0), measurement)
    assert row["met"] is None
    assert row["note"] == "torch.nn: not installed here"


def test_a_target_without_a_measurement_says_so():
    row = figure(Target("a figure", GRU_TRAINING, "x", 1.0))
    assert (row["value"], row["met"], row["note"]) == (None, None, "not measured")


# the cases


def test_cases_have_names_of_their_own_and_known_peers():
    for chosen in (registry.full(), registry.quick()):
        names = [case.name for case in chosen.cases]
        assert len(set(names)) == len(names)
        assert {case.cell for case in chosen.cases} <= LAYERS.keys()
        assert {peer for case in chosen.cases for peer in case.peers} <= PEERS.keys()
        assert {target.case.name for target in chosen.targets} <= set(names)
        assert {case.name for curve in chosen.curves.values() for case in curve} <= set(names)


def test_what_is_asked_for_is_measured():
    cases = registry.full().cases
    shapes = {case.shape for case in cases if case.cell == "gru" and case.direction == "training"}
    assert {1, 8, 32, 64} <= {shape.batch for shape in shapes}
    assert {64, 128, 256, 512} <= {shape.hidden_size for shape in shapes}
    assert 1000 in {shape.steps for shape in shapes}
    small = [case.shape for case in cases if case.cell == "leaky_gate" and case.shape.batch == 8]
    assert [(shape.input_size, shape.hidden_size, shape.steps) for shape in small] == [(64, 64, 100)]


# the whole


def test_a_quick_run_passes_its_gates(quick_run: tuple[Path, list[str], int]):
    folder, said, red = quick_run
    assert red == 0
    assert all((folder / "docs" / f).read_bytes().startswith(b"\x89PNG") for f in report.CURVES_FILES.values())
    assert not list(folder.rglob("*.partial"))
    assert any("GRU forward against torch.nn.GRU" in line for line in said)


def test_bench_json_holds_every_figure_and_where_it_was_measured(quick_run: tuple[Path, list[str], int]):
    found = json.loads((quick_run[0] / bench.JSON_FILE).read_text(encoding="utf-8"))
    assert found["format"] == results.FORMAT
    assert found["quick"] is True
    assert {"processor", "cores", "isa", "caches"} <= found["machine"].keys()
    assert {"recurra", "torch", "python", "numpy"} <= found["versions"].keys()
    assert {"threads", "dtype", "load_before", "load_after"} <= found["settings"].keys()
    assert [row["name"] for row in found["targets"]] == [
        *(target.name for target in registry.quick().targets),
        *(row["name"] for row in results.language_model_rows(Path())),
    ]
    assert all({"value", "met", "unit", "against", "note"} <= row.keys() for row in found["targets"])
    assert all(row["met"] in (True, False) or row["note"] for row in found["targets"])
    assert sum(row["met"] is None for row in found["targets"]) < len(found["targets"]) / 2
    assert all(row["passed"] for row in found["parity"])
    exact = [row for row in found["parity"] if "bfloat16" not in row["case"]]
    assert all(row["largest_relative_difference"] < 1e-5 for row in exact)
    measured = {case.name for case in registry.quick().cases if not case.missing}
    assert {row["case"] for row in found["rows"]} == measured
    for row in found["rows"]:
        spread = row["milliseconds"]
        assert 0 < spread["lower_quartile"] <= spread["median"] <= spread["upper_quartile"]
        assert row["gflops"] >= 0
        assert row["measured"]
        assert row["rounds"] == QUICK.fewest
    assert found["peak_gflops"] > 0


def test_the_report_shows_every_case_and_figure(quick_run: tuple[Path, list[str], int]):
    folder = quick_run[0]
    text = (folder / "docs" / report.REPORT_FILE).read_text(encoding="utf-8")
    found = json.loads((folder / bench.JSON_FILE).read_text(encoding="utf-8"))
    for row in found["targets"]:
        assert f"| {row['name']} |" in text
    for case in registry.quick().cases:
        assert case.missing or f"| {case.name} |" in text
    assert found["date"] in text
    assert found["command"] in text
    assert "its times mean nothing" in text
    assert report.render(found) == text, "the report is made of bench.json alone"


def test_the_report_names_failures_losses_and_peers_left_out(quick_run: tuple[Path, list[str], int]):
    found = json.loads((quick_run[0] / bench.JSON_FILE).read_text(encoding="utf-8"))
    found["parity"][0] |= {"passed": False, "tensor": "gradient of W"}
    found["targets"][0] |= {"value": 0.5, "met": False}
    found["skipped"] = {"torch loop, compiled": "no compiler"}
    text = report.render(found)
    assert f"1 of {len(found['parity'])} comparisons FAILED" in text
    assert "gradient of W" in text
    assert "| **0.50x** |" in text
    assert "**missed**" in text
    assert "no compiler" in text


def test_a_curve_that_grows_with_the_steps_is_linear():
    assert report.linearity({10: 1.0, 100: 10.0, 1000: 100.0}) == (0.1, 1.0)
    assert report.linearity({10: 1.0, 100: 10.0, 1000: 200.0}) == (0.2, 2.0)


def test_the_language_model_has_its_place(quick_run: tuple[Path, list[str], int], tmp_path: Path, capsys):
    folder = quick_run[0]
    (tmp_path / bench.JSON_FILE).write_bytes((folder / bench.JSON_FILE).read_bytes())
    rows = results.language_model_rows(tmp_path)
    assert all((row["value"], row["met"]) == (None, None) and "not measured" in row["note"] for row in rows)
    turns = {"lower_quartile": 1.8, "upper_quartile": 2.0}
    differences = {"largest_loss_difference": 1e-5, "disturbed_loss_difference": 2e-5}
    measured = {"ratio": 1.9, "ratio_of_turns": turns, **differences}
    side_by_side = {"gru": {**measured, "command": "both", "machine": "Z80"}}
    (tmp_path / results.SIDE_BY_SIDE_FILE).write_text(json.dumps(side_by_side), encoding="utf-8")
    gru, lstm, _ = results.language_model_rows(tmp_path)
    assert (gru["value"], gru["met"], lstm["met"]) == (1.9, True, None)
    assert "1.0e-05" in gru["note"]
    assert "2.0e-05" in gru["note"]
    assert "Z80" in gru["note"]
    assert gru["upper_quartile"] == 2.0
    given = {"nats_per_character": 1.47, "command": "ours", "torch_nats_per_character": 1.53, "torch_command": "theirs"}
    given["machine"] = "an abacus"
    (tmp_path / results.LANGUAGE_MODEL_FILE).write_text(json.dumps(given), encoding="utf-8")
    bench.main(["--report-only", "--out", str(tmp_path)])
    text = (tmp_path / "docs" / report.REPORT_FILE).read_text(encoding="utf-8")
    assert "**1.470 nats/char**" in text
    assert "torch.nn, the same model: 1.530" in text
    assert "ours\ntheirs\n" in text
    assert "on an abacus" in text
    written = json.loads((tmp_path / bench.JSON_FILE).read_text(encoding="utf-8"))
    assert written["targets"][-1]["met"] is True
    assert "met" in capsys.readouterr().out


def test_a_result_of_the_language_model_that_lacks_a_field_is_refused(tmp_path: Path):
    (tmp_path / results.LANGUAGE_MODEL_FILE).write_text('{"nats_per_character": 1.4}', encoding="utf-8")
    with pytest.raises(FormatError, match="torch_nats_per_character"):
        results.language_model_rows(tmp_path)


def test_the_command_fails_on_parity_and_on_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    arguments = ["--quick", "--out", str(tmp_path), "--only", "gru forward, batch 2, 3 steps"]
    bench.main(arguments)
    assert "missed" in capsys.readouterr().out, "a figure that is missed is no failure"
    monkeypatch.setitem(PEERS, "torch.nn", Wrong("torch.nn", 0))
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 1
    assert "PARITY FAILED" in capsys.readouterr().out
    found = json.loads((tmp_path / bench.JSON_FILE).read_text(encoding="utf-8"))
    assert "gru forward, batch 2, 3 steps, 4→5" not in {row["case"] for row in found["rows"]}


def test_threads_are_set_for_each_contestant_and_put_back():
    seen: list[int] = []

    class Spy:
        def missing(self) -> str:
            return ""

        def build(self, layer: Recurrent) -> Implementation:
            made = PEERS["recurra, 1 thread"].build(layer)
            assert isinstance(made, Implementation)
            assert made.scan is not None
            scan = made.scan

            def spied(x, states):
                seen.append(torch.get_num_threads())
                return scan(x, states)

            return replace(made, scan=spied)

    torch.set_num_threads(2)
    case = Case("gru", "forward", TINY, ("spy",), threads=3)
    measure_case(case, {"spy": Spy()}, QUICK, threads=2)
    assert set(seen[2:]) == {1}, "the first two were the gate's"
    assert set(seen[:2]) == {3}
    assert torch.get_num_threads() == 2


# libraries with arrays of their own


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_the_gate_takes_libraries_with_arrays_of_their_own(direction):
    case = Case("lstm", direction, TINY, ("arrays",))
    measurement = measure_case(case, {"arrays": Arrays()}, QUICK, threads=1)
    assert measurement.passed
    assert [speed.who for speed in measurement.speeds] == [RECURRA, "arrays"]
    wrong = measure_case(case, {"arrays": Arrays(gradient_scale=1.01)}, QUICK, threads=1)
    assert wrong.passed == (direction == "forward")


@pytest.mark.parametrize("peer", [*FOREIGN, "minGRU-pytorch"])
@pytest.mark.filterwarnings("ignore")  # of the libraries, while they load
def test_a_peer_computes_the_same_where_it_is_installed(peer: str):
    if PEERS[peer].missing():
        pytest.skip(PEERS[peer].missing())
    for case in registry.quick().asked + registry.quick().cases:
        if peer in case.peers:
            assert measure_case(replace(case, peers=(peer,)), PEERS, QUICK, threads=2).passed


def test_where_the_processor_lacks_the_instructions_nothing_is_measured_in_bfloat16(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cases, "float32_reason", lambda device, dtype: "a reason")
    asked = [target for target in registry.quick().targets if target.case.bfloat16]
    assert asked
    nothing = {"rows": [], "parity": [], "skipped": {}}
    for row in results.target_rows(replace(registry.quick(), targets=tuple(asked)), nothing):
        assert row["met"] is None
        assert row["note"] == "not measured: a reason"


# what is kept of an earlier run


def test_an_earlier_result_is_kept_and_gone_on_from(quick_run: tuple[Path, list[str], int], tmp_path: Path):
    before = (quick_run[0] / bench.JSON_FILE).read_text(encoding="utf-8")
    (tmp_path / bench.JSON_FILE).write_text(before, encoding="utf-8")
    said: list[str] = []
    bench.run(tmp_path, Options(quick=True, resume=True), say=said.append)
    old, new = json.loads(before), results.read_result(tmp_path / bench.JSON_FILE)
    assert (new["rows"], new["parity"]) == (old["rows"], old["parity"])
    assert [row["value"] for row in new["targets"]] == [row["value"] for row in old["targets"]]
    bench.run(tmp_path, Options(quick=True, merge=True, only="gru step"), say=said.append)
    merged = results.read_result(tmp_path / bench.JSON_FILE)
    assert {row["case"] for row in merged["rows"]} == {row["case"] for row in old["rows"]}
    assert len(merged["rows"]) == len(old["rows"])
    with pytest.raises(ArgumentError, match=r"threads 2 in .*, 1 now"):
        bench.run(tmp_path, Options(quick=True, threads=1, merge=True))


def test_asked_cases_alone_give_every_figure_a_value(quick_run: tuple[Path, list[str], int]):
    chosen = registry.quick()
    assert set(chosen.asked) < set(chosen.cases)
    assert not {case.name for case in chosen.asked} - {case.name for case in chosen.cases}
    full = registry.full()
    assert {case.cell for case in full.asked} >= {*ALSO_IN_TORCHRECURRENT, "rnn_tanh", "layer_norm_lstm"}
    assert set(ALSO_IN_TORCHRECURRENT) == set(TORCHRECURRENT)


def test_a_figure_may_compare_two_cases():
    first, second = GRU_TRAINING, replace(GRU_TRAINING, direction="forward")
    both = [measure_case(case, PEERS, QUICK, threads=1) for case in (first, second)]
    row = figure(Target("a figure", first, "x", 0.0, other=second), *both)
    ours, theirs = (one.speeds[0].seconds.median for one in both)
    assert row["value"] == pytest.approx(theirs / ours, rel=1e-2)
    assert figure(Target("a figure", first, "x", 0.0, other=second), both[0])["note"] == "not measured"


def test_bad_arguments_are_refused(tmp_path: Path):
    with pytest.raises(ArgumentError, match="threads is 0"):
        bench.run(tmp_path, Options(quick=True, threads=0))
    with pytest.raises(ArgumentError, match="no case"):
        bench.run(tmp_path, Options(quick=True, only="nothing like that"))
    (tmp_path / bench.JSON_FILE).write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(FormatError, match="99"):
        bench.render_again(tmp_path)
    (tmp_path / bench.JSON_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="no JSON"):
        bench.render_again(tmp_path)


def test_the_peak_stands_beside_every_share(quick_run: tuple[Path, list[str], int]):
    found = json.loads((quick_run[0] / bench.JSON_FILE).read_text(encoding="utf-8"))
    shares = [row["share_of_peak"]["median"] for row in found["rows"]]
    assert all(share > 0 for share in shares)
