"""What the tests of int8 and of bfloat16 weights share: cells, nests of layers, language models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import recurra
from recurra import _engine
from recurra.cells import Bias, Input, Recurrent, cell, layer_norm, names, tanh
from recurra.checkpoint import save_model, save_weights
from recurra.data import Vocabulary
from recurra.nn import Layer
from recurra.tasks import LanguageModel


@cell
def residual(x, h, *, W=Input(), U=Recurrent(), b=Bias()):
    """A user's own cell."""
    return h + 0.5 * tanh(W @ x + U @ h + b)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(np.all((a == b) | (np.isnan(a) & np.isnan(b))))


def layer_of(kind: object, inputs: int = 13, hidden: int = 24) -> recurra.nn.Recurrent:
    torch.manual_seed(0)
    program = recurra.cells.get(kind)  # type: ignore[arg-type]
    return recurra.nn.Recurrent(kind, inputs, hidden, widths=dict.fromkeys(program.width_names, 8)).eval()  # type: ignore[arg-type]


def sequence(layer: recurra.nn.Layer, batch: int = 5, time: int = 9) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x = torch.randn(batch, time, layer.input_size, generator=torch.Generator().manual_seed(1))
    return x, {"elapsed": torch.linspace(0, 1, batch * time).reshape(batch, time)} if layer.uses_elapsed else {}


CELLS = [*names(), residual, layer_norm(recurra.cells.find("lstm"))]


Make = Callable[[int, int], recurra.nn.Recurrent]
"""Makes a recurrent layer of these sizes."""
WRAPPED: dict[str, Callable[[Make], Layer]] = {
    "stack": lambda made: recurra.nn.Stack([made(13, 8), made(8, 8)]),
    "bidirectional": lambda made: recurra.nn.Bidirectional(made(13, 8), made(13, 8)),
    "residual": lambda made: recurra.nn.Residual(made(13, 13)),
    "last": lambda made: recurra.nn.Last(made(13, 8)),
    "dropout": lambda made: recurra.nn.Dropout(made(13, 8), 0.5),
    "weight_dropout": lambda made: recurra.nn.WeightDropout(made(13, 8), 0.5),
    "decoder": lambda made: recurra.nn.AttentionDecoder(made(21, 8), recurra.nn.AdditiveAttention(8, 6, 5)),
    "window": lambda made: recurra.nn.WindowAttention(13, 8, heads=2, window=4),
    "mlstm": lambda made: recurra.nn.MatrixLSTM(13, 8, heads=2),
    "delta": lambda made: recurra.nn.GatedDelta(13, 8, heads=2),
    "linear_attention": lambda made: recurra.nn.GatedLinearAttention(13, 8, heads=2),
    "selective": lambda made: recurra.nn.SelectiveStateSpace(13, 8),
}


def wrapped(wrap: Callable[[Make], Layer]) -> Layer:
    """A nest of layers in evaluation."""
    torch.manual_seed(0)
    return wrap(lambda inputs, hidden: recurra.nn.Recurrent("gru", inputs, hidden)).eval()


def language_model(tied: bool, hidden: int = 24) -> LanguageModel:
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(["the cat sat on the mat"], "char", size=None)
    return LanguageModel.build(vocabulary, cell="gru", hidden=hidden, layers=2, embedding=16, tied=tied).eval()


def save(model: LanguageModel, folder: Path) -> Path:
    save_model(folder, model.task, model.to_spec())
    save_weights(folder, model.state_dict(), {"step": "1"})
    return folder


def the_same_for_any_threads_and_split(small: Layer, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The outputs, which have the same bits however the engine shares out the work."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted, state = small(x, lengths=lengths)
        for split in ("rows", "columns"):
            _engine.set_split(split)
            for threads in (2, 3):
                torch.set_num_threads(threads)
                y, after = small(x, lengths=lengths)
                assert torch.equal(y, wanted)
                assert all(map(torch.equal, after, state))
    finally:
        _engine.set_split("automatic")
        torch.set_num_threads(before)
    return wanted


def unchanged_by(convert: Callable[[torch.nn.Module], torch.nn.Module], layer: torch.nn.Module) -> torch.nn.Module:
    """What is made of a layer; it stays as it was, and so do the random numbers to come."""
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    random = torch.get_rng_state()
    made = convert(layer)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    return made
