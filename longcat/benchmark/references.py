"""Published training runs: the rows of data/reference/mfu.csv, whose columns the README beside it describes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longcat.costs.conventions import llm_foundry, megatron_2021, palm, six_n
from longcat.provenance import DATA

TABLE = DATA / "reference/mfu.csv"
KNOWN_CONVENTIONS = ("llm_foundry", "longcat", "megatron", "megatron_2021", "palm", "six_n_all", "torchtitan")
"""Conventions by which the FLOPs of a row can be rederived."""


@dataclass(frozen=True)
class Reference:
    """A published training run; fields are None or empty where the source gives no value."""

    model: str
    kind: str
    """dense or moe."""
    total_parameters: float | None
    activated_parameters: float
    """Parameters activated per token, with embedding."""
    layers: int
    hidden_size: int
    vocabulary: int | None
    lookup_parameters: float
    """Part of the activated parameters that is only read by index: the embedding unless it is the head, positions."""
    attention_width: float
    """Sum over the layers of heads x (key + value dimension) / 2; layers x hidden size for a plain model."""
    device: str
    devices: int | None
    cluster: str
    layout: str
    sequence_length: int | None
    precision: str
    recomputation: str
    """none, selective, full, or empty."""
    task: str
    """pre-training or fine-tuning."""
    routing: str
    """How a mixture treats tokens above an expert's share: dropless, drops, forced balance, or empty."""
    tokens_per_second_per_device: float | None
    published_tflops: float | None
    """TFLOP/s per device, counted by the source's convention."""
    published_mfu: float | None
    published_hfu: float | None
    convention: str
    """Name of a convention in `longcat.costs.conventions`, or `unknown`."""
    peak_tflops: float | None
    """Dense peak per device, in TFLOP/s."""
    source: str
    table: str
    guessed: tuple[str, ...]
    """Names of the columns whose values the source does not state."""
    reason: str
    """Why our rederived MFU differs from the published one by more than 2 points; empty where it does not."""

    @property
    def publisher(self) -> str:
        """Return the project or paper that printed the row: one project's tables, and one run in two of them, are alike."""
        return self.source.split(",")[0]

    @property
    def mfu(self) -> float | None:
        """Return the published MFU as a fraction; if there is none, derive it from published FLOP/s, HFU or speed."""
        if self.published_mfu is not None:
            return self.published_mfu
        if self._of_peak() is not None and not self._tflops_recompute:
            return self._of_peak()
        useful, executed = self._flops(recomputed=False), self._flops(recomputed=True)
        if self.published_hfu is not None and useful is not None and executed is not None:
            return self.published_hfu * useful / executed
        return self.rederived_mfu

    @property
    def causal_mfu(self) -> float | None:
        """Return the MFU as it is by our own count: matrices and causal attention only.

        It follows from the printed speed; where there is none, or the sequence length is a guess, from the printed MFU. None
        where convention, length or peak is not known.
        """
        if self.rederived_causal_mfu is not None and "sequence_length" not in self.guessed:
            return self.rederived_causal_mfu
        return self.carried_over_mfu if self.carried_over_mfu is not None else self.rederived_causal_mfu

    @property
    def carried_over_mfu(self) -> float | None:
        """Return the printed MFU carried over to our own count by the ratio of the conventions' FLOP; None if not known."""
        counted, causal = self._flops(recomputed=False), self.flops_per_token("longcat")
        return None if self.mfu is None or counted is None or causal is None else self.mfu * causal / counted

    @property
    def rederived_causal_mfu(self) -> float | None:
        """Rederive the MFU by our own count from the published speed; None where there is none."""
        return self._utilisation(self.flops_per_token("longcat"))

    def flops_per_token(self, convention: str) -> float | None:
        """Return the useful FLOP of a training token by a convention; `longcat` is our own count with causal attention.

        None where the sequence length or the convention is not known.
        """
        length, n, width = self.sequence_length, self.activated_parameters, self.attention_width
        if length is None:
            return None
        if convention in ("longcat", "megatron"):
            return six_n(n - self.lookup_parameters) + palm(0, width, length) / 2
        if convention == "megatron_2021":
            return megatron_2021(self.layers, self.hidden_size, self.vocabulary or 0, length, recomputation=False)
        if convention == "six_n_all":
            return six_n(n)
        if convention == "llm_foundry":
            return llm_foundry(n, self.layers, self.hidden_size, length)
        if convention == "torchtitan":
            return palm(n - self.lookup_parameters, width, length)
        return palm(n, width, length) if convention == "palm" else None

    @property
    def rederived_mfu(self) -> float | None:
        """Rederive the MFU from the published speed, or from published FLOP/s that contain no recomputation."""
        mfu = self._utilisation(self._flops(recomputed=False))
        return self._of_peak() if mfu is None and not self._tflops_recompute else mfu

    @property
    def rederived_hfu(self) -> float | None:
        """Rederive the HFU from the published speed, or from published FLOP/s that contain recomputation."""
        hfu = self._utilisation(self._flops(recomputed=True))
        return self._of_peak() if hfu is None and self._tflops_recompute else hfu

    @property
    def _tflops_recompute(self) -> bool:
        """Whether the published FLOP/s contain recomputation, as those of Megatron's equation of 2021 do."""
        return self.convention == "megatron_2021" and self.recomputation == "full"

    def _of_peak(self) -> float | None:
        """Return the published FLOP/s as a fraction of the peak."""
        if self.published_tflops is None or self.peak_tflops is None:
            return None
        return self.published_tflops / self.peak_tflops

    def _utilisation(self, flops: float | None) -> float | None:
        if flops is None or self.tokens_per_second_per_device is None or self.peak_tflops is None:
            return None
        return flops * self.tokens_per_second_per_device / (self.peak_tflops * 1e12)

    def _flops(self, *, recomputed: bool) -> float | None:
        """Return the FLOP per token by the row's convention, with or without recomputation; None where not known."""
        once = self.flops_per_token(self.convention)
        if once is None or self.sequence_length is None or not recomputed or self.recomputation == "none":
            return once
        if self.recomputation == "full" and self.convention == "megatron_2021":
            return megatron_2021(
                self.layers, self.hidden_size, self.vocabulary or 0, self.sequence_length, recomputation=True
            )
        if self.recomputation == "full" and self.convention == "llm_foundry":
            return once * 4 / 3  # the forward pass once more
        if self.recomputation == "selective" and self.convention == "megatron_2021":
            # Korthikanti et al. count the scores twice
            return once + palm(0, self.layers * self.hidden_size, self.sequence_length)
        return None


@lru_cache(maxsize=1)
def references(path: Path = TABLE) -> tuple[Reference, ...]:
    """Read all rows of the table; a file without the optional columns is read as if they were empty."""
    with path.open(encoding="utf-8", newline="") as stream:
        return tuple(_reference(row) for row in csv.DictReader(stream))


def _reference(row: Mapping[str, str]) -> Reference:
    def number(name: str) -> float | None:
        return float(row[name]) if row.get(name) else None

    layers, hidden_size, vocabulary = int(row["layers"]), int(row["hidden_size"]), number("vocabulary")
    lookups, width = number("lookup_parameters"), number("attention_width")
    return Reference(
        model=row["model"],
        kind=row["kind"],
        total_parameters=number("total_parameters"),
        activated_parameters=float(row["activated_parameters"]),
        layers=layers,
        hidden_size=hidden_size,
        vocabulary=None if vocabulary is None else int(vocabulary),
        lookup_parameters=(vocabulary or 0) * hidden_size if lookups is None else lookups,
        attention_width=layers * hidden_size if width is None else width,
        device=row["device"],
        devices=int(row["devices"]) if row["devices"] else None,
        cluster=row["cluster"],
        layout=row["layout"],
        sequence_length=int(row["sequence_length"]) if row["sequence_length"] else None,
        precision=row["precision"],
        recomputation=row["recomputation"],
        task=row.get("task") or "pre-training",
        routing=row.get("routing") or "",
        tokens_per_second_per_device=number("tokens_per_second_per_device"),
        published_tflops=number("tflops_per_device"),
        published_mfu=number("mfu"),
        published_hfu=number("hfu"),
        convention=row["convention"],
        peak_tflops=number("peak_tflops"),
        source=row["source"],
        table=row["table"],
        guessed=tuple(name.strip() for name in (row.get("guessed") or "").split(";") if name.strip()),
        reason=row["reason"],
    )
