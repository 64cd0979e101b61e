"""Which axis of parallelism is the bottleneck of a step: what it needs at the bandwidth measured, and what waits for it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from longcat.benchmark.collectives import Collective, Need, axis_times
from longcat.benchmark.measurement import Measurement
from longcat.benchmark.plots import decimal_bytes
from longcat.config import PipelineConfig
from longcat.costs.traffic import Step, step_traffic

NEGLIGIBLE = 0.05
"""Share of a step below which an axis is called no bottleneck."""
PATIENCE = 2.0
"""How much longer than an axis needs a step has to wait for it, to be called waiting for other processes."""
_WIDTH = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class AxisLoad:
    """An axis in a step."""

    axis: str
    ranks: int
    scope: str
    """Inside a node or between nodes."""
    messages: int
    """Of a process in a step."""
    link_bytes: float
    """That leave a process in a step, in the process that sends most."""
    formula_bytes: float | None
    """The same by `longcat.costs.traffic`; None where it has no formula that needs no measurement."""
    seconds: float
    """That they take at the bandwidth measured."""
    bus_bandwidth: float
    """Mean over the collectives of the axis, in bytes/s."""
    step_share: float
    """The seconds as a fraction of the step; part of them runs beside other work."""
    exposed_share: float | None
    """Fraction of the profiled step in which a process only waits for this axis, as a mean over processes."""


def axis_loads(timed: Measurement, config: PipelineConfig) -> list[AxisLoad]:
    """Return what each axis with more than one process takes in a step, the longest first; none without a measurement."""
    found = timed.collectives
    if found is None:
        return []
    measured = [
        Collective(**{field.name: one[field.name] for field in fields(Collective)}) for one in found["measured"]
    ]
    needed = [Need(**one) for one in found["needs"]]
    exposed = exposed_shares(timed.breakdown)
    formulas = _formulas(timed, found["degrees"], config)
    return [
        AxisLoad(
            one.axis, one.ranks, one.scope, one.messages, one.link_bytes,
            _formula(formulas, found["served"].get(one.axis, [one.axis])), one.seconds, one.bus_bandwidth,
            one.seconds / timed.step_seconds, None if exposed is None else exposed.get(one.axis, 0.0),
        )
        for one in axis_times(needed, measured)
    ]  # fmt: skip


def exposed_shares(breakdown: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return the fraction of a step that waits for each axis, as a mean over the profiled processes; None without any."""
    lines = (breakdown or {}).get("timelines")
    if not lines:
        return None
    axes = dict.fromkeys(axis for line in lines for axis in line["waiting_shares"])
    return {axis: statistics.fmean(line["waiting_shares"].get(axis, 0.0) for line in lines) for axis in axes}


def sentence(loads: Sequence[AxisLoad]) -> str | None:
    """Say which axis is the bottleneck; None where no process sends anything."""
    if not loads:
        return None
    first = loads[0]
    needs = (
        f"{decimal_bytes(first.link_bytes)} a step from each of {first.ranks} processes take {_time(first.seconds)} at the "
        f"{decimal_bytes(first.bus_bandwidth)}/s measured, {first.step_share:.1%} of a step"
    )
    if first.exposed_share is not None:
        needs += f"; {first.exposed_share:.1%} of a step only waits for them"
        if first.exposed_share > PATIENCE * first.step_share:
            needs += ", so processes wait for one another rather than for the link"
    if first.step_share < NEGLIGIBLE:
        return f"No axis is a bottleneck. Along the longest, {first.axis}, {needs}."
    return f"The bottleneck is the axis {first.axis}: {needs}."


def _formulas(timed: Measurement, degrees: Mapping[str, int], config: PipelineConfig) -> dict[str, float]:
    training, stage = config.training, timed.processes // degrees["pipeline"]
    step = Step(
        tokens=timed.batch_tokens // stage,
        micro_batches=timed.micro_batches,
        element_bytes=_WIDTH[timed.precision],
        ffn_experts=timed.ffn_experts_per_token,
        recomputed=training.activation_checkpointing == "full",
        spread_tables=config.parallel.spreads_tables(stage, training.optimizer.lazy_ngram_moments),
        schedule=config.parallel.schedule,
        phase=timed.phase,
        memory_bytes=timed.device_memory_bytes,
    )
    return step_traffic(config.model, degrees, step)


def _formula(formulas: Mapping[str, float], axes: Sequence[str]) -> float | None:
    known = [formulas[axis] for axis in axes if axis in formulas]
    return sum(known) if known else None


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
