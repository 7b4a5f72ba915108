"""Orders the work of a plan: what runs before, in and after the loop, and in which phases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from recurra.program.graph import LEAVES, NORMS, PRODUCTS, ancestors
from recurra.program.job import Job
from recurra.program.operations import REDUCTIONS
from recurra.program.widths import SCALAR, Width

PRE, LOOP, POST = 0, 1, 2
SECTIONS = (PRE, LOOP, POST)

HEAVY = PRODUCTS | NORMS | frozenset(REDUCTIONS) | {"inverse_deviation"}
ALIASES = frozenset({"gate", "join"})


@dataclass(slots=True)
class Block:
    """A run of a product's rows with a destination of its own: node `result` is the product's gate plus `init`."""

    begin: Width
    width: Width
    result: int
    init: int | None = None


@dataclass(slots=True)
class Phase:
    """One pass over the rows of a step (or, outside the loop, of a chunk).

    A product, a reduction, a norm, the gathering of gates into one buffer, or a group of pointwise nodes.
    """

    kind: str
    nodes: list[int]
    width: Width
    blocks: list[Block] = field(default_factory=list)

    @property
    def results(self) -> list[int]:
        return [b.result for b in self.blocks] if self.kind == "product" else self.nodes


@dataclass(slots=True)
class Schedule:
    """The phases of each section, and what the later stages of compilation ask about nodes."""

    job: Job
    sections: tuple[list[Phase], list[Phase], list[Phase]]
    section_of: dict[int, int]
    readers: dict[int, list[int]]
    gathered: set[int]


class Scheduler:
    """Works out a schedule. A node that a job binds to memory is given, not computed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.nodes = job.nodes
        self.needed = self._needed()
        self.readers: dict[int, list[int]] = defaultdict(list)
        for i in sorted(self.needed):
            for j in self._inputs(i):
                self.readers[j].append(i)
        self.outside = Counter(self._gradient_operands()) + Counter(job.kept.keys())
        self.gathered = {
            i
            for i in self.needed
            if self.nodes[i].operation == "join"
            and any(self.nodes[r].operation not in PRODUCTS for r in self.readers[i])
        }
        self.section_of = self._sections()
        self.blocks: dict[int, list[Block]] = {}
        self.block_of: dict[int, int] = {}
        self._fold_products()

    def _inputs(self, number: int) -> tuple[int, ...]:
        return () if number in self.job.bound else self.nodes[number].inputs

    def _gradient_operands(self) -> list[int]:
        found = [i for outer in self.job.outers for i in (outer.left, outer.right)]
        return found + [s.value for s in self.job.sums]

    def _needed(self) -> set[int]:
        roots = [i for i, _ in (*self.job.carried, *self.job.written)] + list(self.job.kept) + self._gradient_operands()
        found: set[int] = set()
        pending = list(roots)
        while pending:
            i = pending.pop()
            if i not in found:
                found.add(i)
                pending.extend(self._inputs(i))
        return found

    def _computed(self, number: int) -> bool:
        node = self.nodes[number]
        given = node.operation in LEAVES or (node.operation == "gate" and node.inputs[0] in self.job.bound)
        return not given and number not in self.job.bound

    def _closure(self, roots: Iterable[int], step: dict[int, list[int]] | None = None) -> set[int]:
        """What the roots depend on, or with `step` what depends on them."""
        found: set[int] = set()
        pending = list(roots)
        while pending:
            i = pending.pop()
            if i not in found:
                found.add(i)
                pending.extend(self._inputs(i) if step is None else step[i])
        return found

    def _sections(self) -> dict[int, int]:
        recurrent = self._closure((i for i in self.job.seeds if i in self.needed), self.readers)
        carried = self._closure(i for i, _ in self.job.carried)
        heavy = [i for i in self.needed if self.nodes[i].operation in HEAVY and self._computed(i)]
        pre = self._closure(i for i in heavy if i not in recurrent)
        post = self._closure((i for i in heavy if i in recurrent and i not in carried), self.readers)
        sections = {}
        for i in self.needed:
            if self._computed(i):
                sections[i] = (
                    PRE if i in pre and i not in recurrent else POST if i in post and i not in carried else LOOP
                )
        return sections

    def _fold_products(self) -> None:
        """Makes sums of a product and something that is known before it a product written on top of that."""
        for number in sorted(i for i in self.needed if self.nodes[i].operation in PRODUCTS and self._computed(i)):
            width = self.nodes[number].width
            readers = self.readers[number]
            split = width.count > 1 and readers and all(self.nodes[r].operation == "gate" for r in readers)
            if split and not self.outside[number]:
                gates = sorted(readers, key=lambda r: self.nodes[r].attribute)
                blocks = [Block(Width(self.nodes[g].attribute, width.name), width.unit, g) for g in gates]
            else:
                blocks = [Block(Width(0, width.name), width, number)]
            for block in blocks:
                self._fold(number, block)
                self.block_of[block.result] = number
                self.section_of[block.result] = self.section_of[number]
            self.blocks[number] = blocks

    def _fold(self, product: int, block: Block) -> None:
        readers = self.readers[block.result]
        results = {i for i, _ in (*self.job.carried, *self.job.written)}
        if len(readers) != 1 or self.outside[block.result] or block.result in results:
            return
        total = readers[0]
        if self.nodes[total].operation != "add" or self.nodes[total].width != block.width or total in self.block_of:
            return
        other = next((i for i in self.nodes[total].inputs if i != block.result), None)
        if other is None or self.nodes[other].width != block.width or not self._known_before(other, product):
            return
        block.result, block.init = total, other

    def _known_before(self, other: int, product: int) -> bool:
        """Whether a value lies in memory when a product runs."""
        section = self.section_of[product]
        if not self._computed(other):
            return self.nodes[other].operation != "constant"
        if self.nodes[other].operation == "join":
            return False
        if product in ancestors(self.nodes, [other]):
            return False
        if other in self.block_of:
            return self.section_of[other] <= section
        return self.section_of[other] < section or (section == LOOP and self.section_of[other] == LOOP)

    def run(self) -> Schedule:
        done = {i for i in range(len(self.nodes)) if not self._computed(i)}
        sections = tuple(self._order(section, done) for section in SECTIONS)
        return Schedule(self.job, sections, self.section_of, self.readers, self.gathered)  # type: ignore[arg-type]

    def _is_alias(self, number: int) -> bool:
        """A gate is a place within its source; a join is a list of places."""
        return self.nodes[number].operation in ALIASES and number not in self.block_of and number not in self.gathered

    def _folded_away(self, number: int) -> bool:
        """The gate of a product whose sum is written instead of it."""
        node = self.nodes[number]
        source = node.inputs[0] if node.operation == "gate" else number
        return (
            source in self.blocks
            and number not in self.block_of
            and all(b.result != number for b in self.blocks[source])
        )

    def _order(self, section: int, done: set[int]) -> list[Phase]:
        todo = {i for i, s in self.section_of.items() if s == section}
        phases: list[Phase] = []
        while todo:
            progress = self._finish_aliases(todo, done)
            heavy = sorted(
                i for i in todo if (self.nodes[i].operation in HEAVY or i in self.gathered) and self._ready(i, done)
            )
            for number in heavy:
                phases.append(self._heavy_phase(number))
                finished = {number, *phases[-1].results}
                done |= finished
                todo -= finished
            group = [] if heavy else self._pointwise_group(todo, done)
            if group:
                phases.append(Phase("pointwise", group, self.nodes[group[0]].width))
                done.update(group)
                todo.difference_update(group)
            if not (heavy or group or progress):
                raise AssertionError(f"the program cannot be ordered: {sorted(todo)} wait for each other")
        return phases

    def _finish_aliases(self, todo: set[int], done: set[int]) -> bool:
        finished = {
            i
            for i in todo
            if (self._is_alias(i) or self._folded_away(i))
            and all(j in done for j in self._inputs(i))
            and i not in self.blocks
        }
        todo -= finished
        done |= finished
        return bool(finished)

    def _ready(self, number: int, done: set[int]) -> bool:
        inputs = set(self._inputs(number))
        for block in self.blocks.get(number, []):
            if block.init is not None:
                inputs.add(block.init)
        return all(i in done for i in inputs)

    def _heavy_phase(self, number: int) -> Phase:
        if number in self.blocks:
            return Phase("product", [number], self.nodes[number].width, self.blocks[number])
        norm = "normalise" if self.nodes[number].operation in NORMS else "reduce"
        kind = "gather" if number in self.gathered else norm
        return Phase(kind, [number], self.nodes[number].width)

    def _pointwise_group(self, todo: set[int], done: set[int]) -> list[int]:
        """All pointwise nodes of one width that can run now, one after the other.

        Scalars come first: they take no time, and wider ones that wait for them can then run in one pass.
        """
        ready: dict[Width, list[int]] = {}
        for width in {self.nodes[i].width for i in todo}:
            found: list[int] = []
            known = set(done)
            for i in sorted(todo):
                node = self.nodes[i]
                light = node.operation not in HEAVY | ALIASES and i not in self.block_of
                if light and node.width == width and all(j in known for j in self._inputs(i)):
                    found.append(i)
                    known.add(i)
            ready[width] = found
        return ready.get(SCALAR) or max(ready.values(), key=len, default=[])
