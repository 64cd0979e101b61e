"""Two kinds of devices in one training: rows or layers shared by speed, what the slower kind costs, and when to leave it out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from longcat.errors import ConfigError
from longcat.parallel.axes import Degrees
from longcat.plan.judge import Judged, Setting, judge, memory_of
from longcat.plan.layout import Batch, Layout
from longcat.plan.search import search
from longcat.printable import counted

_GRADIENT_BYTES = 4
_WORTH = 0.01
"""Gain in time below which a second kind is not worth its place."""


@dataclass(frozen=True)
class Way:
    """A way to use both kinds, or one."""

    name: str
    seconds: float
    text: str
    waits: float
    """Share of a step that the first kind waits for the second."""


def mixed(of: Setting, devices: int, also: Setting, also_devices: int, batch: Batch) -> dict[str, Any]:
    """Compare one kind alone with both, rows or layers shared.

    Raises:
        ConfigError: the first kind alone has no layout that divides anything.
    """
    alone, other = search(of, devices, batch), _searched(also, also_devices, batch)
    ways: list[Way] = []
    if alone.best:
        one = alone.best[0]
        ways.append(Way(f"{of.device.name} alone", one.step.seconds, one.layout.sentence(), 0.0))
    if alone.best and other:
        ways += _rows_shared(of, alone.best[0], also, other, batch)
    ways += _layers_shared(of, devices, also, also_devices, batch)
    if not ways:
        raise ConfigError(
            f"{of.model.name} fits neither on {devices} x {of.device.name} nor with {also_devices} x {also.device.name} beside them"
        )
    ways.sort(key=lambda way: way.seconds)
    return {
        "also": {"device": also.device.name, "devices": also_devices},
        "ways": [{"way": way.name, "step_seconds": way.seconds, "text": way.text, "waits": way.waits} for way in ways],
        "verdict": _verdict(of, also, ways),
    }


def _searched(of: Setting, devices: int, batch: Batch) -> Judged | None:
    try:
        found = search(of, devices, batch)
    except ConfigError:
        return None
    return found.best[0] if found.best else None


def _rows_shared(of: Setting, one: Judged, also: Setting, other: Judged, batch: Batch) -> list[Way]:
    """Share the rows of a batch by speed; each kind has its own layout, and gradients are summed between both."""
    steps = [each.layout.data * each.layout.micro_batch for each in (one, other)]
    wanted = batch.sequences * one.tokens_per_second / (one.tokens_per_second + other.tokens_per_second)
    found = []
    for sequences in range(steps[0], batch.sequences, steps[0]):
        if (batch.sequences - sequences) % steps[1] or abs(sequences - wanted) > max(
            4 * max(steps), 0.1 * batch.sequences
        ):
            continue
        times = [
            judge(setting, _with(each.layout, count)).step.seconds
            for setting, each, count in ((of, one, sequences), (also, other, batch.sequences - sequences))
        ]
        found.append((max(times), times, sequences))
    if not found:
        return []
    seconds, times, sequences = min(found)
    link = min(each.device.between * each.device.efficiency.between for each in (of, also))
    held = of.model.workload.total_parameters / min(one.layout.degrees.processes, other.layout.degrees.processes)
    exchanged = 2 * _GRADIENT_BYTES * held / link
    waits = max(0.0, seconds - times[0]) / (seconds + exchanged)
    text = (
        f"{sequences:,} of {batch.sequences:,} sequences on {of.device.name} ({one.layout.sentence()}), the others on "
        f"{also.device.name} ({other.layout.sentence()}); summing gradients between both takes {exchanged:.2f} s"
    )
    return [Way("rows shared", seconds + exchanged, text, waits)]


def _with(layout: Layout, sequences: int) -> Layout:
    return replace(layout, batch=replace(layout.batch, sequences=sequences))


def _layers_shared(of: Setting, devices: int, also: Setting, also_devices: int, batch: Batch) -> list[Way]:
    """Give each kind stages of its own of one pipeline, with layers by its speed; all stages have as many devices."""
    layers, found = of.model.layers, []
    common = math.gcd(devices, also_devices)
    for width in (one for one in range(1, common + 1) if common % one == 0):
        stages = devices // width, also_devices // width
        pipeline = sum(stages)
        if pipeline > layers:
            continue
        for tensor in (1, 2, 4, 8):
            data = width // tensor
            if width % tensor or any(size % tensor for _, size in of.model.widths) or batch.sequences % data:
                continue
            if batch.sequences // data < pipeline:
                continue
            expert = math.gcd(of.model.experts, width)
            try:
                degrees = Degrees(pipeline * width, expert, 1, pipeline, 1, tensor)
            except ConfigError:
                continue
            found += _divided(of, also, Layout(degrees, batch, 1), stages)
    return [min(found, key=lambda way: way.seconds)] if found else []


def _divided(of: Setting, also: Setting, layout: Layout, stages: tuple[int, int]) -> list[Way]:
    """Choose the layers of a stage of each kind, for the least time of the slowest stage in which both fit."""
    layers, pipeline, count = of.model.layers, layout.degrees.pipeline, layout.micro_batches
    for recompute in ("none", "selective", "full"):
        one = replace(layout, recompute=recompute)
        slots, ends, fits = [], [], []
        for setting in (of, also):
            step = judge(setting, one).step
            bubble = step.of_kind("bubble")
            slot = bubble / (pipeline - 1) if pipeline > 1 else step.seconds / count
            slots.append(slot * pipeline / layers)  # of a layer
            ends.append(max(0.0, step.seconds - bubble - count * slot))
            memory = memory_of(setting, one)
            room = setting.device.memory_bytes - setting.stack.reserve_bytes
            fits.append(room / (memory.peak_bytes * pipeline / layers))  # layers of a stage that fit, about
        best = None
        for first in range(1, layers // stages[0] + 2):
            second = max(0, -(-(layers - first * stages[0]) // stages[1]))
            if second < 1 or first > fits[0] or second > fits[1]:
                continue
            slot = max(first * slots[0], second * slots[1])
            if best is None or slot < best[0]:
                best = slot, first, second
        if best:
            slot, first, second = best
            text = (
                f"{counted(stages[0], 'stage')} of {counted(first, 'layer')} on {of.device.name}, {stages[1]} of {second} on "
                f"{also.device.name}; "
                f"{one.sentence()}"
            )
            waits = 1 - first * slots[0] / slot
            return [Way("layers shared", (count + pipeline - 1) * slot + max(ends), text, waits)]
    return []


def _verdict(of: Setting, also: Setting, ways: list[Way]) -> str:
    alone = next((way for way in ways if way.name.endswith("alone")), None)
    best = ways[0]
    both = next((way for way in ways if way is not alone), None)
    if alone is None:
        return f"{of.device.name} alone does not have the memory; {best.name}, it fits."
    if both is None:
        return f"Leave {also.device.name} out: no way to share fits it."
    gain = 1 - both.seconds / alone.seconds
    if gain < _WORTH:
        cost = f"{-gain:.1%} more" if gain < 0 else f"only {gain:.1%} less"
        return f"Leave {also.device.name} out: with it a step takes {cost} time ({both.name})."
    return (
        f"Use both, {both.name}: a step takes {gain:.1%} less time than without; "
        f"{of.device.name} waits {both.waits:.1%} of it."
    )
