"""Layers with weights of fewer bits, for inference: int8 with a scale for each row (`recurra.int8`), or bfloat16.

With int8, vectors are rounded on the way into a product, and to bfloat16 where that is asked for. Sums, states and
everything pointwise stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra import bfloat16, int8
from recurra.cells import Cell
from recurra.errors import ArgumentError, ShapeError
from recurra.nn.layer import State
from recurra.nn.recurrent import Recurrent
from recurra.ops.inference import SmallScan
from recurra.ops.reference import core_values
from recurra.program import Program
from recurra.program.matrices import product_matrices, product_parameters, projection


class Form(NamedTuple):
    """How a matrix of weights is held."""

    name: str
    dtype: torch.dtype
    rounded: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """Of a float32 matrix the values, and the scales of their rows; None where they have none. Raises ArgumentError
    for numbers that are not finite."""
    bfloat16_vectors: bool = False
    """Whether vectors are rounded to bfloat16 on the way into a product."""


def _int8(matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    values, scales = int8.rounded(matrix.detach().numpy())
    return torch.from_numpy(values), torch.from_numpy(scales)


def _bfloat16(matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    bits = bfloat16.rounded(matrix.detach().numpy()).view("<i2")
    return torch.from_numpy(bits).view(torch.bfloat16), None


FORMS = {
    "int8": Form("int8", torch.int8, _int8),
    "bfloat16": Form("bfloat16", torch.bfloat16, _bfloat16),
}


class _Small(nn.Module):
    """A module that holds matrices in a form, for inference."""

    int8_scales: Any
    computes_in: Tensor

    def _hold_in(self, form: Form) -> None:
        self._form = form
        # Before the weights: it is what others take the dtype and device from. Where there are scales, these tell in a
        # file that the weights are no others of this dtype.
        self.register_buffer(bfloat16.BESIDE, torch.zeros(0), persistent=form.name == "bfloat16")
        if form.bfloat16_vectors:
            self.register_buffer(bfloat16.ACTIVATIONS, torch.zeros(0, dtype=torch.bfloat16))
        self.int8_scales = nn.Module()
        self.training = False

    def _hold(self, name: str, what: str, value: Tensor) -> None:
        _check_float32(what, value, self._form)
        values, scales = self._form.rounded(value)
        self.register_buffer(name, values)
        if scales is not None:
            self.int8_scales.register_buffer(name, scales)

    @property
    def form_name(self) -> str:
        """How the weights are held."""
        return self._form.name

    def _description(self) -> str:
        return self._form.name + (" by bfloat16" if self._form.bfloat16_vectors else "")

    def _made_of(self, program: Program, core: list[Tensor], scales: list[Tensor | None]) -> SmallScan:
        return SmallScan(program, core, scales, bfloat16_vectors=self._form.bfloat16_vectors)

    def _scales_of(self, name: str) -> Tensor | None:
        return self.int8_scales._buffers.get(name)

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise ArgumentError(
                f"{self._form.name} weights cannot be trained",
                expected="the float32 model",
                advice="Train that one, and quantise it afterwards",
            )
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if fn(self.computes_in).dtype is not torch.float32:
            raise ArgumentError(
                f"{self._form.name} weights come with float32",
                expected="no other dtype",
                advice="Leave it as it is, or convert the float32 model that it was made of, unquantised",
            )

        def kept(tensor: Tensor) -> Tensor:
            # float() would widen them
            return fn(tensor).to(tensor.dtype) if tensor.dtype is self._form.dtype else fn(tensor)

        return super()._apply(kept, recurse)


def _check_float32(what: str, value: Tensor, form: Form) -> None:
    if value.dtype is not torch.float32 or value.device.type != "cpu":
        raise ShapeError(
            f"{what} is {value.dtype} on {value.device}",
            expected=f"torch.float32 on the CPU: {form.name} weights come with float32",
            advice="Call model.float().cpu() first",
        )


class SmallRecurrent(_Small, Recurrent):
    """A cell of which the matrices that stand in products are held in another form.

    They are the parameters that nothing but products reads, and values of parameters alone (`W - W.T`): these are
    rounded when they are first needed, and their parameters stay float32. A sparse matrix stays float32, too.

    Args:
        layer: the float32 layer; it is not changed.
        form: how the matrices are held.
        chosen: the names of those that are; None for all that can be.

    Raises:
        ArgumentError: a matrix is chosen that products alone do not read, or its weights are not finite.
        ShapeError: the layer is not of float32 on the CPU.
    """

    def __init__(self, layer: Recurrent, form: Form, chosen: Container[str] | None = None) -> None:
        super().__init__(Cell(layer.program), layer.input_size, layer.hidden_size, widths=layer.widths)
        possible = product_parameters(self.program)
        self._chosen = [n for n in self._names if (n in possible if chosen is None else n in chosen)]
        if not possible.issuperset(self._chosen):
            raise ArgumentError(
                f"cell '{self.program.name}' cannot hold {', '.join(self._chosen)} as {form.name}",
                expected=f"only {', '.join(sorted(possible)) or 'none'}, which products alone read",
            )
        self._made: SmallScan | None = None
        values = dict(zip(self._names, layer._parameter_values(), strict=True))
        for name in self._names:
            delattr(self, name)
        self._hold_in(form)
        for name, value in values.items():
            if name in self._chosen:
                self._hold(name, f"the parameter '{name}'", value)
            else:
                _check_float32(f"the parameter '{name}'", value, form)
                self.register_buffer(name, value.detach().clone())
        self.seeded = False

    def reset_parameters(self) -> None:
        """Nothing is drawn: the weights are those of another layer."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._description()}: {', '.join(self._chosen) or 'computed matrices only'}"

    def _parameter_values(self) -> tuple[Tensor, ...]:
        # what the others have the dtype and device of
        return (self.computes_in,)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._made = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        self._made = None
        super()._load_from_state_dict(*given, **named)

    def _small_scan(self) -> SmallScan:
        if self._made is None:
            self._made = self._made_of(self.program, *self._core())
        return self._made

    def _core(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The core parameters and the scales of their rows."""
        stored = {self._names.index(name): self._scales_of(name) for name in self._chosen}
        held = [self.get_buffer(name) for name in self._names]
        # of those that are rounded already, computed values read no more than the shape
        values = [torch.zeros(()).expand(v.shape) if k in stored else v for k, v in enumerate(held)]
        core: list[Tensor] = []
        scales: list[Tensor | None] = []
        numbers = self.program.core_parameters
        for number, rounds, value in zip(
            numbers, product_matrices(self.program), core_values(self.program, values), strict=True
        ):
            node = self.program.nodes[number]
            if node.operation == "parameter":
                value, scale = held[node.attribute], stored.get(node.attribute)
            else:
                value, scale = self._form.rounded(value) if rounds else (value, None)
            core.append(value)
            scales.append(scale)
        return core, scales

    def _scan(
        self, x: Tensor, state: State, parameters: tuple[Tensor, ...], rows: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._small_scan()(x, state, *rows)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        result = None
        if elapsed is None and self._made is not None and type(state) is self._state_type:
            result = self._made.quick_step(x_t, state)
        if result is None:
            self._check_step(x_t, state, elapsed, self._parameter_values()[0])
            result = self._small_scan().step(x_t, state, elapsed)
        y_t, after = result
        return y_t, self._state_type._make(after)


class SmallMatrix(_Small):
    """A matrix (rows, columns) that is held in a form."""

    weight: Tensor

    def __init__(self, matrix: Tensor, form: Form) -> None:
        super().__init__()
        self._hold_in(form)
        self._hold("weight", "the weight of a linear layer or an embedding", matrix)
        self._made: dict[Tensor | None, SmallScan] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._made = {}
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape)) + f", {self._description()}"

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., columns) times the matrix, plus the bias (rows,): (..., rows).

        Raises:
            ShapeError: x does not fit.
            ArgumentError: a gradient is wanted, or torch traces the call.
        """
        weight = self.weight
        if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
            raise ShapeError(f"x has shape {tuple(x.shape)}", expected=f"(..., {weight.shape[1]})")
        made = self._made.get(bias)
        if made is None:
            core = [weight] if bias is None else [weight, bias.detach()]
            # of one bias after the other, as they come
            made = self._made_of(_LINEAR[bias is not None], core, [self._scales_of("weight"), None][: len(core)])
            self._made = {bias: made}
        y, _ = made.step(x.reshape(-1, x.shape[-1]), ())
        return y.reshape(*x.shape[:-1], weight.shape[0])


class SmallLinear(SmallMatrix):
    """y = W x + b with such a W and a float32 b, or none."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear, form: Form) -> None:
        super().__init__(layer.weight, form)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., columns). Returns (..., rows)."""
        return self.multiply(x, self.bias)


class SmallEmbedding(SmallMatrix):
    """A table of vectors (count, features)."""

    def __init__(self, layer: nn.Embedding, form: Form) -> None:
        super().__init__(layer.weight, form)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (...), whole numbers. Returns (..., features) of float32."""
        vectors, scales = self.weight[tokens].float(), self._scales_of("weight")
        return vectors if scales is None else vectors * scales[tokens][..., None]


_LINEAR = {bias: projection(bias=bias) for bias in (False, True)}


def float_like(layer: nn.Linear | SmallLinear) -> Tensor:
    """A tensor of the dtype and device that a linear layer computes in."""
    return layer.computes_in if isinstance(layer, SmallLinear) else layer.weight


def linear_scaled(layer: nn.Linear | SmallLinear, x: Tensor, factor: float) -> Tensor:
    """x (..., columns) times the weight of a linear layer times a factor, plus its bias."""
    if isinstance(layer, SmallLinear):
        y = layer.multiply(x) * factor
        return y if layer.bias is None else y + layer.bias
    return F.linear(x, layer.weight * factor, layer.bias)
