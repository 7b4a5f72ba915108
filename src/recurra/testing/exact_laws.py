"""Laws 8 and 9: saving and loading, and computing again with any number of threads, change no bit."""

from __future__ import annotations

import copy

import safetensors.torch
import torch

from recurra.nn import AttentionDecoder, Layer
from recurra.nn.plain import PlainLayer
from recurra.testing.cases import Case, draw
from recurra.testing.compare import evaluate, same_bits

THREADS = (1, 2, 3)


def depends_on_threads(layer: Layer) -> str:
    """Why bits may depend on the number of threads; empty when they may not."""
    plain = any(isinstance(module, PlainLayer | AttentionDecoder) for module in layer.modules())
    return "products in plain torch do not promise it" if plain else ""


def saving_changes_no_bit(layer: Layer, case: Case) -> None:
    """Law 8."""
    inputs = draw(layer, case, lengths=True, reset=True)
    # a weight may be used in two places, which safetensors wants to hear of; each place gets its own copy here
    file = safetensors.torch.save({name: value.clone().contiguous() for name, value in layer.state_dict().items()})
    loaded = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.fill_(float("nan"))
    loaded.load_state_dict(safetensors.torch.load(file))
    before = evaluate(layer, inputs, lambda given: given.call(layer))
    same_bits(evaluate(loaded, inputs, lambda given: given.call(loaded)), before, "loaded against saved")


def threads_change_no_bit(layer: Layer, case: Case) -> None:
    """Law 9."""
    inputs = draw(layer, case, lengths=True, reset=True)
    threads = torch.get_num_threads()
    try:
        first = evaluate(layer, inputs, lambda given: given.call(layer))
        for count in THREADS:
            torch.set_num_threads(count)
            again = evaluate(layer, inputs, lambda given: given.call(layer))
            same_bits(again, first, f"{count} threads against {threads}" if count != threads else "the same call again")
    finally:
        torch.set_num_threads(threads)
