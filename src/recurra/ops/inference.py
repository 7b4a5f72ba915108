"""Scans and products with int8 or bfloat16 matrices, on the engine: no gradient, and nothing that torch traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurra import engine
from recurra.errors import ArgumentError, BackendUnavailable
from recurra.ops import native
from recurra.ops.recurrence import Result, text_of
from recurra.ops.select import Choice, transform_reason
from recurra.ops.stepping import data_ptr, empty_like, threads
from recurra.ops.tracing import dispatch_modes, is_watched, tracing_state
from recurra.program import Program


class SmallScan:
    """A program with core parameters that never change: int8 where there are scales, one for each row, else bfloat16 or
    float32. With `bfloat16_vectors`, what bfloat16 matrices multiply is rounded to bfloat16, too.

    Raises (in calls):
        ArgumentError: a gradient is wanted, or torch traces the call.
        BackendUnavailable: the engine is not there, or `backend("reference")` is in force.
        ShapeError: something does not fit, or is not of float32 on the CPU.
    """

    def __init__(
        self,
        program: Program,
        core: Sequence[Tensor],
        scales: Sequence[Tensor | None],
        *,
        bfloat16_vectors: bool = False,
    ) -> None:
        self._program = program
        self._core = [p.contiguous() for p in core]
        self._scales = scales
        self._vectors = bfloat16_vectors
        self._quick: _Step | None = None

    def __call__(
        self,
        x: Tensor,
        states: Sequence[Tensor],
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        elapsed: Tensor | None = None,
    ) -> Result:
        """As `recurra.ops.scan`."""
        _check_possible([x, *states, elapsed])
        if torch.is_autocast_enabled("cpu"):
            x, elapsed = x.float(), None if elapsed is None else elapsed.float()
        text = text_of(self._program)
        call = native.Call(text, x, states, self._core, lengths, reset, elapsed, self._scales)
        plan, call = native.prepare(call, "infer")
        y, final = native.new_results(plan, call)
        native.run_forward(plan, call, y, final, call.x.new_empty(0), bfloat16_vectors=self._vectors)
        return y, tuple(final)

    def step(self, x: Tensor, states: Sequence[Tensor], elapsed: Tensor | None = None) -> Result:
        """As `recurra.ops.step`."""
        result = None if elapsed is not None else self.quick_step(x, states)
        if result is not None:
            return result
        if self._quick is None and elapsed is None:
            _check_possible([x, *states])
            text, x_1 = text_of(self._program), x[:, None]
            native.check(native.Call(text, x_1, states, self._core, None, None, None, self._scales))
            self._quick = _Step(self._program, x, states, self._core, self._scales, self._vectors)
        y, after = self(x[:, None], states, elapsed=None if elapsed is None else elapsed[:, None])
        return y[:, 0], after

    def quick_step(self, x: Tensor, states: Sequence[Tensor]) -> Result | None:
        """The step, where one was made before and these arguments are as plain as those of a stream are; else None."""
        return None if self._quick is None else self._quick(x, states)


class _Step:
    """Steps of arguments that are as plain as those of a stream are."""

    def __init__(
        self,
        program: Program,
        x: Tensor,
        states: Sequence[Tensor],
        core: Sequence[Tensor],
        scales: Sequence[Tensor | None],
        vectors: bool,
    ) -> None:
        plan = native.plan_of(text_of(program), "infer", native.columns_of(x, states, core))
        self._forward = plan.forward
        self._columns = plan.output_columns
        self._input = plan.input_columns
        self._states = tuple(plan.state_columns)
        self._core = [p.data_ptr() for p in core]
        self._scales = [0 if scale is None else scale.data_ptr() for scale in scales]
        self._bfloat16 = native.bfloat16_flags(core, vectors)

    def __call__(self, x: Tensor, states: Sequence[Tensor]) -> Result | None:
        """The step; None unless the arguments are plain."""
        if dispatch_modes() or tracing_state() is not None or transform_reason() or Choice.name == "reference":
            return None
        if torch.is_autocast_enabled("cpu") or len(states) != len(self._states):
            return None
        if type(x) is not Tensor or x.ndim != 2:
            return None
        batch = x.shape[0]
        if not _is_plain(x, batch, self._input):
            return None
        for state, columns in zip(states, self._states, strict=True):
            if not _is_plain(state, batch, columns):
                return None
        y = x.new_empty((batch, self._columns))
        after = tuple(map(empty_like, states))
        self._forward(
            4, batch, 1, threads(), x.data_ptr(), self._input, 0, y.data_ptr(), self._columns, 0, 0, 0, 0, 0, 0, 0,
            self._core, list(map(data_ptr, states)), list(map(data_ptr, after)), self._scales, self._bfloat16,
        )  # fmt: skip
        return y, after


def _is_plain(value: Tensor, batch: int, columns: int) -> bool:
    return (
        type(value) is Tensor
        and value.dtype is torch.float32
        and value.is_cpu
        and value.shape == (batch, columns)
        and value.is_contiguous()
        and not value.requires_grad
    )


def _check_possible(given: Sequence[Tensor | None]) -> None:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
        raise ArgumentError(
            "a gradient is wanted through int8 or bfloat16 weights",
            expected="inference, under torch.no_grad()",
            advice="Train the float32 model, and quantise it afterwards",
        )
    if torch.compiler.is_compiling() or is_watched(given) or transform_reason():
        raise ArgumentError(
            "torch traces or transforms a layer with int8 or bfloat16 weights",
            expected="a plain call",
            advice="Compile or export the float32 model",
        )
    if engine.missing():
        raise BackendUnavailable(f"int8 and bfloat16 weights need the engine, but {engine.missing()}")
    if Choice.name == "reference":
        raise BackendUnavailable(
            "int8 and bfloat16 weights run on the engine, but recurra.ops.backend('reference') is in force"
        )
