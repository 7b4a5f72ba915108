"""The laws hold for every cell and wrapper, and every law fails for a layer that breaks it."""

import copy

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import layers
from paper_peers import PAPERS, peer_of
from recurra import cells, nn, ops
from recurra.errors import ArgumentError
from recurra.testing import LawViolation, check_laws
from recurra.testing import sequence_laws as laws
from recurra.testing.cases import Case


@pytest.mark.parametrize("name", layers.ALL)
def test_every_cell_and_wrapper_keeps_the_laws(name: str):
    layer = layers.ALL[name]()
    report = check_laws(layer, peer=peer_of(name, layer), samples=3 if name in layers.TRIED_MORE else 2)
    assert {r.number for r in report.results} == set(range(1, 15))
    assert report[14].outcome == ("passed" if name in PAPERS else "not applicable")


def test_every_cell_has_an_independent_implementation():
    assert {*cells.names(), "ltc"} <= PAPERS.keys() <= layers.ALL.keys()


@pytest.mark.parametrize("name", ["gru", "stack of bidirectional", "last"])
def test_the_reference_keeps_the_laws(name: str):
    # plain torch does not promise equal bits for any number of threads
    with ops.backend("reference"):
        check_laws(layers.ALL[name](), samples=2, inapplicable={9: "plain torch"})


@given(st.sampled_from(sorted(layers.ALL)), st.integers(1, 6), st.integers(1, 12), st.integers(0, 1000))
def test_laws_of_sequences_hold_for_any_shape_lengths_and_resets(name: str, batch: int, time: int, seed: int):
    torch.manual_seed(seed)
    layer = layers.ALL[name]().double().eval()
    case = Case(batch, time, torch.float64, seed)
    laws.padding_changes_nothing(layer, case)
    laws.rows_are_independent(layer, case)
    laws.reverse_keeps_padding(layer, case)
    if layer.causal:
        laws.forward_is_fold_of_step(layer, case)
        laws.chunks_are_the_whole(layer, case)
        laws.reset_is_a_fresh_start(layer, case)


# the report


def test_report_is_a_table_with_reasons():
    report = check_laws(nn.Bidirectional(nn.GRU(2, 3), nn.GRU(2, 3)), samples=1)
    assert report[3].outcome == "passed"
    assert report[3].cases == 2
    assert report[1].outcome == "not applicable"
    lines = str(report).splitlines()
    assert lines[0].startswith("| law |")
    assert len(lines) == 16
    assert any("needs the future" in line for line in lines)


def test_dropout_is_said_to_be_random_in_training():
    report = check_laws(nn.Dropout(nn.GRU(2, 3), 0.5), samples=1)
    assert report[2].outcome == "passed"
    assert report[2].reason == "in evaluation; in training it draws new masks in every call"
    assert report[4].reason == report[2].reason


def test_laws_can_be_excused_with_a_reason():
    report = check_laws(nn.GRU(2, 3), samples=1, inapplicable={7: "no time"})
    assert (report[7].outcome, report[7].reason) == ("not applicable", "no time")


def test_the_layer_and_the_generator_are_left_as_they_were():
    layer = nn.Dropout(nn.GRU(2, 3), 0.5).train()
    weights, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    check_laws(layer, samples=1)
    assert layer.training
    assert layer.layer.W.dtype == torch.float32
    assert all(torch.equal(weights[name], value) for name, value in layer.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_bad_arguments_are_named():
    with pytest.raises(ArgumentError, match="layer is a GRU: expected a layer of recurra"):
        check_laws(torch.nn.GRU(2, 3))
    with pytest.raises(ArgumentError, match="samples is 0: expected 1 or more"):
        check_laws(nn.GRU(2, 3), samples=0)


# a layer that is no program keeps the contract in plain torch


class PlainTanh(nn.Layer):
    """A simple recurrent layer in plain torch, for the laws to judge. Subclasses break one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_size = 3, 5
        self.W = torch.nn.Parameter(torch.randn(5, 3) / 2)
        self.U = torch.nn.Parameter(torch.randn(5, 5) / 3)

    def initial_state(self, batch: int) -> nn.State:
        return nn.state_type(("h",))(self.W.new_zeros(batch, 5))

    def step(self, x_t: Tensor, state: nn.State, *, elapsed: Tensor | None = None) -> tuple[Tensor, nn.State]:
        h = torch.tanh(x_t @ self.W.T + state[0] @ self.U.T)
        return h, type(state)(h)

    def at(self, x: Tensor, t: int, state: nn.State) -> tuple[Tensor, nn.State]:
        return self.step(x[:, t], state)

    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        state = self.initial_state(x.shape[0]) if state is None else state
        outputs = [x.new_zeros(x.shape[0], 0, 5)]
        for t in range(x.shape[1]):
            now = torch.ones(x.shape[0], 1, dtype=torch.bool) if lengths is None else (t < lengths)[:, None]
            if reset is not None:
                state = type(state)(torch.where(reset[:, t, None] & now, torch.zeros_like(state[0]), state[0]))
            y, after = self.at(torch.where(now[..., None], x, torch.zeros_like(x)), t, state)
            state = type(state)(torch.where(now, after[0], state[0]))
            outputs.append(torch.where(now, y, torch.zeros_like(y))[:, None])
        return torch.cat(outputs, dim=1), state


def test_a_layer_in_plain_torch_keeps_the_laws():
    check_laws(PlainTanh(), inapplicable={9: "plain torch does not promise it"})


class ForgetsAtOnce(PlainTanh):
    def at(self, x, t, state):
        return super().at(x, t, type(state)(state[0] * 0.9))


class CountsSteps(PlainTanh):
    def at(self, x, t, state):
        y, state = super().at(x, t, state)
        return y + 0.01 * t, state


class ReadsPadding(PlainTanh):
    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        return (
            super().forward(x, state, lengths=lengths, reset=reset)
            if lengths is None
            else self.wrong(x, state, lengths, reset)
        )

    def wrong(self, x, state, lengths, reset):
        y, state = super().forward(x, state, reset=reset)
        return torch.where((torch.arange(x.shape[1]) < lengths[:, None])[..., None], y, torch.zeros_like(y)), state


class MixesRows(PlainTanh):
    def at(self, x, t, state):
        y, state = super().at(x, t, state)
        return y - 0.1 * y.mean(0), state


class IgnoresResets(PlainTanh):
    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        return super().forward(x, state, lengths=lengths)


class WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y)


class WrongGradient(PlainTanh):
    def step(self, x_t, state, *, elapsed=None):
        h = WrongSlope.apply(x_t @ self.W.T + state[0] @ self.U.T)
        return h, type(state)(h)


class HiddenWeight(PlainTanh):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def step(self, x_t, state, *, elapsed=None):
        y, state = super().step(x_t, state)
        return y * self.scale, state

    def __deepcopy__(self, memo):
        other = HiddenWeight()
        other.load_state_dict(self.state_dict())
        other.scale = torch.rand(())
        return other


class DrawsAtRandom(PlainTanh):
    def at(self, x, t, state):
        y, state = super().at(x, t, state)
        return y + 1e-9 * torch.rand_like(y), state


class NeedsContiguous(PlainTanh):
    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        flat = torch.as_strided(x, x.shape, x.new_empty(x.shape).stride()) if x.numel() else x
        return super().forward(flat, state, lengths=lengths, reset=reset)


class SwallowsNan(PlainTanh):
    def step(self, x_t, state, *, elapsed=None):
        return super().step(torch.where(x_t.isnan(), torch.zeros_like(x_t), x_t), state)


class Crashes(PlainTanh):
    def forward(self, x, state=None, *, lengths=None, reset=None, elapsed=None):
        raise RuntimeError("no room")


BROKEN = {
    1: ForgetsAtOnce,
    2: CountsSteps,
    3: ReadsPadding,
    4: MixesRows,
    5: IgnoresResets,
    7: WrongGradient,
    8: HiddenWeight,
    9: DrawsAtRandom,
    12: NeedsContiguous,
    13: SwallowsNan,
}


@pytest.mark.parametrize("number", BROKEN)
def test_every_law_can_fail(number: int):
    with pytest.raises(LawViolation, match=rf"law {number} \(") as raised:
        check_laws(BROKEN[number]())
    assert raised.value.report[number].outcome == "failed"
    assert "case: batch" in raised.value.report[number].reason


def test_law_6_fails_when_padding_is_reversed_too(monkeypatch):
    monkeypatch.setattr("recurra.nn.bidirectional.reverse", lambda x, lengths=None: x.flip(1))
    report = check_laws(nn.GRU(3, 5), raise_on_failure=False)
    assert [failure.number for failure in report.failures] == [6]


class IsNoNumber(PlainTanh):
    def step(self, x_t, state, *, elapsed=None):
        return super().step(x_t * torch.nan, state)


def test_a_layer_that_is_nan_everywhere_keeps_no_law_of_sequences():
    with pytest.raises(LawViolation, match=r"law 1 .*two steps of finite input lead to a state that is not finite"):
        check_laws(IsNoNumber())


def test_a_crash_is_a_violation_with_its_reason():
    with pytest.raises(LawViolation, match=r"law 4 .*raised RuntimeError: no room"):
        check_laws(Crashes())


def test_a_peer_without_gradients_is_compared_in_its_values():
    layer = PlainTanh()
    W, U = (weight.detach().double().numpy() for weight in (layer.W, layer.U))

    def peer(x: Tensor, state: nn.State) -> tuple[Tensor, nn.State]:
        h, outputs = state[0].detach().numpy(), []
        for frame in x.detach().numpy().transpose(1, 0, 2):
            h = np.tanh(frame @ W.T + h @ U.T)
            outputs.append(h)
        return torch.from_numpy(np.stack(outputs, 1)), type(state)(torch.from_numpy(h))

    report = check_laws(layer, peer=peer, samples=1, inapplicable={9: "plain torch"})
    assert report[14].outcome == "passed"
