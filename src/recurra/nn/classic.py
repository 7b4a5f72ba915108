"""The three layers of torch.nn, by their names there."""

from __future__ import annotations

from typing import Literal, TypeVar, final

from torch import nn

from recurra.errors import ArgumentError
from recurra.nn.recurrent import Recurrent
from recurra.nn.torch_weights import check_torch_layer, read_weights

Classic = TypeVar("Classic", bound=Recurrent)


@final
class RNN(Recurrent):
    """A simple recurrent layer (Elman 1990): h' = nonlinearity(W x + U h + b). The state is (h)."""

    def __init__(self, input_size: int, hidden_size: int, *, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(
                f"nonlinearity is {nonlinearity!r}",
                expected="'tanh' or 'relu'",
                advice="Others are a cell of a line or two",
            )
        super().__init__(f"rnn_{nonlinearity}", input_size, hidden_size)

    @classmethod
    def from_torch(cls, module: nn.RNN) -> RNN:
        """The layer with the weights of a torch.nn.RNN of one layer and one direction."""
        _check_single(module, nn.RNN)
        nonlinearity: Literal["tanh", "relu"] = "relu" if module.nonlinearity == "relu" else "tanh"
        return _filled(cls(module.input_size, module.hidden_size, nonlinearity=nonlinearity), module)


@final
class LSTM(Recurrent):
    """Long short-term memory with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000). The state is (h,
    c)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__("lstm", input_size, hidden_size)

    @classmethod
    def from_torch(cls, module: nn.LSTM) -> LSTM:
        """The layer with the weights of a torch.nn.LSTM of one layer and one direction."""
        _check_single(module, nn.LSTM)
        return _filled(cls(module.input_size, module.hidden_size), module)


@final
class GRU(Recurrent):
    """A gated recurrent layer (Cho et al. 2014), its reset gate after the product, as in torch and cuDNN. The state
    is (h)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__("gru", input_size, hidden_size)

    @classmethod
    def from_torch(cls, module: nn.GRU) -> GRU:
        """The layer with the weights of a torch.nn.GRU of one layer and one direction."""
        _check_single(module, nn.GRU)
        return _filled(cls(module.input_size, module.hidden_size), module)


def _check_single(module: nn.Module, kind: type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]) -> None:
    check_torch_layer(module)
    if not isinstance(module, kind):
        raise ArgumentError(
            f"module is a {type(module).__name__}", expected=f"a torch.nn.{kind.__name__}", advice="Use its own class"
        )
    if module.num_layers != 1 or module.bidirectional:
        directions = "two directions" if module.bidirectional else "one direction"
        raise ArgumentError(
            f"module has {module.num_layers} layers and {directions}",
            expected="one layer and one direction",
            advice="Use recurra.nn.from_torch(module), which gives a Stack",
        )


def _filled(layer: Classic, module: nn.RNN | nn.LSTM | nn.GRU) -> Classic:
    read_weights(module, 0, False, layer)
    return layer
