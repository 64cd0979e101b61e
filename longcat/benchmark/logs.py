"""Throughput from the log of a training run, of whatever tool wrote it."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.errors import DataError

WARM_UP = 0.1
"""Share of the first readings that is left out; at least one, where there are more than two."""


METRICS = {
    "perf/tokens_per_second": ("longcat", False),
    "throughput/tokens_per_sec": ("llm-foundry", False),
    "throughput/device/tokens_per_sec": ("llm-foundry", True),
    "train_tokens_per_second": ("transformers' Trainer", True),
}
"""Names under which tools log tokens a second: whose they are, and whether they mean one device."""


@dataclass(frozen=True)
class Setting:
    """What a log does not say."""

    devices: int
    sequence_length: int
    batch_tokens: int | None = None
    """Tokens of one step over all devices."""


@dataclass(frozen=True)
class Throughput:
    """What a log says."""

    tokens_per_second: float
    """Of all devices together, the median."""
    spread: float
    """Largest minus smallest, as a share of the median."""
    readings: int
    kind: str
    """Whose log it is."""


def read_log(path: Path, setting: Setting) -> Throughput:
    """The throughput that a log tells.

    Raises:
        DataError: it cannot be read, or has no line of a known kind.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    for kind, reader in _KINDS.items():
        readings = reader(text, setting)
        if readings:
            return _throughput(readings, kind)
    known = "\n".join(f"  {kind:<22}{line}" for kind, line in _LOOKED_FOR.items())
    raise DataError(f"{path}: no line tells a step's time or tokens a second; known are:\n{known}")


def read_metrics(histories: Mapping[str, Sequence[float]], run: str, setting: Setting) -> Throughput:
    """The throughput that a tracked run tells.

    Args:
        histories: logged values by the names in `METRICS`.
        run: its name, for messages.
        setting: what it does not say.

    Raises:
        DataError: it logged none of them.
    """
    for name, (kind, each_device) in METRICS.items():
        if values := histories.get(name):
            return _throughput([value * (setting.devices if each_device else 1) for value in values], kind)
    raise DataError(f"run {run} has logged no throughput; known are: {', '.join(METRICS)}")


def _throughput(readings: list[float], kind: str) -> Throughput:
    wrong = next((reading for reading in readings if not 0 < reading < float("inf")), None)
    if wrong is not None:
        raise DataError(f"the log of {kind} tells {wrong:g} tokens/s")
    dropped = max(1, int(WARM_UP * len(readings))) if len(readings) > 2 else 0
    steady = readings[dropped:]
    median = statistics.median(steady)
    return Throughput(median, (max(steady) - min(steady)) / median, len(steady), kind)


def _megatron(text: str, setting: Setting) -> list[float]:
    world = re.search(r"using world size: (\d+)", text)
    if world and int(world[1]) != setting.devices:
        raise DataError(f"the log is of a run on {world[1]} devices, not on {setting.devices}")
    found = re.findall(r"elapsed time per iteration \(ms\): ([\d.]+).*?global batch size: +(\d+)", text)
    return [int(batch) * setting.sequence_length / (float(ms) / 1e3) for ms, batch in found if float(ms) > 0]


def _torchtitan(text: str, setting: Setting) -> list[float]:
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # it colours its lines
    found = re.findall(r"step: *\d+ .*?tps: *([\d,.]+)", plain)
    return [float(tps.replace(",", "").rstrip(".")) * setting.devices for tps in found]


def _nanogpt(text: str, setting: Setting) -> list[float]:
    found = re.findall(r"^iter \d+: loss [\d.naif]+, time ([\d.]+)ms", text, re.MULTILINE)
    if found and setting.batch_tokens is None:
        raise DataError("a log of nanoGPT does not say how many tokens a step has: add --batch-tokens")
    return [(setting.batch_tokens or 0) / (float(ms) / 1e3) for ms in found if float(ms) > 0]


def _transformers(text: str, setting: Setting) -> list[float]:
    """trainer_state.json: the last entry tells the whole run's time."""
    if '"log_history"' not in text:
        return []
    try:
        history: list[dict[str, Any]] = json.loads(text)["log_history"]
    except ValueError as error:
        raise DataError(f"trainer_state.json is damaged: {error}") from None
    totals = [entry for entry in history if entry.get("train_runtime")]
    if not totals:
        raise DataError("trainer_state.json has no train_runtime: the run has not ended")
    last = totals[-1]
    seen = last.get("num_input_tokens_seen") or next(
        (entry["num_input_tokens_seen"] for entry in reversed(history) if entry.get("num_input_tokens_seen")), None
    )
    if seen:
        return [seen / last["train_runtime"]]
    if setting.batch_tokens is not None and last.get("train_steps_per_second"):
        return [setting.batch_tokens * last["train_steps_per_second"]]
    if last.get("train_samples_per_second"):
        return [setting.sequence_length * last["train_samples_per_second"]]
    return []


def _longcat(text: str, setting: Setting) -> list[float]:
    """metrics.jsonl of a checkpoint."""
    readings = []
    for line in text.splitlines():
        if '"perf/tokens_per_second"' in line:
            try:
                readings.append(float(json.loads(line)["perf/tokens_per_second"]))
            except (ValueError, TypeError, KeyError):
                raise DataError(f"metrics.jsonl is damaged at: {line[:80]}") from None
    return readings


_KINDS: dict[str, Callable[[str, Setting], list[float]]] = {
    "Megatron or MindSpeed": _megatron,
    "torchtitan": _torchtitan,
    "nanoGPT": _nanogpt,
    "transformers' Trainer": _transformers,
    "longcat": _longcat,
}
_LOOKED_FOR = {
    "Megatron or MindSpeed": "elapsed time per iteration (ms): 1234.5 | ... global batch size: 64",
    "torchtitan": "step: 10 ... tps: 3,456",
    "nanoGPT": "iter 10: loss 3.2101, time 123.45ms",
    "transformers' Trainer": "trainer_state.json with train_runtime in log_history",
    "longcat": 'metrics.jsonl with "perf/tokens_per_second"',
}
