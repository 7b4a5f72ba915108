"""`recurra export`: a trained model as a file for other runtimes."""

from pathlib import Path

from recurra.onnx import export
from recurra.tasks import load


def export_onnx(folder: Path, target: Path) -> None:
    """Write the model of a run as an ONNX file, and print what is in it and how far it is from the model."""
    found = export(load(folder), target)
    print(f"file        {target} ({target.stat().st_size:,} bytes)")
    print(f"inputs      {', '.join(found.inputs)}")
    print(f"outputs     {', '.join(found.outputs)}")
    print(f"operators   {', '.join(found.operators)}")
    print(f"difference  {found.difference:.1e} of the largest value, in ONNX Runtime against the model")
