"""What one layout takes: time with an interval, memory, whether it fits, and the model's share of the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longcat.costs.mfu import Recomputation
from longcat.plan.device import Device
from longcat.plan.efficiency import interval
from longcat.plan.layout import Layout
from longcat.plan.memory import Needed, needed
from longcat.plan.model import Model
from longcat.plan.stacks import OWN, Kernels, Stack, all_kernels, named, stacks
from longcat.plan.step_time import StepTime, step_time
from longcat.plan.work import shapes

_OWN_SPREAD = 0.1
"""Added to the spread of a generation's step times for LongCat's own code, which no published layout has measured."""
LONG_FOR_WIDTH = 2.0
"""Tokens of a sequence for each number of the residual stream up to which step times were fitted; attention weighs more beyond."""
_LONG_SPREAD = 0.35
"""Added to the spread there: published speeds of such runs (llm-foundry, A100 and H100) are 20 to 46 % below the plan."""
_CLOSE = 0.9
"""Share of the memory above which a layout that fits may not."""


@dataclass(frozen=True)
class Setting:
    """What is planned for, whatever the layout is."""

    model: Model
    device: Device
    stack: Stack
    kernels: str
    """A set of kernels, or `auto` for those of the stack."""

    def kernels_of(self, recompute: Recomputation) -> Kernels:
        """Return the kernels that run with a way of recomputation."""
        usual = self.stack.kernels_recomputed if recompute == "full" else self.stack.kernels
        return all_kernels()[usual if self.kernels == "auto" else self.kernels]

    def is_fitted(self, sequence_length: int) -> bool:
        """Say whether sequences of this length are like those that the efficiencies were fitted on."""
        return sequence_length <= LONG_FOR_WIDTH * self.model.hidden

    def spread(self, sequence_length: int) -> float:
        """Return the deviation of the logarithm of measured over predicted time."""
        own = _OWN_SPREAD if self.model.own else 0.0
        return self.device.efficiency.spread + own + (0.0 if self.is_fitted(sequence_length) else _LONG_SPREAD)


def setting(model: Model, device: Device, stack: str = "auto", kernels: str = "auto") -> Setting:
    """Return what is planned for.

    Args:
        model: the model.
        device: the device.
        stack: of stacks.csv; `auto` takes LongCat's own for its models, and else what the device was measured with.
        kernels: of kernels.csv, or `auto`.

    Raises:
        ConfigError: a name is not known.
    """
    usual = OWN if model.own else device.efficiency.stack
    if kernels != "auto":
        named("--kernels", kernels, all_kernels())
    return Setting(model, device, named("--stack", usual if stack == "auto" else stack, stacks()), kernels)


@dataclass(frozen=True)
class Judged:
    """One layout, judged."""

    layout: Layout
    step: StepTime
    memory: Needed
    fits: bool
    mfu: float
    spread: float

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the step times that nine of ten measurements would lie between; none is faster than the peak allows."""
        low, high = interval(self.step.seconds, self.spread)
        return max(low, self.mfu * self.step.seconds), high

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens of all devices in a second."""
        return self.layout.batch.tokens / self.step.seconds


def judge(of: Setting, layout: Layout, memory: Needed | None = None) -> Judged:
    """Judge one layout."""
    kernels = of.kernels_of(layout.recompute)
    memory = memory or memory_of(of, layout)
    step = step_time(of.model, layout, of.device, of.stack, kernels, spreads_tables(of.model, layout))
    useful = of.model.workload.training_flops(layout.batch.sequence_length) * layout.batch.tokens
    return Judged(
        layout,
        step,
        memory,
        memory.fits(of.device.memory_bytes, of.stack.reserve_bytes),
        useful / (step.seconds * layout.degrees.processes * of.device.flops),
        of.spread(layout.batch.sequence_length),
    )


def memory_of(of: Setting, layout: Layout) -> Needed:
    """Return the memory that a layout needs."""
    return needed(of.model, layout, of.stack, of.kernels_of(layout.recompute), of.device.memory_bytes)


def spreads_tables(model: Model, layout: Layout) -> bool:
    """Say whether the rows of n-gram tables are spread over the processes of a stage."""
    if model.own is None or model.own.model.ngram is None:
        return False
    lazy = model.own.training.optimizer.lazy_ngram_moments
    return model.own.parallel.spreads_tables(layout.degrees.stage, lazy)


def as_dict(of: Setting, found: Judged) -> dict[str, Any]:
    """Return a judged layout as JSON values."""
    low, high = found.bounds
    return {
        "layout": found.layout.settings(),
        "devices": found.layout.degrees.processes,
        "micro_batches": found.layout.micro_batches,
        "step_seconds": found.step.seconds,
        "step_seconds_low": low,
        "step_seconds_high": high,
        "tokens_per_second": found.tokens_per_second,
        "peak_bytes": round(found.memory.peak_bytes),
        "memory_bytes": round(of.device.memory_bytes),
        "reserve_bytes": round(of.stack.reserve_bytes),
        "memory": {name: round(size) for name, size in found.memory.parts.items()},
        "fits": found.fits,
        "close": found.fits and found.memory.peak_bytes > _CLOSE * (of.device.memory_bytes - of.stack.reserve_bytes),
        "mfu": found.mfu,
        "mfu_low": found.mfu * found.step.seconds / high,
        "mfu_high": found.mfu * found.step.seconds / low,
        "parts": [
            {"part": part.name, "kind": part.kind, "level": part.level, "seconds": part.seconds}
            for part in found.step.parts
        ],
    }


def products_table(of: Setting, layout: Layout) -> list[dict[str, Any]]:
    """Return the products of a micro-batch by shape, with the share of the peak that each reaches forward."""
    found = []
    for shape in shapes(of.model.products, layout, of.stack):
        seconds = shape.seconds(of.device.speeds).forward
        flops = 2 * shape.m * shape.k * shape.n
        found.append(
            {
                "component": shape.component,
                "m": round(shape.m),
                "k": round(shape.k),
                "n": round(shape.n),
                "grouped": shape.grouped,
                "share_of_peak": flops / seconds / of.device.flops,
            }
        )
    return found
