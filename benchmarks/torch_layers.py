"""torch.nn's GRU and LSTM under the contract of recurra's layers, and language models built on them."""

from typing import cast

import torch
from torch import Tensor, nn

from recurra.nn import Dropout, Layer, Stack, to_torch
from recurra.nn.layer import State
from recurra.tasks import LanguageModel


class TorchLayer(Layer):
    """One torch.nn.GRU or LSTM (batch_first, one layer, one direction); its state is h, or h and c."""

    def __init__(self, module: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.module = module
        self.input_size = module.input_size
        self.output_size = module.hidden_size

    def initial_state(self, batch: int) -> State:
        """Zeros, (batch, hidden_size) each."""
        zeros = next(self.module.parameters()).new_zeros(batch, self.output_size)
        return (zeros, zeros) if isinstance(self.module, nn.LSTM) else (zeros,)

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """The module on each piece between two steps at which some row starts afresh, for it knows no reset."""
        states = cast(tuple[Tensor, ...], self.initial_state(x.shape[0]) if state is None else state)
        borders = [0] if reset is None else sorted({0, *reset.any(dim=0).nonzero().flatten().tolist()})
        outputs = []
        for first, stop in zip(borders, [*borders[1:], x.shape[1]], strict=True):
            if reset is not None:
                states = tuple(one.masked_fill(reset[:, first, None], 0.0) for one in states)
            y, states = self._piece(x[:, first:stop], states)
            outputs.append(y)
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0], states

    def _piece(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        leading = tuple(one[None] for one in states)
        if isinstance(self.module, nn.LSTM):
            y, after = self.module(x, leading)
            return y, tuple(one[0] for one in after)
        y, h = self.module(x, *leading)
        return y, (h[0],)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        """`forward` over a single step."""
        y, after = self(x_t[:, None], state)
        return y[:, 0], after


def on_torch(model: LanguageModel) -> LanguageModel:
    """The same language model on torch.nn, its weights copied. The layers have to be GRUs or LSTMs within Dropout.

    torch.nn trains two biases a gate where one is enough, so that their sum would move twice as fast. Here the second
    one stays as it is, but for the GRU's candidate, where it is no copy of the first.
    """
    layers: list[Layer] = []
    for entry in cast(Stack, model.layers).layers:
        assert isinstance(entry, Dropout)
        module = to_torch(entry.layer)
        assert isinstance(module, nn.GRU | nn.LSTM)
        _train_one_bias(module)
        layers.append(Dropout(TorchLayer(module), entry.probability))
    made = LanguageModel(model.vocabulary, Stack(layers), dropout=model.dropout, tied=model.tied)
    made.to(model.bias.dtype)
    others = {name: value for name, value in model.state_dict().items() if not name.startswith("layers.")}
    made.load_state_dict(others | {f"layers.{name}": value for name, value in made.layers.state_dict().items()})
    return made


def _train_one_bias(module: nn.GRU | nn.LSTM) -> None:
    bias = cast(Tensor, module.bias_hh_l0)
    trained = torch.zeros_like(bias)
    if isinstance(module, nn.GRU):
        trained[2 * module.hidden_size :] = 1.0
    bias.register_hook(lambda gradient: gradient * trained)


def disturb(model: nn.Module) -> None:
    """Change every weight by about its last bit, as rounding might."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + torch.finfo(weight.dtype).eps)
