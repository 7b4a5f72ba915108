"""Models with int8 weights: a quarter of the memory, and faster steps where the weights exceed the caches."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import TypeVar, cast

from torch import Tensor, nn

from recurra import int8
from recurra.errors import ArgumentError, FormatError
from recurra.nn.int8 import Int8Embedding, Int8Linear, Int8Matrix, Int8Recurrent
from recurra.nn.recurrent import Recurrent
from recurra.program.matrices import product_parameters

Model = TypeVar("Model", bound=nn.Module)


def quantise(model: Model, chosen: Collection[str] | None = None) -> Model:
    """The same model with int8 weights, for inference on the CPU. The model that is given does not change.

    The matrices of every `recurra.nn.Recurrent` that stand in products, and those of linear layers and embeddings,
    become int8 with a float32 scale for each row; vectors are rounded to int8 on the way into a product, whose sum is
    exact. Everything else, states and what is pointwise, stays float32. Training what is returned is refused.

    Args:
        model: a layer, or any module with layers in it, of float32.
        chosen: the names of the matrices, as in `model.state_dict()`; None for all that can be int8.

    Raises:
        ArgumentError: no weight can be int8, a name is no weight that can, or weights are not finite.
        ShapeError: the weights are not of float32 on the CPU.
    """
    left = None if chosen is None else set(chosen)
    made = _Conversion(left).convert(copy.deepcopy(model), "")
    if left is None and not any(isinstance(m, Int8Recurrent | Int8Matrix) for m in made.modules()):
        raise ArgumentError(
            f"{type(model).__name__} holds no weights that can be int8",
            expected="a recurrent layer, a linear layer or an embedding in it",
        )
    if left:
        raise ArgumentError(f"no such weights can be int8: {', '.join(sorted(left))}")
    return cast(Model, made.requires_grad_(False).eval())


class _Conversion:
    """Replaces parts of a model; what is converted is taken out of `left`, the names that are asked for."""

    def __init__(self, left: set[str] | None) -> None:
        self._left = left
        self._done: dict[nn.Module, nn.Module] = {}

    def convert(self, module: nn.Module, prefix: str) -> nn.Module:
        if module not in self._done:
            self._done[module] = self._converted(module, prefix)
        return self._done[module]

    def _converted(self, module: nn.Module, prefix: str) -> nn.Module:
        if isinstance(module, Int8Recurrent | Int8Matrix):
            raise ArgumentError("the model has int8 weights already", expected="a model of float32")
        if isinstance(module, Recurrent):
            names = {n for n in product_parameters(module.program) if self._take(prefix + n)}
            return Int8Recurrent(module, names) if names else module
        if type(module) in _PLAIN and self._take(f"{prefix}weight"):
            return _PLAIN[type(module)](module)
        for name, child in list(module.named_children()):
            made = self.convert(child, f"{prefix}{name}.")
            if made is not child:
                setattr(module, name, made)
        return module

    def _take(self, name: str) -> bool:
        if self._left is None:
            return True
        wanted = name in self._left
        self._left.discard(name)
        return wanted


_PLAIN = {nn.Linear: Int8Linear, nn.Embedding: Int8Embedding}


def check_int8(weights: Mapping[str, Tensor], *, source: str) -> list[str]:
    """The names of the int8 matrices among the weights of a file.

    Raises:
        FormatError: one has no scales, or is malformed.
    """
    names = [name for name, value in weights.items() if str(value.dtype) == "torch.int8"]
    for name in names:
        scales = weights.get(scales_name(name))
        matrix = weights[name]
        if matrix.dim() != 2:
            raise FormatError(f"the int8 weights {name} in {source!r}", got=tuple(matrix.shape), expected="a matrix")
        int8.check(
            f"{name} in {source!r}", matrix.numpy(), None if scales is None else scales.numpy(), tuple(matrix.shape)
        )
    return names


def scales_name(name: str) -> str:
    """The name of the scales of the int8 matrix of this name."""
    part, _, own = name.rpartition(".")
    return ".".join(filter(None, (part, int8.SCALES, own)))
