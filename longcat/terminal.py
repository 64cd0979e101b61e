"""What a person sees while a run works and when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from longcat.progress import Progress

LINE_EVERY_S = 10.0


class Display:
    """A bar a stage on a terminal; elsewhere a line every few seconds. Everything goes to stderr."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        console = Console(stderr=True)
        self._bars = (
            Bars(
                TextColumn("[bold]{task.fields[stage]:<10}"),
                BarColumn(bar_width=32),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=console,
            )
            if console.is_terminal and not quiet
            else None
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one sign of life."""
        if self.quiet:
            return
        if self._bars:
            for stage, task in self._tasks.items():
                if stage != progress.stage and not self._bars.tasks[task].finished:
                    self._bars.update(task, completed=1.0, total=1.0, description="")
            if progress.stage not in self._tasks:
                self._tasks[progress.stage] = self._bars.add_task("", total=1.0, stage=progress.stage)
            total = 1.0 if progress.total > 0 else None
            self._bars.update(
                self._tasks[progress.stage],
                completed=min(progress.share, 0.999),
                total=total,
                description=progress.message,
            )
        elif time.monotonic() - self._said.get(progress.stage, -LINE_EVERY_S) >= LINE_EVERY_S:
            self._said[progress.stage] = time.monotonic()
            share = f"{progress.share:4.0%} " if progress.total else ""
            print(f"{progress.stage:<10} {share}{progress.message}", file=sys.stderr, flush=True)


def print_summary(summary: Mapping[str, Any]) -> None:
    """The table at the end of a run."""
    table = Table(
        title=f"longcat {summary['flow']}, preset {summary['preset']}, {summary['seconds']:.1f} s", title_justify="left"
    )
    for column in ("stage", "time", "", "key figure", "MLflow run"):
        table.add_column(column, justify="right" if column == "time" else "left", no_wrap=True)
    for row in summary["stages"]:
        table.add_row(
            row["stage"],
            f"{row['seconds']:.1f} s",
            "[dim]cached[/dim]" if row["status"] == "cached" else "run",
            row["key_figure"],
            (row["mlflow_run_id"] or "not sent yet")[:12],
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)
    cached = sum(row["status"] == "cached" for row in summary["stages"])
    if cached == len(summary["stages"]):
        console.print("Everything was finished already and has been reused.")
    for row in summary["stages"]:
        if row["stage"] == "benchmark":
            console.print(f"Verdict: {row['facts']['verdict']}.", highlight=False)
            console.print(f"MFU report: {row['artifact']['path']}/report.html", highlight=False, soft_wrap=True)
    if summary["mlflow"]["warning"]:
        console.print(f"[yellow]warning:[/yellow] {summary['mlflow']['warning']}")
    console.print("Curves, reports and flow runs: make ui", highlight=False)


def print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    """A table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, str(value))
    Console().print(table)
