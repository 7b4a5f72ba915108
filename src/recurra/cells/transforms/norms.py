"""Normalisation inside the recurrence: of what each product gives, and of states inside the output's nonlinearity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recurra.cells.language import divide_by_rms, standardise
from recurra.cells.registry import Cell, find
from recurra.cells.transforms.building import AnyCell, chosen_states, transformed
from recurra.errors import CellError
from recurra.program.graph import PRODUCTS, Node, ancestors
from recurra.program.program import Program
from recurra.program.rewrite import Rewrite
from recurra.program.symbols import Symbol
from recurra.program.widths import ParameterSpec, Width

_NONLINEARITIES = frozenset({"tanh", "sigmoid", "relu", "softplus"})


def layer_norm(cell: AnyCell, *, per_gate: bool = False, states: Iterable[str] | None = None) -> Cell:
    """Layer normalisation in the recurrence (Ba et al. 2016, eq. 20-22).

    Each product of an input or recurrent matrix is normalised: over its whole group of gates, or with `per_gate` over
    each gate. ``W @ x`` becomes ``gain_W * (W @ x - mean) / sqrt(variance + 1e-5) + bias_W``. ``bias_W`` is left out
    where the cell adds a bias of its own to each gate of the product already. A state of which the output reads a
    nonlinearity, as the LSTM's ``tanh(c)``, is normalised inside it, with ``gain_c`` and ``bias_c``; `states` names
    which, and an empty list means none. Gains start at 1, biases at 0. Raises CellError for a cell without such a
    product, and for a named state that is not read so.
    """
    return _normalised(cell, "layer_norm", standardise, per_gate, states, biased=True)


def rms_norm(cell: AnyCell, *, per_gate: bool = False, states: Iterable[str] | None = None) -> Cell:
    """Root mean square normalisation in the recurrence (Zhang and Sennrich 2019), where `layer_norm` has its own.

    ``W @ x`` becomes ``gain_W * (W @ x) / sqrt(mean square + 1e-5)``; no mean is subtracted, and no bias added.
    Raises CellError as `layer_norm` does.
    """
    return _normalised(cell, "rms_norm", divide_by_rms, per_gate, states, biased=False)


class _Norms:
    """Puts the norms into one program."""

    def __init__(self, rewrite: Rewrite, norm: Callable[[Symbol], Symbol], per_gate: bool, biased: bool) -> None:
        self.rewrite = rewrite
        self.program = rewrite.program
        self.norm, self.per_gate, self.biased = norm, per_gate, biased
        self.products = products_of(self.program)
        self.read_in = {
            reader: state for state, readers in states_in_output(self.program).items() for reader in readers
        }

    def replace(self, number: int, value: Symbol) -> Symbol:
        node = self.program.nodes[number]
        if number in self.products:
            name = self.products[number]
            return self._affine(value, name, self.biased and not self._has_bias(number))
        if number in self.read_in:
            inner = self._affine(self.rewrite.copied(node.inputs[0]), self.read_in[number], self.biased)
            return self.rewrite.symbol(self.rewrite.graph.call(node.operation, inner.number, attribute=node.attribute))
        return value

    def _affine(self, value: Symbol, name: str, biased: bool) -> Symbol:
        width = value.width
        parts = list(value) if self.per_gate and width.count > 1 else [value]
        normed = [self.norm(part) for part in parts]
        result = normed[0] if len(parts) == 1 else self._join(normed, width)
        result = self._parameter(f"gain_{name}", "gain", width, 1.0) * result
        return result + self._parameter(f"bias_{name}", "bias", width, 0.0) if biased else result

    def _join(self, parts: list[Symbol], width: Width) -> Symbol:
        return self.rewrite.symbol(self.rewrite.graph.join([part.number for part in parts], width))

    def _parameter(self, name: str, kind: str, width: Width, initial: float) -> Symbol:
        return self.rewrite.add_parameter(ParameterSpec(name, kind, width, None, (initial,) * width.count))

    def _has_bias(self, product: int) -> bool:
        """Whether the cell adds a bias of its own to every gate of a product."""
        nodes, readers = self.program.nodes, self.rewrite.readers
        gates = [r for r in readers[product] if nodes[r].operation == "gate"]
        whole = gates if len(gates) == len(readers[product]) else [product]
        return bool(whole) and all(self._is_added_to_bias(value) for value in whole)

    def _is_added_to_bias(self, value: int) -> bool:
        """Whether whatever reads a value is a sum with a bias in it."""
        nodes, readers = self.program.nodes, self.rewrite.readers[value]
        if not readers or any(nodes[r].operation not in ("add", "sub") for r in readers):
            return False
        return all(any(map(self._is_bias, self._terms(r))) or self._is_added_to_bias(r) for r in readers)

    def _terms(self, total: int) -> list[int]:
        nodes = self.program.nodes
        if nodes[total].operation not in ("add", "sub"):
            return [total]
        return [term for i in nodes[total].inputs for term in self._terms(i)]

    def _is_bias(self, number: int) -> bool:
        node = self.program.nodes[number]
        if node.operation == "gate":
            node = self.program.nodes[node.inputs[0]]
        return node.operation == "parameter" and self.program.parameters[node.attribute].kind == "bias"


def products_of(program: Program) -> dict[int, str]:
    """The products of an input or recurrent matrix, each with the name of its matrix."""
    found = {}
    for i in sorted(program.live):
        if program.nodes[i].operation in PRODUCTS:
            matrices = [program.parameters[k] for k in _parameters(program, program.nodes[i].inputs[0])]
            names = [m.name for m in matrices if m.kind in ("input", "recurrent")]
            if names:
                found[i] = "_".join(names)
    return found


def _parameters(program: Program, number: int) -> list[int]:
    leaves = (program.nodes[i] for i in sorted(ancestors(program.nodes, [number])))
    return [leaf.attribute for leaf in leaves if leaf.operation == "parameter"]


def states_in_output(program: Program) -> dict[str, list[int]]:
    """The states of which the output reads a nonlinearity, after the step, with the nodes of those nonlinearities."""
    nodes = program.nodes
    found: dict[str, list[int]] = {}
    for state, spec in enumerate(program.states):
        if spec.own:
            values = _values_of(program, program.next_states[state])
            readers = [i for i in ancestors(nodes, [program.output]) if nodes[i].operation in _NONLINEARITIES]
            chosen = sorted(i for i in readers if nodes[i].inputs[0] in values)
            if chosen:
                found[spec.name] = chosen
    return found


def _values_of(program: Program, result: int) -> set[int]:
    """The next state, also as it was before a transform such as zoneout held some of it back."""
    nodes = program.nodes
    found: set[int] = set()

    def visit(number: int) -> None:
        node: Node = nodes[number]
        if node.operation in ("state", "parameter", "constant") or number in found:
            return
        found.add(number)
        scaled = node.operation == "mul" and any(nodes[i].operation == "constant" for i in node.inputs)
        if scaled or node.operation in ("add", "where"):
            for i in node.inputs[1 if node.operation == "where" else 0 :]:
                visit(i)

    visit(result)
    return found


def _normalised(
    cell: AnyCell,
    name: str,
    norm: Callable[[Symbol], Symbol],
    per_gate: bool,
    states: Iterable[str] | None,
    *,
    biased: bool,
) -> Cell:
    program = find(cell).program
    products = products_of(program)
    if not products:
        raise CellError(
            f"{name}: cell '{program.name}' has no product of an input or recurrent matrix, so nothing to normalise"
        )
    readable = states_in_output(program)
    chosen = list(readable) if states is None else chosen_states(cell, states)
    for state in chosen:
        if state not in readable:
            raise CellError(
                f"{name}: the output of cell '{program.name}' reads no nonlinearity of the state '{state}'; it reads "
                f"one of {', '.join(readable) or 'none'}"
            )

    def change(rewrite: Rewrite, training: bool) -> None:
        norms = _Norms(rewrite, norm, per_gate, biased)
        norms.read_in = {number: state for number, state in norms.read_in.items() if state in chosen}
        rewrite.copy(norms.replace)

    def again(other: Any) -> Cell:
        return _normalised(other, name, norm, per_gate, states, biased=biased)

    normed = [f"{matrix} @ ..." for matrix in products.values()] + [
        f"the state {state} in the output" for state in chosen
    ]
    doc = f"{name.replace('_', ' ').capitalize()} of {', '.join(normed)}{', each gate by itself' if per_gate else ''}."
    return transformed(cell, name, doc, change, again)
