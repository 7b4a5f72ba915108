"""`recurra doctor`: what a report of a problem should contain."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from recurra import __version__, engine
from recurra.ops import backends

_SECONDS = 0.3


def report_machine() -> None:
    """Print versions, processor, threads, the measured peak, and which backend runs what."""
    packages = ("torch", "lightning", "numpy", "safetensors")
    print(f"recurra     {__version__}")
    print(f"python      {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in packages:
        print(f"{package:12}{version(package)}")
    print(f"processor   {_processor()}, {os.cpu_count()} cores")
    print(f"threads     {torch.get_num_threads()} (torch.set_num_threads)")
    if not engine.missing():
        for count in sorted({1, torch.get_num_threads()}):
            peak = engine.peak_flops(4, count, _SECONDS) / 1e9
            print(
                f"peak        {peak:.0f} GFLOP/s in float32 on {count} thread{'s' if count > 1 else ''}, in registers"
            )
    print(backends())


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
