"""Time of a step by part: what the slowest stage computes and sends for each micro-batch, the bubble, and what a step ends with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from longcat.costs.stages import Held, held_by
from longcat.plan.device import Device
from longcat.plan.layout import Layout
from longcat.plan.links import exchange_seconds, reach, ring_seconds
from longcat.plan.memory import other_parameters
from longcat.plan.model import Model
from longcat.plan.stacks import Kernels, Stack
from longcat.plan.traffic import Sent, other_sent, own_sent
from longcat.plan.work import Passes, Place, at, whole_passes

BUBBLE = {"1f1b": 1.0, "interleaved": 0.5, "zbv": 1 / 3}
"""Slots of a micro-batch that a process waits for each stage before it. Of the V, gradients of weights fill what would be waited
for if all passes took as long; that a third is left is an estimate."""
_STATE_PASSES_BYTES = 40.0
"""Read and written of a parameter's optimizer state, gradient and weight in a step."""
_GRADIENT_PASSES_BYTES = 6.0
"""Of each weight that a process holds: its gradient is scaled, and it is written anew."""


@dataclass(frozen=True)
class Part:
    """Seconds of a step that one thing takes."""

    name: str
    kind: str
    """compute, communication, bubble, optimizer or overhead."""
    seconds: float
    level: str = ""
    """Of communication: inside a node, or between nodes."""


@dataclass(frozen=True)
class StepTime:
    """A step by part; their sum is its time."""

    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """Return the time of the step."""
        return sum(part.seconds for part in self.parts)

    def of_kind(self, kind: str) -> float:
        """Return the time of all parts of a kind."""
        return sum(part.seconds for part in self.parts if part.kind == kind)


def step_time(
    model: Model, layout: Layout, device: Device, stack: Stack, kernels: Kernels, spread_tables: bool = False
) -> StepTime:
    """Return the time of a step of a layout in the slowest stage."""
    passes = whole_passes(model, layout, device, stack, kernels)
    if model.own is None:
        # programs give the last stages fewer layers for the head
        even = 1 / layout.degrees.pipeline
        found = other_sent(model, layout, stack, *other_parameters(model, layout))
        weights = sum(other_parameters(model, layout))
        return _of_stage(at(passes, Place(even, even, even)), found, layout, device, weights / layout.data, weights)
    config = model.own.model
    stages = layout.degrees.pipeline
    best: StepTime | None = None
    for place in sorted({0, min(1, stages - 1), stages - 1}):
        held = held_by(layout.schedule, place, stages, model.layers)
        share = _place(held, model.layers)
        sent = own_sent(config, layout, place, device.memory_bytes, spread_tables)
        held_parameters = model.workload.total_parameters * share.layers / layout.degrees.stage
        time = _of_stage(at(passes, share), sent, layout, device, held_parameters, held_parameters)
        best = time if best is None or time.seconds > best.seconds else best
    assert best is not None
    return best


def _place(held: list[Held], layers: int) -> Place:
    last = float(any(one.last for one in held))
    return Place(sum(one.layers for one in held) / layers, last, last)


def _of_stage(
    passes: dict[str, Passes], sent: Iterable[Sent], layout: Layout, device: Device, stepped: float, held: float
) -> StepTime:
    """Put the step of a stage together; `stepped` parameters have their state in this process, which holds `held` weights."""
    count, of, degrees = layout.micro_batches, device.efficiency, layout.degrees
    parts = [Part(name, "compute", count * (one.forward + one.backward)) for name, one in passes.items() if one.whole]
    if again := sum(one.again for one in passes.values()):
        parts.append(Part("computed again", "compute", count * again))
    slot = sum(part.seconds for part in parts) / count + of.micro_batch_s
    for one in sent:
        where = reach(degrees, one.axis, device.node)
        if where.ranks < 2 or not one.link_bytes:
            continue
        seconds = exchange_seconds if one.axis in ("expert", "embedding") else ring_seconds
        spent = one.exposed * seconds(one.link_bytes, where, device) + one.messages * of.message_s
        parts.append(Part(one.axis, "communication", spent, where.level))
        if one.axis in ("tensor", "context", "context x tensor", "expert", "hidden states"):
            slot += spent / count
    bubble = BUBBLE[layout.schedule] * (degrees.pipeline - 1) * slot
    if bubble:
        parts.append(Part("bubble", "bubble", bubble))
    state = _STATE_PASSES_BYTES * stepped + _GRADIENT_PASSES_BYTES * held
    parts.append(Part("optimizer", "optimizer", device.speeds.stream_seconds(state)))
    parts.append(Part("host", "overhead", count * of.micro_batch_s + of.step_s))
    return StepTime(tuple(parts))
