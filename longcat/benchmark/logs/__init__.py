"""Throughput from the log or the tracked metrics of a training run by one of many tools.

A reader a tool or a kind of file; `reading.py` gives a file to them, `collected.py` has what they find, `tokens.py` the order in
which it is trusted.
"""

from __future__ import annotations

from pathlib import Path

from longcat.benchmark.logs.throughput import LogContext, Recorded, Throughput, Told
from longcat.errors import DataError

__all__ = ["METRICS", "TOKENS_SEEN", "LogContext", "Recorded", "Throughput", "Told", "read_log", "read_metrics"]

METRICS = {
    "perf/tokens_per_second": ("longcat", False),
    "throughput/tokens_per_sec": ("llm-foundry", False),
    "throughput/device/tokens_per_sec": ("llm-foundry", True),
    "train_tokens_per_second": ("transformers' Trainer", True),
}
"""Names of tokens/s in tracked runs, with the tool that logs them and whether the value is per device."""
TOKENS_SEEN = "num_input_tokens_seen"
"""Tokens seen by all devices, logged by a Trainer that counts them; its throughput is then over all devices."""


def read_log(path: Path, context: LogContext) -> Throughput:
    """Read the throughput from a log: text, JSON, JSON lines, CSV or an event file of TensorBoard.

    Raises:
        DataError: the file cannot be read, has no line of a known kind, or contradicts itself or the context.
    """
    from longcat.benchmark.logs.reading import (
        read,
    )  # its patterns take 30 ms, which a speed given by hand can do without

    return read(path, context)


def read_metrics(recorded: Recorded, run: str, context: LogContext) -> Throughput:
    """Read the throughput from the metrics of a tracked run.

    Args:
        recorded: its metrics (`METRICS` and `TOKENS_SEEN`) and parameters.
        run: name of the run, for messages.
        context: what the run does not record.

    Raises:
        DataError: the run has logged none of these metrics, or is longcat's own and was another run than the context.
    """
    from longcat.benchmark.logs.collected import Collected
    from longcat.benchmark.logs.contradictions import check_recorded
    from longcat.benchmark.logs.reading import finish

    check_recorded(recorded.params, run, context)
    histories = recorded.metrics
    for name, (kind, each_device) in METRICS.items():
        if values := histories.get(name):
            if name == "train_tokens_per_second" and len(values) > 1 and histories.get(TOKENS_SEEN):
                each_device = False
            log = Collected(f"run {run}", context.devices)
            for index, value in enumerate(values, start=1):
                log.add(index, None, {"device_rate" if each_device else "rate": value})
            return finish(log, kind, context)
    raise DataError(f"run {run} has logged no throughput; known are: {', '.join(METRICS)}")
