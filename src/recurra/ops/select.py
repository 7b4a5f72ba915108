"""Which backend runs a scan, and why: the native engine, or the plain-torch reference.

The choice is made by predicates that give a reason, never by an attempt that fails.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from recurra import engine
from recurra.errors import ArgumentError, BackendUnavailable
from recurra.errors import RecurraBackendWarning as RecurraBackendWarning
from recurra.ops.mixed import float32_reason
from recurra.ops.native import DTYPES, missing
from recurra.ops.segments import describe
from recurra.ops.tracing import constant_while_tracing

_NO_BFLOAT16 = "are rounded and run in float32, without AVX512_BF16"
_FORCED = "recurra.ops.backend('reference') is in force"
_CHOICES = ("auto", "native", "reference")
_functorch_stack: Callable[[], object] = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]


class Choice:
    """What `backend()` asked for, and the reasons that were said already."""

    name = "auto"
    said: frozenset[str] = frozenset()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Within it, every scan and step of the process runs on one backend.

    "native" is the engine and raises BackendUnavailable, with the reason, wherever it cannot run; "reference" is
    plain torch; "auto" is the engine wherever it can run. Functions compiled by torch.compile keep the backend that
    they were traced with.
    """
    if name not in _CHOICES:
        raise ArgumentError(f"unknown backend '{name}'", expected=f"one of {', '.join(_CHOICES)}")
    if name == "native" and engine.missing():
        raise BackendUnavailable(engine.missing())
    before, Choice.name = Choice.name, name
    try:
        yield
    finally:
        Choice.name = before


@constant_while_tracing
def static_reason(device: str, dtype: torch.dtype) -> str:
    """Why the engine cannot run tensors of this device and dtype; empty when it can."""
    reason = missing(device)
    if not reason and dtype not in DTYPES:
        return f"the engine computes in float32 and float64, not in {str(dtype).removeprefix('torch.')}"
    return reason


@constant_while_tracing
def transform_reason() -> str:
    """Why the op cannot be differentiated or batched here; empty when it can.

    If such a transform reached the op, torch would fail obscurely or return a silent zero.
    """
    if _functorch_stack() is not None:
        return "a torch.func transform (vmap, grad, jvp, ...) is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    return ""


def reference_reason(x: Tensor) -> str:
    """Why the reference runs for x; empty when the engine does.

    Raises BackendUnavailable when `backend("native")` forbids the reference.
    """
    if Choice.name == "reference":
        return _FORCED
    reason = static_reason(x.device.type, x.dtype)
    surprising = bool(reason)
    reason = reason or transform_reason()
    if reason and Choice.name == "native":
        raise BackendUnavailable(f"recurra.ops.backend('native') is in force, but {reason}")
    if surprising and not torch.compiler.is_compiling():
        _say(reason)
    return reason


def _say(reason: str) -> None:
    if reason not in Choice.said:
        Choice.said = Choice.said | {reason}
        message = f"recurra runs on its plain-torch reference, which is many times slower, because {reason}"
        warnings.warn(message, RecurraBackendWarning, stacklevel=5)


@dataclass(frozen=True, slots=True)
class Route:
    """What runs for tensors of one device and dtype, and why where that is not the engine."""

    device: str
    dtype: str
    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class Backends:
    """What runs on this machine. Print it."""

    engine: bool
    reason: str
    isa: str
    available_isas: tuple[str, ...]
    threads: int
    choice: str
    memory: str
    bfloat16_isa: str
    """What multiplies bfloat16 by bfloat16; empty where that is float32, on rounded numbers."""
    autocast: str
    """Why products under autocast to bfloat16 are in float32; empty where they are in bfloat16."""
    routes: tuple[Route, ...]

    def __str__(self) -> str:
        if self.engine:
            forced = " (forced by RECURRA_ISA)" if os.environ.get("RECURRA_ISA") else ""
            isas = ", ".join(self.available_isas)
            head = f"engine: {self.isa}{forced} of {isas}; {self.threads} threads (torch.set_num_threads)"
        else:
            head = f"engine: missing, {self.reason}"
        lines = [head]
        if self.choice != "auto":
            lines.append(f"recurra.ops.backend({self.choice!r}) is in force")
        lines += [f"{r.device:5} {r.dtype:9} {r.backend:10} {r.reason}".rstrip() for r in self.routes]
        lines.append(
            "any   any       reference  in torch.func transforms, forward-mode differentiation, double backward"
        )
        if self.choice != "reference":
            lines.append("linear cells run by a parallel scan in torch wherever the reference is named")
        if self.engine:
            lines.append(
                "weights may be int8 or bfloat16 (recurra.quantise); bfloat16 activations "
                + (f"run on {self.bfloat16_isa}" if self.bfloat16_isa else _NO_BFLOAT16)
            )
            emulated = "" if self.bfloat16_isa else ", emulated"
            bfloat16 = f"products in bfloat16 on {self.isa}{emulated}"
            where = f"float32, for {self.autocast}" if self.autocast else bfloat16
            lines.append(f"under torch.autocast to bfloat16: {where}")
        return "\n".join([*lines, f"memory: {self.memory}"])


def backends() -> Backends:
    """What runs a scan for each device and dtype on this machine, and why."""
    routes = []
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            reason = static_reason(device, dtype)
            if Choice.name == "reference":
                reason = _FORCED
            route = "reference" if reason else "native"
            routes.append(Route(device, str(dtype).removeprefix("torch."), route, reason))
    there = not engine.missing()
    return Backends(
        engine=there,
        reason=engine.missing(),
        isa=engine.isa() if there else "",
        available_isas=tuple(engine.available_isas()) if there else (),
        threads=torch.get_num_threads(),
        choice=Choice.name,
        memory=describe(),
        bfloat16_isa=engine.bfloat16_isa() if there else "",
        autocast=_FORCED if Choice.name == "reference" else float32_reason("cpu", torch.bfloat16),
        routes=tuple(routes),
    )
