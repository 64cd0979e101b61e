"""Throughput from the log or the tracked metrics of a training run by one of several tools."""

from __future__ import annotations

import codecs
import itertools
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longcat.benchmark.logs.throughput import LogContext, Throughput
from longcat.errors import DataError

__all__ = ["METRICS", "TOKENS_SEEN", "LogContext", "Throughput", "read_log", "read_metrics"]
WARM_UP = 0.1
"""Fraction of the readings at the start that is left out; at least one reading, if there are more than two."""


METRICS = {
    "perf/tokens_per_second": ("longcat", False),
    "throughput/tokens_per_sec": ("llm-foundry", False),
    "throughput/device/tokens_per_sec": ("llm-foundry", True),
    "train_tokens_per_second": ("transformers' Trainer", True),
}
"""Names of logged tokens/s, with the tool that logs them and whether the value is per device."""
TOKENS_SEEN = "num_input_tokens_seen"
"""Tokens seen by all devices, logged by a Trainer that counts them; its throughput is then over all devices."""


def read_log(path: Path, context: LogContext) -> Throughput:
    """Read the throughput from a log file.

    Raises:
        DataError: the file cannot be read, has no line of a known kind, or contradicts the context.
    """
    text = _text(path)
    for kind, reader in _KINDS.items():
        readings = reader(text, context)
        if readings:
            return _throughput(readings, kind)
    known = "; ".join(f"{kind}: {line}" for kind, line in _EXAMPLES.items())
    raise DataError(f"{path}: no line reports the time of a step or tokens/s; known are {known}")


def _text(path: Path) -> str:
    """Read a file, without colour codes and with plain newlines; a redirection in PowerShell writes UTF-16."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding, errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"\x1b\[[\d;]*m", "", text) if "\x1b" in text else text


def read_metrics(histories: Mapping[str, Sequence[float]], run: str, context: LogContext) -> Throughput:
    """Read the throughput from the metrics of a tracked run.

    Args:
        histories: logged values by metric name (`METRICS` and `TOKENS_SEEN`).
        run: name of the run, for messages.
        context: what the run does not record.

    Raises:
        DataError: the run has logged none of these metrics.
    """
    for name, (kind, each_device) in METRICS.items():
        if values := histories.get(name):
            if name == "train_tokens_per_second" and len(values) > 1 and histories.get(TOKENS_SEEN):
                each_device = False
            return _throughput([value * (context.devices if each_device else 1) for value in values], kind)
    raise DataError(f"run {run} has logged no throughput; known are: {', '.join(METRICS)}")


def _throughput(readings: list[float], kind: str) -> Throughput:
    wrong = next((reading for reading in readings if not 0 < reading < float("inf")), None)
    if wrong is not None:
        raise DataError(f"the log of {kind} reports {wrong:g} tokens/s")
    dropped = max(1, int(WARM_UP * len(readings))) if len(readings) > 2 else 0
    steady = readings[dropped:]
    median = statistics.median(steady)
    return Throughput(median, (max(steady) - min(steady)) / median, len(steady), kind)


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _check_reported(text: str, pattern: str, given: int, what: str) -> None:
    """Refuse a log that reports another number than was given; after a restart it reports the number repeatedly."""
    reported = {int(_number(number)) for number in re.findall(pattern, text)}
    if reported - {given}:
        numbers = " and ".join(f"{number:,}" for number in sorted(reported))
        raise DataError(f"the log reports {numbers} {what}, not {given:,}")


def _rate(tokens: float, seconds: float) -> float:
    if seconds <= 0:
        raise DataError(f"the log reports a step that took {seconds:g} s")
    return tokens / seconds


def _megatron(text: str, context: LogContext) -> list[float]:
    """Read a log of Megatron-LM or a derivative. Megatron-DeepSpeed may log seconds, versions of 2019 no batch."""
    line = rf"elapsed time per iteration \((m?)s\): *{_NUMBER}(?:.{{0,400}}?global batch size: *(\d{{1,12}}))?"
    matches = re.findall(line, text)
    if not matches:
        return []
    _check_reported(text, r"using world size: *(\d{1,12})", context.devices, "devices")
    _check_reported(text, r" seq_length \.{3,} *(\d{1,12})", context.sequence_length, "tokens in a sequence")
    steps = [(int(batch) * context.sequence_length, time, milli) for milli, time, batch in matches if batch]
    if not steps and context.batch_tokens is None:
        raise DataError("this log of Megatron does not say how many sequences a step has: add --batch-tokens")
    steps = steps or [(context.batch_tokens or 0, time, milli) for milli, time, _ in matches]
    return [_rate(tokens, _number(time) / (1e3 if milli else 1)) for tokens, time, milli in steps]


def _torchtitan(text: str, context: LogContext) -> list[float]:
    """Read a log of torchtitan: tps (wps until 2024) per device. Lines of validation are left out."""
    training = text.replace("validate step:", "")
    rates = re.findall(rf"step: *\d+ .{{0,400}}?\b(?:tps|wps): *{_NUMBER}", training)
    return [_number(tps) * context.devices for tps in rates]


def _nanogpt(text: str, context: LogContext) -> list[float]:
    """Read a log of nanoGPT: time of each iteration, and tokens per iteration from the header or the context."""
    times = re.findall(rf"iter \d+: loss \S{{1,99}}, time {_NUMBER}ms", text)
    if not times:
        return []
    batch, header = context.batch_tokens, r"tokens per iteration will be: *(\d[\d,]{0,15})"
    reported = re.findall(header, text)
    if batch is None and not reported:
        raise DataError("this log of nanoGPT does not say how many tokens a step has: add --batch-tokens")
    batch = int(_number(reported[0])) if batch is None else batch
    _check_reported(text, header, batch, "tokens in a step")
    return [_rate(batch, _number(ms) / 1e3) for ms in times]


def _transformers(text: str, context: LogContext) -> list[float]:
    """Read a trainer_state.json: tokens and time of each log entry if tokens are counted, else the whole run's mean."""
    if '"log_history"' not in text:
        return []
    try:
        entries = json.loads(text)["log_history"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"trainer_state.json is damaged: {error}") from None
    history = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    clocked = [(_positive(entry, "train_runtime"), _positive(entry, TOKENS_SEEN)) for entry in history]
    both = [(time, tokens) for time, tokens in clocked if time and tokens]
    # a resumed run counts tokens from the first start, but time from its own start
    windows = [(end[0] - begin[0], end[1] - begin[1]) for begin, end in itertools.pairwise(both)]
    if rates := [tokens / time for time, tokens in windows if time > 0 and tokens > 0]:
        return rates
    last = next((entry for entry in reversed(history) if _positive(entry, "train_runtime")), None)
    if last is None:
        raise DataError("trainer_state.json has no train_runtime: the run has not ended")
    if seen := max((tokens for _, tokens in clocked), default=0):
        return [seen / _positive(last, "train_runtime")]
    if context.batch_tokens is not None and _positive(last, "train_steps_per_second"):
        return [context.batch_tokens * _positive(last, "train_steps_per_second")]
    if samples := _positive(last, "train_samples_per_second"):
        return [context.sequence_length * samples]
    return []


def _positive(entry: Mapping[str, Any], name: str) -> float:
    """Return a number of a log entry; 0 where it is missing, not positive or not finite."""
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else 0.0


def _longcat(text: str, context: LogContext) -> list[float]:
    """Read the metrics.jsonl of a checkpoint."""
    readings = []
    for line in text.splitlines():
        if '"perf/tokens_per_second"' in line:
            try:
                readings.append(float(json.loads(line)["perf/tokens_per_second"]))
            except (ValueError, TypeError, KeyError):
                raise DataError(f"metrics.jsonl is damaged at: {line[:80]}") from None
    return readings


_NUMBER = r"(-?\d[\d,]{0,15}(?:\.\d{1,15})?)"
_KINDS: dict[str, Callable[[str, LogContext], list[float]]] = {
    "Megatron or MindSpeed": _megatron,
    "torchtitan": _torchtitan,
    "nanoGPT": _nanogpt,
    "transformers' Trainer": _transformers,
    "longcat": _longcat,
}
_EXAMPLES = {
    "Megatron or MindSpeed": "elapsed time per iteration (ms): 1234.5 | ... global batch size: 64",
    "torchtitan": "step: 10 ... tps: 3,456",
    "nanoGPT": "iter 10: loss 3.2101, time 123.45ms",
    "transformers' Trainer": "trainer_state.json with train_runtime in its log_history",
    "longcat": 'metrics.jsonl with "perf/tokens_per_second"',
}
