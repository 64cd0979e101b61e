"""The largest matrix product that a benchmark saw: what a device gives at best, and the peak of a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.benchmark.measurement import Measurement

AGREEMENT = 1.25
"""Largest factor between products of one machine that goes without a remark."""


@dataclass(frozen=True)
class Products:
    """The largest products that were seen, in FLOP/s."""

    alone: float | None
    """Of one process while the others wait; None if kernels were not measured."""
    alone_name: str
    """Name and shape of the operator that reached it."""
    together: float | None
    """Of all processes at once, summed; None on an accelerator, where each process has a device of its own."""
    processes: int
    """Processes that reached `together`."""
    moments: tuple[float, float] | None
    """Smallest and largest of one and the same product of all processes at once, between the windows."""

    @property
    def per_process(self) -> float | None:
        """Return the largest product of one process, alone or as its share of all."""
        share = None if self.together is None else self.together / self.processes
        return max((one for one in (self.alone, share) if one is not None), default=None)

    @property
    def machine(self) -> float | None:
        """Return the largest product of the machine: of all processes at once, or of one alone if that is larger."""
        return max((one for one in (self.alone, self.together) if one is not None), default=None)

    @property
    def machine_source(self) -> str:
        """Describe what reached `machine`."""
        if self.machine != self.together:
            return f"{self.alone_name} by one process alone"
        return f"by its {self.processes} processes at once" if self.processes > 1 else "by its one process"

    @property
    def disagreement(self) -> str | None:
        """Return a sentence where the products of a machine disagree by more than 25 %, else None."""
        seen = []
        if self.moments is not None and self.moments[1] > AGREEMENT * self.moments[0]:
            low, high = map(_tera, self.moments)
            seen.append(f"the same product of all processes reached {low} and {high} TFLOP/s at different moments")
        if self.alone is not None and self.together is not None:
            share = self.together / self.processes
            if not 1 / AGREEMENT <= self.alone / share <= AGREEMENT:
                seen.append(
                    f"one process alone reached {_tera(self.alone)} TFLOP/s, of all {self.processes} at once each {_tera(share)}"
                )
        if not seen:
            return None
        return (
            f"the products of this machine disagree by more than 25 %: {', and '.join(seen)}, "
            "so it was busy with other work, or its processes share cores; MFU is counted by the largest"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the products and the sentence about their disagreement as JSON values."""
        return asdict(self) | {"disagreement": self.disagreement}


def largest_products(measurements: Sequence[Measurement]) -> Products:
    """Find the largest products of one machine in its measurements: the run's own, and the settings of a sweep.

    On a CPU these are the products between the windows, the kernels of one process alone and the fastest of them in all
    processes at once; on an accelerator the kernels.
    """
    kernels = [kernel for timed in measurements if timed.operators for kernel in timed.operators["kernels"]]
    best = max(kernels, key=lambda kernel: float(kernel["flops_per_second"]), default=None)
    together = [(flops, timed.processes) for timed in measurements for flops in _together(timed)]
    most, processes = max(together, default=(None, measurements[0].processes))
    between = measurements[0].window_peak_flops
    return Products(
        alone=None if best is None else float(best["flops_per_second"]),
        alone_name="" if best is None else f"{best['name']} ({best['shape']})",
        together=most,
        processes=processes,
        moments=(min(between), max(between)) if between else None,
    )


def _together(timed: Measurement) -> list[float]:
    at_once = (timed.operators or {}).get("together")
    return [*timed.window_peak_flops, *([] if at_once is None else [at_once])]


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.3g}"
