"""A file of any kind, given to the readers that know it: one chooses itself by what is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from longcat.benchmark.logs import (
    composer,
    internevo,
    libai,
    maxtext,
    megatron,
    nanochat,
    nanogpt,
    nemo,
    other_lines,
    printed_dicts,
    torchtitan,
    tuning,
    xtuner,
)
from longcat.benchmark.logs.collected import Collected
from longcat.benchmark.logs.documents import is_one_line, looks_like_json, read_document
from longcat.benchmark.logs.event_files import is_event_file, read_events
from longcat.benchmark.logs.keys import CONVENTIONS, PADDED, kind_of
from longcat.benchmark.logs.stream import encoding_of, lines, open_log, pieces
from longcat.benchmark.logs.tables import delimiter_of, read_table
from longcat.benchmark.logs.throughput import LogContext, Throughput
from longcat.benchmark.logs.tokens import throughput
from longcat.benchmark.logs.tool import Tool
from longcat.errors import DataError

TOOLS = (
    megatron.TOOL, torchtitan.TOOL, nanogpt.TOOL, nanochat.TOOL, internevo.TOOL, xtuner.TOOL, maxtext.TOOL, composer.TOOL,
    nemo.TOOL, libai.TOOL, printed_dicts.TOOL,
)  # fmt: skip
_HEAD = 1 << 16
"""Bytes by which the kind of a file is told."""
WEAK = (other_lines.DEEPSPEED, other_lines.TOOL)
"""Readers that count only where none of the others reads anything, the first one first."""


def read(path: Path, context: LogContext) -> Throughput:
    """Read the throughput from a log: text, JSON, JSON lines, CSV or an event file of TensorBoard.

    Raises:
        DataError: the file cannot be read, has no line of a known kind, or contradicts itself or the context.
    """
    with open_log(path) as file:
        head = file.read(_HEAD)
    log = Collected(str(path), context.devices)
    if is_event_file(head):
        return finish(log, read_events(path, log), context)
    text = head.decode(encoding_of(path, head[:4096]), errors="replace")
    if len(head) < _HEAD and not text.strip():
        raise DataError(f"{path}: no line reports anything: the file is empty")
    if looks_like_json(text) and not (is_one_line(text) and text.strip().count("\n")):
        kind = _document(path, log, text)
        if kind is not None:
            return finish(log, kind, context)
    elif delimiter := delimiter_of(text):
        return finish(log, read_table(path, log, delimiter), context)
    return _read_lines(path, context, strict=is_one_line(text))


def _document(path: Path, log: Collected, text: str) -> str | None:
    """Read a JSON document; None if the text only begins like one and goes on as a log."""
    try:
        return read_document(path, log)
    except DataError:
        if "\n" not in text.strip() or text.lstrip()[0] == "[":
            raise
        for _, piece in pieces(path):
            if any(mark in piece for tool in TOOLS if tool is not printed_dicts.TOOL for mark in tool.marks):
                return None
        raise


def _read_lines(path: Path, context: LogContext, *, strict: bool) -> Throughput:
    """Read a log line by line, with every reader whose marks are in it."""
    logs = {tool.kind: Collected(str(path), context.devices) for tool in (*TOOLS, *WEAK)}
    logs[printed_dicts.TOOL.kind].state["strict"] = strict
    shared = Collected(str(path), context.devices)
    tools: tuple[Tool, ...] = (printed_dicts.TOOL,) if strict else (*TOOLS, *WEAK)
    steady: Tool | None = None
    for number, piece in pieces(path):
        whole = steady is not None and steady.many is not None and piece.count(steady.marks[0]) == piece.count("\n")
        if whole and steady is not None and steady.many is not None and steady.many(logs[steady.kind], number, piece):
            continue
        present = [
            (tool, tuple(mark for mark in (*tool.marks, *tool.facts) if mark in piece), logs[tool.kind])
            for tool in tools
            if tool not in WEAK or not any(logs[strong.kind].count for strong in TOOLS)
        ]
        present = [(tool, marks, log) for tool, marks, log in present if marks]
        if not whole:
            present = [
                (tool, marks, log)
                for tool, marks, log in present
                if tool.many is None or not tool.many(log, number, piece)
            ]
        steady = next((tool for tool in TOOLS if tool.many is not None and logs[tool.kind].count), None)
        tuned = any(mark in piece for mark in tuning.MARKS)
        if not present and not tuned:
            continue
        for line_number, line in lines(number, piece):
            for tool, marks, log in present:
                for mark in marks:
                    if mark in line:
                        tool.read(log, line_number, line)
                        break
            if tuned and any(mark in line for mark in tuning.MARKS):
                tuning.read(shared, line_number, line)
    for tool in tools:
        if tool.end is not None:
            tool.end(logs[tool.kind])
    return _choose(path, logs, shared, context)


def _choose(path: Path, logs: Mapping[str, Collected], shared: Collected, context: LogContext) -> Throughput:
    """Take the tool that wrote the log; several are several runs."""
    speeds = ("seconds", "rate", "sample_rate", "counted", "time")
    found = [tool for tool in TOOLS if logs[tool.kind].known(speeds) or logs[tool.kind].final.get("seconds")]
    if len(found) > 1:
        names = " and ".join(f"{tool.kind} (line {logs[tool.kind].first_line})" for tool in found)
        raise DataError(f"{path}: the file has lines of several tools, {names}: keep those of one run")
    found = found or [tool for tool in WEAK if logs[tool.kind].known(speeds)][:1]
    if not found:
        known = "; ".join(f"{tool.kind}: {tool.example}" for tool in (*TOOLS, WEAK[1]))
        raise DataError(
            f"{path}: no line reports the time of a step or tokens/s; known are {known}; longcat: metrics.jsonl; and JSON "
            "or JSON lines (trainer_state.json, train_results.json, trainer_log.jsonl, logging.jsonl, wandb-summary.json, "
            "histories), CSV and TensorBoard's event files with columns of such names"
        )
    tool, log = found[0], logs[found[0].kind]
    log.fine_tuning += shared.fine_tuning
    log.state = shared.state | log.state
    log.facts.update({name: lines for name, lines in shared.facts.items() if name not in log.facts})
    if tool is printed_dicts.TOOL:
        return finish(log, kind_of(log.state.get("names", ()), "JSON lines"), context)
    return throughput(log, tool, context)


def finish(log: Collected, kind: str, context: LogContext) -> Throughput:
    """Return the throughput of named numbers, once their names have told the tool."""
    tool = replace(printed_dicts.TOOL, kind=kind, conventions=CONVENTIONS.get(kind, ()), padded=kind in PADDED)
    return throughput(log, tool, context)
