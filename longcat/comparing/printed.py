"""A comparison on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longcat.comparing.differences import CURVES
from longcat.inventory.entries import SHORT
from longcat.printable import printable, short_count
from longcat.tables import say, show, wide_console

_SHOWN_FILES = 6
_HASH = re.compile(r"[0-9a-f]{32,64}")
_LOSSES = ("train/loss", "held_out/loss")
_FRACTION = "MFU"
"""Beginning of the names of figures that are fractions."""


def print_differences(result: Mapping[str, Any], page: str | None) -> None:
    """Print a comparison, and where its page is."""
    console = wide_console()
    for which in ("first", "second"):
        say(console, f"{which}: {result[which]['label']} ({in_results(result[which])})")
    console.print()
    for line in summary(result):
        say(console, line)
    _table(
        console,
        "settings that differ",
        [(row["setting"], value(row["first"]), value(row["second"])) for row in result["settings"]],
    )
    _table(
        console,
        "surroundings that differ",
        [
            (f"{row['what']} ({value(row['of'])})", value(row["first"]), value(row["second"]))
            for row in result["surroundings"]
        ],
    )
    _table(
        console,
        "figures",
        [
            (row["name"], *(number(row[which], row["name"]) for which in ("first", "second")), change(row))
            for row in result["figures"]
        ],
    )
    _table(console, "losses, at tokens that both have come to", list(at_common_tokens(result)))
    _table(
        console,
        "scores",
        [
            (row["score"], number(row["first"]), number(row["second"]), f"{row['verdict']}: {row['effect']}")
            for row in result["scores"]
        ],
        ("", "first", "second", "second is"),
    )
    _table(console, "cost", [(row["what"], number(row["first"]), number(row["second"])) for row in result["cost"]])
    _table(console, "bytes", [(row["kind"], same_files(row)) for row in result["bytes"]], ("", "files"))
    for note in result["notes"]:
        say(console, f"Note: {note}")
    if page is not None:
        say(console, page)


def summary(result: Mapping[str, Any]) -> list[str]:
    """Return in a few sentences what the two differ in."""
    lines = []
    settings = len(result["settings"])
    lines.append(f"{settings} setting{'' if settings == 1 else 's'} differ{'s' if settings == 1 else ''}.")
    if result["bytes"]:
        same = [
            row["kind"]
            for row in result["bytes"]
            if row["same_digest"] or not (row["differ"] or row["only_first"] or row["only_second"])
        ]
        unlike = [row["kind"] for row in result["bytes"] if row["kind"] not in same]
        parts = [f"the same to the last byte: {', '.join(same)}"] if same else []
        parts += [f"not the same: {', '.join(unlike)}"] if unlike else []
        lines.append(f"{'; '.join(parts).capitalize()}.")
    step, last = result["same_until_step"], result["last_common_step"]
    if last is not None:
        lines.append(
            "Losses differ from the first step on."
            if step is None
            else f"Losses are the same to the last bit in all steps that both have done, {last:,}."
            if step == last
            else f"Losses are the same to the last bit until step {step:,}."
        )
    verdicts = [row["verdict"] for row in result["scores"]]
    if verdicts:
        words = {"better": "better", "worse": "worse", "no clear difference": "without clear difference"}
        counts = [f"{verdicts.count(word)} {said}" for word, said in words.items() if word in verdicts]
        lines.append(f"Scores of the second: {', '.join(counts)}.")
    return lines


def in_results(side: Mapping[str, Any]) -> str:
    """Name the results of a side."""
    named = (
        f"{kind}/{one['digest'][:12]}{' (half made)' if one['half_made'] else ''}"
        for kind, one in side["results"].items()
    )
    return ", ".join(named)


def at_common_tokens(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the losses at a quarter, half, three quarters and all of the tokens that both have come to."""
    for name in _LOSSES:
        both = result["curves"].get(name)
        if both is None or not both["first"] or not both["second"]:
            continue
        common = min(both["first"][-1][0], both["second"][-1][0])
        seen = set[tuple[float, ...]]()
        for quarter in (1, 2, 3, 4):
            points = [_until(both[which], common * quarter / 4) for which in ("first", "second")]
            found = [point for point in points if point is not None]
            pair = tuple(point[0] for point in found)
            if len(found) == 2 and pair not in seen:
                seen.add(pair)
                one, other = (point[1] for point in found)
                tokens = round(common * quarter / 4)
                apart = "the same" if one == other else f"{other - one:+.3g}"
                yield f"{CURVES[name]} at {_tokens(tokens)}", number(one), number(other), apart


def number(found: float | None, name: str = "") -> str:
    """Return a number for a table, with four digits or all before the point; a utilisation by its name in percent."""
    if found is None:
        return "-"
    if name.startswith(_FRACTION):
        return f"{found:.2%}".replace("%", " %")
    return f"{found:,.0f}" if abs(found) >= 1000 or float(found).is_integer() else f"{found:.4g}"


def change(row: Mapping[str, Any]) -> str:
    """Return by how much a figure of the second differs from that of the first."""
    if row["difference"] is None:
        return "-"
    if row["difference"] == 0:
        return "the same"
    ratio = "" if row["ratio"] is None else f" ({100 * (row['ratio'] - 1):+,.1f} %)"
    if row["name"].startswith(_FRACTION):
        return f"{100 * row['difference']:+.2f} points{ratio}"
    return ("+" if row["difference"] > 0 else "") + number(row["difference"]) + ratio


def value(found: Any) -> str:
    """Return a value of a setting for a table; a hash by its beginning."""
    if isinstance(found, dict):
        return ", ".join(f"{name} {value(of)}" for name, of in found.items())
    if isinstance(found, list):
        shown = ", ".join(map(value, found[:_SHOWN_FILES]))
        return shown + (f" and {len(found) - _SHOWN_FILES} more" if len(found) > _SHOWN_FILES else "")
    if isinstance(found, bool) or found is None:
        return {True: "true", False: "false", None: "none"}[found]
    text = str(found)
    return f"{text[:SHORT]}…" if _HASH.fullmatch(text) else text


def same_files(row: Mapping[str, Any]) -> str:
    """Return in words which files of a kind are the same."""
    if row["same_digest"]:
        return "the same result"
    parts = [f"{len(row['same'])} the same ({row['same_bytes'] / 1e6:,.1f} MB)"]
    for name, words in (
        ("differ", "differ"),
        ("only_first", "only in the first"),
        ("only_second", "only in the second"),
    ):
        if row[name]:
            parts.append(f"{len(row[name])} {words}: {value(row[name])}")
    return "; ".join(parts)


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count < 1_000_000 else f"{short_count(count)} tokens"


def _until(points: list[list[float]], tokens: float) -> list[float] | None:
    """Return the last point at or before a number of tokens."""
    return next((point for point in reversed(points) if point[0] <= tokens), None)


def _table(
    console: Console,
    title: str,
    rows: list[tuple[str, ...]],
    columns: tuple[str, ...] = ("", "first", "second", "difference"),
) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns[: len(rows[0])]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    show(console, table)
