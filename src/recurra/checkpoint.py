"""Saved models with torch: `recurra.storage` has their format, and reads them without it."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensors_as_bytes

from recurra.errors import FormatError
from recurra.storage import CHECKSUM, NOTES, checksum_of, notes_of, read_weights_file
from recurra.storage import MODEL_FILE as MODEL_FILE
from recurra.storage import WEIGHTS_FILE as WEIGHTS_FILE
from recurra.storage import read_model as read_model
from recurra.storage import save_model as save_model
from recurra.storage import write_atomically as write_atomically

def save_weights(folder: Path, weights: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write `weights.safetensors`.

    Args:
        folder: created if need be.
        weights: the parameters by name, on any device.
        about: what to keep with them, such as the step and the loss.

    Raises:
        OSError: it cannot be written; an earlier file is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # In one field: safetensors writes several in no fixed order, and equal weights should make equal files.
    notes = json.dumps({**about, CHECKSUM: checksum(plain)}, sort_keys=True)
    write_atomically(folder / WEIGHTS_FILE, tensors_as_bytes(plain, metadata={NOTES: notes}))


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The parameters by name, and what `save_weights` kept with them.

    Raises:
        ArgumentError: there are no weights in the folder.
        FormatError: the file is truncated or damaged.
        OSError: it cannot be read.
    """
    content = read_weights_file(folder)
    path = folder / WEIGHTS_FILE
    try:
        weights = read_tensors(content)
    except SafetensorError as error:
        raise FormatError(f"{str(path)!r} is truncated or damaged ({error})") from None
    about = notes_of(content)
    if about.pop(CHECKSUM, None) != checksum(weights):
        raise FormatError(f"{str(path)!r} is damaged: its checksum does not match its content")
    return weights, about


def checksum(weights: Mapping[str, torch.Tensor]) -> str:
    """What is kept with weights to tell whether they are whole."""
    return checksum_of(
        (
            name,
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in weights.items()
    )
