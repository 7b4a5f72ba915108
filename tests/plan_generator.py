"""Draws valid plans at random: every kind of operand and phase, at odd offsets, in every section that allows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import plan_emulator as p
from engine_calls import PlanText, normalise, outer, pointwise, product, reduce, rowsum

Operand = tuple[int, int, int]

PRE, LOOP, POST = range(3)
BOUNDED = (9, 10)  # sigmoid, tanh: written values stay small
UNARY = (0, 5, 8, 9, 10, 11, 16, 17, 34, 35)
BINARY = (1, 2, 3, 18, 19, 31, 32)
TERNARY = (6, 7, 20)
SCALAR_OF = {p.TEMP: p.SCALAR_TEMP, p.CHUNK: p.SCALAR_CHUNK, p.TAPE: p.SCALAR_TAPE}


class PlanGenerator:
    """One random plan: `draw` returns it. Buffers are up to `widest` columns wide."""

    def __init__(self, rng: np.random.Generator, direction: int, widest: int) -> None:
        self.rng, self.direction, self.widest = rng, direction, widest
        self.backward = direction == p.BACKWARD
        self.text = PlanText(direction, self.columns(), self.columns(), register_count=3, constants=[0.5, -1.25, 0.125])
        self.text.chunks = [self.columns() for _ in range(3)]
        self.text.temps = [self.columns() for _ in range(2)]
        at = 0
        for _ in range(2):
            columns = self.columns()
            self.text.states.append(
                (columns, at if direction != p.INFER else -1, int(rng.integers(3)), int(rng.integers(2)))
            )
            at += columns
        for _ in range(2 if direction != p.INFER else 0):
            self.text.fields.append((at + int(rng.integers(3)), self.columns()))
            at = sum(self.text.fields[-1])
        self.text.tape_columns = at if direction != p.INFER else 0
        self.section = PRE
        self.written: dict[tuple[int, int], np.ndarray] = {}

    def columns(self) -> int:
        return int(self.rng.integers(1, self.widest + 1))

    # What may be read and written, and what already holds a value

    def sizes(self) -> dict[tuple[int, int], int]:
        t = self.text
        found = {(p.INPUT, 0): t.input_columns, (p.OUTPUT, 0): t.output_columns, (p.GRAD_OUTPUT, 0): t.output_columns}
        found |= {(p.GRAD_INPUT, 0): t.input_columns, (p.GRAD_ELAPSED, 0): 1}
        found |= {(p.CHUNK, i): c for i, c in enumerate(t.chunks)} | {(p.TEMP, i): c for i, c in enumerate(t.temps)}
        found |= {(p.TAPE, offset): columns for offset, columns in t.fields}
        found[p.UNIT, 0] = self.widest
        for k, (columns, *_) in enumerate(t.states):
            found |= {(kind, k): columns for kind in (p.STATE_PREVIOUS, p.STATE_NEXT, p.GRAD_NEXT, p.GRAD_PREVIOUS)}
        return found | {(p.VECTOR, i): rows for i, (rows, columns) in enumerate(t.parameters) if columns == 0}

    def holds(self, key: tuple[int, int]) -> np.ndarray:
        """Which columns of a buffer may be read by now."""
        kind, size = key[0], self.sizes()[key]
        loop = self.section == LOOP
        given = [p.INPUT, p.VECTOR, p.UNIT]
        if self.backward:
            given += [p.TAPE, p.GRAD_OUTPUT, p.STATE_PREVIOUS, p.STATE_NEXT] + [p.GRAD_NEXT] * loop
        else:
            given += [p.STATE_PREVIOUS] * loop
        own = [p.CHUNK, *([p.TAPE] if self.direction == p.TRAIN else [])]
        own += [p.TEMP, p.STATE_NEXT, p.GRAD_PREVIOUS] * loop
        if kind in given:
            return np.ones(size, bool)
        return self.written.get(key, np.zeros(size, bool)) if kind in own else np.zeros(size, bool)

    def writable(self) -> list[tuple[int, int]]:
        kinds = [p.CHUNK] + [p.TEMP] * (self.section == LOOP)
        if self.backward:
            kinds += [p.GRAD_INPUT, p.GRAD_ELAPSED] + [p.GRAD_PREVIOUS] * (self.section == LOOP)
        else:
            kinds += [p.OUTPUT] + [p.STATE_NEXT] * (self.section == LOOP) + [p.TAPE] * (self.direction == p.TRAIN)
        return [key for key in self.sizes() if key[0] in kinds]

    def readable(self, width: int) -> Operand | None:
        found = []
        for key in self.sizes():
            runs = np.convolve(self.holds(key), np.ones(width, int), "valid") if self.sizes()[key] >= width else []
            found += [(*key, int(at)) for at in np.flatnonzero(np.asarray(runs) == width)]
        return found[self.rng.integers(len(found))] if found else None

    def target(self, width: int, taken: list[tuple[Operand, int]]) -> Operand | None:
        """A place to write `width` columns that overlaps none of `taken`."""
        fits = [key for key in self.writable() if self.sizes()[key] >= width]
        for _ in range(20):
            if not fits:
                return None
            key = fits[self.rng.integers(len(fits))]
            at = int(self.rng.integers(self.sizes()[key] - width + 1))
            if not any(o[:2] == key and o[2] < at + width and at < o[2] + w for o, w in taken):
                return (*key, at)
        return None

    def mark(self, operand: Operand, width: int) -> None:
        done = self.written.setdefault(operand[:2], np.zeros(self.sizes()[operand[:2]], bool))
        done[operand[2] : operand[2] + width] = True

    @staticmethod
    def encoded(operand: Operand) -> Operand:
        """The tape's fields are told apart by their offset here, by the column in the plan."""
        kind, index, at = operand
        return (kind, 0, index + at) if kind == p.TAPE else operand

    # Phases

    def fill(self, target: Operand, width: int) -> None:
        """A POINTWISE phase that writes `target`."""
        rng = self.rng
        taken = [(target, width)]
        operands: list[Operand] = [(p.REGISTER, r, 0) for r in range(3)] + [(p.CONSTANT, c, 0) for c in range(3)]
        for _ in range(int(rng.integers(1, 4))):
            source = self.readable(width)
            if source is not None and not (source[:2] == target[:2] and abs(source[2] - target[2]) < width):
                operands.append(self.encoded(source))
                taken.append((source, width))
        scalar = self.readable(1)
        if scalar is not None and scalar[0] in SCALAR_OF and scalar[:2] != target[:2]:
            operands.append((SCALAR_OF[scalar[0]], *self.encoded(scalar)[1:]))
        operands.append((p.ELAPSED, 0, 0))
        ready = list(range(3, len(operands)))
        code = []
        for _ in range(int(rng.integers(2, 7))):
            arity, table = ((1, UNARY), (2, BINARY), (3, TERNARY))[rng.integers(3)]
            to = int(rng.integers(3))
            code.append((int(rng.choice(table)), to, *(int(v) for v in rng.choice(ready, arity))))
            ready += [to] * (to not in ready)
        operands.append(self.encoded(target))
        code.append((int(rng.choice(BOUNDED)), len(operands) - 1, code[-1][1]))
        self.text.sections[self.section].append(pointwise(width, operands, code))
        self.mark(target, width)

    def random_pointwise(self) -> None:
        width = self.columns()
        target = self.target(width, [])
        if target is not None:
            self.fill(target, width)

    def random_reduce(self) -> None:
        length = self.columns()
        source = self.readable(length)
        target = self.target(1, [(source, length)]) if source else None
        if source and target:
            operation = int(self.rng.integers(6))
            extra: Sequence[int] = (2,) if operation > 3 else ()
            if operation == 3:
                second = self.readable(length) or source
                overlaps = second[:2] == target[:2] and second[2] <= target[2] < second[2] + length
                extra = self.encoded(source if overlaps else second)
            self.text.sections[self.section].append(
                reduce(operation, self.encoded(source), length, self.encoded(target), extra)
            )
            self.mark(target, 1)

    def random_normalise(self) -> None:
        length = self.columns()
        source, scale, normal = self.readable(length), self.readable(1), self.readable(length)
        if not source or not scale or not normal:
            return
        taken = [(source, length), (scale, 1), (normal, length)]
        target = self.target(length, taken)
        if target:
            places = [self.encoded(place) for place in (scale, target, normal)][: 2 + int(self.rng.integers(2))]
            code = normalise(int(self.rng.integers(2)), self.encoded(source), length, *places)
            self.text.sections[self.section].append(code)
            self.mark(target, length)

    def random_product(self) -> None:
        rng = self.rng
        drawn = [(self.readable(length), length) for length in (self.columns() for _ in range(int(rng.integers(1, 4))))]
        segments = [(source, length) for source, length in drawn if source is not None]
        if not segments:
            return
        taken, targets, blocks, end = list(segments), [], [], 0
        for _ in range(int(rng.integers(1, 4))):
            begin, count = end + int(rng.integers(3)) * int(rng.integers(2)), self.columns()
            target = self.target(count, taken)
            if target is None:
                continue
            taken.append((target, count))
            targets.append((target, count))
            init = self.readable(count)
            written = self.written.get(target[:2])
            if written is not None and written[target[2] : target[2] + count].all() and rng.random() < 0.5:
                init = target
            elif init and any(init[:2] == o[:2] for o, _ in targets):
                init = None
            if init and init != target:
                taken.append((init, count))
            blocks.append((begin, count, self.encoded(target), *([self.encoded(init)] if init else [])))
            end = begin + count
        if not blocks:
            return
        for target, count in targets:
            self.mark(target, count)
        n, k = end + int(rng.integers(3)), sum(length for _, length in segments)
        transposed = int(rng.integers(2))
        if len(segments) == 1 and rng.random() < 0.3:
            self.text.sparse |= {len(self.text.parameters)}
        encoded: list[tuple] = [(self.encoded(source), length) for source, length in segments]
        if len(segments) > 1 and rng.random() < 0.5:
            k += int(rng.integers(3))
            encoded, blocks = self.apart(encoded, blocks, k)
        self.text.parameters.append((k, n) if transposed else (n, k))
        rng.shuffle(blocks)
        self.text.sections[self.section].append(product(len(self.text.parameters) - 1, transposed, encoded, blocks))

    def apart(self, segments: list[tuple], blocks: list[tuple], k: int) -> tuple[list[tuple], list[tuple]]:
        """The same segments anywhere in a matrix of k columns, and blocks of some of them."""
        rng = self.rng
        firsts = rng.integers(len(segments), size=len(blocks))
        return (
            [(source, length, int(rng.integers(k - length + 1))) for source, length in segments],
            [
                (*b, *[None] * (4 - len(b)), int(f), int(rng.integers(1, len(segments) - f + 1)))
                for b, f in zip(blocks, firsts, strict=True)
            ],
        )

    def complete(self, kinds: tuple[int, ...]) -> None:
        """Writes what is still missing in the buffers of these kinds."""
        for key, size in self.sizes().items():
            if key[0] in kinds and not (self.written.get(key, np.zeros(size, bool)).all()):
                self.fill((*key, 0), size)

    def gradients(self) -> None:
        self.section = POST
        for kind in range(3):
            a = [(self.readable(w), w) for w in (self.columns(), self.columns())]
            b = [(self.readable(w), w) for w in (self.columns(), self.columns())]
            a, b = ([(self.encoded(o), w) for o, w in side if o is not None] for side in (a, b))
            if not a or not b:
                continue
            if kind == 0:
                self.text.parameters.append((a[0][1] + 2, 0))
                self.text.sections[3].append(rowsum(len(self.text.parameters) - 1, 1, *a[0]))
                continue
            sides = [[(o, w, sum(v for _, v in side[:i]) + 1) for i, (o, w) in enumerate(side)] for side in (a, b)]
            self.text.parameters.append((sum(w for _, w in a) + 2, sum(w for _, w in b) + 2))
            self.text.sections[3].append(outer(len(self.text.parameters) - 1, *sides))

    def draw(self) -> PlanText:
        self.text.parameters += [(self.columns(), 0) for _ in range(2)]
        for section in (PRE, LOOP, POST):
            self.section = section
            for _ in range(int(self.rng.integers(2, 6))):
                kinds = (self.random_pointwise, self.random_product, self.random_reduce, self.random_normalise)
                kinds[self.rng.choice(4, p=(0.45, 0.3, 0.15, 0.1))]()
            if section == LOOP:
                self.complete((p.GRAD_PREVIOUS,) if self.backward else (p.STATE_NEXT,))
        done = (p.OUTPUT, p.TAPE) if self.direction == p.TRAIN else (p.OUTPUT,)
        self.complete((p.GRAD_INPUT, p.GRAD_ELAPSED) if self.backward else done)
        if self.backward:
            self.gradients()
        return self.text
