"""The table of accelerators: peaks, memory and links of each, by the exact names that its driver gives."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

from longcat.errors import ConfigError
from longcat.provenance import ROOT

TABLE = ROOT / "data/reference/hardware.csv"
Precision = Literal["bf16", "fp16", "fp32", "fp8"]


@dataclass(frozen=True)
class HardwareRow:
    """One row of the table: a device by the exact names its driver gives; none where nothing is known."""

    name: str
    aliases: tuple[str, ...]
    vendor: str
    flops: Mapping[str, float]
    """Dense matrix FLOP/s by precision; fp32 is plain fp32, not TF32."""
    memory_gb: float | None
    memory_bandwidth: float | None
    """Bytes/s."""
    interconnect: str
    """Between devices of a node."""
    interconnect_bandwidth: float | None
    """Bytes/s out of one device."""
    measured_gemm_flops: float | None
    """Best bf16 product that was measured, FLOP/s."""
    measured_source: str
    source: str
    confidence: str
    """high: the maker's data sheet; medium: second-hand and consistent; low: one press figure."""

    def peak_flops(self, precision: Precision) -> float | None:
        """Dense matrix FLOP/s."""
        return self.flops.get(precision)


@lru_cache(maxsize=1)
def hardware_table(path: Path = TABLE) -> tuple[HardwareRow, ...]:
    """All rows of data/reference/hardware.csv, described in the README beside it."""
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(_row(row) for row in csv.DictReader(stream))


def _row(row: Mapping[str, str]) -> HardwareRow:
    def number(name: str, unit: float) -> float | None:
        return float(row[name]) * unit if row[name] else None

    flops = {precision: number(f"{precision}_tflops", 1e12) for precision in ("bf16", "fp16", "fp32", "fp8")}
    return HardwareRow(
        name=row["name"],
        aliases=tuple(alias.strip() for alias in row["aliases"].split(";") if alias.strip()),
        vendor=row["vendor"],
        flops={precision: value for precision, value in flops.items() if value is not None},
        memory_gb=number("memory_gb", 1),
        memory_bandwidth=number("memory_bandwidth_gb_s", 1e9),
        interconnect=row["interconnect"],
        interconnect_bandwidth=number("interconnect_gb_s", 1e9),
        measured_gemm_flops=number("measured_gemm_tflops", 1e12),
        measured_source=row["measured_source"],
        source=row["source"],
        confidence=row["confidence"],
    )


def find_hardware(name: str) -> HardwareRow | None:
    """The row with exactly this name or alias, whatever the case; an H200 is not an H20, and unknown is none."""
    wanted = name.strip().lower()
    for row in hardware_table():
        if wanted in (row.name.lower(), *(alias.lower() for alias in row.aliases)):
            return row
    return None


def require_hardware(name: str) -> HardwareRow:
    """The row with exactly this name.

    Raises:
        ConfigError: there is none; says which names are close.
    """
    row = find_hardware(name)
    if row is None:
        names = {known.lower(): known for row in hardware_table() for known in (row.name, *row.aliases)}
        wanted = name.strip().lower()
        longer = [known for lower, known in names.items() if wanted and wanted in lower]
        close = longer[:4] or [names[match] for match in get_close_matches(wanted, names, n=4, cutoff=0.5)]
        hint = (
            f"did you mean {' or '.join(close)}"
            if close
            else f"there are: {', '.join(r.name for r in hardware_table())}"
        )
        raise ConfigError(f"device {name!r} is not in the table of hardware; {hint}; --peak-tflops does without")
    return row
