"""Throughput from the log of a training run, of whatever tool wrote it."""

from __future__ import annotations

import codecs
import itertools
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
TOKENS_SEEN = "num_input_tokens_seen"
"""Logged beside it by a Trainer that counts the tokens of all devices; such a Trainer tells them at every log."""


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
    text = _text(path)
    for kind, reader in _KINDS.items():
        readings = reader(text, setting)
        if readings:
            return _throughput(readings, kind)
    known = "; ".join(f"{kind}: {line}" for kind, line in _LOOKED_FOR.items())
    raise DataError(f"{path}: no line tells a step's time or tokens a second; known are {known}")


def _text(path: Path) -> str:
    """The file without colours, its lines ended by a newline only; redirecting in PowerShell writes UTF-16."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\x1b\[[\d;]*m", "", text) if "\x1b" in text else text


def read_metrics(histories: Mapping[str, Sequence[float]], run: str, setting: Setting) -> Throughput:
    """The throughput that a tracked run tells.

    Args:
        histories: logged values by the names in `METRICS`, and `TOKENS_SEEN`.
        run: its name, for messages.
        setting: what it does not say.

    Raises:
        DataError: it logged none of them.
    """
    for name, (kind, each_device) in METRICS.items():
        if values := histories.get(name):
            if name == "train_tokens_per_second" and len(values) > 1 and histories.get(TOKENS_SEEN):
                each_device = False
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


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _told(text: str, pattern: str, given: int, what: str) -> None:
    """Refuse a log that tells another number than was given; one that goes on after a restart tells it again."""
    told = {int(_number(number)) for number in re.findall(pattern, text)}
    if told - {given}:
        numbers = " and ".join(f"{number:,}" for number in sorted(told))
        raise DataError(f"the log tells of {numbers} {what}, not of {given:,}")


def _rate(tokens: float, seconds: float) -> float:
    if seconds <= 0:
        raise DataError(f"the log tells of a step that took {seconds:g} s")
    return tokens / seconds


def _megatron(text: str, setting: Setting) -> list[float]:
    """Megatron-LM and those made of it; BigScience's Megatron-DeepSpeed tells seconds, that of 2019 no batch."""
    line = rf"elapsed time per iteration \((m?)s\): *{_NUMBER}(?:.{{0,400}}?global batch size: *(\d{{1,12}}))?"
    found = re.findall(line, text)
    if not found:
        return []
    _told(text, r"using world size: *(\d{1,12})", setting.devices, "devices")
    _told(text, r" seq_length \.{3,} *(\d{1,12})", setting.sequence_length, "tokens in a sequence")
    steps = [(int(batch) * setting.sequence_length, time, milli) for milli, time, batch in found if batch]
    if not steps and setting.batch_tokens is None:
        raise DataError("this log of Megatron does not say how many sequences a step has: add --batch-tokens")
    steps = steps or [(setting.batch_tokens or 0, time, milli) for milli, time, _ in found]
    return [_rate(tokens, _number(time) / (1e3 if milli else 1)) for tokens, time, milli in steps]


def _torchtitan(text: str, setting: Setting) -> list[float]:
    """Of one device; wps until 2024. Validation tells its own speed, which is none of training."""
    training = text.replace("validate step:", "")
    found = re.findall(rf"step: *\d+ .{{0,400}}?\b(?:tps|wps): *{_NUMBER}", training)
    return [_number(tps) * setting.devices for tps in found]


def _nanogpt(text: str, setting: Setting) -> list[float]:
    found = re.findall(rf"iter \d+: loss \S{{1,99}}, time {_NUMBER}ms", text)
    if not found:
        return []
    batch, said = setting.batch_tokens, r"tokens per iteration will be: *(\d[\d,]{0,15})"
    told = re.findall(said, text)
    if batch is None and not told:
        raise DataError("this log of nanoGPT does not say how many tokens a step has: add --batch-tokens")
    batch = int(_number(told[0])) if batch is None else batch
    _told(text, said, batch, "tokens in a step")
    return [_rate(batch, _number(ms) / 1e3) for ms in found]


def _transformers(text: str, setting: Setting) -> list[float]:
    """trainer_state.json: tokens and time of every log where it counts tokens, else the whole run's time at the end."""
    if '"log_history"' not in text:
        return []
    try:
        entries = json.loads(text)["log_history"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"trainer_state.json is damaged: {error}") from None
    history = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    clocked = [(_positive(entry, "train_runtime"), _positive(entry, TOKENS_SEEN)) for entry in history]
    both = [(time, tokens) for time, tokens in clocked if time and tokens]
    # a run that goes on counts its tokens from the first start, its time from its own
    windows = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in itertools.pairwise(both)]
    if rates := [tokens / time for time, tokens in windows if time > 0 and tokens > 0]:
        return rates
    last = next((entry for entry in reversed(history) if _positive(entry, "train_runtime")), None)
    if last is None:
        raise DataError("trainer_state.json has no train_runtime: the run has not ended")
    if seen := max((tokens for _, tokens in clocked), default=0):
        return [seen / _positive(last, "train_runtime")]
    if setting.batch_tokens is not None and _positive(last, "train_steps_per_second"):
        return [setting.batch_tokens * _positive(last, "train_steps_per_second")]
    if samples := _positive(last, "train_samples_per_second"):
        return [setting.sequence_length * samples]
    return []


def _positive(entry: Mapping[str, Any], name: str) -> float:
    """This number of a log's entry; 0 where it has no sensible one."""
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else 0.0


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


_NUMBER = r"(-?\d[\d,]{0,15}(?:\.\d{1,15})?)"
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
    "transformers' Trainer": "trainer_state.json with train_runtime in its log_history",
    "longcat": 'metrics.jsonl with "perf/tokens_per_second"',
}
