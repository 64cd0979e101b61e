"""Results of `longcat port` on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longcat.port.findings import CLASSES, EFFORTS
from longcat.printable import counted, printable
from longcat.tables import say, show, wide_console

_NARROW = 72
"""Columns below which findings are lines instead of a table."""
_UNREAD = 20


def print_scan(result: Mapping[str, Any], most: int, page: Path | None) -> None:
    """Print what a scan has found: a row for each place, sums, and what was not read."""
    console = wide_console()
    rows = result["findings"][:most]
    _findings(console, rows)
    if len(result["findings"]) > most:
        say(console, f"and {len(result['findings']) - most:,} more: --most, --json and --html show them")
    say(
        console,
        f"{counted(result['files'], 'file')}, {counted(result['lines'], 'line')}, {counted(len(result['findings']), 'place')}",
    )
    for kind, count in result["by_class"].items():
        say(console, f"  {count:>5}  {kind}: {CLASSES[kind]}")
    if result["by_effort"]:
        say(
            console,
            "effort: " + ", ".join(f"{count} {EFFORTS[effort]}" for effort, count in result["by_effort"].items()),
        )
    say(
        console,
        f"operators: {result['operators']}"
        if result["operators"]
        else f"operators were not looked up: {result['no_operators']}",
    )
    _unread(console, result["unread"])
    if page is not None:
        say(console, str(page))


def print_rewrite(result: Mapping[str, Any], to_stderr: bool) -> None:
    """Print what a rewrite has changed, and the lines that are left."""
    console = wide_console(sys.stderr if to_stderr else None)
    places = counted(result["rewritten"], "place")
    say(console, f"{places} rewritten in {counted(len(result['changed']), 'file')}")
    if result["left"]:
        say(console, f"{counted(len(result['left']), 'place')} left as they are:")
        _findings(console, result["left"])
    _unread(console, result["unread"])
    if result["out"] is not None:
        say(console, f"Next: longcat port check {quote(str(result['out']))} -- python PROGRAM.py")


def print_check(result: Mapping[str, Any]) -> None:
    """Print both programs' losses side by side, the verdict, and the first operator that differs or is missing."""
    console = wide_console()
    if result["losses"]:
        table = Table(title="losses", title_justify="left")
        for name in ("step", "rank", "original, CPU", "rewrite, emulated Ascend", "difference"):
            table.add_column(name, justify="right")
        for row in result["losses"]:
            table.add_row(
                str(row["step"]),
                str(row["rank"]),
                _number(row["original"]),
                _number(row["rewrite"]),
                _relative(row["difference"]),
            )
        show(console, table)
    if result["printed"]:
        table = Table(title="printed by both", title_justify="left")
        for name in ("line", "what", "original", "rewrite", "difference"):
            table.add_column(name, justify="left" if name == "what" else "right", overflow="fold")
        for row in result["printed"]:
            table.add_row(
                str(row["line"]),
                printable(row["what"]),
                _number(row["original"]),
                _number(row["rewrite"]),
                _relative(row["difference"]),
            )
        show(console, table)
    for note in result["notes"]:
        say(console, f"Note: {note}")
    say(console, f"Verdict: {result['verdict']}. {result['why']}")


def _findings(console: Console, rows: list[Mapping[str, Any]]) -> None:
    if not rows:
        return
    if console.width < _NARROW:
        for row in rows:
            say(console, f"{_place(row)} {row['what']}: {row['kind']}, {row['effort']}. {_advice(row)}")
        return
    table = Table(show_lines=False, pad_edge=False, box=None, padding=(0, 1))
    table.add_column("place", overflow="fold", max_width=34)
    table.add_column("what", overflow="fold", max_width=30)
    table.add_column("class", no_wrap=True)
    table.add_column("effort", no_wrap=True)
    table.add_column("on an Ascend", overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(printable(text)) for text in (_place(row), row["what"], row["kind"], row["effort"], _advice(row)))
        )
    show(console, table)


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['file']}:{row['line']}"


def _advice(row: Mapping[str, Any]) -> str:
    return row["why"] + (f"; instead: {row['instead']}" if row["instead"] else "")


def _unread(console: Console, rows: list[Mapping[str, Any]]) -> None:
    for row in rows[:_UNREAD]:
        place = f"{row['file']}:{row['line']}" if row["line"] else row["file"]
        say(console, f"not read: {place}: {row['why']}")
    if len(rows) > _UNREAD:
        say(console, f"not read: {len(rows) - _UNREAD:,} more, in --json")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _relative(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"
