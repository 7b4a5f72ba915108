"""Readable programs: the equations, the adjoint, and what is stored between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from recurra.program.core import Core, core_of
from recurra.program.differentiate import Adjoint, differentiate
from recurra.program.graph import PRODUCTS, Node, ancestors
from recurra.program.keep import kept_nodes, results_of
from recurra.program.program import Program

_INFIX = {
    "add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "mod": ("%", 2), "lt": ("<", 0),
    "le": ("<=", 0),
    "gt": (">", 0), "ge": (">=", 0), "eq": ("==", 0), "ne": ("!=", 0),
}  # fmt: skip
_LEAF_NAMES = {"input": "x", "elapsed": "elapsed", "grad_output": "d_y", "unit": "unit"}


class _Printer:
    """Writes nodes as assignments: what has a name or is read more than once gets a line, the rest is written
    in place."""

    def __init__(self, nodes: tuple[Node, ...], names: Mapping[int, str], roots: Iterable[int]) -> None:
        self.nodes = nodes
        self.names = dict(names)
        self.roots = list(roots)
        live = ancestors(nodes, self.roots)
        uses = Counter(j for i in live for j in nodes[i].inputs)
        for i in sorted(live):
            if (
                i not in self.names
                and uses[i] > 1
                and nodes[i].inputs
                and nodes[i].operation not in ("gate", "broadcast")
            ):
                self.names[i] = f"v{i}"

    def lines(self, skip: Iterable[int] = ()) -> list[str]:
        done = set(skip)
        found: list[str] = []
        for i in sorted(ancestors(self.nodes, self.roots)):
            if i in self.names and i not in done and self.nodes[i].inputs:
                found.append(f"{self.names[i]} = {self.expression(i, named=False)}")
        return found

    def expression(self, number: int, named: bool = True, level: int = 0) -> str:
        node = self.nodes[number]
        if named and number in self.names:
            return self.names[number]
        if node.operation in ("constant", "columns"):
            return f"{node.attribute:g}" if node.operation == "constant" else f"columns({node.attribute})"
        parts = [self.expression(i) for i in node.inputs]
        if node.operation in _INFIX:
            sign, strength = _INFIX[node.operation]
            left = self.expression(node.inputs[0], level=strength)
            right = self.expression(node.inputs[1], level=strength + (sign in "-/%"))
            text = f"{left} {sign} {right}"
            return f"({text})" if strength < level else text
        if node.operation in PRODUCTS:
            turned = ".T" if node.operation == "matmul_transposed" else ""
            text = f"{self.expression(node.inputs[0], level=4)}{turned} @ {self.expression(node.inputs[1], level=3)}"
            return f"({text})" if level > 1 else text
        if node.operation == "one_minus":
            return f"(1 - {self.expression(node.inputs[0], level=2)})"
        if node.operation == "neg":
            text = f"-{self.expression(node.inputs[0], level=3)}"
            return f"({text})" if level > 3 else text
        if node.operation == "gate":
            return f"{self.expression(node.inputs[0], level=4)}[{node.attribute}]"
        if node.operation == "join":
            return f"[{', '.join(parts)}]"
        if node.operation == "transpose":
            return f"{self.expression(node.inputs[0], level=4)}.T"
        if node.operation == "broadcast":
            return self.expression(node.inputs[0], level=level)
        return f"{node.operation}({', '.join(parts)})"


def _leaf_name(node: Node, program: Program) -> str | None:
    if node.operation == "state":
        return program.states[node.attribute].name
    if node.operation == "parameter":
        return program.parameters[node.attribute].name
    return _LEAF_NAMES.get(node.operation)


def _core_names(program: Program, core: Core) -> dict[int, str]:
    """The names of the author, carried over to the core of the program."""
    names = dict(core.labels)
    for i, node in enumerate(core.nodes):
        if node.operation == "parameter":
            given = program.nodes[program.core_parameters[node.attribute]]
            own = _leaf_name(given, program) if given.operation == "parameter" else None
            names.setdefault(i, own or f"p{node.attribute}")
        else:
            names[i] = _leaf_name(node, program) or names.get(i, "")
    for k, number in enumerate(core.next_states):
        if core.nodes[number].inputs:
            names[number] = f"{core.states[k].name}'"
    return {i: name for i, name in names.items() if name}


def equations(program: Program) -> list[str]:
    """The equations as lines, with the names that their author gave."""
    names = {i: name for i, name in program.labels}
    for i, node in enumerate(program.nodes):
        name = _leaf_name(node, program)
        if name:
            names[i] = name
    for k, number in enumerate(program.next_states):
        if program.nodes[number].inputs:
            names[number] = f"{program.states[k].name}'"
    printer = _Printer(program.nodes, names, program.results)
    lines = printer.lines()
    for spec, number in zip(program.states, program.next_states, strict=True):
        if not program.nodes[number].inputs:
            lines.append(f"{spec.name}' = {printer.expression(number)}")
    lines.append(f"y = {printer.expression(program.output)}")
    return lines


def _adjoint_lines(core: Core, adjoint: Adjoint, names: dict[int, str]) -> list[str]:
    for i, node in enumerate(adjoint.nodes):
        if node.operation == "grad_next":
            names[i] = f"d_{core.states[node.attribute].name}'"
        elif node.operation == "grad_output":
            names[i] = "d_y"
    printer = _Printer(adjoint.nodes, names, results_of(adjoint))
    lines = printer.lines(skip=range(adjoint.forward_count))
    parameters = {n.attribute: names[i] for i, n in enumerate(core.nodes) if n.operation == "parameter"}
    for state, number in zip(core.states, adjoint.grad_states, strict=True):
        lines.append(f"d_{state.name} = {0 if number is None else printer.expression(number)}")
    lines.append(f"d_x = {0 if adjoint.grad_input is None else printer.expression(adjoint.grad_input)}")
    for outer in adjoint.outers:
        left, right = printer.expression(outer.left), printer.expression(outer.right)
        lines.append(f"d_{parameters[outer.parameter]} += outer({left}, {right})")
    for total in adjoint.sums:
        lines.append(f"d_{parameters[total.parameter]} += {printer.expression(total.value)}")
    return lines


def describe(program: Program) -> str:
    """The program as a page of text: what it declares, its equations, its adjoint, and what is stored between
    the two."""
    core = core_of(program)
    adjoint = differentiate(core)
    names = _core_names(program, core)
    forward = _Printer(core.nodes, names, (*core.next_states, core.output))
    kept = kept_nodes(core, adjoint)
    names.update({i: forward.names.get(i, f"k{i}") for i in kept})
    stored = [f"{names[i]} = {_Printer(core.nodes, forward.names, kept).expression(i, named=False)}" for i in kept]
    shapes = ", ".join(f"{p.name} ({' x '.join(str(w) for w in p.symbolic_shape)})" for p in program.parameters)
    states = ", ".join(f"{s.name} ({s.width})" for s in program.states)
    sections = [
        (f"{program.name}: {program.doc}", []),
        (f"states: {states}", []),
        (f"parameters: {shapes}", []),
        (f"classes: {', '.join(sorted(program.classes)) or 'none'}", []),
        ("equations", equations(program)),
        ("stored for the backward pass, besides the states", stored or ["nothing"]),
        ("adjoint", _adjoint_lines(core, adjoint, {**forward.names, **names})),
    ]
    return "\n".join("\n".join([title, *(f"    {line}" for line in lines)]) for title, lines in sections)
