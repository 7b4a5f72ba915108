"""The engine against a slow reading of the plan format: plans built by hand, drawn at random, compiled from cells."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import plan_emulator as p
from engine_calls import PlanText, backward, forward, outer, pointwise, product, reduce, rowsum
from plan_emulator import Call, Emulator
from plan_generator import PlanGenerator
from problems import sizes
from recurra import _engine, cells, engine, nn
from recurra.ops import reference
from recurra.program.compile import compile_plan

TOLERANCE = {np.float64: 1e-10, np.float32: 2e-5}
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
WAYS = [("automatic", 1), ("rows", 2), ("rows", 3), ("columns", 2), ("columns", 3)]


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    _engine.set_poison(True)
    yield
    _engine.set_poison(False)
    _engine.set_split("automatic")


def flat(result: dict) -> dict[str, np.ndarray]:
    """A result with its lists taken apart, without the tape, whose unused places are not defined."""
    pairs = [(name, value) for name, value in result.items() if name != "tape"]
    lists = [(f"{name}[{i}]", v) for name, value in pairs if isinstance(value, list) for i, v in enumerate(value)]
    return {name: v for name, v in [*(q for q in pairs if not isinstance(q[1], list)), *lists] if v is not None}


def assert_close(got: dict, wanted: dict, dtype: type) -> None:
    expected = flat(wanted)
    for name, value in flat(got).items():
        assert np.isfinite(expected[name]).all()
        scale = np.abs(expected[name]).max(initial=0) + 1e-3
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=name)


def assert_same_bits(got: dict, wanted: dict) -> None:
    expected = flat(wanted)
    for name, value in flat(got).items():
        assert value.tobytes() == expected[name].tobytes(), name


def random_call(
    rng: np.random.Generator, plan: _engine.Plan, shape: tuple[int, int], ragged: bool, resets: bool
) -> Call:
    """Arguments for a plan; whatever lies beyond a row's length is NaN."""
    batch, time = shape
    x, grad_y = (rng.normal(size=(batch, time, c)) for c in (plan.input_columns, plan.output_columns))
    elapsed = rng.random((batch, time))
    parameters = [rng.normal(size=s) / np.sqrt(max(s)) for s in plan.parameter_shapes]
    states, grad_final = ([rng.normal(size=(batch, c)) for c in plan.state_columns] for _ in range(2))
    lengths = rng.integers(0, time + 1, size=batch) if ragged else None
    if lengths is not None:
        for b in range(batch):
            for array in (x, grad_y, elapsed):
                array[b, lengths[b] :] = np.nan
    reset = rng.random((batch, time)) < 0.2 if resets else None
    for matrix, sparse in zip(parameters, plan.parameter_sparse, strict=True):
        if sparse:
            matrix[rng.random(matrix.shape) < 0.9] = 0
    tape = rng.normal(size=batch * time * plan.tape_columns)
    return Call(x, parameters, states, elapsed, lengths, reset, tape, grad_y, grad_final)


def run(plan: _engine.Plan, call: Call, dtype: type = np.float64, threads: int = 1) -> dict:
    return (backward if plan.direction == "backward" else forward)(plan, call, dtype, threads)


def check(text: PlanText, call: Call, dtype: type = np.float64) -> dict:
    """Every split and number of threads gives the same bits, close to the emulator's. Returns them."""
    wanted = Emulator(text.code(), text.constants).run(call)
    plan = text.plan()
    results = []
    for split, threads in WAYS:
        _engine.set_split(split)
        results.append(run(plan, call, dtype, threads))
        assert_same_bits(results[-1], results[0])
    assert_close(results[0], wanted, dtype)
    return results[0]


# By hand: an Elman cell, h' = tanh(W x + U h + b), as three plans


def elman(direction: int, inputs: int, hidden: int) -> PlanText:
    text = PlanText(direction, inputs, hidden, register_count=1, constants=[0.25])
    text.parameters = [(hidden, inputs), (hidden, hidden), (hidden, 0)]
    tape = 0 if direction != p.INFER else -1
    text.states, text.tape_columns = [(hidden, tape, 0, 0)], 0 if tape < 0 else hidden
    text.chunks = [hidden]
    gates, after = (p.CHUNK, 0, 0), (p.STATE_NEXT, 0, 0)
    if direction != p.BACKWARD:
        pre = [product(0, 0, [((p.INPUT, 0, 0), inputs)], [(0, hidden, gates, (p.VECTOR, 2, 0))])]
        activation = pointwise(hidden, [gates, after, (p.OUTPUT, 0, 0)], [(10, 1, 0), (0, 2, 1)])
        loop = [product(1, 0, [((p.STATE_PREVIOUS, 0, 0), hidden)], [(0, hidden, gates, gates)]), activation]
        text.sections = [pre, loop, [], []]
        return text
    operands = [(p.REGISTER, 0, 0), (p.GRAD_NEXT, 0, 0), (p.GRAD_OUTPUT, 0, 0), after, gates]
    loop = [
        pointwise(hidden, operands, [(1, 0, 1, 2), (32, 4, 0, 3)]),
        product(1, 1, [(gates, hidden)], [(0, hidden, (p.GRAD_PREVIOUS, 0, 0))]),
    ]
    post = [product(0, 1, [(gates, hidden)], [(0, inputs, (p.GRAD_INPUT, 0, 0))])]
    gradients = [
        outer(0, [(gates, hidden, 0)], [((p.INPUT, 0, 0), inputs, 0)]),
        outer(1, [(gates, hidden, 0)], [((p.STATE_PREVIOUS, 0, 0), hidden, 0)]),
        rowsum(2, 0, gates, hidden),
    ]
    text.sections = [[], loop, post, gradients]
    return text


@DTYPES
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 7, 3, 9), (33, 70, 9, 13), (64, 64, 2, 30)], ids=str)
def test_elman_by_hand(shape, flags, dtype):
    inputs, hidden, batch, time = shape
    rng = np.random.default_rng(1)
    texts = [elman(direction, inputs, hidden) for direction in range(3)]
    call = random_call(rng, texts[1].plan(), (batch, time), *flags)
    call.tape = None
    inferred, trained = check(texts[0], call, dtype), check(texts[1], call, dtype)
    assert_same_bits(inferred, trained)
    call.tape = trained["tape"]
    check(texts[2], call, dtype)


def test_elman_gradients_are_derivatives():
    rng = np.random.default_rng(2)
    texts = [elman(direction, 3, 4) for direction in range(3)]
    call = random_call(rng, texts[1].plan(), (3, 5), True, True)
    call.tape = None
    grad_y, valid = np.nan_to_num(call.grad_y), ~np.isnan(call.x)

    def loss() -> float:
        got = forward(texts[0].plan(), call)
        return float((got["y"] * grad_y).sum() + (got["final"][0] * call.grad_final[0]).sum())

    call.tape = forward(texts[1].plan(), call)["tape"]
    got = backward(texts[2].plan(), call)
    call.tape = None
    pairs = [(call.x, got["grad_x"]), (call.initial[0], got["grad_initial"][0])]
    pairs += list(zip(call.parameters, got["grad_parameters"], strict=True))
    for values, gradient in pairs:
        for at in np.ndindex(values.shape):
            if values is call.x and not valid[at]:
                assert gradient[at] == 0
                continue
            kept = values[at]
            values[at] = kept + 1e-6
            above = loss()
            values[at] = kept - 1e-6
            below = loss()
            values[at] = kept
            assert abs((above - below) / 2e-6 - gradient[at]) < 1e-6


# At random


@pytest.mark.parametrize("seed", range(90))
def test_random_plans(seed):
    rng = np.random.default_rng(seed)
    text = PlanGenerator(rng, seed % 3, int(rng.choice([3, 20, 70]))).draw()
    shape = (int(rng.integers(0, 9)), int(rng.integers(0, 12)))
    call = random_call(rng, text.plan(), shape, bool(rng.integers(2)), bool(rng.integers(2)))
    if text.direction != p.BACKWARD:
        call.tape = None
    check(text, call)


@pytest.mark.parametrize("shape", [(20, 33, 17, 4), (7, 130, 5, 40), (3, 300, 2, 3)], ids=str)
@pytest.mark.parametrize("name", cells.names())
def test_compiled_cells(name, shape):
    inputs, hidden, batch, time = shape
    rng = np.random.default_rng(3)
    program = cells.get(name)
    codes = [compile_plan(program, sizes(program, inputs, hidden), d) for d in ("infer", "train", "backward")]
    emulators = [Emulator(c.code, c.constants) for c in codes]
    plans = [_engine.Plan(c.code, c.constants) for c in codes]
    call = random_call(rng, plans[0], (batch, time), True, True)
    # values of parameters alone are those of some parameters: not any numbers; and small, for a recurrence
    # that grows makes any rounding large
    widths = sizes(program, inputs, hidden)
    given = [torch.from_numpy(rng.normal(size=spec.shape(widths))) * 0.1 for spec in program.parameters]
    call.parameters = [value.numpy() for value in reference.core_values(program, given)]
    call.tape = None
    for plan, emulator in zip(plans, emulators, strict=True):
        assert_close(run(plan, call), emulator.run(call), np.float64)
        if plan.direction == "train":
            call.tape = run(plan, call)["tape"]


# Opcodes


def opcode_plan(opcode: int, width: int) -> PlanText:
    """y = opcode of thirds of x."""
    arity = p.ARITY[opcode]
    text = PlanText(p.INFER, 3 * width, width)
    operands = [(p.INPUT, 0, 0), (p.INPUT, 0, width), (p.INPUT, 0, 2 * width), (p.OUTPUT, 0, 0)]
    text.sections[0] = [pointwise(width, operands, [(opcode, 3, *range(arity))])]
    return text


SPECIAL = np.array([
    0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.7, -0.3, 100.0, -100.0, 1e-30, np.inf, -np.inf, np.nan,
    # denormal in single and in double precision, where exp ends, where sin and cos reduce with more digits
    1e-40, 5e-310, 88.5, 709.5, -3e-5, 1e5, -3e6, 1e9,
])  # fmt: skip
LARGE = np.array([12345.678, -1e9, -1e15, 2e38, 1e300])
"""For functions of one number: products of these overflow in single precision, and in double not all of them."""


@DTYPES
@pytest.mark.parametrize("opcode", range(38))
def test_opcodes(opcode, dtype):
    rng = np.random.default_rng(opcode)
    width = 37
    grid = np.stack(np.meshgrid(SPECIAL, SPECIAL), -1).reshape(-1, 2)
    pairs = np.concatenate([grid, rng.normal(size=(12, 2)) * 3])
    if p.ARITY[opcode] == 1:
        pairs = np.concatenate([pairs, np.stack([LARGE, LARGE], axis=-1)])
    rows = -(-len(pairs) // width)
    values = np.resize(pairs, (rows * width, 2)).reshape(rows, 1, width, 2)
    third = np.resize(SPECIAL[::-1], (rows, 1, width))
    text = opcode_plan(opcode, width)
    with np.errstate(all="ignore"):
        x = np.concatenate([values[..., 0], values[..., 1], third], axis=-1).astype(dtype)
        call = Call(x, [], [])
        wanted = Emulator(text.code(), []).run(call)["y"].astype(dtype)
    got = forward(text.plan(), call, dtype)["y"]
    # The remainder of infinities is where numpy and torch differ from each other.
    if opcode == 22:
        finite = np.isfinite(x[..., :width]) & np.isfinite(x[..., width : 2 * width])
        got, wanted = got[finite], wanted[finite]
    np.testing.assert_allclose(got, wanted, rtol=1e-6 if dtype == np.float32 else 1e-14, atol=1e-37)


@pytest.mark.parametrize("opcode", [1, 6, 10])
@pytest.mark.parametrize("width", [1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 300])
def test_rows_are_written_up_to_their_end(width, opcode):
    rng = np.random.default_rng(width)
    room = np.full((3, 4, width + 40), 7.0, np.float32)
    y = room[:, :, 20 : 20 + width]
    x = rng.normal(size=(3, 4, 3 * width)).astype(np.float32)
    strides = [(a.ctypes.data, a.strides[0] // 4, a.strides[1] // 4) for a in (x, y)]
    plan = opcode_plan(opcode, width).plan()
    plan.forward(4, 3, 4, 1, *strides[0], *strides[1], 0, 0, 0, 0, 0, 0, [], [], [])
    np.testing.assert_array_equal(np.delete(room, np.s_[20 : 20 + width], axis=2), 7.0)
    assert np.isfinite(y).all()
    assert not (y == 7).any()


@DTYPES
@pytest.mark.parametrize("operation", [0, 1, 2])
def test_reductions(operation, dtype):
    for length in (1, 5, 16, 17, 100):
        text = PlanText(p.INFER, length, 1, chunks=[3])
        text.sections[0] = [
            reduce(operation, (p.INPUT, 0, 0), length, (p.CHUNK, 0, 1)),
            pointwise(1, [(p.SCALAR_CHUNK, 0, 1), (p.OUTPUT, 0, 0)], [(0, 1, 0)]),
        ]
        x = np.random.default_rng(length).normal(size=(4, 3, length))
        check(text, Call(x, [], []), dtype)
        x[1, 2, length // 2] = np.nan
        y = forward(text.plan(), Call(x, [], []), dtype)["y"]
        assert np.isnan(y[1, 2, 0])
        assert np.isnan(y).sum() == 1


def test_a_nan_stays_in_its_row():
    rng = np.random.default_rng(4)
    text = elman(p.INFER, 5, 20)
    call = random_call(rng, text.plan(), (9, 6), False, False)
    call.x[4, 3, 2] = np.nan
    y = forward(text.plan(), call, np.float32)["y"]
    assert np.isnan(y[4, 3:]).all()
    y[4, 3:] = 0
    assert np.isfinite(y).all()


def test_what_is_not_wanted_is_left_out():
    rng = np.random.default_rng(5)
    texts = [elman(direction, 6, 11) for direction in range(3)]
    call = random_call(rng, texts[1].plan(), (4, 8), True, False)
    call.tape = None
    call.tape = forward(texts[1].plan(), call)["tape"]
    plan = texts[2].plan()
    whole = backward(plan, call)
    for unwanted in ("grad_x", "grad_elapsed", "grad_parameters", "grad_initial"):
        assert_same_bits(backward(plan, call, unwanted=[unwanted]), whole)


def test_strided_and_broadcast_arrays():
    rng = np.random.default_rng(6)
    texts = [elman(direction, 4, 5) for direction in range(3)]
    call = random_call(rng, texts[1].plan(), (3, 7), False, False)
    call.tape = None
    wanted = forward(texts[1].plan(), call)
    turned = np.ascontiguousarray(call.x.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert_same_bits(forward(texts[1].plan(), Call(turned, call.parameters, call.initial)), wanted)
    call.tape = wanted["tape"]
    call.grad_y = np.broadcast_to(rng.normal(size=5), (3, 7, 5))
    got = backward(texts[2].plan(), call)
    call.grad_y = np.ascontiguousarray(call.grad_y)
    assert_same_bits(got, backward(texts[2].plan(), call))


# Machines


@pytest.mark.parametrize("isa", _engine.available_isas())
def test_every_instruction_set(isa):
    script = Path(__file__).with_name("engine_child.py")
    environment = {**os.environ, "RECURRA_ISA": isa}
    done = subprocess.run([sys.executable, script, "isa"], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [isa, "ok"]


def test_an_instruction_set_that_is_not_there():
    script = Path(__file__).with_name("engine_child.py")
    environment = {**os.environ, "RECURRA_ISA": "abacus"}
    done = subprocess.run([sys.executable, script, "isa"], env=environment, capture_output=True, text=True, timeout=300)
    assert "RECURRA_ISA is abacus, expected one of" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs():
    script = Path(__file__).with_name("engine_child.py")
    done = subprocess.run([sys.executable, script, "fork"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ok"]


POOL = """
import sys
first, second = sys.argv[1:]
__import__(first)
__import__(second)
import torch
from recurra import _engine
torch.set_num_threads(2)
torch.ones(2000, 2000).add_(1)
_engine.peak_flops(4, 2, 0.01)
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert len(loaded) == 1, loaded
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("order", [("torch", "recurra._engine"), ("recurra._engine", "torch")], ids="-".join)
def test_torch_and_the_engine_share_one_pool_of_threads(order):
    done = subprocess.run([sys.executable, "-c", POOL, *order], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_profile_covers_a_call_and_changes_nothing():
    layer, x = nn.GRU(40, 50), torch.randn(16, 60, 40)
    with torch.no_grad():
        expected, _ = layer(x)
        begin = time.perf_counter()
        with engine.profiled() as seconds:
            got, _ = layer(x)
        taken = time.perf_counter() - begin
        after = dict(seconds)
        layer(x)
    assert torch.equal(got, expected)
    assert 0 < sum(seconds.values()) <= taken
    assert seconds["products in the loop"] > 0
    assert seconds["gradients of weights"] == 0
    assert seconds == after


def test_python_threads_run_at_once():
    rng = np.random.default_rng(7)
    jobs = []
    for size in (20, 90, 150, 40):
        text = elman(p.INFER, size, size)
        call = random_call(rng, text.plan(), (8, 25), True, True)
        call.tape = None
        jobs.append((text.plan(), call, forward(text.plan(), call)))
    failures = []

    def work(plan: _engine.Plan, call: Call, wanted: dict) -> None:
        for _ in range(30):
            got = flat(forward(plan, call, threads=2))
            failures.extend(name for name, v in flat(wanted).items() if v.tobytes() != got[name].tobytes())

    _engine.set_split("rows")
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
