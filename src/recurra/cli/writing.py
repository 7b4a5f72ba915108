"""`recurra generate`."""

import io
import sys
from pathlib import Path

from recurra import onnx, runtime
from recurra.cli.opening import open_model
from recurra.decode import drawn
from recurra.errors import ArgumentError


def write(path: Path, *, prompt: str, length: int, temperature: float, seed: int, top_k: int | None) -> None:
    """Print the prompt and what the model adds to it, each token as soon as it is made."""
    pick = drawn(temperature=temperature, seed=seed, top_k=top_k)
    model = open_model(path)
    if not isinstance(model, runtime.LanguageModel | onnx.LanguageModel):
        raise ArgumentError(f"{str(path)!r} is no language model", expected="one", advice="Only those write text")
    # A terminal in another encoding shows what it can.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(prompt)
    for piece in model.generate(prompt, pick, length=length):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
