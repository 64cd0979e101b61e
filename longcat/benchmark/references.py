"""Published runs: data/reference/mfu.csv, described in the README beside it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longcat.costs.conventions import llm_foundry, megatron_2021, palm, six_n
from longcat.provenance import ROOT

TABLE = ROOT / "data/reference/mfu.csv"
COUNTED = ("llm_foundry", "megatron", "megatron_2021", "palm", "six_n_all")
"""Conventions by which a row can be worked out again."""


@dataclass(frozen=True)
class Reference:
    """A published run; none where the source says nothing."""

    model: str
    kind: str
    """dense or moe."""
    total_parameters: float | None
    activated_parameters: float
    """Of a token, with embedding."""
    layers: int
    hidden_size: int
    vocabulary: int | None
    device: str
    devices: int | None
    cluster: str
    layout: str
    sequence_length: int | None
    precision: str
    recomputation: str
    """none, selective, full, or empty."""
    tokens_per_second_per_device: float | None
    published_tflops: float | None
    """Of one device, as the source counts."""
    published_mfu: float | None
    published_hfu: float | None
    convention: str
    """See `longcat.costs.conventions`; or `unknown`."""
    peak_tflops: float | None
    source: str
    table: str
    reason: str
    """Why what is worked out again differs by more than 2 points; empty where it does not."""

    @property
    def mfu(self) -> float | None:
        """As published; where only FLOP/s, HFU or speed are, what follows from them."""
        if self.published_mfu is not None:
            return self.published_mfu
        if self._of_peak() is not None and not self._tflops_recompute:
            return self._of_peak()
        useful, done = self._flops(recomputed=False), self._flops(recomputed=True)
        if self.published_hfu is not None and useful is not None and done is not None:
            return self.published_hfu * useful / done
        return self.rederived_mfu

    @property
    def comparable_mfu(self) -> float | None:
        """As published, or worked out again where it is not clear how it was counted (`reason`)."""
        return self.rederived_mfu if self.reason and self.rederived_mfu is not None else self.mfu

    @property
    def rederived_mfu(self) -> float | None:
        """MFU worked out again: from the published speed, or from published FLOP/s that are all useful."""
        found = self._utilisation(self._flops(recomputed=False))
        return self._of_peak() if found is None and not self._tflops_recompute else found

    @property
    def rederived_hfu(self) -> float | None:
        """HFU worked out again: from the published speed, or from published FLOP/s with those of recomputation."""
        found = self._utilisation(self._flops(recomputed=True))
        return self._of_peak() if found is None and self._tflops_recompute else found

    @property
    def _tflops_recompute(self) -> bool:
        """Whether the published FLOP/s count recomputation: those of 2021's equation do."""
        return self.convention == "megatron_2021" and self.recomputation == "full"

    def _of_peak(self) -> float | None:
        if self.published_tflops is None or self.peak_tflops is None:
            return None
        return self.published_tflops / self.peak_tflops

    def _utilisation(self, flops: float | None) -> float | None:
        if flops is None or self.tokens_per_second_per_device is None or self.peak_tflops is None:
            return None
        return flops * self.tokens_per_second_per_device / (self.peak_tflops * 1e12)

    def _flops(self, *, recomputed: bool) -> float | None:
        """FLOP of a token by the row's convention, with those of recomputation or without; none where not known."""
        length = self.sequence_length
        if length is None or self.convention not in COUNTED:
            return None
        full = recomputed and self.recomputation == "full"
        if self.convention == "megatron_2021":
            once = megatron_2021(self.layers, self.hidden_size, self.vocabulary or 0, length, recomputation=full)
        elif self.convention == "megatron":
            lookups = (self.vocabulary or 0) * self.hidden_size
            once = six_n(self.activated_parameters - lookups) + palm(0, self.layers * self.hidden_size, length) / 2
        elif self.convention == "six_n_all":
            once = six_n(self.activated_parameters)
        elif self.convention == "llm_foundry":
            once = llm_foundry(self.activated_parameters, self.layers, self.hidden_size, length)
            once *= 4 / 3 if full else 1  # the forward pass once more
        else:
            once = palm(self.activated_parameters, self.layers * self.hidden_size, length)
        if not recomputed or self.recomputation == "none":
            return once
        if full:
            return once if self.convention in ("megatron_2021", "llm_foundry") else None
        if self.recomputation == "selective" and self.convention == "megatron_2021":
            return once + palm(0, self.layers * self.hidden_size, length)  # Korthikanti et al. count the scores twice
        return None


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
        devices=int(row["devices"]) if row["devices"] else None,
        cluster=row["cluster"],
        layout=row["layout"],
        sequence_length=int(row["sequence_length"]) if row["sequence_length"] else None,
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
