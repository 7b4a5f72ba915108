"""Layers with int8 weights, for inference: each row of a matrix has a scale (`recurra.int8`).

Vectors are rounded on the way into a product; sums, states and everything pointwise stay float32.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recurra import int8
from recurra.cells import Cell
from recurra.errors import ArgumentError, ShapeError
from recurra.nn.layer import State
from recurra.nn.recurrent import Recurrent
from recurra.ops.inference import Int8Scan
from recurra.ops.reference import core_values
from recurra.program.matrices import product_matrices, product_parameters, projection


def _rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, scales = int8.rounded(matrix.detach().cpu().numpy())
    return torch.from_numpy(values), torch.from_numpy(scales)


def _check_float32(what: str, value: Tensor) -> None:
    if value.dtype is not torch.float32 or value.device.type != "cpu":
        raise ShapeError(
            f"{what} is {value.dtype} on {value.device}",
            expected="torch.float32 on the CPU: int8 weights come with float32",
            advice="Call model.float().cpu() first",
        )


def _refuse_training(mode: bool) -> None:
    if mode:
        raise ArgumentError(
            "int8 weights cannot be trained",
            expected="the float32 model",
            advice="Train that one, and quantise it afterwards",
        )


class Int8Recurrent(Recurrent):
    """A cell of which the matrices that stand in products are int8.

    They are the parameters that nothing but products reads, and values of parameters alone (`W - W.T`): these are
    rounded when they are first needed, and their parameters stay float32. A sparse matrix stays float32, too.

    Args:
        layer: the float32 layer; it is not changed.
        chosen: the names of the matrices to hold as int8; None for all that can be.

    Raises:
        ArgumentError: a matrix is chosen that products alone do not read, or its weights are not finite.
        ShapeError: the layer is not of float32 on the CPU.
    """

    def __init__(self, layer: Recurrent, chosen: Container[str] | None = None) -> None:
        super().__init__(Cell(layer.program), layer.input_size, layer.hidden_size, widths=layer.widths)
        possible = product_parameters(self.program)
        self._chosen = [n for n in self._names if (n in possible if chosen is None else n in chosen)]
        if not possible.issuperset(self._chosen):
            raise ArgumentError(
                f"cell '{self.program.name}' cannot hold {', '.join(self._chosen)} as int8",
                expected=f"only {', '.join(sorted(possible)) or 'none'}, which products alone read",
            )
        self.int8_scales = nn.Module()
        self._made: Int8Scan | None = None
        for name, value in zip(self._names, layer._parameter_values(), strict=True):
            _check_float32(f"the parameter '{name}'", value)
            delattr(self, name)
            if name in self._chosen:
                values, scales = _rounded(value)
                self.register_buffer(name, values)
                self.int8_scales.register_buffer(name, scales)
            else:
                self.register_buffer(name, value.detach().clone())
        self.register_buffer("_like", torch.zeros(0), persistent=False)
        self.training = False
        self.seeded = False

    def reset_parameters(self) -> None:
        """Nothing is drawn: the weights are those of another layer."""

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, int8: {', '.join(self._chosen) or 'computed matrices only'}"

    def train(self, mode: bool = True) -> Self:
        _refuse_training(mode)
        return super().train(mode)

    def _parameter_values(self) -> tuple[Tensor, ...]:
        # what the others have the dtype and device of
        return (self._buffers["_like"],)  # type: ignore[return-value] - it is there

    def _apply(self, *given: Any, **named: Any) -> Self:
        self._made = None
        return super()._apply(*given, **named)

    def _load_from_state_dict(self, *given: Any, **named: Any) -> None:
        self._made = None
        super()._load_from_state_dict(*given, **named)

    def _int8_scan(self) -> Int8Scan:
        if self._made is None:
            self._made = Int8Scan(self.program, *self._core())
        return self._made

    def _core(self) -> tuple[list[Tensor], list[Tensor | None]]:
        """The core parameters and the scales of their rows."""
        stored = {self._names.index(name): self.int8_scales.get_buffer(name) for name in self._chosen}
        held = [self.get_buffer(name) for name in self._names]
        # of those that are int8, computed values read no more than the shape
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
                value, scale = _rounded(value) if rounds else (value, None)
            core.append(value)
            scales.append(scale)
        return core, scales

    def _scan(
        self, x: Tensor, state: State, parameters: tuple[Tensor, ...], rows: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._int8_scan()(x, state, *rows)

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        result = None
        if elapsed is None and self._made is not None and type(state) is self._state_type:
            result = self._made.quick_step(x_t, state)
        if result is None:
            self._check_step(x_t, state, elapsed, self._parameter_values()[0])
            result = self._int8_scan().step(x_t, state, elapsed)
        y_t, after = result
        return y_t, self._state_type._make(after)


class Int8Matrix(nn.Module):
    """An int8 matrix (rows, columns) with a scale for each row."""

    weight: Tensor
    int8_scales: Any

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        _check_float32("the weight of a linear layer or an embedding", matrix)
        self.int8_scales = nn.Module()
        values, scales = _rounded(matrix)
        self.register_buffer("weight", values)
        self.int8_scales.register_buffer("weight", scales)
        self.training = False
        self._made: dict[Tensor | None, Int8Scan] = {}

    def train(self, mode: bool = True) -> Self:
        _refuse_training(mode)
        return super().train(mode)

    def _apply(self, *given: Any, **named: Any) -> Self:
        self._made = {}
        return super()._apply(*given, **named)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape)) + ", int8"

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
            scales = self.int8_scales.weight
            # of one bias after the other, as they come
            made = Int8Scan(_LINEAR[bias is not None], core, [scales, None][: len(core)])
            self._made = {bias: made}
        y, _ = made.step(x.reshape(-1, x.shape[-1]), ())
        return y.reshape(*x.shape[:-1], weight.shape[0])


class Int8Linear(Int8Matrix):
    """y = W x + b with an int8 W and a float32 b, or none."""

    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.weight)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., columns). Returns (..., rows)."""
        return self.multiply(x, self.bias)


class Int8Embedding(Int8Matrix):
    """A table of vectors in int8 (count, features), a scale for each."""

    def __init__(self, layer: nn.Embedding) -> None:
        super().__init__(layer.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (...), whole numbers. Returns (..., features) of float32."""
        return self.weight[tokens].float() * self.int8_scales.weight[tokens][..., None]


_LINEAR = {bias: projection(bias=bias) for bias in (False, True)}


def float_like(layer: nn.Linear | Int8Linear) -> Tensor:
    """A tensor of the dtype and device that a linear layer computes in."""
    return layer.int8_scales.weight if isinstance(layer, Int8Linear) else layer.weight


def linear_scaled(layer: nn.Linear | Int8Linear, x: Tensor, factor: float) -> Tensor:
    """x (..., columns) times the weight of a linear layer times a factor, plus its bias."""
    if isinstance(layer, Int8Linear):
        y = layer.multiply(x) * factor
        return y if layer.bias is None else y + layer.bias
    return F.linear(x, layer.weight * factor, layer.bias)
