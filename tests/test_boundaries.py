"""Imports go downward only: each part of the package may use what stands below it, never what stands above."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import PACKAGE, needs_source_tree, python_files, syntax_tree

# From the bottom to the top. Names on one line do not import one another.
LAYERS = (
    ("errors",),
    ("_engine", "bfloat16", "data", "int8", "nested"),
    ("engine", "storage", "streams"),
    ("program",),
    ("cells",),
    ("ops",),
    ("nn",),
    ("decode", "models", "quantisation"),
    ("onnx",),
    ("checkpoint", "convert", "runtime"),
    ("testing",),
    ("reservoir", "tasks"),
    ("opening",),
    ("learn",),
    ("bench", "explain", "tune"),
    ("cli", "serve"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

TORCH = {"torch", "lightning", "torchmetrics"}
# The parts that a deployed model runs without torch.
WITHOUT_TORCH = (
    "bfloat16",
    "errors",
    "engine",
    "int8",
    "nested",
    "storage",
    "streams",
    "program",
    "cells",
    "decode",
    "runtime",
)
# `data` stands beside the others: it may be used from `decode` upward and uses none of them.
USES_NOTHING_BUT_ERRORS = ("data",)
MAY_USE_DATA = RANK["decode"]


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its top-level folder or module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every module that a file imports, wherever in the file it does so."""
    package = ["recurra", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from recurra import nn` names the part only in what it imports.
            yield from ((node.lineno, f"{name}.{a.name}" if name == "recurra" else name) for a in node.names)


def imports_within_package() -> Iterator[tuple[Path, int, str, str]]:
    """Every import of one part by another: file, line, the part that imports, the part imported."""
    for path in python_files("src"):
        part = part_of(path)
        for line, name in imported_modules(path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if part != "__init__" and top == "recurra" and other in RANK and other != part:
                yield path, line, part, other


@needs_source_tree
def test_every_part_has_its_layer():
    parts = {part_of(path) for path in python_files("src")} - {"__init__", "__main__"}
    unplaced = sorted(parts - RANK.keys())
    assert not unplaced, f"give these parts a place in LAYERS: {unplaced}"


@needs_source_tree
def test_imports_go_downward_only():
    upward = [
        f"{path.relative_to(PACKAGE)}:{line}: {part} imports {other}"
        for path, line, part, other in imports_within_package()
        if part in RANK and RANK[other] >= RANK[part]
    ]
    assert not upward, "\n".join(upward)


@needs_source_tree
def test_data_stands_beside_the_others():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {part} imports {other}"
        for path, line, part, other in imports_within_package()
        if (part in USES_NOTHING_BUT_ERRORS and other != "errors")
        or (other == "data" and part in RANK and RANK[part] < MAY_USE_DATA)
    ]
    assert not wrong, "\n".join(wrong)


@needs_source_tree
def test_lower_parts_do_not_name_torch():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in python_files("src")
        if part_of(path) in WITHOUT_TORCH
        for line, name in imported_modules(path)
        if name.partition(".")[0] in TORCH
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["recurra", "recurra.program", "recurra.cells", "recurra.runtime"])
def test_import_does_not_load_torch(module: str):
    code = f"import sys, {module}; print(*sorted({{'torch', 'lightning'}} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not loaded, f"import {module} loads {loaded}"
