"""What the tests of the engine run in a process of its own."""

import os
import sys

import numpy as np

from plan_emulator import Emulator
from plan_generator import PlanGenerator
from recurra import _engine
from test_engine import assert_close, assert_same_bits, elman, random_call, run
from test_mix import engine_has_the_same_bits


def check_instruction_set() -> None:
    """Random plans in both types on the instruction set that RECURRA_ISA names."""
    print(_engine.isa())
    _engine.set_poison(True)
    for seed in range(12):
        rng = np.random.default_rng(1000 + seed)
        text = PlanGenerator(rng, seed % 3, int(rng.choice([20, 70]))).draw()
        plan = text.plan()
        call = random_call(rng, plan, (7, 9), True, True)
        if seed % 3 < 2:
            call.tape = None
        wanted = Emulator(text.code(), text.constants).run(call)
        for dtype in (np.float64, np.float32):
            alone = run(plan, call, dtype)
            assert_close(alone, wanted, dtype)
            for split in ("rows", "columns"):
                _engine.set_split(split)
                assert_same_bits(run(plan, call, dtype, 2), alone)
            _engine.set_split("automatic")
    for dtype in (np.float64, np.float32):
        engine_has_the_same_bits(dtype)


def check_fork() -> None:
    """A child of a process that has run in parallel asks for two threads itself."""
    _engine.set_split("rows")
    text = elman(0, 20, 40)
    plan = text.plan()
    call = random_call(np.random.default_rng(0), plan, (8, 20), False, False)
    wanted = run(plan, call, np.float64, 2)
    child = os.fork()
    if child == 0:
        assert_same_bits(run(plan, call, np.float64, 2), wanted)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert_same_bits(run(plan, call, np.float64, 2), wanted)


if __name__ == "__main__":
    {"isa": check_instruction_set, "fork": check_fork}[sys.argv[1]]()
    print("ok")
