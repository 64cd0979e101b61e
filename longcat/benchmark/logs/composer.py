"""What composer prints for llm-foundry: blocks of `Train name: value` under the number of the batch."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import add_record
from longcat.benchmark.logs.tool import Tool

_BATCH = re.compile(r"\[(?:epoch=\d+(?:/\d+)?\]\[)?batch=(\d+)(?:/(\d+))?\]")
_VALUE = re.compile(r"\bTrain ([\w./-]+): (\S+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    if "Eval batch" in line:
        return
    if found := _BATCH.search(line):
        _end(log)
        log.state["block"] = {"global_step": float(found[1]), "max_steps": float(found[2]) if found[2] else None}
    for value in _VALUE.finditer(line):
        if value[1] in log.state.get("block", {}):  # logged again without a batch in front
            _end(log)
        log.state.setdefault("block", {})[value[1]] = value[2]
        log.state["line"] = line_number


def _end(log: Collected) -> None:
    """Add the reading of the block that has ended."""
    block = log.state.pop("block", {})
    if any(name.endswith("tokens_per_sec") for name in block):
        add_record(log, log.state["line"], block)


TOOL = Tool(
    kind="llm-foundry",
    example="Train throughput/tokens_per_sec: 20082.8",
    marks=("Train throughput/", "batch=", "Train time/"),
    read=_read,
    end=_end,
    conventions=("llm_foundry",),
)
