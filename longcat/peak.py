"""Peak throughput of the machine: from the hardware table for a known accelerator, measured for a CPU, else unknown."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from longcat.accelerator import Accelerator
from longcat.artifact import write_json
from longcat.costs.hardware import Precision, find_hardware
from longcat.unpacking import read_json

PEAKS = "peaks.json"
"""File of a workspace with the largest matrix products of each machine that has computed in it."""
_GEMM_SIZES = (512, 1024, 2048)
_GEMM_SECONDS = 0.4


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s of a device or a machine, and its source."""

    flops: float
    """Dense matrix FLOP/s of one device; for a CPU of the whole machine."""
    source: str
    measured: bool
    """True for the measured peak of a machine, which all processes share; False for a peak per device and process."""

    def of(self, processes: int) -> float:
        """Return the peak FLOP/s of a number of processes together."""
        return self.flops if self.measured else self.flops * processes


def device_peak(name: str, precision: Precision) -> Peak | None:
    """Return the peak of one accelerator by the exact name that its driver reports; None for an unknown name."""
    row = find_hardware(name)
    flops = None if row is None else row.peak_flops(precision)
    if row is None or flops is None:
        return None
    return Peak(flops, f"{row.name}, dense {precision}: {row.source}", measured=False)


def peak(accelerator: Accelerator, precision: Precision, workspace: Path) -> Peak | None:
    """Return the peak that utilisation is measured against, or None when it is not known.

    Args:
        accelerator: the device.
        precision: that is computed in.
        workspace: folder that remembers what was measured, so that its runs on a CPU have one peak: a measurement on a busy
            machine comes out low, and the largest one is nearest to what the machine can do.
    """
    if accelerator.kind != "cpu":
        return device_peak(accelerator.name, precision)
    dtype: Literal["bf16", "fp32"] = "bf16" if precision == "bf16" else "fp32"
    return Peak(
        largest_seen(workspace, f"{accelerator.name}, {os.cpu_count()} cores, {dtype}", measured_gemm_flops(dtype)),
        f"measured: best {precision} matrix product on all cores of this machine",
        measured=True,
    )


def largest_seen(workspace: Path, machine: str, flops: float) -> float:
    """Return the largest FLOP/s that were seen of a machine in a workspace, with those measured now, and remember them."""
    path = workspace / PEAKS
    known: dict[str, float] = {}
    with suppress(OSError, ValueError, AttributeError, TypeError):
        known = {str(name): float(value) for name, value in read_json(path).items()}
    if flops > known.get(machine, 0.0):
        with suppress(OSError):  # it is measured again
            write_json(path, known | {machine: flops})
    return max(flops, known.get(machine, 0.0))


@lru_cache(maxsize=2)
def measured_gemm_flops(precision: Literal["bf16", "fp32"]) -> float:
    """Measure the best FLOP/s of square matrix products of several sizes on the CPU, with all cores."""
    return max(best_product((size, size, size), precision, _GEMM_SECONDS) for size in _GEMM_SIZES)


def best_product(shape: tuple[int, int, int], precision: Literal["bf16", "fp32"], seconds: float) -> float:
    """Measure the best FLOP/s of matrix products of one shape on the CPU, with the cores of this process.

    Args:
        shape: m, k and n of a product of [m, k] and [k, n].
        precision: type of the factors.
        seconds: duration of the measurement.
    """
    import torch

    m, k, n = shape
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    with torch.no_grad():
        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        a @ b
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * m * k * n / (time.perf_counter() - began))
    return best
