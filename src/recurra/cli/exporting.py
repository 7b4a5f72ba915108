"""`recurra export`: a trained model as a file for other runtimes, or with small weights."""

from pathlib import Path

from recurra.errors import ArgumentError
from recurra.learn.exporting import export_small
from recurra.nn import Layer
from recurra.onnx import export
from recurra.opening import load
from recurra.tasks import LanguageModel


def export_onnx(folder: Path, target: Path, *, with_reset: bool) -> None:
    """Write a saved model as an ONNX file, and print what is in it and how far it is from the model."""
    model = load(folder)
    if not isinstance(model, LanguageModel | Layer):
        raise ArgumentError(
            f"{str(folder)!r} is an {type(model).__name__}", expected="a language model or a layer to write as ONNX"
        )
    found = export(model, target, with_reset=with_reset)
    print(f"file        {target} ({target.stat().st_size:,} bytes)")
    print(f"inputs      {', '.join(found.inputs)}")
    print(f"outputs     {', '.join(found.outputs)}")
    print(f"operators   {', '.join(found.operators)}")
    print(f"difference  {found.difference:.1e} of the largest value, in ONNX Runtime against the model")


def write_small(folder: Path, out: Path | None, *, weights: str, data: Path | None, tolerance: float) -> None:
    """Write a model with int8 or bfloat16 weights, and print what that changed."""
    target = folder.with_name(f"{folder.name}-{weights}") if out is None else out
    found = export_small(folder, target, weights=weights, data=data, tolerance=tolerance)
    before, after = found.before, found.after
    print(f"{'':9}{'float32':>12}{weights:>12}")
    print(f"{'weights':9}{before.bytes / 1e6:>9,.2f} MB{after.bytes / 1e6:>9,.2f} MB")
    print(f"{'step':9}{before.step * 1e6:>9,.1f} us{after.step * 1e6:>9,.1f} us")
    if before.loss is not None and after.loss is not None:
        print(f"{'loss':9}{before.loss:>12.4f}{after.loss:>12.4f}  nats/char on {found.text}")
    else:
        print("loss     not measured: name a text with --data")
    print(f"model    {target}")
