"""The hash behind random numbers: the same bits everywhere, uniform, and independent between neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import plan_emulator as p
from engine_calls import PlanText, forward, pointwise
from plan_emulator import Call
from recurra import engine
from recurra.program.operations import TABLE

mix = TABLE["mix"].numpy
EDGES = np.array([0, 1, 2, 2**12, 2**23 - 1, 2**23, 2**23 + 1, 2**24 - 2, 2**24 - 1], float)


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 2**24, count).astype(float) for _ in range(2))
    a[:81], b[:81] = np.repeat(EDGES, 9), np.tile(EDGES, 9)
    return a, b


def engine_has_the_same_bits(dtype: type) -> None:
    a, b = pairs(1009)
    a[-5:], b[-2:] = (np.nan, -1, 2**24, 5, 5), (2**24, np.inf)
    text = PlanText(p.INFER, 2 * len(a), len(a))
    operands = [(p.INPUT, 0, 0), (p.INPUT, 0, len(a)), (p.OUTPUT, 0, 0)]
    text.sections = [[pointwise(len(a), operands, [(38, 2, 0, 1)])], [], [], []]
    got = forward(text.plan(), Call(np.concatenate([a, b])[None, None], [], []), dtype)["y"][0, 0]
    np.testing.assert_array_equal(got, mix(a.astype(dtype), b.astype(dtype)))
    np.testing.assert_array_equal(got, p.OPERATIONS[38](a, b))
    assert np.isnan(got[-5:]).all()


@pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_engine_has_the_same_bits(dtype: type):
    # engine_child.py does the same on every instruction set
    engine_has_the_same_bits(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_has_the_same_bits(dtype: torch.dtype):
    a, b = pairs(1009)
    got = TABLE["mix"].torch(torch)(torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.double().numpy(), mix(a, b))


def test_values_stay_what_they_were():
    # masks of saved states follow from these bits
    assert mix(np.array([0.0, 1, 2**24 - 1]), np.array([0.0, 2, 2**24 - 1])).tolist() == [14961818, 4839488, 16424266]


def test_a_number_is_rounded_so_that_it_has_no_derivative():
    a, b = pairs(200)
    np.testing.assert_array_equal(mix(a + 1e-4, np.maximum(b - 1e-4, 0)), mix(a, b))


@pytest.mark.parametrize("small", [False, True])
def test_every_bit_of_the_pair_turns_half_of_the_bits(small: bool):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, high, 4000) for high in ((64, 1024) if small else (2**24, 2**24)))
    before = mix(a.astype(float), b.astype(float)).astype(np.int64)
    for bit in range(24):
        for x, y in ((a ^ (1 << bit), b), (a, b ^ (1 << bit))):
            turned = before ^ mix(x.astype(float), y.astype(float)).astype(np.int64)
            shares = [((turned >> k) & 1).mean() for k in range(24)]
            assert 0.45 < min(shares), (bit, shares)
            assert max(shares) < 0.55, (bit, shares)


def test_numbers_are_uniform_and_neighbours_independent():
    keys = mix(mix(np.full(1500, 7.0), np.arange(1500.0)), np.zeros(1500))
    u = mix(keys[:, None], np.arange(512.0)[None]) / 2**24
    counts = np.histogram(u, 256, (0, 1))[0]
    assert 200 < ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 315
    bound = 4 / np.sqrt(u.size)
    for one, other in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (u[1:, 1:], u[:-1, :-1]), (u[:, 2:], u[:, :-2])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < bound
    # rows and columns vary as much as independent numbers do
    for axis, count in ((0, 1500), (1, 512)):
        assert 0.8 < u.mean(axis).var() * 12 * count < 1.25
