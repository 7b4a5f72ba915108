"""What is measured: the figures that are to be reached, and the cases of the whole table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from recurra.bench.cases import ALSO_IN_TORCHRECURRENT, Case, Direction, Registry, Shape, Target

BASE = Shape(batch=32, steps=100, input_size=256, hidden_size=256)
SMALL = Shape(batch=8, steps=100, input_size=64, hidden_size=64)
STEP = Shape(batch=1, steps=1, input_size=128, hidden_size=128)
LONG = Shape(batch=8, steps=4096, input_size=256, hidden_size=256)
RESERVOIR = Shape(batch=1, steps=1000, input_size=8, hidden_size=500)

TORCH = ("torch.nn",)
LOOPS = ("torch loop", "torch loop, TorchScript", "torch loop, compiled")
OWN_GRU = ("recurra.nn.GRU",)
ONE_THREAD = ("recurra, 1 thread",)
GRAPHS = ("Keras", "Flax nnx")
"""The frameworks that compile a graph."""
RUNTIMES = ("ONNX Runtime",)
_EVERYONE = {"forward": TORCH + GRAPHS + RUNTIMES + ONE_THREAD, "training": TORCH + GRAPHS + ONE_THREAD}

_HIDDEN_SIZES = (64, 128, 512)
_BATCHES = (1, 8, 64)
_CURVES = {
    "steps": (10, 25, 50, 100, 200, 400, 700, 1000),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "hidden size": (32, 64, 128, 256, 384, 512, 768),
}
_DIRECTIONS: tuple[Direction, ...] = ("forward", "training")
FLOAT32 = ("recurra, float32",)
TORCH_BFLOAT16 = ("torch.nn, bfloat16",)


def full() -> Registry:
    """Every case of the benchmark."""
    return _registry({"base": BASE, "small": SMALL, "step": STEP, "long": LONG, "reservoir": RESERVOIR}, LOOPS, _CURVES)


def quick() -> Registry:
    """Tiny cases that try the harness itself. Their times mean nothing, and nothing is compiled for them."""
    tiny = Shape(batch=2, steps=3, input_size=4, hidden_size=5)
    shapes = {
        "base": tiny,
        "small": replace(tiny, batch=1),
        "step": replace(tiny, steps=1),
        "long": Shape(batch=2, steps=6, input_size=5, hidden_size=5),
        "reservoir": Shape(batch=1, steps=4, input_size=2, hidden_size=30),
    }
    curves = {"steps": (2, 3, 4), "batch": (1, 2), "hidden size": (5, 6)}
    registry = _registry(shapes, LOOPS[:2], curves)
    kept = {case.name for case in registry.asked} | {c.name for curve in registry.curves.values() for c in curve}
    return replace(registry, cases=tuple(case for case in registry.cases if case.name in kept or case.cell == "esn"))


def _registry(shapes: dict[str, Shape], loops: tuple[str, ...], axes: dict[str, tuple[int, ...]]) -> Registry:
    base = shapes["base"]
    targets = (
        *_against_others(base),
        *_of_other_cells(base, shapes["small"], shapes["long"], loops),
        *_of_the_engine(base),
        *_of_the_foundation(base, shapes["small"], shapes["step"], loops),
        *_in_bfloat16(base),
    )
    curves = {axis: tuple(_curve(base, axis, values)) for axis, values in axes.items()}
    curves["threads"] = tuple(_curve(base, "threads", _thread_counts()))
    reservoir = Case("esn", "forward", shapes["reservoir"], ("reservoirpy",))
    drawn = [case for curve in curves.values() for case in curve]
    registry = Registry((), targets, curves)
    cases = [*registry.asked, reservoir, *_variations(base), *drawn]
    return replace(registry, cases=_once(cases))


def _in_bfloat16(base: Shape) -> list[Target]:
    """Mixed precision against float32, and against torch.nn in the same precision."""
    targets = []
    shape = replace(base, batch=2 * base.batch, input_size=2 * base.input_size, hidden_size=2 * base.hidden_size)
    for cell in ("gru", "lstm"):
        for direction in _DIRECTIONS:
            case = Case(cell, direction, shape, FLOAT32 + TORCH_BFLOAT16, bfloat16=True)
            what = f"bfloat16 {cell.upper()} {_spoken(direction)}, hidden {shape.hidden_size}, batch {shape.batch}"
            targets.append(Target(f"{what}, against float32", case, "x", 1.5, FLOAT32))
            if direction == "training":
                targets.append(Target(f"{what}, against torch.nn under autocast", case, "x", 1.0, TORCH_BFLOAT16))
    return targets


def _once(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Each name once, the first case of it: the one with the most peers."""
    named: dict[str, Case] = {}
    for case in cases:
        named.setdefault(case.name, case)
    return tuple(named.values())


def _against_others(base: Shape) -> list[Target]:
    """GRU and LSTM against everyone who has them, and the simple network against torch."""
    wanted: dict[tuple[str, Direction], tuple[float, float]] = {
        ("gru", "forward"): (3.0, 2.0),
        ("gru", "training"): (3.0, 1.8),
        ("lstm", "forward"): (1.05, 1.8),
        ("lstm", "training"): (1.25, 1.8),
    }
    targets = []
    for (cell, direction), (of_torch, of_others) in wanted.items():
        case = Case(cell, direction, base, _EVERYONE[direction])
        others = GRAPHS + RUNTIMES if (cell, direction) == ("gru", "forward") else GRAPHS
        what = f"{cell.upper()} {_spoken(direction)}"
        targets += [
            Target(f"{what} against torch.nn.{cell.upper()}", case, "x", of_torch, TORCH),
            Target(f"{what} against the best of {', '.join(others)}", case, "x", of_others, others),
        ]
    simple = Case("rnn_tanh", "training", base, TORCH)
    return [*targets, Target("tanh RNN training step against torch.nn.RNN", simple, "x", 2.0)]


def _spoken(direction: str) -> str:
    return "training step" if direction == "training" else direction


def _of_other_cells(base: Shape, small: Shape, long: Shape, loops: tuple[str, ...]) -> list[Target]:
    """Cells that have a loop in torch, and minGRU, which has a scan there."""
    norm, norm_small = (Case("layer_norm_lstm", "training", shape, loops) for shape in (base, small))
    minimal, gated = Case("positive_mingru", "training", long, ("minGRU-pytorch",)), Case("gru", "training", long, ())
    targets = [
        Target("LayerNorm-LSTM training step against a torch loop", norm, "x", 4.0),
        Target("the same, small", norm_small, "x", 15.0),
        Target("minGRU training step, long, against minGRU-pytorch", minimal, "x", 12.0),
        Target("the same against our own GRU", minimal, "x", 1.0, other=gated),
    ]
    for cell in ALSO_IN_TORCHRECURRENT:
        wanted = {base: 2.0, small: 4.0} if cell == "indrnn" else {base: 3.0, small: 10.0}
        for shape, at_least in wanted.items():
            case = Case(cell, "training", shape, ("torchrecurrent",))
            size = "" if shape == base else ", small"
            targets.append(Target(f"{cell} training step{size}, against torchrecurrent", case, "x", at_least))
    return targets


def _of_the_engine(base: Shape) -> list[Target]:
    """Shares of the peak, few rows, and a second thread."""
    wide = replace(base, input_size=2 * base.input_size, hidden_size=2 * base.hidden_size)
    half = replace(base, input_size=base.input_size // 2, hidden_size=max(1, base.hidden_size // 2))
    targets, scaling = [], []
    for cell in ("gru", "lstm"):
        for direction, share in zip(_DIRECTIONS, (85.0, 65.0), strict=True):
            what = f"{cell.upper()} {_spoken(direction)}"
            case = Case(cell, direction, base, _EVERYONE[direction])
            larger = Case(cell, direction, wide, TORCH)
            targets.append(Target(f"share of peak, {what}, hidden {base.hidden_size}", case, "%", share))
            targets.append(Target(f"share of peak, {what}, hidden {wide.hidden_size}", larger, "%", share))
            scaling.append(Target(f"2 threads against 1, {what}", case, "x", 1.7, ONE_THREAD))
        many = replace(half, steps=10 * base.steps)
        case = Case(cell, "forward", many, TORCH)
        name = f"share of peak, {cell.upper()} forward, {many.steps:,} steps, hidden {many.hidden_size}"
        targets.append(Target(name, case, "%", 70.0))
        for batch in (1, 8):
            case = Case(cell, "training", replace(half, batch=batch), TORCH)
            name = f"{cell.upper()} training step, batch {batch}, hidden {half.hidden_size}, against torch.nn"
            targets.append(Target(name, case, "x", 2.0 if cell == "gru" else 1.2))
    return targets + scaling


def _of_the_foundation(base: Shape, small: Shape, step: Shape, loops: tuple[str, ...]) -> list[Target]:
    """A cell of a user's own, a single step, and that no cell is known by its name."""
    own, own_small = (Case("leaky_gate", "training", shape, loops) for shape in (base, small))
    copy_forward, copy_training = (Case("copied_gru", direction, base, OWN_GRU) for direction in _DIRECTIONS)
    one_step = Case("gru", "step", step, ("torch.nn.GRUCell",))
    return [
        Target("own gated cell, training step, against a torch loop", own, "x", 3.0),
        Target("own gated cell, training step, small, against a torch loop", own_small, "x", 10.0),
        Target("one GRU step against torch.nn.GRUCell", one_step, "x", 1.5),
        Target("the GRU's equations under another name against recurra.nn.GRU, forward", copy_forward, "x", 0.95),
        Target("the same, training step", copy_training, "x", 0.95),
    ]


def _thread_counts() -> list[int]:
    """1, 2, 4, ... up to the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [1 << k for k in range(cores.bit_length()) if 1 << k <= cores]


def _curve(base: Shape, axis: str, values: Iterable[int]) -> Iterable[Case]:
    for cell in ("gru", "lstm"):
        for direction in _DIRECTIONS:
            for value in values:
                if axis == "threads":
                    yield Case(cell, direction, base, TORCH, threads=value)
                elif axis == "hidden size":
                    yield Case(cell, direction, replace(base, input_size=value, hidden_size=value), TORCH)
                else:
                    yield Case(cell, direction, replace(base, **{axis: value}), TORCH)


def _variations(base: Shape) -> list[Case]:
    """One size at a time away from the base, and a long sequence that is bound by memory where that is done badly."""
    shapes = [replace(base, batch=batch) for batch in _BATCHES]
    shapes += [replace(base, input_size=size, hidden_size=size) for size in _HIDDEN_SIZES]
    shapes += [replace(base, steps=1000), replace(base, steps=1000, input_size=128, hidden_size=128)]
    return [Case(name, d, shape, TORCH) for name in ("gru", "lstm") for shape in shapes for d in _DIRECTIONS]
