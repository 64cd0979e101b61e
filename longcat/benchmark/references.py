"""Published runs: data/reference/mfu.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longcat.artifact import ROOT

TABLE = ROOT / "data/reference/mfu.csv"


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
    precision: str
    convention: str

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
                row["precision"],
                row["convention"],
            )
            for row in csv.DictReader(stream)
        )
