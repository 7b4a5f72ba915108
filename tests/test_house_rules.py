"""The limits that keep recurra readable. What ruff can check stands in pyproject.toml; the rest stands here."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house import ROOT, needs_source_tree, python_files, syntax_tree, tree_files

pytestmark = needs_source_tree

LINES_OF_A_FILE = 400
LINES_OF_A_TEST = 600
LINES_OF_A_FUNCTION = 60
PARAMETERS_OF_A_CONSTRUCTOR = 8

CODE = {".py", ".pyi", ".cpp", ".hpp", ".sh", ".cmake"}
# Written so that this file does not match itself.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")
CATCHES_ALL = re.compile(r"except\s*:|except\s+\(?\s*(?:Base)?Exc" + r"eption\b|catch\s*\(\s*\.\.\.\s*\)")
MACHINE_PATH = re.compile(r"(?<![\w.$~}/-])/(?:wo" + r"rk|ro" + r"ot|ho" + r"me|op" + r"t)/\w")
HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "ana" + "conda.org",
    "ana" + "conda.com",
    "download." + "pytorch.org",
)
PIP_SOURCES = ("--ind" + "ex-url", "--extra-ind" + "ex-url", "--find-" + "links")
REGISTRY = re.compile("|".join(map(re.escape, HOSTS + PIP_SOURCES)))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def place(path: Path, line: int | None = None) -> str:
    name = str(path.relative_to(ROOT))
    return name if line is None else f"{name}:{line}"


def matches(pattern: re.Pattern[str], suffixes: set[str] | None = None) -> list[str]:
    """Where the pattern occurs in the tree's text files (those with these suffixes)."""
    found = []
    for path in tree_files():
        if suffixes is not None and path.suffix not in suffixes:
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue
        lines = content.decode("utf-8").splitlines()
        found += [f"{place(path, n)}: {line.strip()}" for n, line in enumerate(lines, start=1) if pattern.search(line)]
    return found


def functions(path: Path) -> Iterator[Function]:
    return (node for node in ast.walk(syntax_tree(path)) if isinstance(node, Function))


def lines_of_code(function: Function) -> int:
    """Lines of a function from `def` to its end, its docstring not counted."""
    assert function.end_lineno is not None
    length = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        length -= first.end_lineno - first.lineno + 1
    return length


def public_constructors() -> Iterator[tuple[Path, ast.ClassDef, Function]]:
    for path in python_files("src"):
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from ((path, node, f) for f in node.body if isinstance(f, Function) and f.name == "__init__")


def test_files_are_short():
    too_long = []
    for path in (path for path in tree_files() if path.suffix in CODE):
        limit = LINES_OF_A_TEST if path.is_relative_to(ROOT / "tests") else LINES_OF_A_FILE
        count = len(path.read_text(encoding="utf-8").splitlines())
        if count > limit:
            too_long.append(f"{place(path)}: {count} lines, at most {limit}")
    assert not too_long, "\n".join(too_long)


def test_functions_are_short():
    too_long = [
        f"{place(path, f.lineno)} {f.name}: {lines_of_code(f)} lines, at most {LINES_OF_A_FUNCTION}"
        for path in python_files("src", "tests", "tools", "benchmarks", "recipes", "examples")
        for f in functions(path)
        if lines_of_code(f) > LINES_OF_A_FUNCTION
    ]
    assert not too_long, "\n".join(too_long)


def test_constructors_take_few_parameters():
    too_many = []
    for path, owner, f in public_constructors():
        count = len(f.args.posonlyargs) + len(f.args.args) + len(f.args.kwonlyargs) - 1
        if count > PARAMETERS_OF_A_CONSTRUCTOR:
            limit = PARAMETERS_OF_A_CONSTRUCTOR
            too_many.append(f"{place(path, f.lineno)} {owner.name}: {count} parameters, at most {limit}")
    assert not too_many, "\n".join(too_many)


def test_public_constructors_name_every_option():
    hiding = [f"{place(path, f.lineno)} {owner.name}" for path, owner, f in public_constructors() if f.args.kwarg]
    assert not hiding, "constructors with **kwargs:\n" + "\n".join(hiding)


def test_public_modules_classes_and_functions_have_docstrings():
    silent = []
    for path in python_files("src"):
        tree = syntax_tree(path)
        if ast.get_docstring(tree) is None:
            silent.append(place(path))
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    silent.append(f"{place(path, node.lineno)} {node.name}")
    assert not silent, "without a docstring:\n" + "\n".join(silent)


def test_nothing_is_left_unfinished():
    found = matches(UNFINISHED, CODE | {".md", ".toml", ".txt", ""})
    assert not found, "\n".join(found)


def test_no_failure_is_swallowed():
    found = matches(CATCHES_ALL, {".py", ".pyi", ".cpp", ".hpp"})
    assert not found, "\n".join(found)


def test_no_file_names_a_machine_or_a_registry():
    found = matches(MACHINE_PATH) + matches(REGISTRY)
    assert not found, "\n".join(found)
