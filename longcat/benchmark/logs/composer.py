"""What composer prints for llm-foundry: blocks of `Train name: value` under the number of the batch."""

from __future__ import annotations

import re

from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.keys import add_record
from longcat.benchmark.logs.tool import Tool

_BATCH = re.compile(r"\[(?:epoch=\d+(?:/\d+)?\]\[)?batch=(\d+)(?:/(\d+))?\]")
_VALUE = re.compile(r"\bTrain ([\w./-]+): (\S+)")


def _read(log: Collected, line_number: int, line: str) -> None:
    if "batch=" in line and "Eval batch" not in line and (found := _BATCH.search(line)):
        log.state["composer"] = {"global_step": float(found[1]), "max_steps": float(found[2] or 0) or None}
    found = None
    for found in _VALUE.finditer(line):
        block = log.state.setdefault("composer", {})
        if found[1] in block:
            block.clear()
        block[found[1]] = found[2]
        if found[1] == "throughput/tokens_per_sec":
            block.pop("added", None)
            log.state["composer line"] = line_number
    _finish(log, line_number)


def _finish(log: Collected, line_number: int) -> None:
    """Add the block's reading once its tokens/s have come; those of one device come after those of all."""
    block = log.state.get("composer", {})
    if "added" in block:
        return
    every, one = block.get("throughput/tokens_per_sec"), block.get("throughput/device/tokens_per_sec")
    if every is None and one is None:
        return
    block["added"] = True
    add_record(log, line_number, {name: value for name, value in block.items() if name != "added"})


TOOL = Tool(
    kind="llm-foundry",
    example="Train throughput/tokens_per_sec: 20082.8",
    marks=("Train throughput/", "batch=", "Train time/"),
    read=_read,
    conventions=("llm_foundry",),
)
