"""One build of the engine with all its mutants in it, and the way to load it in the place of the right one."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "mutants"
LISTED = BUILD / "mutants.json"


def build() -> None:
    """Writes the sources with the mutants to build/mutants and compiles what has changed, with little optimisation:
    what counts is what is computed."""
    from mutants.schemata import rewrite

    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "csrc").glob("*.?pp")}
    written, edits = rewrite(sources)
    project = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8").replace("-O3", "-O1")
    for name, text in {"CMakeLists.txt": project, **{f"csrc/{name}": text for name, text in written.items()}}.items():
        _write(BUILD / "source" / name, text)
    _write(LISTED, json.dumps([[e.number, e.place, e.change] for e in edits]))
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        ["cmake", "-S", BUILD / "source", "-B", BUILD / "made", "-G", "Ninja", "--log-level=WARNING",
         f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", BUILD / "made", "--target", "_engine"],
    ):  # fmt: skip
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _write(path: Path, text: str) -> None:
    """Leaves a file alone that holds the text already, so that nothing is compiled twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def load() -> None:
    """Makes the build `recurra._engine`, which must not be loaded yet."""
    if "recurra._engine" in sys.modules:
        raise RuntimeError("the right engine is loaded already")
    (path,) = (BUILD / "made").glob(f"_engine*{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    spec = importlib.util.spec_from_file_location("recurra._engine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recurra._engine"] = module
    spec.loader.exec_module(module)


def wake(number: int) -> None:
    """Makes one mutant of the loaded engine run; 0 lets all of them sleep."""
    library = ctypes.CDLL(sys.modules["recurra._engine"].__file__)
    ctypes.c_int.in_dll(library, "recurra_mutant").value = number
