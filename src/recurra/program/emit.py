"""Gives every value of a schedule a place in memory, and writes the phases as code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recurra.errors import CellError
from recurra.program.graph import PRODUCTS
from recurra.program.job import Kind, Operand
from recurra.program.operations import EPSILON, INVERSE_DEVIATIONS, REDUCTIONS, TABLE
from recurra.program.schedule import LOOP, Block, Phase, Schedule, Scheduler

_SPREAD = {
    Kind.TEMP: Kind.SCALAR_TEMP,
    Kind.CHUNK: Kind.SCALAR_CHUNK,
    Kind.TAPE: Kind.SCALAR_TAPE,
    Kind.ELAPSED: Kind.ELAPSED,
}

POINTWISE, PRODUCT, REDUCE, OUTER, ROWSUM, NORMALISE = range(6)

Segment = tuple[Operand, int]
Piece = tuple[Operand, int, int]
"""A place, its columns, and where they stand in a matrix."""


class Emitter:
    """Writes one schedule as code, for concrete sizes."""

    def __init__(self, schedule: Schedule, scheduler: Scheduler, sizes: Mapping[str, int]) -> None:
        self.schedule = schedule
        self.job = schedule.job
        self.nodes = schedule.job.nodes
        self.outside = scheduler.outside
        self.matrices = {n.attribute: i for i, n in enumerate(self.nodes) if n.operation == "parameter"}
        self.sizes = sizes
        self.constants: list[float] = []
        self.chunks: list[int] = []
        self.temps: list[int] = []
        self.register_count = 0
        self.phase_of = {
            number: (section, index)
            for section, phases in enumerate(schedule.sections)
            for index, phase in enumerate(phases)
            for number in phase.results
        }
        self.places: dict[int, Operand] = {**self.job.kept, **dict(self.job.carried), **dict(self.job.written)}
        self._allocate()

    def columns(self, number: int) -> int:
        return self.nodes[number].width.size(self.sizes)

    def constant(self, value: float) -> int:
        if value not in self.constants or value != value:
            self.constants.append(value)
        return self.constants.index(value)

    # Places

    def _allocate(self) -> None:
        for number in sorted(self.schedule.gathered):
            parts = self.nodes[number].inputs
            batched = any(self._is_batched(i) for i in (*parts, number) if i in self.phase_of)
            self.places[number] = self._buffer(self.columns(number), batched)
            self._place_parts([p for p in parts if p in self.phase_of], self.places[number], parts)
        joins = [
            i
            for i, n in enumerate(self.nodes)
            if n.operation == "join" and (self.schedule.readers[i] or self.outside[i])
        ]
        for number in joins:
            parts = [p for p in dict.fromkeys(self.nodes[number].inputs) if p in self.phase_of and p not in self.places]
            if parts:
                width = sum(self.columns(p) for p in parts)
                buffer = self._buffer(width, any(self._is_batched(p) for p in (*parts, number)))
                self._place_parts(parts, buffer, parts)
        for phases in self.schedule.sections:
            for phase in phases:
                self._place_results(phase)

    def _place_parts(self, chosen: Sequence[int], buffer: Operand, layout: Sequence[int]) -> None:
        offset = buffer.offset
        for part in layout:
            if part in chosen and part not in self.places:
                self.places[part] = buffer._replace(offset=offset)
            offset += self.columns(part)

    def _place_results(self, phase: Phase) -> None:
        missing = [r for r in phase.results if r not in self.places]
        if phase.kind == "product" and missing:
            buffer = self._buffer(sum(self.columns(r) for r in missing), any(self._is_batched(r) for r in missing))
            self._place_parts(missing, buffer, missing)
        for number in missing:
            if number not in self.places and (phase.kind != "pointwise" or self._leaves_phase(number)):
                self.places[number] = self._buffer(self.columns(number), self._is_batched(number))

    def _buffer(self, columns: int, batched: bool) -> Operand:
        buffers = self.chunks if batched else self.temps
        buffers.append(columns)
        return Operand(Kind.CHUNK if batched else Kind.TEMP, len(buffers) - 1)

    def _final_readers(self, number: int) -> list[int]:
        """Who reads a value, seen through gates and joins that are only names for places."""
        found = []
        for reader in self.schedule.readers[number]:
            if reader in self.phase_of or self.nodes[reader].operation in PRODUCTS:
                found.append(reader)
            else:
                found += self._final_readers(reader)
        return found

    def _outside_reads(self, number: int) -> bool:
        aliases = (r for r in self.schedule.readers[number] if r not in self.phase_of)
        return bool(self.outside[number]) or any(self._outside_reads(r) for r in aliases)

    def _is_batched(self, number: int) -> bool:
        """Whether a value must outlive its step."""
        section = self.schedule.section_of.get(number, LOOP)
        readers = (self.schedule.section_of[r] for r in self._final_readers(number))
        return section != LOOP or self._outside_reads(number) or any(s != section for s in readers)

    def _leaves_phase(self, number: int) -> bool:
        if self._outside_reads(number):
            return True
        return any(
            r not in self.phase_of or self.phase_of[r] != self.phase_of[number] for r in self._final_readers(number)
        )

    def place(self, number: int, width: int) -> Operand:
        """The operand that a phase of `width` columns reads a value from."""
        node = self.nodes[number]
        if node.operation == "constant":
            return Operand(Kind.CONSTANT, self.constant(node.attribute))
        if number in self.job.bound:
            found = self.job.bound[number]
        elif number in self.places:
            found = self.places[number]
        elif node.operation == "gate":
            source = self.place(node.inputs[0], self.columns(node.inputs[0]))
            return source._replace(offset=source.offset + node.attribute * self.columns(number))
        else:
            # no traced cell has one, but a program out of a file may: a matrix where a vector is read
            raise CellError(f"node {number} ('{node.operation}') cannot be read as a vector")
        return found._replace(kind=_SPREAD[Kind(found.kind)]) if node.width.is_scalar and width > 1 else found

    def segments(self, number: int) -> list[Segment]:
        """The places of a vector, in order; neighbours are one segment."""
        node = self.nodes[number]
        if node.operation != "join" or number in self.places:
            return [(self.place(number, self.columns(number)), self.columns(number))]
        found: list[Segment] = []
        for part in node.inputs:
            operand, length = self.segments(part)[0]
            if found and operand.kind in (Kind.CHUNK, Kind.TEMP):
                last, before = found[-1]
                if (last.kind, last.index, last.offset + before) == (operand.kind, operand.index, operand.offset):
                    found[-1] = (last, before + length)
                    continue
            found.append((operand, length))
        return found

    # Phases

    def section(self, index: int) -> list[int]:
        phases = [code for phase in self.schedule.sections[index] if (code := self._phase(phase))]
        return [len(phases), *(number for phase in phases for number in phase)]

    def _phase(self, phase: Phase) -> list[int]:
        if phase.kind == "product":
            return self._product(phase)
        if phase.kind == "reduce":
            return self._reduction(phase.nodes[0])
        if phase.kind == "normalise":
            return self._norm(phase.nodes[0])
        if phase.kind == "gather":
            return self._gather(phase.nodes[0])
        return _PointwiseWriter(self, phase).code()

    def _product(self, phase: Phase) -> list[int]:
        number = phase.nodes[0]
        matrix, vector = self.nodes[number].inputs
        transposed = self.nodes[number].operation == "matmul_transposed"
        heads = self.nodes[matrix].shape[1].parts
        pieces = self._head_rows if transposed else self._head_columns
        parts = pieces(matrix, self.segments(vector))
        code = [PRODUCT, self.nodes[matrix].attribute, int(transposed), sum(map(len, parts))]
        for operand, length, begin in (segment for part in parts for segment in part):
            code += [*operand, length, begin]
        blocks: list[int] = []
        first = 0
        for head, part in enumerate(parts):
            for block in phase.blocks:
                blocks += [*self._block(block, heads, head, by_columns=transposed), first, len(part)]
            first += len(part)
        return [*code, heads * len(phase.blocks), *blocks]

    def _block(self, block: Block, heads: int, head: int, by_columns: bool) -> list[int]:
        """The rows of a block that belong to a head; or, of the transposed matrix, all of them."""
        count = block.width.size(self.sizes) // heads
        begin = 0 if by_columns else head * count
        destination, init = self.places[block.result], Operand(0)
        if block.init is not None:
            init = _moved(self.place(block.init, count * heads), head * count)
        begin += block.begin.count * block.width.unit.size(self.sizes)
        return [begin, count, *_moved(destination, head * count), int(block.init is not None), *init]

    def _head_columns(self, matrix: int, segments: list[Segment]) -> list[list[Piece]]:
        """The pieces of a vector that each head's columns of a matrix are multiplied by, with the first column."""
        width = self.nodes[matrix].shape[1]
        size = width.size(self.sizes)
        parts = [_cut(segments, head * size, size) for head in range(width.parts)]
        return [
            [(operand, length, begin - head * size) for operand, length, begin in part]
            for head, part in enumerate(parts)
        ]

    def _head_rows(self, matrix: int, segments: list[Segment]) -> list[list[Piece]]:
        """The pieces of a vector that belong to each head's rows of a matrix, with the first row."""
        rows, columns = self.nodes[matrix].shape
        heads, gate = columns.parts, rows.unit.size(self.sizes)
        if heads == 1:
            return [_cut(segments, 0, rows.size(self.sizes))]
        size = gate // heads
        return [
            [piece for g in range(rows.count) for piece in _cut(segments, g * gate + head * size, size)]
            for head in range(heads)
        ]

    def _reduction(self, number: int) -> list[int]:
        node = self.nodes[number]
        first, *second = (self._row(source) for source in node.inputs)
        extra = [v for operand in second for v in operand]
        if node.operation == "inverse_deviation":
            operation, extra = INVERSE_DEVIATIONS[node.attribute], [self.constant(EPSILON)]
        else:
            operation = REDUCTIONS[node.operation]
        return [REDUCE, operation, *first, self.columns(node.inputs[0]), *extra, *self.places[number]]

    def _row(self, number: int) -> Operand:
        """The one place of a whole vector."""
        (operand, _), *others = self.segments(number)
        assert not others, "a reduction or a norm reads one place"
        return operand

    def _norm(self, number: int) -> list[int]:
        node = self.nodes[number]
        source, *normal, scale = (self._row(i) for i in node.inputs)
        code = [NORMALISE, int(node.attribute == "layer"), self.columns(number), *source, *scale, *self.places[number]]
        return [*code, len(normal), *(normal or [Operand(0)])[0]]

    def _gather(self, number: int) -> list[int]:
        parts = self.nodes[number].inputs
        width = self.columns(parts[0])
        target = self.places[number]
        pairs = [(self.place(p, width), target._replace(offset=target.offset + k * width)) for k, p in enumerate(parts)]
        pairs = [(source, goal) for source, goal in pairs if source != goal]
        if not pairs:
            return []
        operands = [operand for pair in pairs for operand in pair]
        code = [POINTWISE, width, len(operands), *(v for operand in operands for v in operand), len(pairs)]
        for k in range(len(pairs)):
            code += [TABLE["copy"].opcode, 2 * k + 1, 2 * k, -1, -1]
        return code

    def gradients(self) -> list[int]:
        code: list[int] = []
        count = 0
        for outer in self.job.outers:
            matrix = self.matrices[outer.parameter]
            left = self._head_rows(matrix, self.segments(outer.left))
            right = self._head_columns(matrix, self.segments(outer.right))
            for rows, columns in zip(left, right, strict=True):
                code += [OUTER, outer.parameter, *_listed(rows), *_listed(columns)]
                count += 1
        for total in self.job.sums:
            begin = 0
            for operand, length in self.segments(total.value):
                code += [ROWSUM, total.parameter, begin, *operand, length]
                begin += length
                count += 1
        return [count, *code]


def _listed(pieces: list[Piece]) -> list[int]:
    return [len(pieces), *(v for operand, length, begin in pieces for v in (*operand, length, begin))]


def _moved(operand: Operand, columns: int) -> Operand:
    return operand._replace(offset=operand.offset + columns)


def _cut(segments: list[Segment], begin: int, length: int) -> list[Piece]:
    """Columns [begin, begin + length) of a vector that lies in segments."""
    found, at = [], 0
    for operand, size in segments:
        first, last = max(begin, at), min(begin + length, at + size)
        if first < last:
            found.append((_moved(operand, first - at), last - first, first))
        at += size
    return found


class _PointwiseWriter:
    """Writes one group of pointwise nodes: values live in registers until nobody in the group reads them any more."""

    def __init__(self, emitter: Emitter, phase: Phase) -> None:
        self.emitter = emitter
        self.nodes = emitter.nodes
        self.phase = phase
        self.width = phase.width.size(emitter.sizes)
        self.operands: list[Operand] = []
        self.instructions: list[tuple[int, int, list[int]]] = []
        self.fused = self._fusible()
        self.order = [i for i in phase.nodes if i not in self.fused]
        self.last_read: dict[int, int] = {}
        for position, number in enumerate(self.order):
            for i in self._arguments(number)[1]:
                self.last_read[i] = position
        self.registers: dict[int, int] = {}
        self.free: list[int] = []
        self.used = 0

    def _fusible(self) -> set[int]:
        """Products of two values that are only read by one addition after them."""
        group = set(self.phase.nodes)
        found = set()
        for number in self.phase.nodes:
            node = self.nodes[number]
            candidates = node.inputs if node.operation == "add" else node.inputs[1:] if node.operation == "sub" else ()
            for i in candidates:
                alone = i in group and self.nodes[i].operation == "mul" and i not in self.emitter.places
                if alone and self.emitter.schedule.readers[i] == [number] and node.inputs.count(i) == 1:
                    found.add(i)
                    break
        return found

    def _arguments(self, number: int) -> tuple[int, list[int]]:
        """The opcode and the inputs of a node, with a fused product taken in."""
        node = self.nodes[number]
        product = next((i for i in node.inputs if i in self.fused), None)
        if product is not None:
            rest = next(i for i in node.inputs if i != product)
            name = "fma" if node.operation == "add" else "fnma"
            return TABLE[name].opcode, [*self.nodes[product].inputs, rest]
        name = "copy" if node.operation == "broadcast" else node.operation
        return TABLE[name].opcode, list(node.inputs)[: 1 if name == "spike" else None]

    def _operand(self, operand: Operand) -> int:
        if operand not in self.operands:
            self.operands.append(operand)
        return self.operands.index(operand)

    def _source(self, number: int) -> Operand:
        if number in self.registers:
            return Operand(Kind.REGISTER, self.registers[number])
        return self.emitter.place(number, self.width)

    def code(self) -> list[int]:
        for position, number in enumerate(self.order):
            opcode, inputs = self._arguments(number)
            sources = [self._operand(self._source(i)) for i in inputs]
            for i in dict.fromkeys(inputs):
                if i in self.registers and self.last_read[i] == position:
                    self.free.append(self.registers.pop(i))
            target = self._operand(self._destination(number))
            self.instructions.append((opcode, target, sources))
        self.emitter.register_count = max(self.emitter.register_count, self.used)
        code = [POINTWISE, self.width, len(self.operands), *(v for operand in self.operands for v in operand)]
        code.append(len(self.instructions))
        for opcode, target, sources in self.instructions:
            code += [opcode, target, *sources, *([-1] * (3 - len(sources)))]
        return code

    def _destination(self, number: int) -> Operand:
        if number in self.emitter.places:
            return self.emitter.places[number]
        if not self.free:
            self.free.append(self.used)
            self.used += 1
        self.registers[number] = self.free.pop()
        return Operand(Kind.REGISTER, self.registers[number])
