"""Published runs: data/reference/mfu.csv, described in the README beside it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longcat.artifact import ROOT
from longcat.benchmark.conventions import megatron_2021, palm

TABLE = ROOT / "data/reference/mfu.csv"


@dataclass(frozen=True)
class Reference:
    """A published run; none where the source says nothing."""

    model: str
    kind: str
    """dense or moe."""
    total_parameters: float | None
    activated_parameters: float
    """With embedding."""
    layers: int
    hidden_size: int
    vocabulary: int | None
    device: str
    devices: int
    cluster: str
    layout: str
    sequence_length: int
    precision: str
    recomputation: str
    """none, selective, full, or empty."""
    tokens_per_second_per_device: float | None
    published_tflops: float | None
    """Of one device, as the source counts."""
    published_mfu: float | None
    published_hfu: float | None
    convention: str
    """See `longcat.benchmark.conventions`; or `unknown`."""
    peak_tflops: float | None
    source: str
    table: str
    reason: str
    """Why what is worked out again differs by more than 2 points; empty where it does not."""

    @property
    def mfu(self) -> float | None:
        """As published; where only HFU or speed is, what follows from it."""
        if self.published_mfu is not None:
            return self.published_mfu
        if self.published_hfu is not None and self.convention == "megatron_2021" and self.recomputation == "full":
            return self.published_hfu * self._flops(recomputed=False) / self._flops(recomputed=True)
        return self.rederived_mfu

    @property
    def rederived_mfu(self) -> float | None:
        """MFU worked out again from the published speed."""
        return self._utilisation(recomputed=False)

    @property
    def rederived_hfu(self) -> float | None:
        """HFU worked out again: from the published speed, or from the published FLOP/s."""
        if self.convention != "megatron_2021" or self.recomputation != "full":
            return None
        found = self._utilisation(recomputed=True)
        if found is None and self.published_tflops is not None and self.peak_tflops is not None:
            found = self.published_tflops / self.peak_tflops
        return found

    def _utilisation(self, *, recomputed: bool) -> float | None:
        if self.convention == "unknown" or self.tokens_per_second_per_device is None or self.peak_tflops is None:
            return None
        return self._flops(recomputed=recomputed) * self.tokens_per_second_per_device / (self.peak_tflops * 1e12)

    def _flops(self, *, recomputed: bool) -> float:
        """FLOP of a token by the row's convention."""
        if self.convention == "megatron_2021":
            return megatron_2021(
                self.layers, self.hidden_size, self.vocabulary or 0, self.sequence_length, recomputation=recomputed
            )
        return palm(self.activated_parameters, self.layers * self.hidden_size, self.sequence_length)


@lru_cache(maxsize=1)
def references(path: Path = TABLE) -> tuple[Reference, ...]:
    """All rows of the table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(_reference(row) for row in csv.DictReader(stream))


def _reference(row: Mapping[str, str]) -> Reference:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Reference(
        model=row["model"],
        kind=row["kind"],
        total_parameters=number("total_parameters"),
        activated_parameters=float(row["activated_parameters"]),
        layers=int(row["layers"]),
        hidden_size=int(row["hidden_size"]),
        vocabulary=int(row["vocabulary"]) if row["vocabulary"] else None,
        device=row["device"],
        devices=int(row["devices"]),
        cluster=row["cluster"],
        layout=row["layout"],
        sequence_length=int(row["sequence_length"]),
        precision=row["precision"],
        recomputation=row["recomputation"],
        tokens_per_second_per_device=number("tokens_per_second_per_device"),
        published_tflops=number("tflops_per_device"),
        published_mfu=number("mfu"),
        published_hfu=number("hfu"),
        convention=row["convention"],
        peak_tflops=number("peak_tflops"),
        source=row["source"],
        table=row["table"],
        reason=row["reason"],
    )
