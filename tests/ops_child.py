"""What tests/test_ops_processes.py runs in processes of their own. `python tests/ops_child.py NAME`."""

import os
import sys
from pathlib import Path

import torch

import problems
from recurra import ops
from recurra.ops import reference


def _check(name: str, shape: tuple[int, int, int, int] = (9, 7, 5, 33)) -> None:
    for dtype in (torch.float32, torch.float64):
        p = problems.make(problems.PROGRAMS[name], shape, dtype, lengths=True, reset=True)
        problems.check_close(problems.run(ops.scan, p), problems.run_reference(p), (name, dtype))


def instruction_set() -> None:
    """Every program on the instruction set that RECURRA_ISA forces, with steps."""
    torch.set_num_threads(2)
    for name, program in problems.PROGRAMS.items():
        _check(name)
        p = problems.make(program, (3, 1, 5, 33))
        elapsed = None if p.elapsed is None else p.elapsed[:, 0]
        with torch.no_grad():
            y, _ = ops.step(program, p.x[:, 0], p.states, p.parameters, elapsed=elapsed)
            expected, _ = reference.step(program, p.x[:, 0], p.states, p.parameters, elapsed=elapsed)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)


def fork() -> None:
    """A child forked after its parent ran in parallel computes the same, and does not hang."""
    torch.set_num_threads(2)
    # of a size that the engine splits over threads but torch's own operations do not: theirs hang after a fork
    p = problems.make(problems.PROGRAMS["gru"], (16, 20, 64, 64), torch.float32, lengths=True)
    before = problems.run(ops.scan, p)
    child = os.fork()
    if child == 0:
        problems.check_equal(problems.run(ops.scan, p), before)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    problems.check_equal(problems.run(ops.scan, p), before)


class Rows(torch.utils.data.Dataset):
    """Each item is what the op makes of one row."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        p = problems.make(problems.PROGRAMS["lstm"], (1, 6, 5, 33), seed=index)
        return ops.scan(p.program, p.x, p.states, p.parameters)[0][0]


def data_loader() -> None:
    """Workers of a DataLoader run the op, forked after a parallel run."""
    torch.set_num_threads(2)
    _check("lstm", (32, 20, 64, 64))
    got = torch.cat(
        list(torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=2, multiprocessing_context="fork"))
    )
    assert torch.equal(got, torch.stack([Rows()[k] for k in range(8)]))


def affinity() -> None:
    """Bound to one core, as under taskset, and released: two threads and one compute the same bits."""
    cores = os.sched_getaffinity(0)
    p = problems.make(problems.PROGRAMS["gru"], (16, 20, 33, 64), torch.float32, lengths=True)
    torch.set_num_threads(1)
    before = problems.run(ops.scan, p)
    for chosen in ({min(cores)}, cores):
        os.sched_setaffinity(0, chosen)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            problems.check_equal(problems.run(ops.scan, p), before)


def _two_threads(worker: int) -> None:
    torch.set_num_threads(2)


def worker_threads() -> None:
    """Workers of a DataLoader that ask for two threads each, forked after a parallel run."""
    torch.set_num_threads(2)
    _check("lstm", (32, 20, 64, 64))
    loader = torch.utils.data.DataLoader(
        Rows(), batch_size=4, num_workers=2, multiprocessing_context="fork", worker_init_fn=_two_threads
    )
    assert torch.equal(torch.cat(list(loader)), torch.stack([Rows()[k] for k in range(8)]))


class Layer(torch.nn.Module):
    """A GRU, the parts of it that training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.problem = problems.make(problems.PROGRAMS["gru"], (8, 5, 4, 6), lengths=True)
        self.weights = torch.nn.ParameterList(torch.nn.Parameter(q) for q in self.problem.parameters)

    def forward(self, rows: slice) -> torch.Tensor:
        p = self.problem
        assert p.lengths is not None
        states = tuple(s[rows] for s in p.states)
        y, _ = ops.scan(p.program, p.x[rows], states, tuple(self.weights), lengths=p.lengths[rows])
        return y.sin().sum()


def distributed() -> None:
    """Two processes, half of the batch each, train as one that has all of it."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
    layer = Layer()
    parallel = torch.nn.parallel.DistributedDataParallel(layer)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
    alone = Layer()
    optimiser_alone = torch.optim.AdamW(alone.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        parallel(slice(4 * rank, 4 * rank + 4)).backward()
        optimiser.step()
        optimiser_alone.zero_grad()
        ((alone(slice(0, 4)) + alone(slice(4, 8))) / 2).backward()
        optimiser_alone.step()
    for a, b in zip(layer.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    torch.distributed.destroy_process_group()


def openmp_libraries() -> set[str]:
    """The OpenMP run-times that are loaded into this process."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line or "libiomp" in line}


def engine_first() -> None:
    """The engine was loaded before torch (see the test): both share one OpenMP run-time."""
    assert len(openmp_libraries()) == 1, openmp_libraries()
    _check("gru", (32, 20, 64, 64))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
