"""The layouts of a number of devices: all axes, micro-batch, recomputation and schedule; those that fit, the fastest first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from longcat.costs.mfu import Recomputation
from longcat.costs.stages import Schedule, stages_in_all
from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees, token_pieces
from longcat.plan.judge import Judged, Setting, judge, memory_of
from longcat.plan.layout import Batch, Layout, settle
from longcat.printable import large_bytes

BEST = 5
_REFINED = 16
"""Layouts of which further micro-batches and schedules are judged."""
_MOST_CONTEXT, _MOST_MICRO = 64, 16
_RECOMPUTE: tuple[Recomputation, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Found:
    """What a search found."""

    fitting: list[Judged]
    """The fastest of each way to divide the devices, copies aside; the fastest first."""
    least: Judged
    """The one that needs least memory."""
    judged: int
    """Layouts that were looked at."""

    @property
    def best(self) -> list[Judged]:
        """Return the best few."""
        return self.fitting[:BEST]


def search(of: Setting, devices: int, batch: Batch) -> Found:
    """Judge the layouts of so many devices.

    Raises:
        ConfigError: none divides the devices, the model and the batch.
    """
    looked, least, fitting = 0, None, []
    for degrees in _degrees(of, devices, batch):
        for recompute, size in product(_RECOMPUTE, _least_sizes(of, degrees, batch)):
            # all recomputation: where a stage has few layers, to make all of them again needs more than to make a part
            layout = Layout(degrees, batch, size, recompute)
            memory = memory_of(of, layout)
            looked += 1
            if least is None or memory.peak_bytes < least[1].peak_bytes:
                least = layout, memory
            if memory.fits(of.device.memory_bytes, of.stack.reserve_bytes):
                fitting.append(judge(of, layout, memory))
    if least is None:
        raise ConfigError(_no_layout(of, devices, batch))
    fitting.sort(key=lambda one: one.step.seconds)
    best: dict[Degrees, Judged] = {}
    for one in fitting:
        best.setdefault(one.layout.degrees, one)
    for one in [*best.values()][:_REFINED]:
        for layout in _variants(of, one.layout):
            memory = memory_of(of, layout)
            looked += 1
            if memory.fits(of.device.memory_bytes, of.stack.reserve_bytes):
                found = judge(of, layout, memory)
                known = best.get(layout.degrees)
                if known is None or found.step.seconds < known.step.seconds:
                    best[layout.degrees] = found
    ways: dict[Degrees, Judged] = {}
    for one in sorted(best.values(), key=lambda one: (one.step.seconds, one.memory.peak_bytes)):
        ways.setdefault(replace(one.layout.degrees, replicate=1), one)
    return Found([*ways.values()], judge(of, *least), looked)


def _degrees(of: Setting, devices: int, batch: Batch) -> Iterator[Degrees]:
    """Return the degrees that divide devices, model and batch, without copies; of experts those that nodes hold."""
    model = of.model
    for pipeline in _divisors(devices):
        if stages_in_all("1f1b", pipeline) > model.layers:
            continue
        for tensor in _divisors(devices // pipeline):
            if tensor > 2 * of.device.node or any(width % tensor for _, width in model.widths):
                continue
            for context in _divisors(devices // (pipeline * tensor)):
                if context > _MOST_CONTEXT or batch.sequence_length % token_pieces(context, tensor):
                    continue
                data = devices // (pipeline * tensor * context)
                if batch.sequences % data or (pipeline > 1 and batch.sequences // data < pipeline):
                    continue
                if model.own is None and pipeline > 1 and model.layers / pipeline < 1:
                    continue
                for expert in _experts(model.experts, devices // pipeline, of.device.node):
                    yield Degrees(devices, expert, 1, pipeline, context, tensor)


def _experts(experts: int, stage: int, node: int) -> list[int]:
    most = math.gcd(experts, stage)
    if experts == 1:
        return [1]
    return sorted({most, *(one for one in (node, 4 * node, 16 * node) if most % one == 0)}, reverse=True)


def _least_sizes(of: Setting, degrees: Degrees, batch: Batch) -> set[int]:
    """Return the micro-batches that may need least memory: of one row, or of all rows, where nothing is accumulated."""
    rows = batch.sequences // degrees.batch_world
    return {1, rows} if of.model.own and degrees.pipeline == 1 and rows <= _MOST_MICRO else {1}


def _replicas(of: Setting, data: int) -> list[int]:
    """Return how often shards may be held; other families share the optimizer's state only, over all."""
    return [1] if of.model.own is None else [one for one in _divisors(data) if one in (1, 2, 4, 8, 16, 32)]


def _variants(of: Setting, layout: Layout) -> Iterator[Layout]:
    """Return micro-batches, recomputation, schedules and copies of the same other degrees."""
    rows = layout.batch.sequences // layout.degrees.batch_world
    schedules: tuple[Schedule, ...] = ("1f1b", "interleaved", "zbv") if layout.degrees.pipeline > 1 else ("1f1b",)
    micro = [size for size in _divisors(rows) if size <= _MOST_MICRO]
    for size, recompute, schedule in product(micro, _RECOMPUTE, schedules):
        pipeline, count = layout.degrees.pipeline, rows // size
        if stages_in_all(schedule, pipeline) > of.model.layers:
            continue
        if pipeline > 1 and (count < pipeline or (schedule == "interleaved" and count % pipeline)):
            continue
        yield replace(layout, micro_batch=size, recompute=recompute, schedule=schedule)
    for replicate in _replicas(of, layout.degrees.batch_world)[1:]:
        yield replace(layout, degrees=replace(layout.degrees, replicate=replicate))


def why_slower(one: Judged, best: Judged) -> str:
    """Say what makes a layout lose against the best one: its part that takes most longer."""
    ours = {part.name: part.seconds for part in one.step.parts}
    theirs = {part.name: part.seconds for part in best.step.parts}
    names = {part.name: (part.kind, part.level) for part in (*best.step.parts, *one.step.parts)}
    more = {name: ours.get(name, 0.0) - theirs.get(name, 0.0) for name in names}
    name = max(more, key=lambda part: more[part])
    kind, level = names[name]
    slower = one.step.seconds / best.step.seconds - 1
    what = (f"{name} {level}" if kind == "communication" else name).replace("_", " ")
    return f"{slower:.1%} slower; {what} takes {more[name]:.2f} s more"


def need_more(of: Setting, devices: int, batch: Batch, least: Judged) -> str:
    """Say what is missing where nothing fits, and the nearest number of devices with which something does."""
    have = of.device.memory_bytes - of.stack.reserve_bytes
    part = max(least.memory.parts, key=lambda name: least.memory.parts[name])
    text = (
        f"{of.model.name} does not fit on {devices} x {of.device.name} in any layout: the least needs "
        f"{large_bytes(least.memory.peak_bytes)} of a device ({least.layout.sentence()}; most of it {part}, "
        f"{large_bytes(least.memory.parts[part])}), and there are {large_bytes(have)}"
    )
    more = devices
    for more in _more(devices, of.device.node):
        sequences = -(-batch.sequences // more) * more if batch.sequences < more else batch.sequences
        try:
            found = search(of, more, replace(batch, sequences=sequences))
        except ConfigError:
            continue
        if found.best:
            also = f" and --global-batch {sequences}" if sequences != batch.sequences else ""
            return f"{text}; --devices {more}{also} would do ({found.best[0].layout.sentence()})"
    return f"{text}; none of the numbers of devices up to {more:,} that were tried would do"


def _more(devices: int, node: int) -> Iterator[int]:
    """Yield larger numbers of devices: up to a node one by one, then by nodes or an eighth, then by a third or a half of them."""
    yield from range(devices + 1, node + 1)
    have = max(1, devices // node)
    for nodes in range(have + 1, 2 * have + 1, max(1, have // 8)):
        yield node * nodes
    for times in (3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        yield times * max(devices, node)


def _no_layout(of: Setting, devices: int, batch: Batch) -> str:
    try:
        settle(of.model, devices, batch, {}, 1, "none")
    except ConfigError as error:
        return str(error)
    return f"no layout divides --devices {devices}, --global-batch {batch.sequences} and the model"


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})
