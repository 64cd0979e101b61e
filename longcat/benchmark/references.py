"""Published A100 runs (data/reference/mfu.csv), and which of them a run may be compared with."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longcat.artifact import ROOT

TABLE = ROOT / "data/reference/mfu.csv"
CLAIM = 0.15
"""LongCat-2.0 is said to reach an MFU within 15 % of comparable A100 clusters."""


@dataclass(frozen=True)
class Reference:
    """A published run. Its MFU is by the PaLM formula, (6 N + 12 layers hidden seq) tokens/s / peak, N with embedding."""

    model: str
    kind: str
    activated_parameters: float
    layers: int
    hidden_size: int
    device: str
    devices: int
    sequence_length: int
    tokens_per_second_per_device: float
    mfu: float
    peak_tflops: float
    source: str
    table: str

    @property
    def rederived_mfu(self) -> float:
        """The published MFU worked out again from the published speed."""
        attention = 12 * self.layers * self.hidden_size * self.sequence_length
        flops = 6 * self.activated_parameters + attention
        return flops * self.tokens_per_second_per_device / (self.peak_tflops * 1e12)


@lru_cache(maxsize=1)
def references(path: Path = TABLE) -> tuple[Reference, ...]:
    """All rows of the table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(
            Reference(
                row["model"],
                row["kind"],
                float(row["activated_parameters"]),
                int(row["layers"]),
                int(row["hidden_size"]),
                row["device"],
                int(row["devices"]),
                int(row["sequence_length"]),
                float(row["tokens_per_second_per_device"]),
                float(row["mfu"]),
                float(row["peak_tflops"]),
                row["source"],
                row["table"],
            )
            for row in csv.DictReader(stream)
        )


def nearest(activated_parameters: float, devices: int, sequence_length: int, count: int) -> list[Reference]:
    """Rows nearest in activated parameters, devices and sequence length, by sums of squared log ratios."""

    def distance(row: Reference) -> float:
        pairs = (
            (row.activated_parameters, activated_parameters),
            (row.devices, devices),
            (row.sequence_length, sequence_length),
        )
        return sum(math.log(theirs / ours) ** 2 for theirs, ours in pairs)

    return sorted(references(), key=distance)[:count]


def verdict(kind: str, mfu: float | None, rows: list[Reference]) -> tuple[str, float | None]:
    """What the comparison says, and the ratio to the median of the rows.

    Args:
        kind: accelerator kind.
        mfu: of the run, in the rows' convention (full attention).
        rows: the rows to compare with.
    """
    if mfu is None:
        return "no peak is known for this device, so there is no MFU to compare", None
    ratio = mfu / statistics.median(row.mfu for row in rows)
    if kind == "cpu":
        return "not an accelerator: the figures stand, the comparison with A100s says nothing", ratio
    low, high = (mfu / bound for bound in (max(r.mfu for r in rows), min(r.mfu for r in rows)))
    word = "within" if ratio >= 1 - CLAIM else "outside"
    return (
        f"{word} 15 % of comparable A100 runs: {ratio:.2f} of the median row ({low:.2f} of the best, {high:.2f} of the "
        f"weakest of {len(rows)}); dense rows, as no published A100 run of a mixture is in the table",
        ratio,
    )
