"""Dicts and JSON that a Trainer, ms-swift or LLaMA-Factory prints, progress bars between them, and lines of JSON."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import add_record, flat, meaning, seconds_of
from longcat.benchmark.logs.tool import Tool
from longcat.errors import DataError

_DICT = re.compile(r"\{['\"][^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_BAR = re.compile(r"\b(\d+)/(\d+) \[((?:\d+ days?, )?(?:\d+:)?\d+:\d+)<")
_METRIC = re.compile(r"^\s*(train_\w+|total_flos|num_input_tokens_seen|effective_tokens_per_sec)\s+= +(\S+)\s*$")
_TIMES = ("seconds", "milliseconds", "clock", "time", "rate", "device_rate", "steps_per_second", "seconds_per_step")
_BATCH = re.compile(r"Total train batch size \(w\. parallel[^=]*= *([\d,]+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    if log.state.get("strict", False) and line.strip():
        strict(log, line_number, line)
        return
    for found in _BAR.finditer(line):
        log.state["bar"] = (float(found[1]), seconds_of(found[3]))
    for found in _DICT.finditer(line):
        record = _parsed(found[0])
        if record:
            add(log, line_number, record)
    if metric := _METRIC.match(line):
        value = metric[2].removesuffix("GF")
        log.state.setdefault("metrics", {})[metric[1]] = value + "e9" if value != metric[2] else value
    if batch := _BATCH.search(line):
        log.begins()
        log.fact("sequences in a step", float(batch[1].replace(",", "")), line_number)


def _end(log: Collected) -> None:
    """Read the sums that examples print at the end, if no dict had them."""
    metrics = log.state.get("metrics", {})
    if metrics and not log.final.get("seconds"):
        add(log, 0, metrics)


def strict(log: Collected, line_number: int, line: str) -> None:
    """Read a line of a file of JSON lines."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{log.where}, line {line_number}: damaged JSON ({error}): {line.strip()[:60]}") from None
    if isinstance(record, dict):
        add(log, line_number, record)


def _parsed(text: str) -> Mapping[str, Any] | None:
    """Read a dict as Python or JSON prints it; None if it is none."""
    try:
        record = json.loads(text)
    except ValueError:
        try:
            record = ast.literal_eval(re.sub(r"(?<=: )-?(nan|inf)\b", "None", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def add(log: Collected, line_number: int, record: Mapping[str, Any]) -> None:
    """Add a record; the progress bar before it is its clock, if it has none."""
    record = flat(record)
    log.state.setdefault("names", set()).update(record)
    bar = log.state.get("bar")
    if bar and not any((meaning(name) or ("",))[0] in _TIMES for name in record):
        record = {**record, "step": bar[0], "elapsed": bar[1]}
    add_record(log, line_number, record)


TOOL = Tool(
    kind="transformers' Trainer",
    example="{'train_runtime': 437.8, 'train_samples_per_second': 25.1, ...}",
    marks=("{'", '{"'),
    facts=("it/s", "s/it", "Total train batch size", "  train_", "  total_flos", "  num_input_tokens_seen"),
    read=_read,
    end=_end,
    padded=True,
)
