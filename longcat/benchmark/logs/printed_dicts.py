"""Dicts and JSON that a Trainer, ms-swift or LLaMA-Factory prints, progress bars between them, and lines of JSON."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from typing import Any

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import add_record, flat, meaning, seconds_of
from longcat.benchmark.logs.tool import Tool
from longcat.errors import DataError
from longcat.unpacking import parse_json

_DICT = re.compile(r"\{['\"][^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_BAR = re.compile(r"^\s*(?:Train: *)?\d+%\|[^|]*\| *(\d+)/(\d+) \[((?:\d+ days?, )?(?:\d+:)?\d+:\d+)<")
_STEPS = re.compile(r"Total optimization steps *= *([\d,]+)")
_WINDOW = 20.0
"""Seconds that a reading spans at least where the clock shows whole seconds."""
_METRIC = re.compile(r"^\s*(train_\w+|total_flos|num_input_tokens_seen|effective_tokens_per_sec)\s+= +(\S+)\s*$")
_TIMES = ("seconds", "milliseconds", "clock", "time", "rate", "device_rate", "steps_per_second", "seconds_per_step")
_BATCH = re.compile(r"Total train batch size \(w\. parallel[^=]*= *([\d,]+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    if log.state.get("strict", False) and line.strip():
        strict(log, line_number, line)
        return
    if (bar := _BAR.match(line)) and log.state.setdefault("steps", bar[2]) == bar[2]:  # evaluation has bars of its own
        log.state["bar"] = (float(bar[1]), seconds_of(bar[3]))
    for found in _DICT.finditer(line):
        record = _parsed(found[0])
        if record:
            add(log, line_number, record)
    if steps := _STEPS.search(line):
        log.state["steps"] = steps[1].replace(",", "")
    if metric := _METRIC.match(line):
        value = metric[2].removesuffix("GF")
        log.state.setdefault("metrics", {})[metric[1]] = value + "e9" if value != metric[2] else value
    if batch := _BATCH.search(line):
        log.begins()
        log.fact("sequences in a step", float(batch[1].replace(",", "")), line_number)


def _end(log: Collected) -> None:
    """Read the sums that examples print at the end, if no dict had them."""
    if (pending := log.state.get("pending")) and not log.known(("seconds",)):
        add_record(log, *pending)
    metrics = log.state.get("metrics", {})
    if metrics and not log.final.get("seconds"):
        add(log, 0, metrics)


def strict(log: Collected, line_number: int, line: str) -> None:
    """Read a line of a file of JSON lines."""
    try:
        record = parse_json(line)
    except (ValueError, RecursionError) as error:
        shown = "".join(letter if letter.isprintable() else "?" for letter in line.strip()[:60])
        raise DataError(f"{log.where}, line {line_number}: damaged JSON ({error}): {shown}") from None
    if isinstance(record, dict):
        add(log, line_number, record)


def _parsed(text: str) -> Mapping[str, Any] | None:
    """Read a dict as Python or JSON prints it; None if it is none."""
    try:
        record = parse_json(text)
    except ValueError:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                record = ast.literal_eval(re.sub(r"(?<=: )-?(nan|inf)\b", "None", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def add(log: Collected, line_number: int, record: Mapping[str, Any]) -> None:
    """Add a record; the progress bar before it is its clock, if it has none.

    Of clocks that show whole seconds, records are left out until enough of them have passed.
    """
    record = flat(record)
    log.state.setdefault("names", set()).update(record)
    bar, clock = log.state.get("bar"), None
    roles = {role for name in record if (role := (meaning(name) or ("",))[0]) in _TIMES}
    if bar and not roles:
        clock = bar[1]
        record = {**record, "step": bar[0], "elapsed": clock}
    elif roles == {"clock"} and "throughput" not in record and isinstance(record.get("elapsed_time"), str):
        clock = seconds_of(record["elapsed_time"])
    before = log.state.get("whole seconds")
    if clock is not None and before is not None and 0 <= clock - before < _WINDOW:
        log.state["pending"] = (line_number, record)
        return
    log.state["whole seconds"] = before if clock is None else clock
    add_record(log, line_number, record)


TOOL = Tool(
    kind="transformers' Trainer",
    example="{'train_runtime': 437.8, 'train_samples_per_second': 25.1, ...}",
    marks=("{'", '{"'),
    facts=(
        "it/s",
        "s/it",
        "Total train batch size",
        "Total optimization",
        "  train_",
        "  total_flos",
        "  num_input_tokens_seen",
    ),
    read=_read,
    end=_end,
    padded=True,
)
