"""The table of accelerators: peaks, memory and links, by the exact device names that drivers report."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Literal

from longcat.errors import ConfigError
from longcat.provenance import DATA

TABLE = DATA / "reference/hardware.csv"
Precision = Literal["bf16", "fp16", "fp32", "fp8"]


@dataclass(frozen=True)
class HardwareRow:
    """Data of one accelerator; fields are None where nothing is known."""

    name: str
    aliases: tuple[str, ...]
    """Further names, such as those that drivers report."""
    vendor: str
    flops: Mapping[str, float]
    """Dense matrix FLOP/s by precision; fp32 is plain fp32, not TF32."""
    other_bf16_flops: tuple[tuple[float, str], ...]
    """Further bf16 peaks that are in use for this device, in FLOP/s, each with what it is."""
    memory_gb: float | None
    """Memory of one device in GB (1e9 bytes)."""
    memory_bandwidth: float | None
    """Bytes/s."""
    interconnect: str
    """Link between the devices of a node."""
    interconnect_bandwidth: float | None
    """Bytes/s out of one device."""
    devices_per_node: int | None
    """Devices of a typical node; None where there is none."""
    per_package: int
    """Devices in one package: 2 for dies that are sold in pairs."""
    measured_gemm_flops: float | None
    """Best measured bf16 matrix product, FLOP/s."""
    measured_source: str
    source: str
    confidence: str
    """Confidence in the peaks. high: vendor's data sheet; medium: second-hand and consistent; low: one press figure."""

    def peak_flops(self, precision: Precision) -> float | None:
        """Return the dense matrix FLOP/s in a precision; None where not known."""
        return self.flops.get(precision)


@lru_cache(maxsize=1)
def hardware_table(path: Path = TABLE) -> tuple[HardwareRow, ...]:
    """Read all rows of data/reference/hardware.csv, whose columns the README beside it describes."""
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
        other_bf16_flops=tuple(_peak_in_use(part) for part in (row.get("other_bf16_tflops") or "").split(";") if part),
        memory_gb=number("memory_gb", 1),
        memory_bandwidth=number("memory_bandwidth_gb_s", 1e9),
        interconnect=row["interconnect"],
        interconnect_bandwidth=number("interconnect_gb_s", 1e9),
        devices_per_node=int(row["devices_per_node"]) if row.get("devices_per_node") else None,
        per_package=int(row.get("per_package") or 1),
        measured_gemm_flops=number("measured_gemm_tflops", 1e12),
        measured_source=row["measured_source"],
        source=row["source"],
        confidence=row["confidence"],
    )


def _peak_in_use(text: str) -> tuple[float, str]:
    tflops, _, meaning = text.strip().partition(" ")
    return float(tflops) * 1e12, meaning


def find_hardware(name: str) -> HardwareRow | None:
    """Find the row whose name or alias equals `name`, ignoring case; None if there is no exact match."""
    wanted = name.strip().lower()
    for row in hardware_table():
        if wanted in (row.name.lower(), *(alias.lower() for alias in row.aliases)):
            return row
    return None


def require_hardware(name: str, otherwise: str = "another device needs --peak-tflops") -> HardwareRow:
    """Return the row whose name or alias equals `name`, ignoring case.

    Args:
        name: of a device.
        otherwise: what the caller of an unknown one can do.

    Raises:
        ConfigError: the name is not in the table; the message gives the closest names.
    """
    row = find_hardware(name)
    if row is None:
        close = _similar_names(name)
        hint = (
            f"did you mean {' or '.join(close)}"
            if close
            else f"there are: {', '.join(r.name for r in hardware_table())}"
        )
        raise ConfigError(f"device {name!r} is not in the table of hardware; {hint}; {otherwise}")
    return row


def _similar_names(name: str) -> list[str]:
    """Return names that contain `name`, one for each row; without any, those that it contains, or the closest ones."""
    wanted = _bare(name)
    if not wanted:
        return []
    rows = [[known for known in (row.name, *row.aliases) if wanted in _bare(known)] for row in hardware_table()]
    longer = [names[0] for names in rows if names]
    if longer:
        return longer[:8]
    every = {known.lower(): known for row in hardware_table() for known in (row.name, *row.aliases)}
    shorter = [known for known in every.values() if _bare(known) in wanted]
    if shorter:
        return [max(shorter, key=len)]
    return [every[match] for match in get_close_matches(name.strip().lower(), every, n=4, cutoff=0.5)]


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
