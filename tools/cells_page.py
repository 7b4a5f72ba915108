"""Write docs/cells.md: every built-in cell with its equations, as the code has them. Run through `make docs`."""

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

from recurra import cells, nn
from recurra.program.widths import Draw, Initial, ParameterSpec

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cells.md"
FOLDER = Path(cells.__file__).parent


@dataclass(frozen=True)
class Family:
    """The cells of one file."""

    title: str
    file: str
    sources: dict[str, str]


def families() -> list[Family]:
    """Every file that holds registered cells, the classic ones first."""
    found = []
    for path in sorted(FOLDER.glob("*.py"), key=lambda path: (path.stem != "classic", path.stem)):
        text = path.read_text(encoding="utf-8")
        module, lines = ast.parse(text), text.splitlines()
        sources = {
            node.name: "\n".join(lines[node.decorator_list[0].lineno - 1 : node.end_lineno])
            for node in module.body
            if isinstance(node, ast.FunctionDef) and node.name in cells.names() and node.decorator_list
        }
        if sources:
            found.append(Family(re.split("[:.]", ast.get_docstring(module) or "")[0], path.name, sources))
    return found


def start(value: Initial) -> str:
    """What one gate starts from, as it is written in a cell."""
    return f"{value.name}({', '.join(map(str, value.arguments))})" if isinstance(value, Draw) else f"{value:g}"


def parameter(spec: ParameterSpec) -> str:
    """A parameter with its shape, and what it starts from where that is not the usual."""
    shape = " x ".join(map(str, spec.symbolic_shape)).replace("*", "\\*")
    starts = list(dict.fromkeys(spec.initial)) if len(set(spec.initial)) == 1 else list(spec.initial)
    said = "" if starts == [0.0] else f", from {', '.join(map(start, starts))}"
    return f"`{spec.name}` ({shape}{said}{', fixed' if spec.fixed else ''})"


def entry(name: str, source: str) -> list[str]:
    """What stands on the page about one cell."""
    program = cells.get(name)
    put_out = "" if program.output in program.next_states else f"; the output ({program.output_width}) is none of them"
    states = ", ".join(f"`{s.name}` ({s.width}{f', from {s.initial:g}' if s.initial else ''})" for s in program.states)
    lines = [
        f"### {name}",
        "",
        "```python",
        source,
        "```",
        "",
        f"* states: {states}{put_out}",
        f"* parameters: {', '.join(map(parameter, program.parameters))}",
    ]
    if program.width_names:
        lines.append(f"* widths to give: {', '.join(f'`{w}`' for w in sorted(program.width_names))}")
    if program.classes:
        lines.append(f"* class: {', '.join(sorted(program.classes))}")
    if program.uses_elapsed:
        lines.append("* in continuous time: a step takes the time since the step before")
    return [*lines, ""]


def page() -> str:
    """The text of docs/cells.md."""
    found = families()
    count = sum(len(family.sources) for family in found)
    lines = [
        "# The cells",
        "",
        f"`make docs` writes this page from the code: {count} cells, each the equations of its paper. `recurra cells`",
        "lists them too; [laws.md](laws.md) says which laws each of them keeps. Widths other than `input` and `hidden`",
        'are given to the layer, as in `nn.Recurrent("scrn", 8, 64, widths={"context": 16})`. A plain value among the',
        "parameters is a hyperparameter: `nn.Recurrent(cells.rhn(depth=4), 8, 64)`. Matrices start as",
        "`recurra.nn.init` says, vectors from zero where nothing else is said.",
        "",
        "*product-free*: no state is multiplied by a matrix. *linear*: the next states are affine in the states.",
        "",
    ]
    for family in found:
        names = " · ".join(f"[{name}](#{name})" for name in family.sources)
        lines += [f"**{family.title}:** {names}", ""]
    lines += ["**In plain torch:** [LTC](#ltc)", ""]
    for family in found:
        lines += [f"## {family.title}", "", f"`src/recurra/cells/{family.file}`", ""]
        for name, source in family.sources.items():
            lines += entry(name, source)
    lines += ["## In plain torch", "", "### LTC", "", inspect.getdoc(nn.LTC) or "", "", "```python"]
    lines += [inspect.cleandoc("\n" + inspect.getsource(nn.LTC._advance)), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is written")
