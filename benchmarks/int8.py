"""One step, float32 against int8 and bfloat16 weights: GRU and LSTM, one thread, in turns, medians.

    python benchmarks/int8.py                       # steps of one row
    python benchmarks/int8.py --rows 8              # of eight
    python benchmarks/int8.py --sizes 16 64 96 128  # small layers, in which nothing is gained
    python benchmarks/int8.py --text TEXT           # and the loss of a small language model before and after

Input size is hidden size. `runtime` is `recurra.runtime`, numpy in and out; `torch` the layer's `step`. Where
onnxruntime is installed, its LSTM and its DynamicQuantizeLSTM run beside it, one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import recurra
from recurra.nn import Recurrent

SIZES = (256, 512, 1024)
SMALL = ("bfloat16", "int8")


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """The median time of each call in microseconds; they are called in turns, a few times each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            for again in range(6):
                start = time.perf_counter()
                call()
                # the first brings the weights into the caches
                if again:
                    times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) * 1e6 for name, found in times.items()}


def steps(layer: Recurrent, folder: Path, rows: int) -> dict[str, Callable[[], object]]:
    """A step of so many rows of the layer in float32, bfloat16 and int8, in torch and in the runtime."""
    calls: dict[str, Callable[[], object]] = {}
    x = torch.randn(rows, layer.input_size)
    small = {name: recurra.quantise(layer, weights=name) for name in SMALL}
    for name, one in {"float32": layer, **small}.items():
        recurra.save_layer(one, folder / name)
        model = recurra.runtime.load(folder / name)
        state, start = one.initial_state(rows), model.initial_state(rows)
        calls[f"torch {name}"] = lambda one=one, state=state: one.step(x, state)
        calls[f"runtime {name}"] = lambda model=model, start=start: model.step(x.numpy(), start)
    return calls


def onnx_steps(size: int, folder: Path) -> dict[str, Callable[[], object]]:
    """A step of ONNX Runtime's LSTM, and of what its own quantisation makes of it."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rng = np.random.default_rng(0)
    shapes = {"W": (1, 4 * size, size), "R": (1, 4 * size, size), "B": (1, 8 * size)}
    weights = [
        numpy_helper.from_array(rng.uniform(-1, 1, shape).astype(np.float32) / size**0.5, name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["y", "hn", "cn"], hidden_size=size)
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size]) for name in ("x", "h", "c", "hn", "cn")
    ]
    graph = helper.make_graph([node], "lstm", floats[:3], floats[3:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    plain, small = folder / "lstm.onnx", folder / "small.onnx"
    onnx.save(model, plain)
    quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)
    assert any(n.op_type == "DynamicQuantizeLSTM" for n in onnx.load(small).graph.node)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    given = {name: rng.standard_normal((1, 1, size)).astype(np.float32) for name in ("x", "h", "c")}
    calls: dict[str, Callable[[], object]] = {}
    for name, path in (("float32", plain), ("int8", small)):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        calls[f"onnxruntime {name}"] = lambda session=session: session.run(None, given)
    return calls


def report_steps(seconds: float, rows: int, sizes: Sequence[int]) -> None:
    """Print the table of steps."""
    # its session is made for one row
    with_onnx = rows == 1 and find_spec("onnxruntime") is not None and find_spec("onnx") is not None
    for cell in ("gru", "lstm"):
        for size in sizes:
            with tempfile.TemporaryDirectory() as name, torch.no_grad():
                torch.manual_seed(0)
                calls = steps(Recurrent(cell, size, size).eval(), Path(name), rows)
                if with_onnx and cell == "lstm":
                    calls |= onnx_steps(size, Path(name))
                found = medians(calls, seconds)
            for which in ("runtime", "torch", "onnxruntime"):
                plain = found.get(f"{which} float32", 0.0)
                cells = [
                    f"{found[key]:9.1f} us{plain / found[key]:6.2f}x {name}"
                    for name in SMALL
                    if (key := f"{which} {name}") in found
                ]
                if cells:
                    print(f"{cell:5}{size:5}  {which:12}{plain:9.1f} us", *cells, flush=True)


def report_loss(text: Path, minutes: float) -> None:
    """Train a small model on a text, and print its validation loss before and after."""
    from rich.console import Console

    from recurra.learn import Settings
    from recurra.learn.exporting import export_small
    from recurra.learn.language_model import train

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        given = {"data": str(text), "hidden": 128, "minutes": minutes, "threads": 1}
        train(Settings.create(given), run, console=Console(quiet=True))
        for name in SMALL:
            found = export_small(run, Path(folder, name), weights=name, data=None, tolerance=1.0)
            before, after = found.before, found.after
            assert before.loss is not None
            assert after.loss is not None
            print(f"loss      {before.loss:.4f} -> {after.loss:.4f} nats/char on {found.text} with {name}")
            print(f"weights   {before.bytes / 1e6:.2f} MB -> {after.bytes / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size of each cell")
    parser.add_argument("--rows", type=int, default=1, help="of a step")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of input and state")
    parser.add_argument("--text", type=Path, help="a text to train a small language model on")
    parser.add_argument("--minutes", type=float, default=0.5, help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recurra.runtime.set_threads(1)
    report_steps(options.seconds, options.rows, options.sizes)
    if options.text is not None:
        report_loss(options.text, options.minutes)


if __name__ == "__main__":
    main()
