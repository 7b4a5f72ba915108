"""Layers keep their contract, behave as torch modules, and say clearly what they cannot accept."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_padded_sequence

import layers
from recurra import cells, nn, ops
from recurra.cells import Bias, Input, State, cell
from recurra.errors import ArgumentError, CellError, RecurraError, ShapeError
from recurra.nn.state import state_tensors


def run(layer: nn.Layer, batch: int = 2, time: int = 4) -> tuple[torch.Tensor, nn.State]:
    elapsed = torch.ones(batch, time) if layer.uses_elapsed else None
    return layer(torch.randn(batch, time, layer.input_size), elapsed=elapsed)


def _shapes(state: nn.State) -> list[torch.Size]:
    return [tensor.shape for tensor in state_tensors(state)]


# the contract


@pytest.mark.parametrize("name", layers.ALL)
def test_output_and_state_have_the_promised_shapes(name: str):
    layer = layers.ALL[name]()
    y, state = run(layer)
    assert y.shape == ((2, layer.output_size) if layer.pools else (2, 4, layer.output_size))
    assert _shapes(state) == _shapes(layer.initial_state(2))


def test_parameters_have_the_names_of_the_equations():
    assert {name: tuple(p.shape) for name, p in nn.GRU(2, 5).named_parameters()} == {
        "W": (15, 2),
        "U": (15, 5),
        "b": (15,),
        "b_n": (5,),
    }


def test_state_has_the_names_of_the_equations():
    state = nn.LSTM(2, 5).initial_state(3)
    assert state._fields == ("h", "c")
    assert state.h.shape == state.c.shape == (3, 5)


def test_wrappers_nest_states():
    layer = nn.Stack(
        nn.Bidirectional(nn.GRU(2, 3), nn.LSTM(2, 3)), nn.Residual(nn.Dropout(nn.RNN(6, 6), 0.1)), nn.Last(nn.GRU(6, 2))
    )
    both, plain, pooled = layer.initial_state(1)
    assert both.backward._fields == ("h", "c")
    assert plain._fields == ("h",)
    assert pooled.layer.h.shape == pooled.last.shape == (1, 2)


def test_initial_state_is_the_constant_of_the_cell():
    assert torch.equal(nn.Recurrent(layers.leaky, 2, 3).initial_state(1).h, torch.full((1, 3), 0.5))


def test_a_cell_is_given_by_name_object_or_program():
    for given in ("mingru", cells.mingru, cells.mingru.program):
        assert nn.Recurrent(given, 2, 3).program == cells.mingru.program


def test_other_widths_size_parameters_state_and_output():
    layer = nn.Recurrent(cells.lstm_projected, 3, 5, widths={"projection": 2})
    assert layer.output_size == 2
    assert layer.U.shape == (20, 2)
    assert layer.initial_state(1).r.shape == (1, 2)


def test_classic_layers_are_their_cells():
    torch.manual_seed(0)
    named = nn.RNN(3, 4, nonlinearity="relu")
    torch.manual_seed(0)
    general = nn.Recurrent("rnn_relu", 3, 4)
    x = torch.randn(2, 3, 3)
    assert torch.equal(named(x)[0], general(x)[0])


def test_nothing_given_is_changed_in_place():
    layer = nn.Stack(nn.LSTM(2, 3), nn.Mean(nn.GRU(3, 2)))
    x, state = torch.randn(2, 4, 2), layer.initial_state(2)
    kept = x.clone(), copy.deepcopy(state)
    with torch.no_grad():
        layer(x, state, lengths=torch.tensor([2, 4]), reset=torch.ones(2, 4, dtype=torch.bool))
        layer.step(x[:, 0], state)
    assert torch.equal(x, kept[0])
    assert all(torch.equal(a, b) for a, b in zip(state_tensors(state), state_tensors(kept[1]), strict=True))


# what wrappers compute


def test_dropout_acts_in_training_on_outputs_only():
    layer = nn.Dropout(nn.GRU(2, 50), 0.5)
    x = torch.randn(1, 20, 2)
    plain, state = layer.layer(x)
    dropped, same = layer(x)
    zero = dropped == 0
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(dropped[~zero], 2 * plain[~zero])
    assert torch.equal(same.h, state.h)
    assert torch.equal(layer.eval()(x)[0], plain)


def test_last_and_mean_pool_over_true_lengths():
    layer = nn.GRU(2, 3)
    x, lengths = torch.randn(3, 5, 2), torch.tensor([5, 0, 2])
    y, _ = layer(x)
    last, _ = nn.Last(layer)(x, lengths=lengths)
    mean, _ = nn.Mean(layer)(x, lengths=lengths)
    torch.testing.assert_close(last, torch.stack((y[0, 4], torch.zeros(3), y[2, 1])))
    torch.testing.assert_close(mean, torch.stack((y[0].mean(0), torch.zeros(3), y[2, :2].mean(0))))


def test_mean_starts_anew_with_its_row():
    layer = nn.Mean(nn.GRU(2, 3))
    x, reset = torch.randn(1, 5, 2), torch.tensor([[False, False, True, False, False]])
    torch.testing.assert_close(layer(x, reset=reset)[0], layer(x[:, 2:])[0])


def test_mean_counts_in_single_precision_under_half():
    state = nn.Mean(nn.GRU(2, 3)).half().initial_state(1)
    assert state.total.dtype == state.count.dtype == torch.float32


def test_residual_adds_the_input_but_no_padding():
    layer = nn.Residual(nn.GRU(3, 3))
    x = torch.randn(1, 4, 3)
    x[0, 2:] = float("nan")
    y, _ = layer(x, lengths=torch.tensor([2]))
    torch.testing.assert_close(y[:, :2], x[:, :2] + layer.layer(x[:, :2])[0])
    assert not y[:, 2:].any()


def test_bidirectional_joins_both_directions():
    ahead, back = nn.GRU(2, 3), nn.GRU(2, 3)
    x = torch.randn(2, 4, 2)
    y, state = nn.Bidirectional(ahead, back)(x)
    forward, backward = ahead(x), back(x.flip(1))
    torch.testing.assert_close(y, torch.cat((forward[0], backward[0].flip(1)), -1))
    torch.testing.assert_close(state.backward.h, backward[1].h)


def test_bidirectional_of_last_gives_both_final_outputs():
    ahead, back = nn.GRU(2, 3), nn.GRU(2, 3)
    x, lengths = torch.randn(2, 4, 2), torch.tensor([3, 4])
    y, state = nn.Bidirectional(nn.Last(ahead), nn.Last(back))(x, lengths=lengths)
    torch.testing.assert_close(y, torch.cat((state.forward.layer.h, state.backward.layer.h), -1))


def test_reverse_turns_the_valid_part_only():
    x = torch.arange(8.0).reshape(2, 4, 1)
    turned = nn.reverse(x, torch.tensor([3, 0]))
    assert turned[..., 0].tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
    assert nn.reverse(x)[..., 0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]
    assert torch.equal(nn.reverse(x, torch.tensor([3, 0], dtype=torch.uint8)), turned)


def test_stack_takes_layers_or_a_list_of_them():
    first, second = nn.GRU(2, 3), nn.GRU(3, 4)
    for stack in (nn.Stack(first, second), nn.Stack([first, second])):
        assert stack.layers == (first, second)
        assert (len(stack), stack[1], stack.input_size, stack.output_size) == (2, second, 2, 4)


# torch modules


@pytest.mark.parametrize("name", layers.ALL)
def test_survives_copying_and_pickling(name: str):
    layer = layers.ALL[name]().eval()
    x = torch.randn(2, 4, layer.input_size)
    elapsed = torch.ones(2, 4) if layer.uses_elapsed else None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x, elapsed=elapsed)[0], layer(x, elapsed=elapsed)[0])


def test_state_dict_is_strict_and_can_be_assigned():
    layer, other = nn.Stack(nn.GRU(2, 3)), nn.Stack(nn.GRU(2, 3))
    weights = {name: value.clone() for name, value in other.state_dict().items()}
    assert set(weights) == {"0.W", "0.U", "0.b", "0.b_n"}
    layer.load_state_dict(weights, strict=True, assign=True)
    assert layer[0].W.data_ptr() == weights["0.W"].data_ptr()
    x = torch.randn(1, 3, 2)
    assert torch.equal(layer(x)[0], other(x)[0])
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict({"0.W": weights["0.W"]})


def test_double_precision_and_back():
    layer = nn.LSTM(2, 3).double()
    y, state = layer(torch.randn(1, 2, 2, dtype=torch.float64))
    assert y.dtype == state.c.dtype == torch.float64
    assert layer.float().initial_state(1).h.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_through_the_reference(dtype: torch.dtype):
    layer = nn.LSTM(2, 3).to(dtype)
    with ops.backend("reference"):
        y, state = layer(torch.randn(1, 2, 2, dtype=dtype))
        y_t, _ = layer.step(torch.randn(1, 2, dtype=dtype), state)
    assert y.dtype == y_t.dtype == state.c.dtype == dtype


def test_writing_data_and_fused_optimisers_are_seen():
    layer, x = nn.GRU(2, 3), torch.randn(1, 3, 2)
    before, _ = layer(x)
    layer.W.data.mul_(2)
    after, _ = layer(x)
    assert not torch.equal(before, after)
    after.sum().backward()
    torch.optim.Adam(layer.parameters(), lr=0.1, fused=True).step()
    assert not torch.equal(layer(x)[0], after)


def test_parametrized_and_pruned_parameters_are_used():
    layer, x = nn.GRU(2, 3), torch.randn(1, 3, 2)
    plain, _ = layer(x)

    class Double(torch.nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        doubled.U.mul_(2)
    parametrize.register_parametrization(layer, "U", Double())
    assert torch.equal(layer(x)[0], doubled(x)[0])
    torch.testing.assert_close(layer.step(x[:, 0], layer.initial_state(1))[0], doubled(x)[0][:, 0])
    parametrize.remove_parametrizations(layer, "U", leave_parametrized=False)
    assert torch.equal(layer(x)[0], plain)


def test_functional_call_replaces_parameters():
    layer, x = nn.GRU(2, 3), torch.randn(1, 3, 2)
    zeros = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    y, _ = torch.func.functional_call(layer, zeros, (x,))
    assert not y.any()


def test_shows_its_cell_and_sizes():
    assert repr(nn.GRU(2, 3)) == "GRU(gru, input_size=2, hidden_size=3)"
    assert "projection=2" in repr(nn.Recurrent(cells.lstm_projected, 3, 5, widths={"projection": 2}))
    assert "probability=0.2" in repr(nn.Dropout(nn.GRU(2, 3), 0.2))


# states as values


def test_states_with_the_same_names_have_one_type():
    assert type(nn.GRU(1, 1).initial_state(1)) is type(nn.RNN(2, 3).initial_state(4)) is nn.state_type(("h",))


def test_a_state_is_pickled_by_its_names(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(pickle.dumps(nn.Recurrent(layers.spiking, 2, 3).initial_state(1)))
    code = f"import pickle; print(pickle.loads(open({str(path)!r}, 'rb').read())._fields)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "('s', 'u')"


def test_map_state_keeps_the_structure():
    state = nn.Stack(nn.LSTM(2, 3), nn.Last(nn.GRU(3, 2))).initial_state(4)
    rows = nn.map_state(lambda s: s[:1], state)
    assert rows[0].c.shape == (1, 3)
    assert rows[1].layer.h.shape == (1, 2)


def test_map_state_detaches_for_truncated_back_propagation():
    layer = nn.GRU(2, 3)
    _, state = layer(torch.randn(1, 3, 2))
    assert state.h.requires_grad
    assert not nn.map_state(torch.Tensor.detach, state).h.requires_grad


# bad input: got, expected, advice

GRU = nn.GRU(4, 8)
TIMED = nn.Recurrent(layers.leaky, 4, 8)
X = torch.zeros(3, 5, 4)
ONES = torch.ones(3, 5)

BAD_CALLS = {
    "rank 2": (lambda: GRU(X[0]), r"x has shape \(5, 4\): expected \(batch, time, 4\)\. A batch of one is x\[None\]"),
    "rank 4": (lambda: GRU(X[None]), r"x has shape \(1, 3, 5, 4\): expected \(batch, time, 4\)"),
    "features": (lambda: GRU(X[..., :3]), r"x has shape \(3, 5, 3\): expected \(batch, time, 4\)\. .*input_size=4"),
    "dtype": (lambda: GRU(X.double()), r"x has dtype torch.float64: expected torch.float32.*layer.to\(torch.float64\)"),
    "whole numbers": (lambda: GRU(X.long()), r"x has dtype torch.int64: expected torch.float32"),
    "device": (lambda: GRU(X.to("meta")), r"x is on meta: expected cpu.*x.to\('cpu'\)"),
    "array": (lambda: GRU(X.numpy()), r"x is a ndarray: expected a tensor\. .*as_tensor"),
    "packed": (
        lambda: GRU(pack_padded_sequence(X, torch.tensor([5, 3, 1]), batch_first=True)),
        r"x is a PackedSequence: expected a tensor\. .*pad_packed_sequence.*lengths=",
    ),
    "lengths list": (lambda: GRU(X, lengths=[5, 1, 1]), r"lengths is a list: expected a tensor of 3 whole numbers"),
    "lengths float": (
        lambda: GRU(X, lengths=torch.ones(3)),
        r"lengths has dtype torch.float32: expected whole numbers",
    ),
    "lengths shape": (lambda: GRU(X, lengths=torch.ones(2).long()), r"lengths has shape \(2,\): expected \(3,\)"),
    "lengths long": (lambda: GRU(X, lengths=torch.tensor([1, 6, 2])), r"lengths holds 6: expected 0 to 5"),
    "lengths negative": (lambda: GRU(X, lengths=torch.tensor([1, -1, 2])), r"lengths holds -1: expected 0 to 5"),
    "lengths device": (lambda: GRU(X, lengths=torch.ones(3).long().to("meta")), r"lengths is on meta: expected cpu"),
    "reset list": (lambda: GRU(X, reset=[True]), r"reset is a list: expected a tensor of booleans"),
    "reset dtype": (lambda: GRU(X, reset=ONES), r"reset has dtype torch.float32: expected torch.bool.*reset.bool\(\)"),
    "reset shape": (lambda: GRU(X, reset=ONES[:, :4].bool()), r"reset has shape \(3, 4\): expected \(3, 5\)"),
    "elapsed in vain": (lambda: GRU(X, elapsed=ONES), r"elapsed is given: expected None.*leave it out"),
    "elapsed missing": (lambda: TIMED(X), r"elapsed is missing: expected the time since the step before.*pass ones"),
    "elapsed shape": (lambda: TIMED(X, elapsed=ONES[:, :4]), r"elapsed has shape \(3, 4\): expected \(3, 5\)"),
    "elapsed dtype": (
        lambda: TIMED(X, elapsed=ONES.double()),
        r"elapsed has dtype torch.float64: expected torch.float32",
    ),
    "elapsed list": (lambda: TIMED(X, elapsed=[1.0]), r"elapsed is a list: expected a tensor"),
    "elapsed negative": (lambda: TIMED(X, elapsed=-ONES), r"elapsed holds -1.0: expected 0 or more"),
    "elapsed infinite": (lambda: TIMED(X, elapsed=ONES / 0), r"elapsed holds inf: expected 0 or more, and finite"),
    "elapsed NaN": (lambda: TIMED(X, elapsed=ONES * float("nan")), r"elapsed holds nan: expected 0 or more"),
    "state batch": (
        lambda: GRU(X, GRU.initial_state(2)),
        r"state.h has shape \(2, 8\): expected \(3, 8\)\. .*another batch size.*initial_state\(3\)",
    ),
    "state width": (lambda: GRU(X, nn.GRU(4, 7).initial_state(3)), r"state.h has shape \(3, 7\): expected \(3, 8\)"),
    "state of LSTM": (lambda: GRU(X, nn.LSTM(4, 8).initial_state(3)), r"state has \(h, c\): expected \(h\)"),
    "state tensor": (
        lambda: GRU(X, torch.zeros(3, 8)),
        r"state is a Tensor: expected a tuple of 1\. Put it in a tuple",
    ),
    "state dtype": (
        lambda: GRU(X, (torch.zeros(3, 8).double(),)),
        r"state.h has dtype torch.float64: expected torch.float32",
    ),
    "state of lists": (lambda: GRU(X, ([0.0],)), r"state.h is a list: expected a tensor"),
    "step rank": (lambda: GRU.step(X, GRU.initial_state(3)), r"x_t has shape \(3, 5, 4\): expected \(batch, 4\)"),
    "step features": (
        lambda: GRU.step(X[:, 0, :3], GRU.initial_state(3)),
        r"x_t has shape \(3, 3\): expected \(batch, 4\)",
    ),
    "step dtype": (lambda: GRU.step(X[:, 0].double(), GRU.initial_state(3)), r"x_t has dtype torch.float64: expected"),
    "step array": (lambda: GRU.step(X[:, 0].numpy(), GRU.initial_state(3)), r"x_t is a ndarray: expected a tensor"),
    "step batch": (lambda: GRU.step(X[:, 0], GRU.initial_state(2)), r"state.h has shape \(2, 8\): expected \(3, 8\)"),
    "step no state": (lambda: GRU.step(X[:, 0], None), r"state is a NoneType: expected a tuple of 1.*initial_state"),
    "step of LSTM": (lambda: GRU.step(X[:, 0], nn.LSTM(4, 8).initial_state(3)), r"state has \(h, c\): expected \(h\)"),
    "step elapsed": (lambda: TIMED.step(X[:, 0], TIMED.initial_state(3)), r"elapsed is missing: expected"),
    "step elapsed in vain": (
        lambda: GRU.step(X[:, 0], GRU.initial_state(3), elapsed=ONES[:, 0]),
        r"elapsed is given: expected None",
    ),
    "batch": (lambda: GRU.initial_state(-1), r"batch is -1: expected a whole number from 0"),
    "batch float": (lambda: GRU.initial_state(2.0), r"batch is 2.0: expected a whole number from 0"),
    "stack state": (lambda: nn.Stack(GRU)(X, GRU.initial_state(3)), r"state has \(h\): expected 1 parts"),
    "stack states": (lambda: nn.Stack(GRU)(X, (GRU.initial_state(3),) * 2), r"state has 2 parts: expected 1 parts"),
    "bidirectional state": (
        lambda: nn.Bidirectional(GRU, GRU)(X, GRU.initial_state(3)),
        r"expected \(forward, backward\)",
    ),
    "last state": (lambda: nn.Last(GRU)(X, GRU.initial_state(3)), r"state has \(h\): expected \(layer, last\)"),
    "stack elapsed": (lambda: nn.Stack(GRU)(X, elapsed=ONES), r"elapsed is given: expected None"),
    "stack without elapsed": (lambda: layers.alternating(4)(X), r"elapsed is missing: expected"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_say_what_was_got_expected_and_advised(name: str):
    call, message = BAD_CALLS[name]
    with pytest.raises(RecurraError, match=message) as raised:
        call()
    assert str(raised.value).count(". ") >= 1, "the message advises nothing"


@cell
def taken(x, h, *, W=Input(), step=Bias()):
    return W @ x + step * h


@cell
def bare(x, h=State("input")):
    return x + h


BAD_LAYERS = {
    "unknown cell": (lambda: nn.Recurrent("gruu", 2, 3), CellError, "unknown cell 'gruu'; did you mean 'gru'"),
    "no cell": (lambda: nn.Recurrent(3, 2, 3), CellError, "a cell was expected"),
    "input size": (lambda: nn.GRU(0, 3), ArgumentError, "input_size is 0: expected a whole number from 1"),
    "hidden size": (lambda: nn.GRU(2, 3.0), ArgumentError, "hidden_size is 3.0: expected a whole number from 1"),
    "missing width": (
        lambda: nn.Recurrent(cells.lstm_projected, 2, 3),
        ShapeError,
        r"'projection': expected a size.*widths=",
    ),
    "other width": (
        lambda: nn.Recurrent("gru", 2, 3, widths={"a": 1}),
        ShapeError,
        "widths gives a size for 'a': expected none",
    ),
    "bad width": (
        lambda: nn.Recurrent(layers.observed, 2, 3, widths={"seen": 0}),
        ArgumentError,
        r"widths\['seen'\] is 0: expected",
    ),
    "taken name": (lambda: nn.Recurrent(taken, 2, 3), CellError, "attribute 'step' already; rename"),
    "no parameters": (lambda: nn.Recurrent(bare, 2, 2), CellError, "has no parameters; expected one or more"),
    "nonlinearity": (
        lambda: nn.RNN(2, 3, nonlinearity="sin"),
        ArgumentError,
        "nonlinearity is 'sin': expected 'tanh' or 'relu'",
    ),
    "empty stack": (lambda: nn.Stack(), ArgumentError, "no layers: expected one or more"),
    "stack sizes": (lambda: nn.Stack(GRU, GRU), ShapeError, "layer 1 has input_size 4: expected 8"),
    "stack of modules": (
        lambda: nn.Stack(torch.nn.GRU(2, 3)),
        ArgumentError,
        "layer 0 is a GRU: expected a layer of recurra.*from_torch",
    ),
    "pooled below": (
        lambda: nn.Stack(nn.Last(GRU), nn.GRU(8, 2)),
        ArgumentError,
        "layer 0 is Last.*: expected a sequence",
    ),
    "residual sizes": (lambda: nn.Residual(GRU), ShapeError, "input_size 4 and output_size 8: expected equal"),
    "residual of last": (
        lambda: nn.Residual(nn.Last(nn.GRU(3, 3))),
        ArgumentError,
        r"layer is Last.*: expected.*Last\(Residual",
    ),
    "pooled twice": (
        lambda: nn.Mean(nn.Last(GRU)),
        ArgumentError,
        "layer is Last, which pools already: expected a sequence",
    ),
    "half pooled": (
        lambda: nn.Bidirectional(GRU, nn.Last(GRU)),
        ArgumentError,
        "one of the two layers pools: expected both",
    ),
    "directions": (
        lambda: nn.Bidirectional(GRU, nn.GRU(3, 8)),
        ShapeError,
        "backward_layer has input_size 3: expected 4",
    ),
    "dropout of one": (lambda: nn.Dropout(GRU, 1.0), ArgumentError, "probability is 1.0: expected from 0 to below 1"),
    "dropout alone": (lambda: nn.Dropout(0.5, 0.5), ArgumentError, "layer is a float: expected a layer of recurra"),
    "state name": (lambda: nn.state_type(("_h",)), ArgumentError, "states cannot be named _h"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_bad_layers_say_what_was_got_expected_and_advised(name: str):
    build, kind, message = BAD_LAYERS[name]
    with pytest.raises(kind, match=message):
        build()


def test_bidirectional_says_that_it_cannot_step():
    layer = nn.Bidirectional(GRU, GRU)
    with pytest.raises(ArgumentError, match="cannot step: expected whole sequences"):
        layer.step(X[:, 0], layer.initial_state(3))
    assert not nn.Stack(layer).causal


def test_elapsed_may_be_anything_in_padding():
    elapsed = ONES.clone()
    elapsed[:, 3:] = float("nan")
    y, _ = TIMED(X, lengths=torch.tensor([3, 2, 0]), elapsed=elapsed)
    assert y.isfinite().all()


# transforms of torch


def test_vmap_takes_lengths():
    x, lengths = torch.randn(2, 3, 5, 4), torch.randint(0, 6, (2, 3))
    y = torch.vmap(lambda x, n: GRU(x, lengths=n)[0])(x, lengths)
    torch.testing.assert_close(y[1], GRU(x[1], lengths=lengths[1])[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_forward_mode_goes_through_wrappers():
    layer = nn.Stack(nn.Residual(nn.GRU(3, 3)), nn.Mean(nn.LSTM(3, 2))).double()
    x, direction = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    _, slope = torch.func.jvp(lambda x: layer(x)[0], (x,), (direction,))
    small = 1e-6 * direction
    torch.testing.assert_close(slope, (layer(x + small)[0] - layer(x - small)[0]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_autocast_takes_single_and_half_precision():
    x, state = torch.randn(2, 5, 4), GRU.initial_state(2)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = GRU(x.bfloat16(), state)
        y_t, after = GRU.step(x[:, 0].bfloat16(), state)
        again, _ = GRU.step(x[:, 1].bfloat16(), after)
    assert y_t.dtype == after.h.dtype == torch.float32
    torch.testing.assert_close(torch.stack([y_t, again], 1), y[:, :2])
    torch.testing.assert_close(y.float(), GRU(x, state)[0], rtol=0, atol=2e-2)


def test_sparse_tensors_are_refused_by_name():
    x, state = torch.randn(2, 5, 4), GRU.initial_state(2)
    for call in (
        lambda: GRU(x.to_sparse()),
        lambda: GRU.step(x[:, 0].to_sparse(), state),
        lambda: GRU(x, type(state)(state.h.to_sparse())),
        lambda: nn.MatrixLSTM(4, 4)(x.to_sparse()),
    ):
        with pytest.raises(ShapeError, match=r"layout torch.sparse_coo.*\.to_dense\(\)"):
            call()
    with pytest.raises(ShapeError, match=r"\.to_dense\(\)"):
        ops.scan(GRU.program, x.to_sparse(), tuple(state), list(GRU.parameters()))


def test_compiled_wrappers_equal_eager_ones():
    layer = nn.Stack(nn.Bidirectional(nn.GRU(3, 2), nn.LSTM(3, 2)), nn.Residual(nn.GRU(4, 4)), nn.Mean(nn.RNN(4, 3)))
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x, lengths, reset = torch.randn(3, 5, 3), torch.tensor([5, 0, 2]), torch.rand(3, 5) < 0.3
    torch.testing.assert_close(
        compiled(x, lengths=lengths, reset=reset)[0], layer(x, lengths=lengths, reset=reset)[0], rtol=0, atol=1e-5
    )
