"""The op beside other threads and in other processes: forked, spawned, distributed, imported in any order."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import problems
from recurra import engine, ops

pytestmark = pytest.mark.skipif(bool(engine.missing()), reason="needs the engine")

TESTS = Path(__file__).parent
SECONDS = 600


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert output.strip().endswith("done")


def run_child(*arguments: str, **environment: str) -> None:
    finish(start(str(TESTS / "ops_child.py"), *arguments, **environment))


@pytest.mark.parametrize("isa", [] if engine.missing() else engine.available_isas())
def test_every_instruction_set_computes_the_same(isa: str):
    run_child("instruction_set", RECURRA_ISA=isa)


def test_an_unknown_instruction_set_is_named():
    process = start("-c", "import recurra; print(recurra.backends())", RECURRA_ISA="nonsense")
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "RECURRA_ISA is nonsense, expected one of" in errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_runs():
    run_child("fork")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_workers_of_a_data_loader_run():
    run_child("data_loader")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_train_as_one(tmp_path: Path):
    meeting = str(tmp_path / "meeting")
    both = [start(str(TESTS / "ops_child.py"), "distributed", meeting, RANK=str(rank)) for rank in range(2)]
    for process in both:
        finish(process)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is loaded")
@pytest.mark.parametrize("first", ["recurra.engine", "torch", "recurra.ops"])
def test_there_is_one_openmp_whatever_is_imported_first(first: str):
    # parallel work before torch comes, so that a second run-time would have started its own threads
    parallel = "recurra.engine.peak_flops(4, 2, 0.01)\n" if first == "recurra.engine" else ""
    finish(start("-c", f"import {first}\n{parallel}import ops_child\nops_child.engine_first()\nprint('done')"))


def test_the_op_runs_in_many_threads_at_once():
    names = ["gru", "lstm", "projected", "ticking"]
    given = [
        problems.make(problems.PROGRAMS[name], (16, 20, 33, 64), torch.float32, seed, lengths=True)
        for seed, name in enumerate(names * 2)
    ]
    expected = [problems.run(ops.scan, p) for p in given]
    ready = threading.Barrier(4)

    def work(worker: int) -> None:
        ready.wait()
        for repeat in range(3):
            for k in range(len(given)):
                index = (k + worker + repeat) % len(given)
                problems.check_equal(problems.run(ops.scan, given[index]), expected[index])

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, worker) for worker in range(4)]:
            future.result(timeout=SECONDS)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to cores")
def test_fewer_cores_than_threads_compute_the_same():
    run_child("affinity")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_workers_with_threads_of_their_own_compute_the_same():
    run_child("worker_threads")


@pytest.mark.parametrize("name", ["gru", "lstm", "projected", "ticking"])
@pytest.mark.parametrize("shape", [(1, 9, 33, 64), (5, 7, 3, 130), (33, 6, 64, 64)])
def test_any_number_of_threads_gives_the_same_bits_beside_the_pool_of_torch(
    name: str, shape: tuple[int, int, int, int]
):
    p = problems.make(problems.PROGRAMS[name], shape, torch.float32, lengths=True)
    large = torch.randn(300, 300)
    results, busy = [], []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        busy.append(large @ large)  # wakes the pool of torch just before the engine's parallel region
        results.append(problems.run(ops.scan, p))
        busy.append(large @ large)
    for other in results[1:]:
        problems.check_equal(other, results[0])
    for before, after in zip(busy[::2], busy[1::2], strict=True):
        assert torch.equal(before, after)


def test_a_new_number_of_threads_is_obeyed_at_once():
    p = problems.make(problems.PROGRAMS["gru"], (16, 20, 33, 64), torch.float32)
    results = []
    for threads in (1, 2, 1, 3):
        torch.set_num_threads(threads)
        assert ops.backends().threads == threads
        results.append(problems.run(ops.scan, p))
    for other in results[1:]:
        problems.check_equal(other, results[0])
