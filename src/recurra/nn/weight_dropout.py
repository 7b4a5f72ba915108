"""Dropout on recurrent matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor

from recurra import cells, ops
from recurra.errors import ArgumentError
from recurra.nn import checks
from recurra.nn.layer import Layer, State
from recurra.nn.recurrent import Recurrent
from recurra.nn.state import state_type
from recurra.program.operations import TABLE
from recurra.program.widths import SCALAR

_mix = TABLE["mix"].torch(torch)


@cells.cell
def _weight_dropout(x, w, key=cells.State(SCALAR), *, probability=0.0):
    """Drops weights: x holds the number of a row, w the row, key the seed of the matrix."""
    drawn = cells.mix(cells.mix(key, cells.sum_columns(x)), cells.unit(w))
    return cells.where(drawn < round(probability * cells.LEVELS), 0.0, w * (1 / (1 - probability))), key


@final
class WeightDropout(Layer):
    """DropConnect on the recurrent matrices of all cells inside a layer (Merity et al. 2018, section 2).

    While training, each weight of a recurrent matrix is zero with this probability and the others are scaled up by
    1 / (1 - probability), with one mask for all rows and steps. The state is (layer, seed): masks follow from the seed,
    which `initial_state` draws from torch's generator while training, so that chunks of a sequence agree with it all.
    It is one number for all rows, and a reset leaves it alone. In evaluation nothing is dropped. Raises ArgumentError
    for a probability outside [0, 1) and for a layer without recurrent matrices that are trained.
    """

    seeded = True

    def __init__(self, layer: Layer, probability: float) -> None:
        super().__init__()
        checks.check_layer("layer", layer)
        self.layer = layer
        self.probability = cells.check_probability("probability", probability)
        self.input_size = layer.input_size
        self.output_size = layer.output_size
        self.causal = layer.causal
        self.pools = layer.pools
        self.uses_elapsed = layer.uses_elapsed
        self._state_type = state_type(("layer", "seed"), ("seed",))
        self._program = _weight_dropout(probability=self.probability).program
        if not list(self._matrices()):
            raise ArgumentError(
                "the layer has no recurrent matrix that is trained",
                expected="a cell inside that multiplies a state by one",
                advice="Use nn.Dropout on its outputs, or recurra.cells.zoneout on its cell",
            )

    def extra_repr(self) -> str:
        return f"probability={self.probability}"

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        """Every recurrent matrix inside that is trained, by its name in `layer`."""
        for prefix, module in self.layer.named_modules():
            if isinstance(module, Recurrent):
                for spec in module.program.parameters:
                    if spec.kind == "recurrent" and not spec.fixed:
                        yield f"{prefix}.{spec.name}" if prefix else spec.name, getattr(module, spec.name)

    def _like(self) -> Tensor:
        """A tensor of the dtype and device that the layer inside computes in."""
        return next(m for m in self.layer.modules() if isinstance(m, Recurrent))._parameter_values()[0]

    def initial_state(self, batch: int) -> State:
        like = self._like()
        self._check_counting(like)
        seed = like.new_zeros(1, 1)
        if self.training:
            seed = torch.randint(0, cells.LEVELS, (1, 1), dtype=like.dtype, device=like.device)
        return self._state_type(self.layer.initial_state(batch), seed.repeat(batch, 1))

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        checks.check_sequence(x, self.input_size, self._like())
        inner, seed = self._parts(state, x.shape[0])
        keywords = {"lengths": lengths, "reset": reset, "elapsed": elapsed}
        y, after = self._masked_call((x, inner), keywords, seed)
        return y, self._state_type(after, seed.clone())

    def step(self, x_t: Tensor, state: State, *, elapsed: Tensor | None = None) -> tuple[Tensor, State]:
        inner, seed = self._parts(state, x_t.shape[0])
        if not self.training:
            y_t, after = self.layer.step(x_t, inner, elapsed=elapsed)
        else:
            time = None if elapsed is None else elapsed[:, None]
            y_t, after = self._masked_call((x_t[:, None], inner), {"elapsed": time}, seed)
            y_t = y_t if self.pools else y_t[:, 0]
        return y_t, self._state_type(after, seed.clone())

    def _parts(self, state: State | None, batch: int) -> tuple[State, Tensor]:
        if state is None:
            state = self.initial_state(batch)
        checks.check_structure(state, self._state_type, 2)
        inner, seed = state
        like = self._like()
        self._check_counting(like)
        checks.check_state((seed,), state_type(("seed",)), (1,), batch, like)
        if self.training and checks.readable(seed) and batch and bool((seed != seed[0]).any()):
            raise ArgumentError(
                "state.seed differs from row to row",
                expected="one number for all rows: a weight has one mask a call",
                advice="Start all rows together with layer.initial_state(batch)",
            )
        return inner, seed

    def _check_counting(self, like: Tensor) -> None:
        if self.training:
            checks.check_counts("WeightDropout", like)

    def _masked_call(self, arguments: tuple[Any, ...], keywords: dict[str, Any], seed: Tensor) -> tuple[Tensor, State]:
        if not self.training or self.probability == 0:
            return self.layer(*arguments, **keywords)
        key = seed[:1].detach() if seed.shape[0] else seed.new_zeros(1, 1)
        masked = {name: self._dropped(key, number, value) for number, (name, value) in enumerate(self._matrices())}
        return torch.func.functional_call(self.layer, masked, arguments, keywords)

    def _dropped(self, key: Tensor, number: int, matrix: Tensor) -> Tensor:
        rows = matrix.shape[0]
        own = _mix(key, key.new_full((), number)).expand(rows, 1)
        row = torch.arange(rows, dtype=matrix.dtype, device=matrix.device)[:, None, None]
        dropped, _ = ops.scan(self._program, row, (matrix.reshape(rows, -1), own), ())
        return dropped.reshape(matrix.shape)
