"""Models with small weights: int8 or bfloat16. Less memory, and faster steps where the weights exceed the caches."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from recurra import bfloat16, int8
from recurra.errors import ArgumentError, FormatError
from recurra.nn.recurrent import Recurrent
from recurra.nn.small import FORMS, Form, SmallEmbedding, SmallLinear, SmallMatrix, SmallRecurrent
from recurra.program.matrices import product_parameters

Model = TypeVar("Model", bound=nn.Module)


def quantise(
    model: Model,
    chosen: Collection[str] | None = None,
    *,
    weights: str = "int8",
    activations: str | None = None,
) -> Model:
    """The same model with small weights, for inference on the CPU. The model that is given does not change.

    The matrices of every `recurra.nn.Recurrent` that stand in products, and those of linear layers and embeddings,
    become int8 with a float32 scale for each row, or bfloat16. With int8, vectors are rounded to int8 on the way into a
    product, whose sum is exact; with bfloat16 products are those of float32 with the rounded weights, or, where
    activations are bfloat16, with vectors that are rounded on the way in, too. Everything else, states and what is
    pointwise, stays float32. Training what is returned is refused.

    Args:
        model: a layer, or any module with layers in it, of float32.
        chosen: the names of the matrices, as in `model.state_dict()`; None for all that can be small.
        weights: "int8" or "bfloat16".
        activations: "bfloat16" rounds the vectors that bfloat16 weights multiply, to the nearest such number; sums are
            of float32. None for what comes with the weights: int8, or with bfloat16 no rounding.

    Raises:
        ArgumentError: activations do not go with the weights, the model is no module, no weight can be small, a name is
            no weight that can, or weights are not finite.
        ShapeError: the weights are not of float32 on the CPU.
    """
    if weights not in FORMS:
        raise ArgumentError("the form of the weights", got=weights, expected=" or ".join(FORMS))
    if activations is not None and (weights, activations) != ("bfloat16", "bfloat16"):
        raise ArgumentError(
            f"activations={activations!r} with {weights} weights",
            expected="activations='bfloat16' with weights='bfloat16', or None",
        )
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"model is a {type(model).__name__}"
            if not isinstance(model, type)
            else f"model is the class {model.__name__}",
            expected="a layer, or a module with layers in it",
            advice="Build it with recurra.nn or open it with recurra.load",
        )
    if isinstance(chosen, str):
        raise ArgumentError(f"chosen is the text {chosen!r}", expected="a list of names", advice=f"Give [{chosen!r}]")
    left = None if chosen is None else set(chosen)
    form = FORMS[weights]._replace(bfloat16_vectors=activations is not None)
    made = _Conversion(form, left).convert(copy.deepcopy(model), "")
    if left is None and not any(isinstance(m, SmallRecurrent | SmallMatrix) for m in made.modules()):
        raise ArgumentError(
            f"{type(model).__name__} holds no weights that can be {weights}",
            expected="a recurrent layer, a linear layer or an embedding in it",
        )
    if left:
        raise ArgumentError(f"no such weights can be {weights}: {', '.join(sorted(left))}")
    return cast(Model, made.requires_grad_(False).eval())


class _Conversion:
    """Replaces parts of a model; what is converted is taken out of `left`, the names that are asked for."""

    def __init__(self, form: Form, left: set[str] | None) -> None:
        self._form = form
        self._left = left
        self._done: dict[nn.Module, nn.Module] = {}

    def convert(self, module: nn.Module, prefix: str) -> nn.Module:
        if module not in self._done:
            self._done[module] = self._converted(module, prefix)
        return self._done[module]

    def _converted(self, module: nn.Module, prefix: str) -> nn.Module:
        if isinstance(module, SmallRecurrent | SmallMatrix):
            raise ArgumentError(f"the model has {module.form_name} weights already", expected="a model of float32")
        if isinstance(module, Recurrent):
            names = {n for n in product_parameters(module.program) if self._take(prefix + n)}
            return SmallRecurrent(module, self._form, names) if names else module
        if type(module) in _PLAIN and self._take(f"{prefix}weight"):
            return _PLAIN[type(module)](module, self._form)
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


_PLAIN = {nn.Linear: SmallLinear, nn.Embedding: SmallEmbedding}


class Found(NamedTuple):
    """The small weights in a file: `names`, held as `form`, the names of what stands beside them, and what activations
    become in their products, as `quantise` takes it."""

    form: str
    names: frozenset[str]
    beside: frozenset[str]
    activations: str | None


def find_small(weights: Mapping[str, Tensor], *, source: str) -> Found | None:
    """The int8 or bfloat16 matrices among the weights of a file; None where there are none.

    A model that is bfloat16 throughout has no such ones.

    Raises:
        FormatError: there are both, or one is malformed or lacks what has to stand beside it.
    """
    eights = [name for name, value in weights.items() if value.dtype is torch.int8]
    halves = [n for n, v in weights.items() if v.dtype is torch.bfloat16 and _mark_name(n) in weights]
    # these are no weights
    said = {n for n in halves if n.rpartition(".")[2] == bfloat16.ACTIVATIONS and weights[n].shape == (0,)}
    halves = [n for n in halves if n not in said]
    if eights and halves:
        raise FormatError(f"the weights in {source!r} are int8 and bfloat16", expected="one of the two beside float32")
    form, beside_name = ("int8", _scales_name) if eights else ("bfloat16", _mark_name)
    names = frozenset(eights or halves)
    for name in sorted(names):
        _check(form, f"{name} in {source!r}", weights[name], weights.get(beside_name(name)))
    rounds = bool(halves) and bfloat16.rounds_activations(weights.keys(), repr(source))
    beside = frozenset(map(beside_name, names)) | said
    return Found(form, names, beside, "bfloat16" if rounds else None) if names else None


def _check(form: str, name: str, matrix: Tensor, beside: Tensor | None) -> None:
    if matrix.dim() != 2:
        raise FormatError(f"the {form} weights {name}", got=tuple(matrix.shape), expected="a matrix")
    if beside is not None and beside.dtype is not torch.float32:
        what = "the scales of" if form == "int8" else "what stands beside"
        raise FormatError(f"{what} the {form} weights {name}", got=beside.dtype, expected="float32")
    array = None if beside is None else beside.numpy()
    if form == "int8":
        int8.check(name, matrix.numpy(), array, tuple(matrix.shape))
    else:
        bfloat16.check(name, matrix.contiguous().view(torch.int16).numpy().view(bfloat16.BFLOAT16), array)


def _scales_name(name: str) -> str:
    part, _, own = name.rpartition(".")
    return ".".join(filter(None, (part, int8.SCALES, own)))


def _mark_name(name: str) -> str:
    return ".".join(filter(None, (name.rpartition(".")[0], bfloat16.BESIDE)))
