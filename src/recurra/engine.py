"""The native engine: whether it is there, what it runs on, and its plans, each made once. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from recurra.errors import BackendUnavailable

# An engine that is there but cannot be loaded is an error and raises here: only a missing one is a known state.
_native: Any = import_module("recurra._engine") if find_spec("recurra._engine") else None

_MOST_PLANS = 1024
_plans: dict[Hashable, Any] = {}


class Code(Protocol):
    """A plan as the compiler hands it over."""

    @property
    def code(self) -> np.ndarray: ...
    @property
    def constants(self) -> np.ndarray: ...


def missing() -> str:
    """Why there is no engine; empty when there is one."""
    if _native is None:
        return "the native engine is not built: reinstall recurra with a C++17 compiler (g++ or clang++) on the PATH"
    return ""


def _engine() -> Any:
    if _native is None:
        raise BackendUnavailable(missing())
    return _native


def isa() -> str:
    """The instruction set that the engine runs on. RECURRA_ISA forces one."""
    return _engine().isa()


def available_isas() -> list[str]:
    """The instruction sets of this build that this processor has, best first."""
    return list(_engine().available_isas())


def peak_flops(item_size: int, threads: int, seconds: float) -> float:
    """Floating-point operations a second of a loop that stays in registers: the most that any kernel could reach.

    It is measured, for about so many seconds. `item_size` is 4 or 8 bytes. Raises BackendUnavailable without an engine.
    """
    return _engine().peak_flops(item_size, threads, seconds)


@contextmanager
def profiled() -> Iterator[dict[str, float]]:
    """Within it, the engine measures where the time of its calls goes; what is yielded is filled at its end.

    Seconds by part: of each call of the process the mean of its threads. Raises BackendUnavailable without an engine.
    """
    seconds: dict[str, float] = {}
    _engine().start_profile()
    try:
        yield seconds
    finally:
        seconds.update(_engine().stop_profile())


def lease(size: int) -> np.ndarray:
    """`size` bytes of work memory, not initialised, which the engine gets back when the array is freed.

    Fresh memory costs time for every page; what comes back is used again. Raises BackendUnavailable without an engine.
    """
    return _engine().lease(size)


def bfloat16_isa() -> str:
    """The instruction set that multiplies bfloat16 by bfloat16; empty where float32 does, with the vectors rounded."""
    return _engine().bfloat16_isa()


def frozen(
    plan: Any,
    item_size: int,
    parameters: list[np.ndarray],
    scales: list[np.ndarray | None] | None = None,
    *,
    bfloat16_vectors: bool = False,
) -> Any:
    """A forward plan with parameters that never change, packed once: `forward`, `step`.

    `parameters` are contiguous arrays of the plan's shapes, of 4 or 8 bytes an element; where there are `scales`, of
    int8, with one for each row; a matrix beside float32 may be of uint16, the bits of bfloat16, and with
    `bfloat16_vectors` the vectors that it multiplies are rounded to bfloat16. Raises BackendUnavailable without an
    engine.
    """
    return _engine().Frozen(plan, item_size, parameters, scales or [], bfloat16_vectors)


def stream(frozen: Any, rows: int) -> Any:
    """Rows of a `frozen` plan with the states that they carry: `push`, `tick`, `reset`, `read`, `write`.

    It checks all that it is handed. Raises BackendUnavailable without an engine.
    """
    return _engine().Stream(frozen, rows)


def plan(key: Hashable, compile: Callable[[], Code]) -> Any:
    """The engine's plan for `key`, compiled and verified at the first call.

    Raises BackendUnavailable without an engine.
    """
    found = _plans.get(key)
    if found is None:
        native = _engine()
        code = compile()
        found = native.Plan(code.code, code.constants)
        if len(_plans) >= _MOST_PLANS:
            _plans.pop(next(iter(_plans)))
        _plans[key] = found
    return found
