"""A reproduction on a terminal: what is not as it was, and which results came out the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from longcat.comparing.printed import value
from longcat.comparing.reproduction import Outcome
from longcat.comparing.since import Change
from longcat.inventory.entries import SHORT
from longcat.printable import counted, printable
from longcat.tables import say, show, wide_console

_SHOWN = 12
"""Rows of one kind that are printed; --json has all."""
_TIMED = 3


def print_changes(found: Sequence[Change], notes: Sequence[str]) -> None:
    """Print what differs between then and now, weightiest first."""
    console = wide_console()
    if found:
        table = Table(title="not as it was", title_justify="left")
        for column in ("", "what", "then", "now"):
            table.add_column(column, overflow="fold")
        for kind in dict.fromkeys(one.of for one in found):
            rows = [one for one in found if one.of == kind]
            for one in rows[:_SHOWN]:
                cells = (kind, one.name, _shown(one.then), _shown(one.now))
                table.add_row(*(Text(printable(cell)) for cell in cells))
            if len(rows) > _SHOWN:
                table.add_row(kind, f"and {len(rows) - _SHOWN} more", "", "")
        show(console, table)
        first = found[0]
        say(console, f"{counted(len(found), 'difference')}; the weightiest: {first.of} {first.name}.")
    else:
        say(console, "Nothing that is recorded differs between then and now: the same bytes are to be expected.")
    for note in notes:
        say(console, f"Note: {note}.")


def print_outcomes(found: Sequence[Outcome]) -> None:
    """Print result by result whether it came out the same, and where the first byte differs."""
    console = wide_console()
    table = Table(title="then and now", title_justify="left")
    for column in ("result", "digest", "bytes"):
        table.add_column(column, overflow="fold")
    for one in found:
        digest = "the same" if one.then == one.now else f"{one.then[:SHORT]}, now {(one.now or 'none')[:SHORT]}"
        table.add_row(one.kind, digest, Text(printable(_files(one))))
    show(console, table)
    for one in found:
        if one.because is not None:
            say(console, f"{one.kind}: another digest, as {one.because}.")
        if one.curve is not None:
            say(console, f"{one.kind}: {one.curve}.")
    for line in verdict(found):
        say(console, line)


def verdict(found: Sequence[Outcome]) -> list[str]:
    """Return in a sentence or two what came out the same."""
    apart = [one for one in found if not one.identical]
    timed = {why: one.kind for one in found for why in one.timed.values()}
    lines = []
    if apart:
        lines.append(f"Not the same: {', '.join(one.kind for one in apart)}; the first is {apart[0].kind}.")
    else:
        lines.append(
            "Identical: every result has the same digest, and every file the same bytes, but for what tells times."
        )
    if timed:
        told = ", ".join(f"{why} ({kind})" for why, kind in timed.items())
        lines.append(f"Never the same twice, and no difference: seconds and dates in manifests, {told}.")
    return lines


def _files(one: Outcome) -> str:
    if one.now is None:
        return "not made"
    parts = [f"{counted(one.same, 'file')} the same ({one.same_bytes / 1e6:,.1f} MB)"]
    if one.differ:
        first = one.differ[0]
        at = "" if first["offset"] is None else f" from byte {first['offset']:,} on"
        parts.append(
            f"{counted(len(one.differ), 'file')} not: {first['file']}{at}{' first' if len(one.differ) > 1 else ''}"
        )
    parts += [f"only then: {value(one.only_then)}"] if one.only_then else []
    parts += [f"only now: {value(one.only_now)}"] if one.only_now else []
    if one.timed:
        names = list(one.timed)
        more = f" and {len(names) - _TIMED} more" if len(names) > _TIMED else ""
        parts.append(f"{len(names)} with times: {', '.join(names[:_TIMED])}{more}")
    return "; ".join(parts)


def _shown(found: Any) -> str:
    return "-" if found is None else value(found)
