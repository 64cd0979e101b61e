"""What commands print at their end: tables, trees and lines of their results, on standard output."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from textwrap import fill
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from longcat.best_effort import SERVERS, own_servers
from longcat.inventory.entries import SHORT
from longcat.inventory.removal import short
from longcat.printable import counted, large_count, percent, printable, ratio

if TYPE_CHECKING:
    from longcat.evaluation.local_services.comparison import Comparison

_DEEPEST, _LEVEL, _NAMED = 12, 4, 36
"""Levels of a tree that are shown, columns of each, and columns that a name needs with the words behind it."""
_WIDE, NARROW = 110, 60
"""Columns that a table of stages needs with the ids of MLflow's runs, and that any table needs."""


def _shown(text: object) -> str:
    """Return a text for a table or a line with rich's markup, where it is shown as it is."""
    return escape(printable(str(text)))


def print_summary(summary: Mapping[str, Any], whole_s: float | None = None) -> None:
    """Print what the stages of a run have made, at its end, and what can be done next.

    Args:
        summary: of the run.
        whole_s: seconds that the user has waited; those of the flow, without the start of the program, if None.
    """
    console = wide_console()
    seconds = summary["seconds"] if whole_s is None else whole_s
    title = f"longcat {summary['flow']}, preset {summary['preset']}, {seconds:.1f} s"
    ids = {row["stage"]: row.get("mlflow_run_id") or "not sent yet" for row in summary["stages"]}
    if beside := console.width >= _WIDE:
        console.print(_stages(title, summary["stages"], ids))
    elif console.width >= NARROW:
        console.print(_stages(title, summary["stages"], None))
    else:
        say(console, title)
        for row in summary["stages"]:
            say(console, f"{row['stage']}, {row['seconds']:.1f} s, {row['status']}: {row['headline']}")
    if all(row["status"] == "cached" for row in summary["stages"]):
        say(console, "All stages were already complete; their results were reused.")
    for row in summary["stages"]:
        for line in row["remarks"]:
            say(console, line)
    if not beside:
        for stage, name in ids.items():
            say(console, f"MLflow run of {stage}: {name}")
    for line in next_steps(summary):
        say(console, line)


def _stages(title: str, rows: Sequence[Mapping[str, Any]], ids: Mapping[str, str] | None) -> Table:
    """Return the table of stages, with ids in a column of their own if there are any."""
    table = Table(title=title, title_justify="left")
    for column in ("stage", "time", ""):
        table.add_column(column, justify="right" if column == "time" else "left", no_wrap=True)
    table.add_column("result", overflow="fold")
    if ids is not None:
        table.add_column("MLflow run", no_wrap=True)
    for row in rows:
        table.add_row(
            row["stage"],
            f"{row['seconds']:.1f} s",
            "[dim]cached[/dim]" if row["status"] == "cached" else row["status"],
            _shown(row["headline"]),
            *[] if ids is None else [ids[row["stage"]]],
        )
    return table


def say(console: Console, text: str) -> None:
    """Print a line as it is; it can be copied, as only the terminal breaks it."""
    console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def next_steps(summary: Mapping[str, Any]) -> list[str]:
    """Return where the checkpoint and the pages of a run are, and commands to paste that go on from there."""
    program, lines = _program(), list[str]()
    made = [row["artifact"] for row in summary["stages"] if row["artifact"]["kind"] == "checkpoint"]
    commands = []
    for checkpoint in made:
        lines.append(f"Checkpoint: {checkpoint['path']}")
        commands.append(f"generate --checkpoint {quote(checkpoint['path'])} --prompt 'def main('")
    own, page = own_servers(), summary.get("mlflow", {}).get("page")
    lines += [f"{name}: {page if page and name == 'MLflow' else url}" for name, url in own.items()]
    if len(own) < len(SERVERS):
        commands.append(f"ui --workspace {quote(summary['workspace'])}    # curves, reports and flow runs")
    after = [] if page is None or "MLflow" in own else [f"This run in MLflow, once `ui` serves it: {page}"]
    return [*lines, *(["Next:"] if commands else []), *(f"  {program} {command}" for command in commands), *after]


def _program() -> str:
    """Return how this program was called, as a shell takes it."""
    called = sys.argv[0]
    if Path(called).name != "longcat":
        return f"{quote(sys.executable)} -m longcat"
    found = shutil.which("longcat")
    return "longcat" if found is not None and found == shutil.which(called) else quote(called)


def print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    """Print a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(_shown(name), _shown(value))
    show(Console(), table)


def print_diagnosis(facts: Mapping[str, Any]) -> None:
    """Print what `longcat doctor` has found: a table for each section, what runs here, notes and problems."""
    console = Console()
    packages = facts["environment"]["packages"]
    sections = {
        "environment": {name: value for name, value in facts["environment"].items() if name != "packages"},
        "packages": {name: version or "not installed" for name, version in packages.items()},
        **{name: facts[name] for name in ("accelerator", "machine", "workspace")},
        "network": {name: ", ".join(found) or "no address" for name, found in facts["network"]["cards"].items()}
        | facts["network"]["variables"],
    }
    for title, values in sections.items():
        shown = {
            name if name.isupper() else name.replace("_gb", " GB").replace("_", " "): "none" if value is None else value
            for name, value in values.items()
        }
        print_pairs(title, shown)
    say(console, f"On this machine: {facts['conclusion']}.")
    for kind in ("note", "problem"):
        for text in facts[f"{kind}s"]:
            say(console, f"{kind}: {text}")
    if not facts["problems"]:
        say(console, "Nothing is missing for that.")


def print_tree(title: str, names: Sequence[str], lineage: Sequence[Mapping[str, Any]]) -> None:
    """Print results with what each leads to, which is shown where it comes first only; nothing if there are none.

    Args:
        title: of the tree.
        names: where it begins.
        lineage: each result that is reached: `name`, `what` (None for what is gone) and `of`, the names that it leads to.
    """
    if not names:
        return
    known, shown = {one["name"]: one for one in lineage}, set[str]()
    tree, console = Tree(title), wide_console()
    deepest = min(_DEEPEST, max(1, (console.width - _NAMED) // _LEVEL))
    waiting = [(tree, name, 1) for name in reversed(names)]
    while waiting:
        above, name, depth = waiting.pop()
        one = known[name]
        line = short(name)
        if name in shown and one["of"]:
            line += ", see above"
        elif depth == deepest and one["of"]:
            line += ", and so on"
        else:
            line += f"  {'not in this workspace' if one['what'] is None else one['what']}".rstrip()
        own = above.add(Text(printable(line), no_wrap=True, overflow="ellipsis"))
        if name not in shown and depth < deepest:
            shown.add(name)
            waiting += [(own, other, depth + 1) for other in reversed(one["of"])]
    console.print(tree)


def print_results(answer: Mapping[str, Any]) -> None:
    """Print what is in a workspace, as `longcat ls` finds it."""
    rows = answer["results"]
    cells = []
    for row in rows:
        what = "unreadable manifest" if row["problem"] else "half made" if row["half_made"] else row["headline"] or ""
        marks = [words for words in ("pinned", "champion", "in use", "may go") if row[words.replace(" ", "_")]]
        size = f"{row['bytes'] / 1e6:,.1f}"
        cells.append((row["kind"], row["digest"][:SHORT], _age(row["age_s"]), size, what, ", ".join(marks)))
    if rows:
        console = wide_console()
        names = ("kind", "digest", "age", "MB", "what", "")
        widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        gaps = 2 * (len(names) - 1)
        widths[4] = max(len("what"), min(widths[4], console.width - gaps - (sum(widths) - widths[4])))
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for name, width in zip(names, widths, strict=True):
            right = name in ("age", "MB")
            table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis", width=width)
        for line in cells:
            table.add_row(*map(_shown, line))
        if sum(widths) + gaps <= console.width:
            console.print(table)
        else:
            _show_as_list(console, table)
    half = [row for row in rows if row["half_made"]]
    print(f"{len(rows) - len(half)} results, {answer['bytes'] / 1e6:,.1f} MB" if rows else "there are no results")
    if half:
        print(
            f"{len(half)} half made, {sum(row['bytes'] for row in half) / 1e6:,.1f} MB; longcat clean removes what interrupted runs have left"
        )
    if answer["may_go_bytes"]:
        print(
            f"{answer['may_go_bytes'] / 1e6:,.1f} MB may go; longcat gc says which, longcat pin DIGEST keeps a result"
        )
    if answer["in_use_by"]:
        print(f"in use by {printable(answer['in_use_by'])}")


def wide_console(file: IO[str] | None = None) -> Console:
    """Return a console as wide as the terminal, or wide enough for most lines where there is none.

    Args:
        file: that it prints to; standard output if None.
    """
    console = Console(file=file)
    return console if console.is_terminal or os.environ.get("COLUMNS") else Console(file=file, width=140)


def show(console: Console, table: Table) -> None:
    """Print a table, or its rows as a list where the terminal is so narrow that words would be cut."""
    if console.width >= NARROW:
        console.print(table)
    else:
        _show_as_list(console, table)


def _show_as_list(console: Console, table: Table) -> None:
    if table.title:
        say(console, f"{table.title}:")
    names = [str(column.header) for column in table.columns]
    for first, *others in zip(*(map(_plain, column.cells) for column in table.columns), strict=True):
        named = zip(names[1:], others, strict=True)
        lines = [f"  {first}", *(f"    {name}: {cell}" if name else f"    {cell}" for name, cell in named if cell)]
        if not table.show_header:
            lines = [f"  {first}: {', '.join(others)}"]
        for line in lines:
            say(
                console,
                fill(line, console.width, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False),
            )


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


def _age(seconds: float) -> str:
    """Return a time in the largest unit that it has two of."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def print_dispatch(comparison: Comparison, page: Path | None) -> None:
    """Print what each dispatcher's hour costs, by how much the first one loses, and where the page is."""
    from longcat.evaluation.local_services.dispatch_page import ratio_title, shown_ratio

    orders = len(comparison.scene.orders)
    table = Table(
        title=f"{counted(orders, 'order')}, {counted(len(comparison.scene.couriers), 'courier')}", title_justify="left"
    )
    table.add_column("dispatcher", no_wrap=True)
    for name in ("added minutes", "late orders", "minutes late", "cost", ratio_title(comparison), "best choices"):
        table.add_column(name, justify="right")
    for row in comparison.rows:
        cost = row.hour.cost
        figures = (cost.driven, len(row.hour.late_orders), cost.late, cost.total)
        table.add_row(row.name, *map(str, figures), shown_ratio(comparison, row), f"{row.best_decisions} of {orders}")
    console = Console()
    show(console, table)
    console.print(comparison.verdict(), highlight=False, markup=False, soft_wrap=True)
    if page is not None:
        console.print(_shown(page), highlight=False, soft_wrap=True)


def print_mfu(answer: Mapping[str, Any]) -> None:
    """Print the answer of `longcat mfu`: the figures, the MFU by other conventions, and the nearest published runs."""
    console = Console()
    pairs = {
        "model": f"{answer['family']}, {large_count(answer['activated_parameters'])} of "
        f"{large_count(answer['total_parameters'])} parameters activated",
        "speed": f"{answer['tokens_per_second']:,.0f} tokens/s on {answer['devices']} x {answer['device']}, "
        f"{answer['tflops_per_device']:.4g} TFLOP/s each",
        "peak": f"{answer['peak_flops'] / 1e12:.4g} TFLOP/s; {answer['peak_source']}",
        "best product measured": None
        if not answer["measured_gemm_flops"]
        else f"{answer['measured_gemm_flops'] / 1e12:.4g} TFLOP/s, of which this run reaches "
        f"{percent(answer['tflops_per_device'] * 1e12 / answer['measured_gemm_flops'])}",
        "MFU": f"{percent(answer['mfu'])}, causal attention",
        "MFU, full attention": f"{percent(answer['mfu_full_attention'])}, as PaLM and the older A100 rows count",
        "HFU": f"{percent(answer['hfu'])}, recomputation {answer['recomputation']}",
    }
    if "log" in answer:
        log = answer["log"]
        pairs["log"] = (
            f"{log['kind']}, median of {log['readings']} readings, spread {log['spread']:.1%}; tokens: {log['tokens_from']}"
        )
    if "cross_check" in answer:
        check = answer["cross_check"]
        pairs["told by the log"] = (
            f"{check['told']}; this count {check['own_tflops']:.4g} TFLOP/s a device "
            f"({check['convention'].replace('_', ' ')}), {ratio(check['ratio'])} times as much"
        )
    print_pairs("model FLOPs utilisation", {name: value for name, value in pairs.items() if value})

    total = sum(answer["flops_per_token"].values())
    parts = Table(title=f"one training token: {total / 1e9:,.4g} GFLOP", title_justify="left")
    parts.add_column("component")
    parts.add_column("GFLOP", justify="right")
    parts.add_column("fraction", justify="right")
    for name, flops in sorted(answer["flops_per_token"].items(), key=lambda pair: -pair[1]):
        parts.add_row(name.replace("_", " "), f"{flops / 1e9:,.4g}", f"{flops / total:.1%}")
    show(console, parts)

    conventions = Table(title="MFU by other conventions", title_justify="left")
    conventions.add_column("convention")
    conventions.add_column("MFU", justify="right")
    for name, value in answer["mfu_by_convention"].items():
        conventions.add_row(name, percent(value))
    show(console, conventions)

    _print_comparison(console, answer)


_PHASES = {"dense": "dense attention", "warmup": "indexers alone", "sparse": "sparse attention"}


def print_dry_run(answer: Mapping[str, Any]) -> None:
    """Print a dry run: the layout, what a rank needs, and what it sends."""
    console = Console(highlight=False)
    degrees = " x ".join(f"{name} {degree}" for name, degree in answer["degrees"].items() if degree > 1) or "none"
    worst, limit = answer["peak_bytes"], answer["memory_bytes"]
    pairs = {
        "layout": f"{answer['world_size']:,} x {answer['device']}: {degrees}",
        "step": f"{answer['micro_batches']} micro-batch{'' if answer['micro_batches'] == 1 else 'es'}, {_PHASES[answer['phase']]}, {answer['flops'] / 1e12:,.4g} TFLOP of rank {answer['rank']}",
        "verdict": f"{'fits' if worst <= limit else 'does not fit'}: rank {answer['rank']} needs {worst / 1e9:,.2f} GB "
        f"of {limit / 1e9:,.0f} GB",
        "estimate": f"{answer['estimated_peak_bytes'] / 1e9:,.2f} GB by formulas",
        "took": f"{answer['seconds']:.1f} s",
    }
    print_pairs("dry run", pairs)
    memory = Table(title="memory of a rank, GB (kept: by forward passes)", title_justify="left")
    memory.add_column("rank")
    memory.add_column("parameters", justify="right")
    columns = {
        "parameter": "weights",
        "optimizer": "optimizer",
        "gradient": "gradients",
        "saved": "kept",
        "peak": "peak",
    }
    for heading in columns.values():
        memory.add_column(heading, justify="right")
    for rank in answer["ranks"]:
        sizes = (f"{rank[f'{name}_bytes'] / 1e9:,.3f}" for name in columns)
        memory.add_row(f"{rank['rank']} (stage {rank['stage']})", f"{rank['parameters'] / 1e6:,.1f} M", *sizes)
    show(console, memory)
    traffic = Table(title=f"traffic of rank {answer['rank']} in a step, GB", title_justify="left")
    for name in ("axis", "collective", "GB"):
        traffic.add_column(name, justify="right" if name == "GB" else "left")
    for axis, collectives in answer["bytes_by_axis"].items():
        for collective, amount in collectives.items():
            traffic.add_row(axis, collective, f"{amount / 1e9:,.4f}")
    show(console, traffic)


def print_sweep(answer: Mapping[str, Any]) -> None:
    """Print a sweep: a row for each point, the best one marked, and where its configuration lies."""
    console = Console(highlight=False)
    score = answer["score"]
    table = Table(title=f"sweep by {score.replace('_', ' ')}", title_justify="left")
    for column in ("point", "status", score.replace("_", " "), "checkpoint"):
        table.add_column(column, justify="right" if column == score.replace("_", " ") else "left", overflow="fold")
    for row in answer["points"]:
        mark = "bold" if row["name"] == answer["best"] else ""
        value = "-" if row[score] is None else f"{row[score]:.5g}"
        table.add_row(_shown(row["name"]), row["status"], value, (row["checkpoint"] or "-")[:12], style=mark)
    show(console, table)
    if answer["best"] is not None:
        console.print(f"Best: {_shown(answer['best'])}.", soft_wrap=True)
        where = f"--config {quote(answer['config'])} --workspace {quote(answer['workspace'])}"
        say(console, f"{_program()} run {where}")
        say(console, f"Picture: {answer['picture']}")
    if page := answer.get("mlflow_page"):
        how = (
            ""
            if "MLflow" in own_servers()
            else f", once `{_program()} ui --workspace {quote(answer['workspace'])}` serves it"
        )
        say(console, f"This sweep in MLflow{how}: {page}")


def _print_comparison(console: Console, answer: Mapping[str, Any]) -> None:
    """Print the published runs, where they are from, what is assumed and the verdict."""
    comparison = answer["comparison"]
    which = "comparable" if comparison["fair"] else "nearest, none comparable"
    if comparison["matches"]:
        show(console, _runs(f"published A100 runs, {which}", comparison["matches"]))
    if comparison["other_devices"]:
        what = "mixtures" if answer["kind"] == "moe" else "dense models"
        show(console, _runs(f"for orientation: {what} on other devices", comparison["other_devices"]))
    tables: dict[str, list[str]] = {}
    for row in [*comparison["matches"], *comparison["other_devices"]]:
        tables.setdefault(row["source"], []).append(row["table"])
    for source, places in tables.items():
        console.print(f"Source: {_shown(source)}: {_shown('; '.join(dict.fromkeys(places)))}.", soft_wrap=True)
    for assumption in answer["assumptions"]:
        console.print(f"Assumed: {_shown(assumption)}.", soft_wrap=True)
    for remark in answer["remarks"]:
        console.print(f"Note: {_shown(remark)}.", soft_wrap=True)
    if len(comparison["verdicts"]) > 1:
        show(console, _peaks(comparison["verdicts"]))
    console.print(f"Verdict: {_shown(comparison['verdict'])}.", soft_wrap=True)


def _peaks(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the verdict under each published peak of the device."""
    table = Table(title="under each published peak of this device", title_justify="left")
    for column in ("TFLOP/s", "MFU", "ratio", "verdict", "source"):
        table.add_column(column, justify="left" if column in ("verdict", "source") else "right", overflow="fold")
    for one in verdicts:
        table.add_row(
            f"{one['peak_flops'] / 1e12:.4g}",
            percent(one["mfu"]),
            ratio(one["ratio"]),
            one["word"],
            _shown(one["peak_source"]),
        )
    return table


def _runs(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of published runs beside this run, counted causally and in the row's own convention."""
    table = Table(title=title, title_justify="left")
    for column in ("run", "MFU", "this run", "ratio", "own convention", "says"):
        table.add_column(column, justify="left" if column in ("run", "says") else "right")
    for row in rows:
        run = _shown(f"{row['model']}, {row['devices']} x {row['device']}, {row['sequence_length']} tokens")
        if differing := [*row["differences"], *row["notes"]]:
            run += f"\n[dim]{_shown('; '.join(differing))}[/dim]"
        own = (
            "-" if row["ratio_own_convention"] is None else f"{ratio(row['ratio_own_convention'])} {row['convention']}"
        )
        table.add_row(
            run,
            percent(row["mfu"]),
            percent(row["own_mfu"]),
            ratio(row["ratio"]),
            own,
            row["says"] or "-",
        )
    return table
