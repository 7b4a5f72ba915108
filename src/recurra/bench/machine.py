"""Where a benchmark ran: processor, caches, versions, and how busy the machine was."""

from __future__ import annotations

import os
import platform
from importlib.metadata import distributions, version
from pathlib import Path

import torch

from recurra import __version__, engine

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_PACKAGES = ("torch", "numpy")
_PEERS = ("tensorflow_cpu", "keras", "jax", "flax", "onnxruntime", "torchrecurrent", "minGRU-pytorch", "reservoirpy")


def describe_machine() -> dict[str, object]:
    """The processor and its caches, as the operating system tells; empty where it does not."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "isa": engine.isa(),
        "available_isas": engine.available_isas(),
        "caches": _caches(),
    }


def describe_versions() -> dict[str, str]:
    """The versions of everything that is timed."""
    known = {"recurra": __version__, "python": platform.python_version()}
    return (
        known
        | {name: version(name) for name in _PACKAGES}
        | {name: version(name) for name in _PEERS if any(distributions(name=name))}
        | {"torch_threads": torch.__config__.parallel_info().splitlines()[0]}
    )


def load() -> list[float]:
    """Processes that wanted a core, on average over the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _processor() -> str:
    if _CPUINFO.exists():
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in fields:
            numbers = [fields.get(name, "?") for name in ("cpu family", "model", "stepping")]
            return "{} (family {}, model {}, stepping {})".format(fields["model name"], *numbers)
    return platform.processor()


def _caches() -> dict[str, str]:
    """Size of each cache that the first core uses, such as {"L1 data": "32K"}."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size = ((folder / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        found[f"L{level}" if kind == "Unified" else f"L{level} {kind.lower()}"] = size
    return found
