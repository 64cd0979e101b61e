"""Peak throughput of the machine: from the hardware table for a known accelerator, measured for a CPU, else unknown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from longcat.accelerator import Accelerator
from longcat.costs.hardware import Precision, find_hardware

_GEMM_SIZES = (512, 1024, 2048)
_GEMM_SECONDS = 0.4


@dataclass(frozen=True)
class Peak:
    """A peak and where it comes from."""

    flops: float
    """Dense matrix FLOP/s of one device; of a CPU, of the whole machine."""
    source: str
    measured: bool
    """Whether it is this machine's own, which all processes share; else each process has a device of this peak."""

    def of(self, processes: int) -> float:
        """Return the FLOP/s that a number of processes have together."""
        return self.flops if self.measured else self.flops * processes


def device_peak(name: str, precision: Precision) -> Peak | None:
    """Return the peak of one accelerator by the exact name that its driver gives, or None for an unknown one."""
    row = find_hardware(name)
    flops = None if row is None else row.peak_flops(precision)
    if row is None or flops is None:
        return None
    return Peak(flops, f"{row.name}, dense {precision}: {row.source}", measured=False)


def peak(accelerator: Accelerator, precision: Precision) -> Peak | None:
    """Return the peak that utilisation is measured against, or None when it is not known."""
    if accelerator.kind == "cpu":
        return Peak(
            measured_gemm_flops("bf16" if precision == "bf16" else "fp32"),
            f"measured: best {precision} matrix product on all cores of this machine",
            measured=True,
        )
    return device_peak(accelerator.name, precision)


@lru_cache(maxsize=2)
def measured_gemm_flops(precision: Literal["bf16", "fp32"]) -> float:
    """Measure the best FLOP/s of square matrix products of several sizes on the CPU, with all cores."""
    return max(best_product(size, precision, _GEMM_SECONDS) for size in _GEMM_SIZES)


def best_product(size: int, precision: Literal["bf16", "fp32"], seconds: float) -> float:
    """Measure the best FLOP/s of square matrix products of one size on the CPU, with the cores of this process.

    Args:
        size: rows and columns of both factors.
        precision: type of the factors.
        seconds: how long products are tried.
    """
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    with torch.no_grad():
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        a @ b
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best
