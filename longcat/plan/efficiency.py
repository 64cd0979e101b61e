"""How much of its peaks a generation of devices reaches: few fitted numbers, and the time of a product by its shape.

A product of [m, k] and [k, n] runs at peak x `products` x m/(m+h) x k/(k+h) x n/(n+h), where h is the size at which a
dimension halves the speed; but no faster than its operands are read. The numbers are data, data/reference/plan/efficiency.csv,
each row with the measurements that it was fitted on (`benchmarks/plan_fit.py`).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from longcat.costs.hardware import HardwareRow
from longcat.plan.stacks import TABLES

NUMBER_BYTES = 2
"""Of a number in the type of computation, bf16."""


@dataclass(frozen=True)
class Efficiency:
    """Of a generation of devices."""

    name: str
    devices: tuple[str, ...]
    """Beginnings of the names of its devices in hardware.csv; empty for any other device."""
    stack: str
    """Stack that it was measured with."""
    products: float
    """Share of the matrix peak that large products reach."""
    half_size: float
    """Size of a dimension at which a product is half as fast."""
    grouped: float
    """Share of a product's speed that the products of routed experts reach."""
    attention: float
    """Share of the matrix peak of fused attention, causal scores counted."""
    attention_older: float
    """The same of its older kernel."""
    memory: float
    """Share of the memory bandwidth that elementwise work reaches."""
    launch_s: float
    """Time of a kernel beyond its work."""
    inside: float
    """Share of the links of a node that collectives reach."""
    between: float
    """Share of the links between nodes."""
    message_s: float
    """Time of a collective beyond its bytes."""
    micro_batch_s: float
    """Time of a micro-batch in a stage beyond its work."""
    step_s: float
    """Time of a step beyond its work."""
    between_gb_s: float
    """Usual GB/s of a device to other nodes."""
    bytes_per_gb: float
    """Usable bytes of a GB as the data sheet counts them."""
    spread: float
    """Standard deviation of the logarithm of measured over predicted step time, on rows that were not fitted."""
    fitted_on: str
    confidence: str

    def product_share(self, m: float, k: float, n: float) -> float:
        """Return the share of the peak that a product of [m, k] and [k, n] reaches."""
        h = self.half_size
        return self.products * m / (m + h) * k / (k + h) * n / (n + h)


@dataclass(frozen=True)
class Speeds:
    """What one device does in a second, with the efficiency of its generation."""

    flops: float
    bandwidth: float
    of: Efficiency

    def product_seconds(self, m: float, k: float, n: float, share: float = 1.0) -> float:
        """Return the time of a product of [m, k] and [k, n]; `share` is that of grouped products."""
        computed = 2 * m * k * n / (self.flops * self.of.product_share(m, k, n) * share)
        read = NUMBER_BYTES * (m * k + k * n + m * n) / (self.bandwidth * self.of.memory)
        return max(computed, read) + self.of.launch_s

    def stream_seconds(self, size: float) -> float:
        """Return the time to read and write so many bytes."""
        return size / (self.bandwidth * self.of.memory)


def _efficiency(row: dict[str, str]) -> Efficiency:
    values: dict[str, Any] = {
        one.name: float(row[one.name]) if one.type == "float" else row[one.name] for one in fields(Efficiency)
    }
    devices = tuple(part.strip() for part in row["devices"].split(";") if part.strip())
    return Efficiency(**values | {"devices": devices})


@lru_cache(maxsize=1)
def efficiencies() -> tuple[Efficiency, ...]:
    """Return the generations of data/reference/plan/efficiency.csv; the last one is for any other device."""
    with (TABLES / "efficiency.csv").open(encoding="utf-8", newline="") as stream:
        return tuple(_efficiency(row) for row in csv.DictReader(stream))


def efficiency_of(row: HardwareRow) -> Efficiency:
    """Return the generation of a device."""
    for one in efficiencies():
        if any(row.name.startswith(beginning) for beginning in one.devices):
            return one
    return efficiencies()[-1]


def interval(seconds: float, spread: float) -> tuple[float, float]:
    """Return the bounds that nine of ten measured times lie within, for errors that are normal in the logarithm."""
    factor = math.exp(1.645 * spread)
    return seconds / factor, seconds * factor
