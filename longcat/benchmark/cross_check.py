"""The utilisation that a log itself tells beside our own: a gap means that an input is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from longcat.benchmark.logs.throughput import Throughput
from longcat.costs.conventions import side_by_side
from longcat.costs.mfu import Recomputation, recomputed_flops
from longcat.costs.workload import Workload

GAP = 0.25
"""Gap between the log's figure and ours above which there is no verdict; conventions differ by less."""
_NEAR = 0.1
_LENGTHS = tuple(2**power for power in range(8, 21))


@dataclass(frozen=True)
class CrossCheck:
    """The log's own utilisation beside ours, counted by the convention of its tool that comes nearest."""

    told_tflops: float
    """TFLOP/s of one device as the log tells, or its MFU times the peak that its tool divides by."""
    own_tflops: float
    """Ours, counted in `convention`."""
    convention: str
    told: str
    """What the log tells, in words."""
    cause: str | None
    """The input that is probably wrong; None where the two agree."""

    @property
    def ratio(self) -> float:
        """Return ours over the log's."""
        return self.own_tflops / self.told_tflops

    @property
    def agrees(self) -> bool:
        """Return whether the gap is small enough for a verdict."""
        return max(self.ratio, 1 / self.ratio) <= 1 + GAP

    @property
    def doubt(self) -> str:
        """Return the gap in words."""
        return (
            f"the log tells {self.told}, this count gives {self.own_tflops:.4g} TFLOP/s a device "
            f"({self.convention.replace('_', ' ')}), {self.ratio:.2f} times as much: {self.cause}"
        )


def cross_check(
    workload: Workload,
    logged: Throughput,
    *,
    devices: int,
    sequence_length: int,
    peak_flops: float | None,
    recomputation: Recomputation,
) -> CrossCheck | None:
    """Set the log's own utilisation beside ours; None where it tells none.

    Args:
        workload: model that is trained.
        logged: what the log tells.
        devices: number of devices.
        sequence_length: tokens that attention sees.
        peak_flops: peak of one device, for logs that tell an MFU only.
        recomputation: part of the forward pass that is recomputed.
    """
    told = logged.told
    if told is None:
        return None
    if told.tflops_per_device is not None:
        tflops, words = told.tflops_per_device, f"{told.tflops_per_device:.4g} TFLOP/s a device"
    else:
        peak = told.peak_tflops if told.peak_tflops is not None else peak_flops and peak_flops / 1e12
        if not peak or told.mfu is None:
            return None
        tflops, words = told.mfu * peak, f"an MFU of {told.mfu:.1%} ({told.mfu * peak:.4g} TFLOP/s a device)"
    if tflops <= 0:
        return None

    def own(length: int, tokens_per_second: float) -> tuple[str, float]:
        counts = side_by_side(workload, length)
        counts = {name: counts[name] for name in told.conventions if name in counts} or counts
        if told.recomputation:
            again = recomputed_flops(workload, length, recomputation)
            counts |= {f"{name} with recomputation": flops + again for name, flops in counts.items()}
        rates = {name: flops * tokens_per_second / devices / 1e12 for name, flops in counts.items()}
        return min(rates.items(), key=lambda pair: abs(pair[1] / tflops - 1))

    convention, tflops_own = own(sequence_length, logged.tokens_per_second)
    found = CrossCheck(tflops, tflops_own, convention, words, None)
    if found.agrees:
        return found
    cause = _cause(found, logged, own, devices=devices, sequence_length=sequence_length)
    return CrossCheck(tflops, tflops_own, convention, words, cause)


def _cause(
    found: CrossCheck,
    logged: Throughput,
    own: Callable[[int, float], tuple[str, float]],
    *,
    devices: int,
    sequence_length: int,
) -> str:
    """Name the input that is probably wrong: the one whose other value would close the gap."""
    of_a_device = "of one device" in logged.tokens_from  # then the number of devices changes nothing
    other = None
    if not of_a_device:
        other = _other_devices(found, devices, lambda less: own(sequence_length, logged.tokens_per_second / less)[1])
    from_length = "--sequence-length" in logged.tokens_from
    if from_length:
        for length in sorted(_LENGTHS, key=lambda one: abs(one - sequence_length)):
            rate = own(length, logged.tokens_per_second * length / sequence_length)[1]
            if length != sequence_length and abs(rate / found.told_tflops - 1) < _NEAR:
                as_well = "" if other is None else f", and so would {other} --devices instead of {devices}"
                return f"--sequence-length {sequence_length} is probably wrong, {length} would agree{as_well}"
    if other is not None:
        size = "larger" if found.ratio > 1 else "smaller"
        return f"--devices {devices} is probably wrong, {other} would agree; or --model is {size} than what was trained"
    inputs = ["--model", *(["--sequence-length"] if from_length else []), *([] if of_a_device else ["--devices"])]
    return f"one of {', '.join(inputs)} is wrong" if len(inputs) > 1 else f"{inputs[0]} is probably wrong"


def _other_devices(found: CrossCheck, devices: int, own: Callable[[float], float]) -> int | None:
    """Return the number of devices that would close the gap; None if there is no whole one.

    Args:
        found: the gap.
        devices: the number that was given.
        own: TFLOP/s of a device by our count if each did so many times less, in the convention that is then the nearest.
    """
    more = found.ratio > 1
    gap = found.ratio if more else 1 / found.ratio
    for times in sorted({math.floor(gap), math.ceil(gap)} - {1}, key=lambda one: abs(one - gap)):
        agrees = abs(own(times if more else 1 / times) / found.told_tflops - 1) < _NEAR
        if agrees and (more or devices % times == 0):
            return devices * times if more else devices // times
    return None
