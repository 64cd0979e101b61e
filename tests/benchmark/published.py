"""Published figures of training runs, and what our count makes of the same speed in the source's own convention.

published_models.json has for each model its config.json, or its sizes where no family is known. published_figures.csv has
a printed TFLOP/s per device, MFU or HFU a line; `explained` says by name why a figure is more than 1 % off.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from longcat.costs.conventions import megatron_2021, side_by_side
from longcat.costs.decoder import sized_workload
from longcat.costs.families import from_config
from longcat.costs.workload import Workload

HERE = Path(__file__).parent
MODELS = json.loads((HERE / "published_models.json").read_text())
RECOMPUTED = " with recomputation"
TOLERANCE = 0.01


@dataclass(frozen=True)
class Figure:
    """A printed figure of a run; speed in tokens/s of all devices."""

    model: str
    convention: str
    """A name of `side_by_side`, with `RECOMPUTED` behind it if the second forward pass counts."""
    sequence_length: int
    devices: int
    tokens_per_second: float
    printed: float
    unit: str
    """TFLOP/s of a device, MFU or HFU."""
    peak_tflops: float
    mtp: bool
    source: str
    explained: str

    @property
    def ours(self) -> float:
        """Return what our count makes of the speed, in the same unit."""
        flops = flops_per_token(workload(self.model, mtp=self.mtp), self.convention, self.sequence_length)
        tflops = flops * self.tokens_per_second / self.devices / 1e12
        return tflops if self.unit == "TFLOP/s" else tflops / self.peak_tflops

    @property
    def off(self) -> float:
        """Return our figure over the printed one, less 1."""
        return self.ours / self.printed - 1


def workload(model: str, *, mtp: bool = False) -> Workload:
    fields = MODELS[model]
    return from_config(fields, model, mtp=mtp) if "model_type" in fields else sized_workload(**fields)


def flops_per_token(model: Workload, convention: str, length: int) -> float:
    """Return the FLOP of a training token; `megatron_2021` by its equation, as the sources print it."""
    name, recomputed = convention.removesuffix(RECOMPUTED), convention.endswith(RECOMPUTED)
    if name == "megatron_2021":
        return megatron_2021(model.layers, model.hidden_size, model.vocabulary, length, recomputation=recomputed)
    return side_by_side(model, length)[name] * (4 / 3 if recomputed else 1)  # the forward pass once more


def figures() -> list[Figure]:
    """Read all published figures."""
    with (HERE / "published_figures.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        Figure(
            model=row["model"],
            convention=row["convention"],
            sequence_length=int(row["sequence_length"]),
            devices=int(row["devices"]),
            tokens_per_second=float(row["tokens_per_second"]),
            printed=float(row["printed"]),
            unit=row["unit"],
            peak_tflops=float(row["peak_tflops"]),
            mtp=row["mtp"] == "yes",
            source=row["source"],
            explained=row["explained"],
        )
        for row in rows
    ]
