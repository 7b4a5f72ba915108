"""Rewrites a job so that every value has one place that all its readers may read."""

from __future__ import annotations

from dataclasses import replace

from recurra.program.graph import Node
from recurra.program.job import Job, Kind, Operand
from recurra.program.operations import TABLE
from recurra.program.schedule import LOOP, Scheduler

_BROADCAST_KINDS = (Kind.ELAPSED, Kind.TAPE)
_STEP_KINDS = {"infer": (Kind.STATE_PREVIOUS,), "train": (Kind.STATE_PREVIOUS,), "backward": (Kind.GRAD_NEXT,)}
_CARRIED = (Kind.STATE_NEXT, Kind.GRAD_PREVIOUS)
_WRITE_ONLY = (Kind.OUTPUT, Kind.GRAD_INPUT, Kind.GRAD_ELAPSED)


def normalise(job: Job) -> Job:
    """The same job with copies where the memory of a value cannot be read by all that read it."""
    return _copy_results_read_elsewhere(_copy_step_values(_copy_scalars(job)))


def _copy_scalars(job: Job) -> Job:
    """A scalar that lies in the caller's memory is copied before a wider operation reads it for all columns."""
    nodes = list(job.nodes)
    copies: dict[int, int] = {}
    for number, node in enumerate(job.nodes):
        if node.operation not in TABLE and node.operation != "broadcast":
            continue
        if node.width.is_scalar or number in job.bound:
            continue
        inputs = []
        for i in node.inputs:
            source = job.nodes[i].inputs[0] if job.nodes[i].operation == "gate" else i
            given = job.bound.get(i, job.bound.get(source))
            if given is not None and job.nodes[i].width.is_scalar and given.kind not in _BROADCAST_KINDS:
                if i not in copies:
                    copies[i] = len(nodes)
                    nodes.append(Node("copy", (i,), job.nodes[i].shape, "scalar"))
                i = copies[i]
            inputs.append(i)
        nodes[number] = replace(node, inputs=tuple(inputs))
    return replace(job, nodes=tuple(nodes))


def _copy_step_values(job: Job) -> Job:
    """What lies in memory during its step only is copied for those that read it after the loop."""
    scheduler = Scheduler(job)
    nodes = list(job.nodes)
    copies: dict[int, int] = {}

    def passing(number: int) -> bool:
        node = job.nodes[number]
        source = node.inputs[0] if node.operation == "gate" else number
        return source in job.bound and job.bound[source].kind in _STEP_KINDS[job.direction]

    def lasting(number: int) -> int:
        if not passing(number):
            return number
        if number not in copies:
            copies[number] = len(nodes)
            nodes.append(Node("copy", (number,), job.nodes[number].shape, "lasting"))
        return copies[number]

    for number, section in scheduler.section_of.items():
        if section != LOOP:
            node = job.nodes[number]
            nodes[number] = replace(node, inputs=tuple(lasting(i) for i in node.inputs))
    outers = tuple(replace(o, left=lasting(o.left), right=lasting(o.right)) for o in job.outers)
    sums = tuple(replace(s, value=lasting(s.value)) for s in job.sums)
    return replace(job, nodes=tuple(nodes), outers=outers, sums=sums)


def _copy_results_read_elsewhere(job: Job) -> Job:
    """A result becomes a copy of its value where it is read outside the loop, where a scalar is read for all columns
    of a wider one, where its destination is only ever written, or where a state is known before the loop."""
    scheduler = Scheduler(job)
    nodes = list(job.nodes)

    def settle(number: int, destination: Operand) -> tuple[int, Operand]:
        apart = scheduler.outside[number] or any(
            scheduler.section_of.get(r) != LOOP or (nodes[number].width.is_scalar and not nodes[r].width.is_scalar)
            for r in scheduler.readers[number]
        )
        read = scheduler.readers[number] or scheduler.outside[number]
        early = destination.kind in _CARRIED and scheduler.section_of.get(number, LOOP) != LOOP
        if not (read if destination.kind in _WRITE_ONLY else apart or early):
            return number, destination
        nodes.append(Node("copy", (number,), nodes[number].shape, destination))
        return len(nodes) - 1, destination

    carried = tuple(settle(*result) for result in job.carried)
    written = tuple(settle(*result) for result in job.written)
    return replace(job, nodes=tuple(nodes), carried=carried, written=written)
