"""Memory of large results comes from the engine's arena, and goes back to it."""

import copy
import gc

import pytest
import torch

from recurra import engine, nn

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _needs_engine() -> None:
    if engine.missing():
        pytest.skip(engine.missing())


def address(array: object) -> int:
    return array.ctypes.data  # pyright: ignore[reportAttributeAccessIssue]


def test_what_was_freed_is_leased_again() -> None:
    first = engine.lease(37 * MIB)
    there = address(first)
    del first
    assert address(engine.lease(36 * MIB)) == there


def test_a_small_lease_leaves_large_blocks_alone() -> None:
    large = engine.lease(61 * MIB)
    there = address(large)
    del large
    small = [engine.lease(3 * MIB) for _ in range(3)]
    assert address(engine.lease(61 * MIB)) == there
    assert there not in map(address, small)


def test_leases_in_use_do_not_overlap() -> None:
    leases = [engine.lease(size * MIB) for size in (1, 2, 3, 2, 1, 40, 2)]
    for number, lease in enumerate(leases):
        lease.fill(number)
    assert all((lease == number).all() for number, lease in enumerate(leases))


def test_large_results_stay_what_they_are() -> None:
    """More than a MiB of outputs and of gradients: later calls, in which memory is used again, do not touch them."""
    torch.manual_seed(0)
    layer = nn.GRU(64, 64)
    kept = []
    for _ in range(3):
        x = torch.randn(32, 200, 64, requires_grad=True)
        y, _ = layer(x)
        y.sum().backward()
        assert x.grad is not None
        kept.append((y, y.detach().clone(), x.grad, x.grad.clone()))
        gc.collect()
    for y, copied, gradient, copied_gradient in kept:
        assert y.untyped_storage().nbytes() >= MIB
        torch.testing.assert_close(y.detach(), copied, rtol=0, atol=0)
        torch.testing.assert_close(gradient, copied_gradient, rtol=0, atol=0)


def test_large_results_can_be_copied_shared_and_changed() -> None:
    with torch.no_grad():
        y, _ = nn.GRU(64, 64)(torch.randn(32, 200, 64))
    expected = y.clone()
    assert torch.equal(copy.deepcopy(y), expected)
    y += 1
    assert torch.equal(y.share_memory_(), expected + 1)


@pytest.mark.parametrize("batch", [2, 64])
def test_results_of_any_size_can_be_changed_in_place(batch: int) -> None:
    """As `nn.ReLU(inplace=True)` after a layer does, in training and without gradients."""
    layer = nn.GRU(8, 64)
    x = torch.randn(batch, 100, 8)
    y, _ = layer(x)
    expected = torch.relu(y.detach().clone())
    torch.relu_(y)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), expected, rtol=0, atol=0)
    with torch.no_grad():
        y, _ = layer(x)
    weight = torch.ones((), requires_grad=True)
    y.detach_().mul_(weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("batch", [2, 64])
def test_results_are_where_the_input_is(batch: int) -> None:
    layer = nn.GRU(8, 64)
    state = layer.initial_state(batch)
    with torch.device("meta"):
        y, after = layer(torch.randn(batch, 100, 8, device="cpu"), state)
        y.sum().backward()
    assert y.device == after.h.device == torch.device("cpu")
