"""One step of a stream against ONNX Runtime and torch, a tick of many streams, and a process from nothing to its first
step: `python benchmarks/streams.py [--write]`. In one process, contenders take turns; medians and 99th percentiles."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch

import recurra
from recurra import nn, runtime

PAGE = Path(__file__).resolve().parents[1] / "docs" / "streams-benchmark.md"
HIDDEN = (64, 128, 256)
ROUNDS = 20
STEPS = {"recurra": 100_000, "ONNX Runtime": 100_000, "torch.nn": 5_000, "torch cell": 5_000}
TARGETS = {"ONNX Runtime": {64: 3.0, 128: 3.0, 256: 1.6}, "torch.nn": dict.fromkeys(HIDDEN, 8.0)}
TARGETS["torch cell"] = dict.fromkeys(HIDDEN, 4.0)
ROWS = 1000


def latencies(contenders: dict[str, Callable[[], object]], steps: dict[str, int]) -> dict[str, np.ndarray]:
    """Microseconds of each step; the contenders take turns."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in contenders}
    clock = time.perf_counter_ns
    for turn in range(ROUNDS + 1):
        for name, call in contenders.items():
            taken = np.empty(max(1, steps[name] // ROUNDS))
            for i in range(len(taken)):
                before = clock()
                call()
                taken[i] = clock() - before
            if turn:
                found[name].append(taken / 1e3)
    return {name: np.concatenate(times) for name, times in found.items()}


def as_runtime(layer: nn.Layer) -> runtime.Layer:
    """The layer as saved and opened without torch."""
    with tempfile.TemporaryDirectory() as folder:
        recurra.save_layer(layer, folder)
        return runtime.load(folder)


def onnx_session(kind: str, hidden: int):
    """A session with one standard operator, on one thread, its states in and out."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    gates = {"gru": 3, "lstm": 4}[kind]
    rng = np.random.default_rng(0)
    states = ["h"] if kind == "gru" else ["h", "c"]
    arrays = {"W": (1, gates * hidden, hidden), "R": (1, gates * hidden, hidden), "B": (1, 2 * gates * hidden)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(s) / hidden**0.5).astype(np.float32), n) for n, s in arrays.items()
    ]
    inputs, outputs = ["x", *arrays, "", *states], ["y", *(f"{s}_next" for s in states)]
    node = helper.make_node(kind.upper(), inputs, outputs, hidden_size=hidden)
    if kind == "gru":
        node.attribute.append(helper.make_attribute("linear_before_reset", 1))

    def value(name: str, shape: list[int]):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "step",
        [value("x", [1, 1, hidden]), *(value(s, [1, 1, hidden]) for s in states)],
        [value("y", [1, 1, 1, hidden]), *(value(f"{s}_next", [1, 1, hidden]) for s in states)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]), states


def steps_of(kind: str, hidden: int) -> dict[str, Callable[[], object]]:
    """One step at batch 1 of every contender, float32, state carried."""
    x = np.random.default_rng(0).standard_normal((1, hidden)).astype(np.float32)
    model = as_runtime((nn.GRU if kind == "gru" else nn.LSTM)(hidden, hidden).eval())
    stream, out = model.stream(), np.empty((1, hidden), np.float32)
    held = {"state": model.initial_state(1)}

    def functional() -> None:
        _, held["state"] = model.step(x, held["state"])

    contenders: dict[str, Callable[[], object]] = {
        "stream.push(out=)": lambda: stream.push(x, out=out),
        "stream.push": lambda: stream.push(x),
        "model.step": functional,
    }
    if find_spec("onnxruntime"):
        session, names = onnx_session(kind, hidden)
        fed = {"x": x[None], **{name: np.zeros((1, 1, hidden), np.float32) for name in names}}

        def run_session() -> None:
            _, *after = session.run(None, fed)
            fed.update(zip(names, after, strict=True))

        contenders["ONNX Runtime"] = run_session
    return contenders | torch_steps(kind, hidden, torch.from_numpy(x))


def torch_steps(kind: str, hidden: int, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The module over one step, and the Cell class."""
    lstm = kind == "lstm"
    module = (torch.nn.LSTM if lstm else torch.nn.GRU)(hidden, hidden).eval()
    cell = (torch.nn.LSTMCell if lstm else torch.nn.GRUCell)(hidden, hidden).eval()
    zero = torch.zeros(1, 1, hidden)
    held = {"module": (zero, zero) if lstm else zero, "cell": (zero[0], zero[0]) if lstm else zero[0]}

    @torch.inference_mode()
    def run_module() -> None:
        _, held["module"] = module(x[None], held["module"])

    @torch.inference_mode()
    def run_cell() -> None:
        held["cell"] = cell(x, held["cell"])

    return {"torch.nn": run_module, "torch cell": run_cell}


def step_rows() -> list[str]:
    """The table of one step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runtime.set_threads(1)
    lines = [
        "| cell | hidden | contender | median, µs | p99, µs | stream.push is | aimed at |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ("gru", "lstm"):
        for hidden in HIDDEN:
            contenders = steps_of(kind, hidden)
            taken = latencies(contenders, {name: STEPS.get(name, STEPS["recurra"]) for name in contenders})
            own = float(np.median(taken["stream.push"]))
            for name, times in taken.items():
                middle, tail = float(np.median(times)), float(np.percentile(times, 99))
                target = TARGETS.get(name, {}).get(hidden)
                ratio = f"{middle / own:.1f} x" if target else ""
                missed = f"{target:g} x{'' if middle / own >= target else ', missed'}" if target else (
                    "p99 <= 3 medians" + ("" if tail <= 3 * middle else ", missed")
                )  # fmt: skip
                lines.append(f"| {kind} | {hidden} | {name} | {middle:.2f} | {tail:.2f} | {ratio} | {missed} |")
    torch.set_num_threads(threads)
    return lines


def tick_rows() -> list[str]:
    """One tick of many streams."""
    runtime.set_threads(2)
    model = as_runtime(nn.GRU(128, 128).eval())
    rng = np.random.default_rng(0)
    x, out = rng.standard_normal((ROWS, 128)).astype(np.float32), np.empty((ROWS, 128), np.float32)
    streams, order = model.streams(ROWS), rng.permutation(ROWS)
    alone = [model.stream() for _ in range(ROWS)]

    def loop() -> None:
        for k, stream in enumerate(alone):
            stream.push(x[k : k + 1], out=out[k : k + 1])

    contenders = {
        "tick, all rows": lambda: streams.tick(x, out=out),
        "tick, rows in any order (gathered and scattered)": lambda: streams.tick(x, rows=order, out=out),
        "a loop over 1,000 streams": loop,
    }
    taken = latencies(contenders, dict.fromkeys(contenders, 100))
    middle = {name: float(np.median(times)) / 1e3 for name, times in taken.items()}
    gathered, looped = list(middle.values())[1:]
    lines = ["| 1,000 GRU-128 streams, 2 threads | median, ms |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in middle.items()]
    verdict = "reached" if gathered <= 0.7 and looped / gathered >= 5 else "missed"
    return [*lines, "", f"Aimed at: 0.7 ms and 5 x a loop; {gathered:.2f} ms and {looped / gathered:.1f} x, {verdict}."]


CHILD = """
import json, sys, time
started = time.perf_counter()
import recurra
package = time.perf_counter() - started
from recurra import runtime
import numpy as np
model = runtime.load(sys.argv[1])
model.step(np.zeros((1, model.input_size), np.float32), model.initial_state(1))
assert "torch" not in sys.modules
# the highest of this process; getrusage would count the one that it was forked from
memory = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
print(json.dumps([package, memory]))
"""


def start_rows() -> list[str]:
    """A process from nothing to its first step of a model of 1 MB."""
    whole, package, memory = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        recurra.save_layer(nn.Stack(nn.GRU(64, 224), nn.Recurrent("rnn_tanh", 224, 64)), folder)
        size = (Path(folder) / "weights.safetensors").stat().st_size / 1e6
        for _ in range(9):
            before = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", CHILD, folder], check=True, capture_output=True, text=True)
            whole.append(time.perf_counter() - before)
            one, two = json.loads(done.stdout)
            package.append(one)
            memory.append(two)
    return [
        f"| a model of {size:.1f} MB, 9 processes | median | aimed at |",
        "|---|---|---|",
        f"| process, from its start to its end after the first step | {np.median(whole):.2f} s | < 0.4 s |",
        f"| its memory at most | {np.median(memory):.0f} MB | < 80 MB |",
        f"| import recurra | {np.median(package) * 1e3:.0f} ms | < 100 ms |",
    ]


def main() -> None:
    """Measure, print, and with `--write` write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    write = parser.parse_args().write
    session = "" if find_spec("onnxruntime") else "ONNX Runtime is not installed and was left out."
    lines = [
        "# Streams, measured",
        "",
        f"`python benchmarks/streams.py --write` wrote this page on {datetime.date.today()}; "
        f"{os.cpu_count()} cores, {recurra.backends().isa}. {session}".rstrip(),
        "",
        "One step at batch 1, float32, the public API, numpy in and out (torch: tensors), one thread, 100,000 steps",
        "(torch 5,000), contenders taking turns. What was missed says so.",
        "",
        *step_rows(),
        "",
        *tick_rows(),
        "",
        *start_rows(),
        "",
    ]
    text = "\n".join(lines)
    print(text)
    if write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
