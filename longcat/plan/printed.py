"""The answer of `longcat plan` on a terminal, of any width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from longcat.printable import large_bytes, large_count, percent, printable
from longcat.tables import NARROW, print_pairs, say, show

CLOSE = "The memory is nearly full, and the plan may be a tenth off: `longcat pretrain --dry-run` is exact for LongCat's models."


def print_plan(answer: Mapping[str, Any]) -> None:
    """Print the answer for one layout, or for the best of all."""
    console = Console()
    best = answer["best"][0] if "best" in answer else answer
    print_pairs("plan", _pairs(answer, best))
    _print_parts(console, "time of a step", {_name(part): part["seconds"] for part in best["parts"]}, "s", 1.0)
    _print_parts(console, "memory of a device", best["memory"], "GB", 1e9, shared=False)
    if remark := memory_remark(best):
        say(console, remark)
    if "best" in answer:
        _print_best(console, answer)
    if "mixed" in answer:
        _print_mixed(console, answer["mixed"])
    if best["close"]:
        say(console, CLOSE)
    for line in answer["assumptions"]:
        say(console, f"Assumed: {line}.")


def _pairs(answer: Mapping[str, Any], best: Mapping[str, Any]) -> dict[str, str]:
    low, high = best["step_seconds_low"], best["step_seconds_high"]
    fits = "fits" if best["fits"] else "does not fit"
    pairs = {
        "model": f"{answer['model']}, {large_count(answer['total_parameters'])} parameters, "
        f"{large_count(answer['activated_parameters'])} of them activated",
        "devices": f"{answer['devices']:,} x {answer['device']}, {answer['memory_bytes'] / 1e9:.0f} GB and "
        f"{answer['peak_flops'] / 1e12:.4g} TFLOP/s each",
        "batch": f"{answer['global_batch']:,} sequences of {answer['sequence_length']:,} tokens",
        "layout": layout_text(best["layout"]),
        "step": f"{best['step_seconds']:.2f} s ({low:.2f} to {high:.2f}), {best['tokens_per_second']:,.0f} tokens/s",
        "MFU": f"{percent(best['mfu'])} ({percent(best['mfu_low'])} to {percent(best['mfu_high'])})",
        "memory": f"{large_bytes(best['peak_bytes'])} of {large_bytes(best['memory_bytes'] - best['reserve_bytes'])}: {fits}",
    }
    if "days" in best:
        pairs["training"] = (
            f"{best['tokens']:.4g} tokens in {best['days']:,.1f} days ({best['days_low']:,.1f} to {best['days_high']:,.1f}), "
            f"{best['device_hours']:,.0f} device-hours"
        )
    pairs["efficiency"] = f"{answer['efficiency']}, stack {answer['stack']}: {answer['fitted_on']}"
    if "looked_at" in answer:
        pairs["layouts"] = (
            f"{answer['looked_at']:,} looked at; ways to divide the devices that fit: {answer['fitting']:,}"
        )
    return pairs


def layout_text(layout: Mapping[str, Any]) -> str:
    """Say a layout in a few words; axes of one process are left out."""
    axes = ("pipeline", "replicate", "shard", "context", "tensor", "expert")
    parts = [f"{name} {layout[name]}" for name in axes if layout[name] != 1]
    parts += [layout["schedule"]] if layout["schedule"] != "1f1b" else []
    parts.append(f"micro-batch {layout['micro_batch']}")
    return ", ".join([*parts, *([f"recompute {layout['recompute']}"] if layout["recompute"] != "none" else [])])


def _name(part: Mapping[str, Any]) -> str:
    name = str(part["part"]).replace("_", " ")
    return f"{name}, {part['level']}" if part["level"] else name


def memory_remark(best: Mapping[str, Any]) -> str:
    """Say why the parts of a layout's memory add up to more than what it needs; empty where they do not."""
    if sum(best["memory"].values()) <= 1.005 * best["peak_bytes"]:
        return ""
    return "Not all of it lives at once: the parts add up to more than the peak."


def _print_parts(
    console: Console, title: str, parts: Mapping[str, float], unit: str, size: float, shared: bool = True
) -> None:
    total = sum(parts.values())
    table = Table(title=title, title_justify="left")
    table.add_column("part", overflow="fold")
    table.add_column(unit, justify="right", no_wrap=True)
    if shared:
        table.add_column("share", justify="right", no_wrap=True)
    for name, amount in sorted(parts.items(), key=lambda pair: -pair[1]):
        if amount > 0.0005 * total:
            share = [f"{amount / total:.1%}"] if shared else []
            table.add_row(name.replace("_", " "), f"{amount / size:,.2f}", *share)
    show(console, table)


def _print_best(console: Console, answer: Mapping[str, Any]) -> None:
    if console.width < NARROW:
        for number, row in enumerate(answer["best"], 1):
            say(console, f"{number}. {row['step_seconds']:.2f} s, {large_bytes(row['peak_bytes'])}: {row['sentence']}")
            if row["reason"]:
                say(console, f"   {row['reason']}")
        return
    table = Table(title="the best layouts", title_justify="left")
    for column in ("s", "GB", "MFU"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("layout", overflow="fold")
    for row in answer["best"]:
        text = escape(printable(row["sentence"])) + (f"\n[dim]{escape(row['reason'])}[/dim]" if row["reason"] else "")
        table.add_row(f"{row['step_seconds']:.2f}", f"{row['peak_bytes'] / 1e9:.1f}", percent(row["mfu"]), text)
    show(console, table)


def _print_mixed(console: Console, mixed: Mapping[str, Any]) -> None:
    table = Table(title=f"with {mixed['also']['devices']} x {mixed['also']['device']}", title_justify="left")
    table.add_column("way", overflow="fold")
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("share and layout", overflow="fold")
    for row in mixed["ways"]:
        table.add_row(row["way"], f"{row['step_seconds']:.2f}", escape(printable(row["text"])))
    show(console, table)
    say(console, mixed["verdict"])
