"""The engine refuses what is malformed: plans that break a rule, and calls that do not fit their plan."""

import numpy as np
import pytest

import plan_emulator as p
from engine_calls import PlanText, backward, forward, normalise, outer, pointwise, product, reduce, rowsum
from plan_emulator import Call
from plan_generator import PlanGenerator
from recurra import _engine
from test_engine import elman, random_call

X, Y, OTHER = (p.INPUT, 0, 0), (p.OUTPUT, 0, 0), (p.CHUNK, 0, 0)
COPY = pointwise(4, [X, Y], [(0, 1, 0)])


def small(section: int, *phases: list[int]) -> PlanText:
    """A valid plan of four columns with `phases` put into a section."""
    text = PlanText(
        p.INFER, 4, 4, register_count=2, constants=[1.0], parameters=[(4, 4), (4, 0)], chunks=[8], temps=[4]
    )
    text.states = [(4, -1, 0, 0)]
    text.sections = [[COPY], [pointwise(4, [X, (p.STATE_NEXT, 0, 0)], [(0, 1, 0)])], [], []]
    text.sections[section] = [*phases, *text.sections[section]]
    return text


def refused(text: PlanText, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text.plan()


def test_the_small_plan_is_valid():
    plan = small(0).plan()
    assert (plan.direction, plan.input_columns, plan.output_columns, plan.tape_columns) == ("infer", 4, 4, 0)
    assert plan.parameter_shapes == [(4, 4), (4,)]
    assert plan.state_columns == [4]


POINTWISE_FAULTS = {
    "end beyond": ([(p.INPUT, 0, 1), Y], [(0, 1, 0)]),
    "there are only": ([(p.CHUNK, 1, 0), Y], [(0, 1, 0)]),
    "read before it is written": ([OTHER, Y], [(0, 1, 0)]),
    "REGISTER 1 at column 0 is read before": ([(p.REGISTER, 1, 0), Y], [(0, 1, 0)]),
    "REGISTER 2 at column 0: there are only 2": ([(p.REGISTER, 2, 0), Y], [(0, 1, 0)]),
    "the offset has to be 0": ([(p.REGISTER, 0, 1), Y], [(0, 1, 0)]),
    "can only be written": ([Y, OTHER], [(0, 1, 0)]),
    "INPUT 0 at column 0 cannot be written": ([X, X], [(0, 1, 0)]),
    "CONSTANT 0 at column 0 cannot be written": ([X, (p.CONSTANT, 0, 0)], [(0, 1, 0)]),
    "without being the same": ([X, OTHER, (p.CHUNK, 0, 2)], [(0, 1, 0), (0, 2, 0)]),
    "overlaps SCALAR_CHUNK": ([X, OTHER, (p.SCALAR_CHUNK, 0, 3)], [(0, 1, 0), (0, 1, 2)]),
    "the parameter is a matrix": ([(p.VECTOR, 0, 0), Y], [(0, 1, 0)]),
    "TEMP 0 at column 0 is not allowed": ([X, (p.TEMP, 0, 0)], [(0, 1, 0)]),
    "STATE_PREVIOUS 0 at column 0 is not allowed": ([(p.STATE_PREVIOUS, 0, 0), Y], [(0, 1, 0)]),
    "TAPE 0 at column 0 is not allowed": ([X, (p.TAPE, 0, 0)], [(0, 1, 0)]),
    "GRAD_OUTPUT 0 at column 0 is not allowed": ([(p.GRAD_OUTPUT, 0, 0), Y], [(0, 1, 0)]),
    "an opcode is 39": ([X, Y], [(39, 1, 0)]),
    "an instruction's operand is 2": ([X, Y], [(0, 1, 2)]),
    "an instruction's operand is -1": ([X, Y], [(1, 1, 0)]),
    "an instruction's operand is 0, expected -1": ([X, Y], [(0, 1, 0, 0)]),
    "an instruction's destination is 2": ([X, Y], [(0, 2, 0)]),
    "UNIT 0 at column 0 cannot be written": ([X, (p.UNIT, 0, 0)], [(0, 1, 0)]),
    "there are only 1": ([(p.UNIT, 1, 0), Y], [(0, 1, 0)]),
    "end beyond column 1048576": ([(p.UNIT, 0, (1 << 20) - 2), Y], [(0, 1, 0)]),
    "an operand's kind is 20": ([(20, 0, 0), Y], [(0, 1, 0)]),
    "an operand's offset is -1": ([(p.INPUT, 0, -1), Y], [(0, 1, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("message", POINTWISE_FAULTS)
def test_pointwise_faults(message):
    refused(small(0, pointwise(4, *POINTWISE_FAULTS[message])), message)


BLOCK = (0, 4, OTHER)
PRODUCT_FAULTS = {
    "parameter 1 is a vector": product(1, 0, [(X, 4)], [BLOCK]),
    "parameter is 2": product(2, 0, [(X, 4)], [BLOCK]),
    "a segment's length is 5": product(0, 0, [(X, 5)], [BLOCK]),
    "a segment's begin is 2, expected 0 to 1": product(0, 0, [(X, 3, 2)], [BLOCK]),
    "a block's first segment is 1, expected 0 to 0": product(0, 0, [(X, 4)], [(0, 4, OTHER, None, 1, 1)]),
    "a block's segment count is 2, expected 1 to 1": product(0, 0, [(X, 3), (X, 1)], [(0, 4, OTHER, None, 1, 2)]),
    "a block's first segment is 0, expected 0 to -1": product(0, 0, [], [BLOCK]),
    "at least one block": product(0, 0, [(X, 4)], []),
    "a block's count is 4, expected 1 to 3": product(0, 0, [(X, 4)], [(1, 4, OTHER)]),
    "two blocks of a PRODUCT write": product(0, 0, [(X, 4)], [(0, 2, OTHER), (2, 2, (p.CHUNK, 0, 1))]),
    "CHUNK 0 at column 0 is read before": product(0, 0, [(OTHER, 4)], [(0, 4, Y)]),
    "OUTPUT 0 at column 0 is read before": product(0, 0, [(X, 4)], [(0, 4, Y, Y)]),
    "SCALAR_CHUNK 0 at column 0 broadcasts": product(0, 0, [((p.SCALAR_CHUNK, 0, 0), 4)], [BLOCK]),
    "CONSTANT 0 at column 0 is not allowed here": product(0, 0, [((p.CONSTANT, 0, 0), 4)], [BLOCK]),
}  # fmt: skip


@pytest.mark.parametrize("message", PRODUCT_FAULTS)
def test_product_faults(message):
    refused(small(0, PRODUCT_FAULTS[message]), message)


def test_sparse_faults():
    text = small(0, product(0, 0, [(X, 3)], [BLOCK]))
    text.sparse = frozenset({0})
    refused(text, "a sparse matrix takes one segment of 4 columns")
    text.sparse = frozenset({1})
    refused(text, "a parameter's sparse is 1")


def test_a_product_may_not_write_what_it_reads():
    fill = pointwise(4, [X, OTHER], [(0, 1, 0)])
    refused(small(0, fill, product(0, 0, [(OTHER, 4)], [(0, 2, (p.CHUNK, 0, 3))])), "one of its own segments")
    blocks = [(0, 2, (p.CHUNK, 0, 1)), (2, 2, (p.CHUNK, 0, 4), (p.CHUNK, 0, 0))]
    refused(small(0, fill, product(0, 0, [(X, 4)], blocks)), "an init other than its own")


def test_other_faults():
    refused(small(0, reduce(6, X, 4, OTHER)), "operation is 6")
    refused(small(0, reduce(0, X, 5, OTHER)), "end beyond")
    refused(small(0, pointwise(4, [X, OTHER], [(0, 1, 0)]), reduce(0, OTHER, 4, (p.CHUNK, 0, 2))), "its own source")
    fill = pointwise(4, [X, OTHER], [(0, 1, 0)])
    refused(small(0, fill, reduce(3, X, 4, (p.CHUNK, 0, 2), OTHER)), "its own source")
    refused(small(0, reduce(3, X, 4, (p.CHUNK, 0, 4), OTHER)), "read before it is written")
    refused(small(0, reduce(4, X, 4, OTHER, (1,))), "epsilon is 1, expected 0 to 0")
    refused(small(0, normalise(2, X, 4, X, OTHER)), "centred is 2")
    refused(small(0, normalise(1, X, 4, (p.CHUNK, 0, 5), OTHER)), "read before it is written")
    refused(small(0, fill, normalise(1, X, 4, (p.CHUNK, 0, 3), OTHER)), "writes into what it reads")
    refused(small(0, fill, normalise(1, X, 4, X, OTHER, (p.CHUNK, 0, 0))), "writes into what it reads")
    refused(small(0, outer(0, [(X, 4, 0)], [(X, 4, 0)])), "stand in gradients only")
    refused(small(3, outer(0, [(X, 4, 0)], [(X, 4, 0)])), "only a backward plan")
    refused(small(0, [6]), "the phase type is 6")
    text = small(0)
    text.sections[1] = []
    refused(text, "STATE_NEXT 0 is not written in full")
    text = small(0)
    text.sections[0] = [pointwise(3, [X, Y], [(0, 1, 0)])]
    refused(text, "OUTPUT is not written in full")


def test_header_faults():
    for position, value in ((0, 1), (1, 1), (2, 3), (3, -1), (4, 1 << 40), (5, 1), (6, -1), (7, 2)):
        code = small(0).code()
        code[position] = value
        with pytest.raises(ValueError, match=r"plan: .* expected"):
            _engine.Plan(code, np.array([1.0]))
    text = small(0)
    text.states = [(4, -1, 1, 0)]
    refused(text, "a state's initial is 1")
    text.states = [(4, -1, 0, 2)]
    refused(text, "whether a state is kept is 2")
    code = small(0).code()
    for end in range(len(code)):
        with pytest.raises(ValueError, match="plan: "):
            _engine.Plan(code[:end].copy(), np.array([1.0]))
    with pytest.raises(ValueError, match="left over"):
        _engine.Plan(np.append(code, 0), np.array([1.0]))


def test_tape_faults():
    text = elman(p.TRAIN, 3, 4)
    text.fields, text.tape_columns = [(3, 2)], 5
    refused(text, "overlaps another")
    text.fields, text.tape_columns = [(4, 2)], 5
    refused(text, "ends beyond tape_columns")
    text.tape_columns = 6
    refused(text, "the tape field at 4 is not written in full")
    text = elman(p.BACKWARD, 3, 4)
    text.states, text.tape_columns = [(4, -1, 0, 0)], 0
    refused(text, "the state is not on the tape")
    text = elman(p.BACKWARD, 3, 4)
    text.sections[3].append(rowsum(2, 1, (p.CHUNK, 0, 0), 4))
    refused(text, "length is 4, expected 1 to 3")
    text = elman(p.BACKWARD, 3, 4)
    text.sections[1].append(pointwise(4, [(p.CHUNK, 0, 0), (p.TAPE, 0, 0)], [(0, 1, 0)]))
    refused(text, "TAPE 0 at column 0 cannot be written")


def test_calls_that_do_not_fit():
    plans = [elman(direction, 3, 4).plan() for direction in range(3)]
    rng = np.random.default_rng(0)

    def call() -> Call:
        made = random_call(rng, plans[1], (2, 5), False, False)
        made.tape = None
        return made

    for lengths in ([6, 1], [1, -1]):
        wrong = call()
        wrong.lengths = np.array(lengths)
        with pytest.raises(ValueError, match="expected 0 to 5"):
            forward(plans[0], wrong)
    for attribute, message in (("parameters", "parameters has 2 addresses, expected 3"), ("initial", "initial has 0")):
        wrong = call()
        setattr(wrong, attribute, getattr(wrong, attribute)[:-1])
        with pytest.raises(ValueError, match=message):
            forward(plans[0], wrong)
    with pytest.raises(ValueError, match="threads is 0"):
        forward(plans[0], call(), threads=0)
    with pytest.raises(ValueError, match="the plan uses a tape"):
        backward(plans[2], call())
    with pytest.raises(ValueError, match="forward of a backward plan"):
        plans[2].forward(8, 1, 1, 1, *[0] * 12, [], [], [])
    with pytest.raises(ValueError, match="item_size is 2"):
        plans[0].forward(2, 1, 1, 1, 8, 0, 0, 8, *[0] * 8, [8, 8, 8], [8], [8])
    with pytest.raises(ValueError, match="out of range"):
        plans[0].forward(8, -1, 1, 1, 8, 0, 0, 8, *[0] * 8, [8, 8, 8], [8], [8])
    with pytest.raises(ValueError, match=r"final\[0\] is null"):
        plans[0].forward(8, 1, 1, 1, 8, 0, 0, 8, *[0] * 8, [8, 8, 8], [8], [0])
    text = PlanText(p.INFER, 1, 1, sections=[[pointwise(1, [(p.ELAPSED, 0, 0), Y], [(0, 1, 0)])], [], [], []])
    with pytest.raises(ValueError, match="uses elapsed"):
        forward(text.plan(), Call(np.zeros((1, 1, 1)), [], []))


@pytest.mark.parametrize("seed", range(40))
def test_corrupted_plans_never_crash(seed):
    """A plan with a few numbers changed is refused, or it runs on arrays of the sizes that it declares."""
    rng = np.random.default_rng(seed)
    code = PlanGenerator(rng, seed % 3, 9).draw().code()
    accepted = 0
    for _ in range(150):
        wrong = code.copy()
        for at in rng.integers(2, len(code), int(rng.integers(1, 4))):
            wrong[at] = rng.choice(
                [int(code[at]) + 1, int(code[at]) - 1, rng.integers(0, 20), -1, 1 << 24, 1 << 62, -(1 << 63)]
            )
        try:
            plan = _engine.Plan(wrong, np.array([0.5, -1.25, 0.125]))
        except ValueError:
            continue
        sizes = [plan.input_columns, plan.output_columns, plan.tape_columns, *plan.state_columns]
        sizes += [int(np.prod(shape)) for shape in plan.parameter_shapes]
        if max(sizes) > 5000 or plan.row_cost > 1e6:
            continue
        accepted += 1
        call = random_call(rng, plan, (4, 5), True, True)
        if plan.direction == "backward":
            backward(plan, call, threads=2)
        else:
            forward(plan, call, threads=2)
    assert accepted > 0


def test_random_codes_are_refused():
    rng = np.random.default_rng(0)
    for length in range(200):
        code = rng.integers(-3, 20, length)
        code[:3] = [0x72656375, 2, length % 3][: len(code)]
        with pytest.raises(ValueError, match="plan: "):
            _engine.Plan(code, np.zeros(3))
