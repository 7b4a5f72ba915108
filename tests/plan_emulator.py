"""A slow reading of docs/plan-format.md in numpy: what the engine is tested against.

The whole sequence is one chunk of time here. Every buffer begins as NaN, so what is read before it is written shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
Operand = tuple[int, int, int]

(
    REGISTER, CONSTANT, VECTOR, INPUT, ELAPSED, OUTPUT, CHUNK, TAPE, TEMP, STATE_PREVIOUS, STATE_NEXT, GRAD_OUTPUT,
    GRAD_NEXT, GRAD_PREVIOUS, GRAD_INPUT, GRAD_ELAPSED, SCALAR_TEMP, SCALAR_CHUNK, SCALAR_TAPE, UNIT,
) = range(20)  # fmt: skip
POINTWISE, PRODUCT, REDUCE, OUTER, ROWSUM, NORMALISE = range(6)
INFER, TRAIN, BACKWARD = range(3)


def _sigmoid(a: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * a))


def _mix(a: Array, b: Array) -> Array:
    """One number after the other, in Python's whole numbers."""

    def one(first: float, second: float) -> float:
        a, b = (round(v) if -0.5 <= v < 2**24 - 0.5 else -1 for v in (first, second))
        if a < 0 or b < 0:
            return float("nan")
        word = (a ^ 0x5BD1E995) * 0x21F0AAAD % 2**32
        word ^= (word >> 15) ^ (b * 0x9E3779B1 % 2**32)
        for factor, shift in ((0x7FEB352D, 15), (0x846CA68B, 16)):
            word = word * factor % 2**32
            word ^= word >> shift
        return word >> 8

    a, b = np.broadcast_arrays(a, b)
    return np.array([one(*pair) for pair in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)]).reshape(a.shape)


def _truth(compare: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: compare(a, b).astype(np.float64)


OPERATIONS: list[Callable[..., Array]] = [
    lambda a: a, np.add, np.subtract, np.multiply, np.divide, np.negative,
    lambda a, b, c: a * b + c, lambda a, b, c: c - a * b, lambda a: 1 - a, _sigmoid, np.tanh,
    lambda a: np.maximum(a, 0), np.exp, np.log, np.sqrt, lambda a: 1 / np.sqrt(a), lambda a: np.logaddexp(a, 0), np.abs,
    np.minimum, np.maximum, lambda a, b, c: np.minimum(np.maximum(a, b), c), np.floor, np.mod,
    lambda a, b, c: np.where(a != 0, b, c),
    _truth(np.less), _truth(np.less_equal), _truth(np.greater), _truth(np.greater_equal), _truth(np.equal),
    _truth(np.not_equal),
    np.sign, lambda a, b: a * b * (1 - b), lambda a, b: a * (1 - b * b), lambda a: (a > 0).astype(np.float64),
    np.sin, np.cos, np.log1p, np.expm1, _mix,
]  # fmt: skip
ARITY = [1, 2, 2, 2, 2, 1, 3, 3, *[1] * 10, 2, 2, 3, 1, 2, 3, *[2] * 6, 1, 2, 2, *[1] * 5, 2]


class _Reader:
    def __init__(self, code: Sequence[int]) -> None:
        self.code = [int(v) for v in code]
        self.position = 0

    def next(self) -> int:
        self.position += 1
        return self.code[self.position - 1]

    def many(self, count: int) -> list[int]:
        return [self.next() for _ in range(count)]

    def operand(self) -> Operand:
        kind, index, offset = self.many(3)
        return kind, index, offset


@dataclass
class Phase:
    type: int
    values: dict


def _phase(reader: _Reader) -> Phase:
    kind = reader.next()
    if kind == POINTWISE:
        width = reader.next()
        operands = [reader.operand() for _ in range(reader.next())]
        return Phase(
            kind, {"width": width, "operands": operands, "code": [reader.many(5) for _ in range(reader.next())]}
        )
    if kind == PRODUCT:
        parameter, transposed = reader.many(2)
        segments = [(reader.operand(), *reader.many(2)) for _ in range(reader.next())]
        blocks = [
            (*reader.many(2), reader.operand(), reader.next(), reader.operand(), *reader.many(2))
            for _ in range(reader.next())
        ]
        return Phase(kind, {"parameter": parameter, "transposed": transposed, "segments": segments, "blocks": blocks})
    if kind == REDUCE:
        operation = reader.next()
        source, length = reader.operand(), reader.next()
        second = reader.operand() if operation == 3 else None
        epsilon = reader.next() if operation > 3 else None
        return Phase(
            kind,
            {
                "operation": operation, "source": source, "length": length, "second": second, "epsilon": epsilon,
                "destination": reader.operand(),
            },
        )  # fmt: skip
    if kind == NORMALISE:
        centred, length = reader.many(2)
        source, scale, destination = (reader.operand() for _ in range(3))
        normal = reader.operand() if reader.next() else (reader.operand(), None)[1]
        return Phase(
            kind,
            {
                "centred": centred, "length": length, "source": source, "scale": scale, "destination": destination,
                "normal": normal,
            },
        )  # fmt: skip
    parameter = reader.next()
    if kind == OUTER:
        sides = [[(reader.operand(), *reader.many(2)) for _ in range(reader.next())] for _ in range(2)]
        return Phase(kind, {"parameter": parameter, "sides": sides})
    begin = reader.next()
    return Phase(kind, {"parameter": parameter, "begin": begin, "operand": reader.operand(), "length": reader.next()})


@dataclass
class Call:
    """The arguments of a run. Arrays are (batch, time, columns); lengths (batch,); reset and elapsed (batch, time)."""

    x: Array
    parameters: list[Array]
    initial: list[Array]
    elapsed: Array | None = None
    lengths: Array | None = None
    reset: Array | None = None
    tape: Array | None = None
    grad_y: Array | None = None
    grad_final: list[Array] = field(default_factory=list)


class Emulator:
    """Decodes a plan. `run` returns a dictionary of everything that the direction computes."""

    def __init__(self, code: Sequence[int], constants: Sequence[float]) -> None:
        reader = _Reader(code)
        self.constants = [float(c) for c in constants]
        assert reader.many(2) == [0x72656375, 2]
        self.direction = reader.next()
        self.input_columns, self.output_columns, self.tape_columns = reader.many(3)
        self.register_count, constant_count = reader.many(2)
        assert constant_count == len(self.constants)
        self.parameters = [tuple(reader.many(3)[:2]) for _ in range(reader.next())]
        self.states = [tuple(reader.many(4)) for _ in range(reader.next())]
        self.chunks = reader.many(reader.next())
        self.temps = reader.many(reader.next())
        fields = [tuple(reader.many(2)) for _ in range(reader.next())]
        self.fields = [(offset, columns) for columns, offset, *_ in self.states if offset >= 0] + fields
        self.sections = [[_phase(reader) for _ in range(reader.next())] for _ in range(4)]
        assert reader.position == len(reader.code)

    def run(self, call: Call) -> dict:
        return _Run(self, call).run()


class _Run:
    def __init__(self, plan: Emulator, call: Call) -> None:
        self.plan, self.call = plan, call
        self.batch, self.time = batch, time = call.x.shape[:2]
        lengths = np.full(batch, time) if call.lengths is None else call.lengths
        self.order = np.argsort(-lengths, kind="stable")
        self.lengths = lengths[self.order]
        self.active = [int((self.lengths > t).sum()) for t in range(time)]
        self.start = np.concatenate([[0], np.cumsum(self.active)]).astype(int)
        self.chunks = [np.full((time, batch, c), np.nan) for c in plan.chunks]
        self.temps = [np.full((batch, c), np.nan) for c in plan.temps]
        self.next = [np.full((time, batch, c), np.nan) for c, *_ in plan.states]
        self.grad = [np.full((time + 1, batch, c), np.nan) for c, *_ in plan.states]
        self.grad_next = [np.full((batch, c), np.nan) for c, *_ in plan.states]
        self.y = np.full((batch, time, plan.output_columns), np.nan)
        self.grad_x = np.full((batch, time, plan.input_columns), np.nan)
        self.grad_elapsed = np.full((batch, time, 1), np.nan)
        self.grad_parameters = [np.zeros((r, c) if c else (r,)) for r, c in plan.parameters]
        self.tape = (
            np.full(batch * time * plan.tape_columns, np.nan) if call.tape is None else call.tape.astype(np.float64)
        )
        self.registers: dict[int, Array] = {}

    # Places

    def tape_rows(self, offset: int, t: int) -> tuple[Array, int]:
        """The block of a tape field at step t, (active rows, columns), and the column in it of a tape offset."""
        first, columns = next((o, c) for o, c in self.plan.fields if o <= offset < o + c)
        rows = self.batch * self.time
        block = self.tape[rows * first : rows * (first + columns)].reshape(rows, columns)
        return block[self.start[t] : self.start[t + 1]], offset - first

    def state_after(self, k: int, t: int) -> Array:
        offset = self.plan.states[k][1]
        return self.tape_rows(offset, t)[0] if offset >= 0 else self.next[k][t, : self.active[t]]

    def state_before(self, k: int, t: int) -> Array:
        rows = self.order[: self.active[t]]
        before = self.call.initial[k][rows] if t == 0 else self.state_after(k, t - 1)[: len(rows)]
        if self.call.reset is None or self.plan.states[k][3]:
            return before
        return np.where(self.call.reset[rows, t][:, None], self.plan.constants[self.plan.states[k][2]], before)

    def place(self, operand: Operand, t: int) -> tuple[Array, int]:
        """The rows of an operand at step t as a view, and its first column."""
        kind, index, offset = operand
        n = self.active[t]
        if kind in (TAPE, SCALAR_TAPE):
            return self.tape_rows(offset, t)
        held = {
            CHUNK: lambda: self.chunks[index][t, :n],
            SCALAR_CHUNK: lambda: self.chunks[index][t, :n],
            TEMP: lambda: self.temps[index][:n],
            SCALAR_TEMP: lambda: self.temps[index][:n],
            STATE_NEXT: lambda: self.state_after(index, t),
            GRAD_PREVIOUS: lambda: self.grad[index][t, :n],
        }
        return held[kind](), offset

    def read(self, operand: Operand, t: int, width: int) -> Array:
        kind, index, offset = operand
        rows = self.order[: self.active[t]]
        if kind == REGISTER:
            return self.registers[index]
        if kind == CONSTANT:
            return np.full((len(rows), width), self.plan.constants[index])
        outside = {
            VECTOR: lambda: np.broadcast_to(self.call.parameters[index], (len(rows), len(self.call.parameters[index]))),
            INPUT: lambda: self.call.x[rows, t],
            ELAPSED: lambda: np.repeat(self.call.elapsed[rows, t][:, None], width, axis=1),
            OUTPUT: lambda: self.y[rows, t],
            GRAD_OUTPUT: lambda: self.call.grad_y[rows, t],
            GRAD_INPUT: lambda: self.grad_x[rows, t],
            GRAD_ELAPSED: lambda: self.grad_elapsed[rows, t],
            STATE_PREVIOUS: lambda: self.state_before(index, t),
            GRAD_NEXT: lambda: self.grad_next[index][: len(rows)],
            UNIT: lambda: np.broadcast_to(np.arange(offset + width), (len(rows), offset + width)),
        }
        if kind in outside:
            return outside[kind]()[:, offset : offset + width].astype(np.float64)
        block, column = self.place(operand, t)
        if kind in (SCALAR_TEMP, SCALAR_CHUNK, SCALAR_TAPE):
            return np.repeat(block[:, column : column + 1], width, axis=1)
        return block[:, column : column + width].copy()

    def write(self, operand: Operand, t: int, value: Array) -> None:
        kind, index, offset = operand
        rows = self.order[: self.active[t]]
        columns = slice(offset, offset + value.shape[1])
        if kind == REGISTER:
            self.registers[index] = value
        elif kind in (OUTPUT, GRAD_INPUT, GRAD_ELAPSED):
            {OUTPUT: self.y, GRAD_INPUT: self.grad_x, GRAD_ELAPSED: self.grad_elapsed}[kind][rows, t, columns] = value
        else:
            block, column = self.place(operand, t)
            block[:, column : column + value.shape[1]] = value

    # Phases

    def step(self, phase: Phase, t: int) -> None:
        v = phase.values
        if phase.type == POINTWISE:
            self.registers = {}
            for opcode, destination, *sources in v["code"]:
                values = [self.read(v["operands"][s], t, v["width"]) for s in sources[: ARITY[opcode]]]
                self.write(v["operands"][destination], t, OPERATIONS[opcode](*values))
        elif phase.type == PRODUCT:
            matrix = self.call.parameters[v["parameter"]].astype(np.float64)
            taken = matrix if v["transposed"] else matrix.T
            products = [
                self.read(operand, t, length) @ taken[begin : begin + length]
                for operand, length, begin in v["segments"]
            ]
            for begin, count, destination, has_init, init, first, parts in v["blocks"]:
                base = self.read(init, t, count) if has_init else 0
                full = sum(products[first : first + parts])
                self.write(destination, t, base + full[:, begin : begin + count])
        elif phase.type == NORMALISE:
            self.write(v["destination"], t, self.normalised(v, t))
        else:
            value = self.read(v["source"], t, v["length"])
            if v["second"] is not None:
                value = value * self.read(v["second"], t, v["length"])
            self.write(v["destination"], t, self.reduced(v, value)[:, None])

    def reduced(self, v: dict, value: Array) -> Array:
        if v["epsilon"] is None:
            return [np.sum, np.max, np.min, np.sum][v["operation"]](value, axis=1)
        spread = value.var(axis=1) if v["operation"] == 4 else np.square(value).mean(axis=1)
        return 1 / np.sqrt(spread + self.plan.constants[v["epsilon"]])

    def normalised(self, v: dict, t: int) -> Array:
        value, scale = self.read(v["source"], t, v["length"]), self.read(v["scale"], t, 1)
        if v["centred"]:
            value = value - value.mean(axis=1, keepdims=True)
        if v["normal"] is not None:
            normal = self.read(v["normal"], t, v["length"])
            value = value - normal * (self.read(v["source"], t, v["length"]) * normal).mean(axis=1, keepdims=True)
        return value * scale

    def gradient(self, phase: Phase) -> None:
        v = phase.values
        target = self.grad_parameters[v["parameter"]]
        for t in range(self.time):
            if phase.type == ROWSUM:
                target[v["begin"] : v["begin"] + v["length"]] += self.read(v["operand"], t, v["length"]).sum(0)
                continue
            for a, rows, row_begin in v["sides"][0]:
                for b, columns, column_begin in v["sides"][1]:
                    part = self.read(a, t, rows).T @ self.read(b, t, columns)
                    target[row_begin : row_begin + rows, column_begin : column_begin + columns] += part

    def receive(self, t: int) -> None:
        """GRAD_NEXT of step t."""
        for k in range(len(self.plan.states)):
            self.grad_next[k] = self.call.grad_final[k][self.order].astype(np.float64)
            continued = self.active[t + 1] if t + 1 < self.time else 0
            if continued:
                flowing = self.grad[k][t + 1, :continued]
                if self.call.reset is not None and not self.plan.states[k][3]:
                    flowing = np.where(self.call.reset[self.order[:continued], t + 1][:, None], 0, flowing)
                self.grad_next[k][:continued] = flowing
            if not self.writes(GRAD_PREVIOUS, k):
                self.grad[k][t] = 0

    def writes(self, kind: int, index: int = 0) -> bool:
        found = []
        for phase in (p for section in self.plan.sections for p in section):
            if phase.type == POINTWISE:
                found += [phase.values["operands"][i[1]] for i in phase.values["code"]]
            elif phase.type == PRODUCT:
                found += [block[2] for block in phase.values["blocks"]]
            elif phase.type in (REDUCE, NORMALISE):
                found.append(phase.values["destination"])
        return any(o[:2] == (kind, index) for o in found)

    def run(self) -> dict:
        pre, loop, post, gradients = self.plan.sections
        backward = self.plan.direction == BACKWARD
        steps = list(range(self.time))
        for t in steps:
            for phase in pre:
                self.step(phase, t)
        for t in reversed(steps) if backward else steps:
            if backward:
                self.receive(t)
            for phase in loop:
                self.step(phase, t)
        for phase in post:
            for t in steps:
                self.step(phase, t)
        for phase in gradients:
            self.gradient(phase)
        return self.gradients() if backward else self.outputs()

    def beyond(self) -> Array:
        lengths = np.empty(self.batch, int)
        lengths[self.order] = self.lengths
        return np.arange(self.time)[None, :] >= lengths[:, None]

    def outputs(self) -> dict:
        self.y[self.beyond()] = 0
        final = [np.array(initial, np.float64) for initial in self.call.initial]
        for k, state in enumerate(final):
            for row, original in enumerate(self.order):
                if self.lengths[row] > 0:
                    state[original] = self.state_after(k, self.lengths[row] - 1)[row]
        return {"y": self.y, "final": final, "tape": self.tape}

    def gradients(self) -> dict:
        for grad, kind in ((self.grad_x, GRAD_INPUT), (self.grad_elapsed, GRAD_ELAPSED)):
            if not self.writes(kind):
                grad[:] = 0
            grad[self.beyond()] = 0
        initial = [np.array(given, np.float64) for given in self.call.grad_final]
        for k, grad in enumerate(initial):
            for row, original in enumerate(self.order):
                if self.lengths[row] > 0:
                    dropped = self.call.reset is not None and self.call.reset[original, 0]
                    dropped = dropped and not self.plan.states[k][3]
                    grad[original] = 0 if dropped else self.grad[k][0, row]
        return {
            "grad_x": self.grad_x, "grad_elapsed": self.grad_elapsed[:, :, 0], "grad_initial": initial,
            "grad_parameters": self.grad_parameters,
        }  # fmt: skip
