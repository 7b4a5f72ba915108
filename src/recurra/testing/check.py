"""Runs the laws on a layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from recurra.errors import ArgumentError
from recurra.nn import Layer
from recurra.testing import edge_laws, exact_laws, gradient_law, onnx_law, runtime_law, sequence_laws
from recurra.testing.cases import Case
from recurra.testing.compare import Disagreement
from recurra.testing.peer_law import Peer, equals_peer
from recurra.testing.report import LawResult, LawViolation, Report

Check = Callable[[Layer, Case], None]

SMALL = ((1, 1), (2, 3), (3, 5), (5, 4), (4, 9), (7, 6))
"""(batch, time), the smallest first, so that the first failure is the one to look at."""
LARGE = ((9, 33),)
BOTH = (torch.float64, torch.float32)

# what a faulty layer may raise in the middle of a law; anything else is no matter of the layer
_FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def _always(layer: Layer) -> str:
    return ""


def _only_causal(layer: Layer) -> str:
    return "" if layer.causal else "the layer needs the future of its input"


def _same_end(layer: Layer) -> str:
    return "the vectors of the two directions end in different pieces" if layer.pools and not layer.causal else ""


@dataclass(frozen=True, slots=True)
class Law:
    """A law: its number in the design, its check, the reason why it does not apply to a layer (empty when it does),
    and its cases."""

    number: int
    name: str
    check: Check
    inapplicable: Callable[[Layer], str] = _always
    sizes: tuple[tuple[int, int], ...] = SMALL
    dtypes: tuple[torch.dtype, ...] = BOTH


LAWS = (
    Law(1, "forward = fold of step", sequence_laws.forward_is_fold_of_step, _only_causal),
    Law(2, "chunks with carried state = whole", sequence_laws.chunks_are_the_whole, _only_causal),
    Law(3, "padding changes nothing", sequence_laws.padding_changes_nothing),
    Law(4, "rows are independent", sequence_laws.rows_are_independent),
    Law(5, "reset = fresh start", sequence_laws.reset_is_a_fresh_start, _same_end),
    Law(6, "reverse reverses the valid part", sequence_laws.reverse_keeps_padding),
    Law(
        7,
        "gradients are right",
        gradient_law.gradients_are_right,
        gradient_law.inapplicable,
        SMALL[1:],
        (torch.float64,),
    ),
    Law(8, "save and load, bit-equal", exact_laws.saving_changes_no_bit, sizes=SMALL[1:]),
    Law(
        9,
        "any number of threads, bit-equal",
        exact_laws.threads_change_no_bit,
        exact_laws.depends_on_threads,
        sizes=LARGE,
    ),
    Law(10, "runtime = training layer", runtime_law.runtime_is_the_layer, runtime_law.inapplicable),
    Law(11, "ONNX = training layer", onnx_law.graph_is_the_layer, onnx_law.inapplicable, SMALL[2:3]),
    Law(12, "unusual shapes", edge_laws.unusual_shapes_are_right, sizes=SMALL[1:]),
    Law(13, "NaN stays in its row", edge_laws.nan_stays_in_its_row),
)

_IN_TRAINING = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 13})
"""Laws that hold in training too, where results follow from inputs and state."""


def check_laws(
    layer: Layer,
    *,
    peer: Peer | None = None,
    samples: int = 3,
    seed: int = 0,
    inapplicable: Mapping[int, str] | None = None,
    raise_on_failure: bool = True,
) -> Report:
    """Tries every law on a layer, in double and single precision, and returns a report that prints as a table.

    `peer(x, state) -> (y, state)` is an independent implementation in double precision, for law 14; it gets the
    elapsed time as a third argument where the layer needs that. Its state has the layer's structure; where it has
    gradients, those of x and of the state are compared too. `samples` cases are tried a law and dtype, the smallest
    first; inputs follow from `seed`. `inapplicable` gives, by number, the reason why a law does not hold for this
    layer; it stands in the report. The layer itself is left as it is.

    Raises LawViolation, which lists every law that failed with the smallest case, unless `raise_on_failure` is false.
    """
    if not isinstance(layer, Layer):
        raise ArgumentError(
            f"layer is a {type(layer).__name__}",
            expected="a layer of recurra",
            advice="Build it with recurra.nn, or subclass recurra.nn.Layer",
        )
    if samples < 1:
        raise ArgumentError(f"samples is {samples}", expected="1 or more", advice="Leave it out for the usual number")
    excused = dict(inapplicable or {})
    laws = list(LAWS)
    if peer is not None:
        laws.append(
            Law(14, "equals an independent implementation", _with_peer(peer), sizes=SMALL[1:], dtypes=(torch.float64,))
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        results = [_try(law, layer, samples, seed, excused.get(law.number) or law.inapplicable(layer)) for law in laws]
    if peer is None:
        results.append(
            LawResult(14, "equals an independent implementation", "not applicable", reason="no peer was given")
        )
    report = Report(type(layer).__name__, tuple(sorted(results, key=lambda result: result.number)))
    if report.failures and raise_on_failure:
        raise LawViolation(report)
    return report


def _with_peer(peer: Peer) -> Check:
    return lambda layer, case: equals_peer(layer, case, peer)


def _try(law: Law, layer: Layer, samples: int, seed: int, reason: str) -> LawResult:
    if reason:
        return LawResult(law.number, law.name, "not applicable", reason=reason)
    tried = 0
    for training in (False, True) if _holds_in_training(law, layer) else (False,):
        for dtype in law.dtypes:
            subject = copy.deepcopy(layer).to(dtype).train(training)
            for batch, time in law.sizes[:samples]:
                case = Case(batch, time, dtype, seed + tried)
                tried += 1
                where = f"(case: {case}{', training' if training else ''})"
                try:
                    law.check(subject, case)
                except Disagreement as found:
                    return LawResult(law.number, law.name, "failed", tried, f"{found} {where}")
                except _FAULTS as error:
                    return LawResult(
                        law.number, law.name, "failed", tried, f"raised {type(error).__name__}: {error} {where}"
                    )
    reason = sequence_laws.lawless_in_training(layer) if law.number in _IN_TRAINING else ""
    return LawResult(law.number, law.name, "passed", tried, f"in evaluation; in training {reason}" if reason else "")


def _holds_in_training(law: Law, layer: Layer) -> bool:
    """Whether training, where it is other equations than evaluation, is to be tried too. Law 2 sees to both itself."""
    seeded = any(module.seeded for module in layer.modules() if isinstance(module, Layer))
    if not seeded or law.number not in _IN_TRAINING - {2} or sequence_laws.lawless_in_training(layer):
        return False
    # the two directions would draw other numbers from other states
    return law.number != 5 or layer.causal
