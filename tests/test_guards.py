"""What is taken as checked because tensors of the same kind were: another kind is another scan."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import problems
from problems import PROGRAMS, Problem, check_close, make, run, run_reference
from recurra import engine, ops
from recurra.ops import fallback, guards, native

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="the engine's calls are what is remembered")


def _warm(p: Problem) -> None:
    for _ in range(2):
        run(ops.scan, p)
        with torch.no_grad():
            ops.scan(p.program, p.x, p.states, p.parameters)


def _strided(value: Tensor) -> Tensor:
    wide = value.new_zeros(*value.shape[:-1], 2 * value.shape[-1])
    wide[..., ::2] = value
    return wide[..., ::2]


def _expanded(p: Problem) -> Problem:
    return replace(p, states=tuple(s[:1].expand(len(s), -1) for s in p.states))


OTHER: dict[str, Callable[[Problem], Problem]] = {
    "the same": lambda p: p,
    "fewer steps": lambda p: replace(p, x=p.x[:, :2]),
    "one step": lambda p: replace(p, x=p.x[:, :1]),
    "no step": lambda p: replace(p, x=p.x[:, :0]),
    "fewer rows": lambda p: replace(p, x=p.x[:2], states=tuple(s[:2] for s in p.states)),
    "time first": lambda p: replace(p, x=p.x.transpose(0, 1).contiguous().transpose(0, 1)),
    "strided columns": lambda p: replace(p, x=_strided(p.x)),
    "strided states": lambda p: replace(p, states=tuple(map(_strided, p.states))),
    "strided parameters": lambda p: replace(p, parameters=tuple(map(_strided, p.parameters))),
    "one state for all rows": _expanded,
    "float32": lambda p: problems.converted(p, torch.float32),
    "lengths": lambda p: replace(p, lengths=torch.tensor([0, 5, 2])),
    "reset": lambda p: replace(p, reset=torch.ones(3, 5, dtype=torch.bool)),
}


@pytest.mark.parametrize("cell", ["gru", "lstm", "janet", "indrnn"])
@pytest.mark.parametrize("other", OTHER)
def test_another_kind_of_tensors_is_another_scan(cell: str, other: str):
    p = make(PROGRAMS[cell])
    _warm(p)
    changed = OTHER[other](p)
    for _ in range(2):
        check_close(run(ops.scan, changed), run_reference(changed))
    check_close(run(ops.scan, p), run_reference(p))


def test_what_has_a_gradient_may_change():
    p = make(PROGRAMS["gru"])
    expected, _ = ops.scan(p.program, p.x, p.states, p.parameters)
    for wanted in (None, 0, 1, 2, None):
        tensors = [t.detach() for t in (p.x, *p.states, *p.parameters)]
        if wanted is not None:
            tensors[wanted].requires_grad_()
        y, _ = ops.scan(p.program, tensors[0], tensors[1:2], tensors[2:])
        assert y.requires_grad == (wanted is not None)
        assert torch.equal(y, expected)
        if wanted is not None:
            y.sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(len(tensors))]


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class _Own(Tensor):
    pass


def test_modes_of_torch_and_subclasses_still_see_the_scan(monkeypatch: pytest.MonkeyPatch):
    p = problems.converted(make(PROGRAMS["gru"]), torch.float32)
    _warm(p)
    arguments = p.states, p.parameters
    y, _ = ops.scan(p.program, p.x, *arguments)
    with _Seen() as seen:
        ops.scan(p.program, p.x, *arguments)
    assert "recurra.scan.default" in seen.names
    for _ in range(2):
        assert isinstance(ops.scan(p.program, p.x.as_subclass(_Own), *arguments)[0], _Own)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(ops.scan(p.program, p.x, *arguments)[0], y)
        assert torch.equal(
            ops.scan(p.program, p.x.bfloat16(), *arguments)[0].float(),
            ops.scan(p.program, p.x.bfloat16().float(), *arguments)[0],
        )
    rows = torch.func.vmap(lambda x: ops.scan(p.program, x, *arguments)[0])(torch.stack([p.x, p.x + 1]))
    assert torch.allclose(rows[0], y, atol=1e-5)
    calls = []
    original = fallback.scan_core
    monkeypatch.setattr(fallback, "scan_core", lambda *a, **k: calls.append(a) or original(*a, **k))
    with ops.backend("reference"):
        ops.scan(p.program, p.x, *arguments)
    assert len(calls) == 1


def test_a_tensor_that_outlives_its_transform_is_taken_out_of_it():
    p = problems.converted(make(PROGRAMS["gru"]), torch.float32)
    leaked = []

    def total(x: Tensor) -> Tensor:
        leaked.append(x)
        return x.sum()

    torch.func.grad(total)(p.x)
    weights = [q.requires_grad_() for q in p.parameters]
    expected, _ = ops.scan(p.program, p.x, p.states, weights)
    for _ in range(3):
        y, _ = ops.scan(p.program, leaked[0], p.states, weights)
        assert torch.equal(y, expected)
        y.sum().backward()


def test_saved_tensors_that_a_hook_replaces_are_checked_again():
    p = make(PROGRAMS["gru"]).with_leaves()

    def gradients(pack: Callable[[Tensor], Tensor], unpack: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y, _ = ops.scan(p.program, p.x, p.states, p.parameters)
        return list(torch.autograd.grad(y.sum(), p.differentiable))

    plain = gradients(lambda t: t, lambda t: t)
    moved = gradients(torch.clone, lambda t: _strided(t) if t.dim() > 1 else t)
    assert all(map(torch.equal, moved, plain))
    with pytest.raises(Exception, match="float32"):
        gradients(torch.clone, lambda t: t.float() if t.shape == p.states[0].shape else t)
    with pytest.raises(Exception, match="expected"):
        gradients(torch.clone, lambda t: t[:1] if t.shape == p.states[0].shape else t)


def test_kinds_are_compared_by_all_that_the_engine_relies_on():
    known: guards.Known[str] = guards.Known()
    x, h = torch.zeros(3, 5, 4), torch.zeros(3, 6)
    known.remember("key", (x, h), "found")
    assert known.find("key", (x, h)) == known.find("key", (torch.zeros(3, 9, 4), h)) == "found"
    others = [
        ("other", (x, h)),
        ("key", (x.double(), h)),
        ("key", (_strided(x), h)),
        ("key", (x, _strided(h))),
        ("key", (x, h[:2])),
        ("key", (x[:2], h)),
        ("key", (x, h.requires_grad_())),
        ("key", (x.numpy(), h)),
        ("key", (x[0], h)),
        ("key", (x.to("meta"), h.detach())),
        ("key", (x.to_sparse(), h.detach())),
    ]
    assert [known.find(key, tensors) for key, tensors in others] == [None] * len(others)


def test_what_is_remembered_is_bounded():
    known: guards.Known[int] = guards.Known()
    for size in range(100):
        known.remember("key", (torch.zeros(1, 1, size),), size)
    assert len(known._kinds["key"]) <= guards._MOST_KINDS
    assert known.find("key", (torch.zeros(1, 1, 99),)) == 99
    for key in range(guards._MOST_KEYS + 5):
        known.remember(key, (torch.zeros(1, 1, 1),), key)
    assert len(known._kinds) <= guards._MOST_KEYS


def test_room_like_has_the_layout_that_the_engine_writes():
    for value in (
        torch.zeros(2, 3, 4),
        torch.zeros(3, 2, 4).transpose(0, 1),
        torch.zeros(4, 5, 3).as_strided((4, 5, 3), (1, 12, 1)),
    ):
        room = native.room_like(value)
        assert room.shape == value.shape
        assert room.stride(-1) == 1
