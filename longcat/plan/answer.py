"""The answer of `longcat plan` as JSON values: one layout judged, or the best of all, with what they cost in days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longcat.plan.judge import Judged, Setting, as_dict, products_table
from longcat.plan.layout import Batch
from longcat.plan.search import Found, why_slower

_DAY_S, _HOUR_S = 86400, 3600


def of_layout(of: Setting, judged: Judged, tokens: float | None) -> dict[str, Any]:
    """Return the answer for one layout."""
    return (
        subject(of, judged.layout.batch, judged.layout.degrees.processes)
        | as_dict(of, judged)
        | cost(judged, tokens)
        | {"products": products_table(of, judged.layout)}
    )


def of_search(of: Setting, found: Found, batch: Batch, devices: int, tokens: float | None) -> dict[str, Any]:
    """Return the answer for all layouts of a number of devices, the best first, each with the reason why it is not.

    Where none fits it is the answer for the one that needs least memory.
    """
    if not found.best:  # the one that comes nearest, with what it lacks
        return of_layout(of, found.least, tokens)
    best = found.best[0]
    rows = []
    for judged in found.best:
        row = as_dict(of, judged) | cost(judged, tokens) | {"sentence": judged.layout.sentence()}
        rows.append(row | {"reason": "" if judged is best else why_slower(judged, best)})
    front = pareto(found.fitting)
    points = [
        {
            "sentence": one.layout.sentence(),
            "step_seconds": one.step.seconds,
            "peak_bytes": round(one.memory.peak_bytes),
            "pareto": one in front,
        }
        for one in found.fitting
    ]
    return subject(of, batch, devices) | {
        "looked_at": found.judged,
        "fitting": len(found.fitting),
        "best": rows,
        "layouts": points,
        "products": products_table(of, best.layout),
    }


def subject(of: Setting, batch: Batch, devices: int) -> dict[str, Any]:
    """Return what is planned for."""
    workload, efficiency = of.model.workload, of.device.efficiency
    assumptions = [*workload.assumptions, *of.device.assumptions]
    if of.model.own and of.model.own.preset != of.model.name:
        assumptions.append(f"optimizer and what else its memory depends on are those of preset {of.model.own.preset}")
    if of.model.own:
        assumptions.append(
            "no published layout of LongCat's own code: what its sending hides is estimated, and the interval is wider"
        )
    if efficiency.confidence == "low":
        assumptions.append(f"efficiencies of {efficiency.name} are from speeds without layouts: a wide interval")
    if not of.is_fitted(batch.sequence_length):
        assumptions.append(
            f"sequences of {batch.sequence_length:,} tokens are long for a width of {of.model.hidden:,}: no such run was "
            "fitted, published ones are slower than this, and the interval is wide"
        )
    return {
        "model": of.model.name,
        "family": workload.family,
        "total_parameters": workload.total_parameters,
        "activated_parameters": workload.activated_parameters,
        "device": of.device.name,
        "devices": devices,
        "memory_bytes": round(of.device.memory_bytes),
        "peak_flops": of.device.flops,
        "global_batch": batch.sequences,
        "sequence_length": batch.sequence_length,
        "stack": of.stack.name,
        "kernels": of.kernels,
        "efficiency": efficiency.name,
        "fitted_on": efficiency.fitted_on,
        "confidence": efficiency.confidence if of.is_fitted(batch.sequence_length) else "low",
        "assumptions": assumptions,
    }


def cost(judged: Judged, tokens: float | None) -> dict[str, Any]:
    """Return the days and device-hours of training on so many tokens, with their interval."""
    if tokens is None:
        return {}
    steps = tokens / judged.layout.batch.tokens
    low, high = judged.bounds
    devices = judged.layout.degrees.processes
    return {
        "tokens": tokens,
        "steps": steps,
        "days": steps * judged.step.seconds / _DAY_S,
        "days_low": steps * low / _DAY_S,
        "days_high": steps * high / _DAY_S,
        "device_hours": steps * judged.step.seconds * devices / _HOUR_S,
    }


def pareto(layouts: list[Judged]) -> list[Judged]:
    """Return the layouts that no other beats in time and memory both, the fastest first."""
    front: list[Judged] = []
    for one in sorted(layouts, key=lambda each: (each.step.seconds, each.memory.peak_bytes)):
        if not front or one.memory.peak_bytes < front[-1].memory.peak_bytes:
            front.append(one)
    return front


def by_kind(parts: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of a step by kind of part."""
    found: dict[str, float] = {}
    for part in parts:
        found[part["kind"]] = found.get(part["kind"], 0.0) + part["seconds"]
    return found
