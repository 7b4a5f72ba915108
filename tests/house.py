"""What the tests of the source tree share: where it is and which files belong to it."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "recurra"

needs_source_tree = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="checks the source tree, run from there")


@cache
def tree_files() -> tuple[Path, ...]:
    """Every file that is in git or would be added to it."""
    if not (ROOT / ".git").exists():
        return ()
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return tuple(path for path in (ROOT / name for name in names) if path.is_file())


def python_files(*folders: str) -> list[Path]:
    """The Python files under these folders of the tree."""
    tops = [ROOT / folder for folder in folders]
    return [path for path in tree_files() if path.suffix == ".py" and any(path.is_relative_to(top) for top in tops)]


@cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
