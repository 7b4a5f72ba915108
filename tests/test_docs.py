"""The code on the pages for users runs, in order, and prints what the page says."""

import ast
import contextlib
import io
import re
import runpy
from pathlib import Path

import pytest

from house import ROOT, needs_source_tree
from recurra import backends

pytestmark = needs_source_tree

PAGES = (
    "docs/write-your-own-cell.md",
    "docs/transforms.md",
    "docs/from-torch.md",
    "docs/reservoir.md",
    "docs/long-sequences.md",
    "docs/memories.md",
    "docs/attention.md",
    "docs/onnx.md",
    "docs/streams.md",
    "docs/small-weights.md",
    "README.md",
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINES_OF_A_CELL = 15


def blocks(page: str) -> list[tuple[str, str, int]]:
    """Language, text and first line of every fenced block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in BLOCK.finditer(text)]


def run(page: str) -> dict[str, object]:
    """Runs the Python blocks of a page in one namespace; what one prints must be the text block that follows it."""
    namespace: dict[str, object] = {"__name__": "docs"}
    found = blocks(page)
    for (language, code, line), following in zip(found, [*found[1:], ("", "", 0)], strict=True):
        if language != "python":
            continue
        # blank lines before the code, so that a traceback gives the line of the page
        compiled = compile("\n" * (line - 1) + code, str(Path(page)), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compiled, namespace)
        if printed.getvalue():
            assert following[0] == "text", f"{page}:{line} prints, but no text block follows"
            assert printed.getvalue() == following[1], f"{page}:{line} prints something else than the page says"
    return namespace


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_backends_that_are_shown_are_printed(page: str):
    shown = next(code for _, code, _ in blocks(page) if code.startswith("engine: "))
    printed = str(backends()).splitlines()
    if backends().engine:
        # what depends on the processor's instructions
        both = [re.sub(r"bfloat16(:| activations).*", "", "\n".join(s[1:])) for s in (shown.splitlines(), printed)]
        assert both[0] == both[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # what a page writes to is a folder of its own
    monkeypatch.chdir(tmp_path)
    namespace = run(page)
    if page == "README.md":
        assert namespace["accuracy"] > 0.9
        assert namespace["loss"] < 0.1


def test_both_readmes_have_the_same_code():
    def code(page: str) -> list[str]:
        # comments are in the language of the page
        return [ast.dump(ast.parse(text)) for language, text, _ in blocks(page) if language == "python"]

    assert code("README.ja.md") == code("README.md")


def test_the_example_cell_is_short():
    _, code, _ = blocks("docs/write-your-own-cell.md")[0]
    (cell,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    assert cell.end_lineno is not None
    assert cell.end_lineno - cell.lineno + 2 <= LINES_OF_A_CELL


def test_the_page_of_the_cells_is_what_the_command_writes():
    written = runpy.run_path(str(ROOT / "tools" / "cells_page.py"))["page"]()
    page = (ROOT / "docs" / "cells.md").read_text(encoding="utf-8")
    assert page == written, "docs/cells.md is out of date: run make docs"


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)
