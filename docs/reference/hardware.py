"""Devices with their peaks, and published runs, from data/reference."""

from __future__ import annotations

import csv
from pathlib import Path

from docs.reference.markdown import prose, table

DATA = Path(__file__).parents[2] / "data" / "reference"
DEVICES = {
    "device": "name",
    "short name": "aliases",
    "bf16 TFLOP/s": "bf16_tflops",
    "fp16": "fp16_tflops",
    "GB": "memory_gb",
    "GB/s": "memory_bandwidth_gb_s",
    "in a node": "devices_per_node",
    "source": "source",
}
RUNS = {
    "model": "model",
    "kind": "kind",
    "device": "device",
    "devices": "devices",
    "sequence": "sequence_length",
    "precision": "precision",
    "MFU": "mfu",
    "TFLOP/s": "tflops_per_device",
    "tokens/s a device": "tokens_per_second_per_device",
    "source": "source",
}
VENDORS = {
    "model": "model",
    "parameters": "parameters",
    "sequence": "sequence_length",
    "nodes x devices": "cluster",
    "precision": "precision",
    "NPU tokens/s": "npu_tokens_per_second_per_device",
    "reference tokens/s": "reference_tokens_per_second_per_device",
    "ratio": "ratio",
    "source": "source",
}

HEAD = """---
hide: [toc]
---

# Hardware and published runs

Who wonders where a peak or a comparison comes from finds the tables that `longcat mfu` and the benchmark read, with their
sources. For example, the devices that `--device` takes, by name or short name:

    longcat mfu --model tiny --device a100-80gb --sequence-length 4096 --tokens-per-second 24000

A cell is empty where the source gives no value; nothing is guessed. How rows are matched and compared is told in
[MFU](../benchmark.md); columns and doubts in `data/reference/README.md`.
"""


def page() -> str:
    """Return the page: a table of devices, and two of published runs."""
    parts = [
        HEAD,
        "## Devices { #devices }",
        _shown("hardware.csv", DEVICES),
        "## Published runs { #runs }",
        "MFU as published, each by its own convention; the benchmark brings them to one before it compares.",
        _shown("mfu.csv", RUNS),
        "## Reported by the vendor { #vendor }",
        "Ascend beside a reference device, as the vendor's own tables have it: shown, and never part of a verdict.",
        _shown("vendor_reported.csv", VENDORS),
    ]
    return "\n\n".join(parts) + "\n"


def _shown(name: str, columns: dict[str, str]) -> str:
    with (DATA / name).open(encoding="utf-8", newline="") as stream:
        return table(list(columns), [[_cell(row, key) for key in columns.values()] for row in csv.DictReader(stream)])


def _cell(row: dict[str, str], key: str) -> str:
    if key == "aliases":
        return prose(row[key].rpartition(";")[2].strip())
    if key == "mfu":
        return f"{float(row[key]):.1%}" if row[key] else ""
    return prose(row[key])
