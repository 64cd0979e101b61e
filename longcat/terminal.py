"""What a person sees while a run works and when it is done."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from longcat.errors import LongcatError
from longcat.progress import Progress

LINE_EVERY_S = 10.0


class Display:
    """A bar a stage on a terminal; elsewhere a line every few seconds. Everything goes to stderr.

    Keeps the stream that is standard error when it is made, so that `aside` can move the rest elsewhere.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._console = Console(file=sys.stderr)
        self._bars = (
            Bars(
                TextColumn("[bold]{task.fields[stage]:<10}"),
                BarColumn(bar_width=32),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            if self._console.is_terminal and not quiet
            else None
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bars:
            if kind is None:
                self._finish(but=None)
            self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one sign of life."""
        if self.quiet:
            return
        if self._bars:
            self._finish(but=progress.stage)
            if progress.stage not in self._tasks:
                self._tasks[progress.stage] = self._bars.add_task("", total=1.0, stage=progress.stage)
            self._bars.update(
                self._tasks[progress.stage],
                completed=min(progress.share, 0.999),  # a full bar would stop the clock
                total=1.0 if progress.total > 0 else None,
                description=progress.message,
            )
        elif time.monotonic() - self._said.get(progress.stage, -LINE_EVERY_S) >= LINE_EVERY_S:
            self._said[progress.stage] = time.monotonic()
            share = f"{progress.share:4.0%} " if progress.total else ""
            self._console.print(f"{progress.stage:<10} {share}{progress.message}", markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """Show a warning above the bars."""
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _finish(self, but: str | None) -> None:
        """Fill the bars of stages that are over."""
        assert self._bars is not None
        for stage, task in self._tasks.items():
            if stage != but:
                self._bars.update(task, completed=1.0, total=1.0, description="")


@contextlib.contextmanager
def aside(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Send log records and whatever libraries print to a file; warnings of flows and stages also to `warn`.

    An exception that nobody foresaw is written there in full, and gets a note that says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    level = root.level
    with path.open("a", encoding="utf-8", buffering=1) as log:
        handlers = [logging.StreamHandler(log), _Warnings(warn)]
        # Prefect leaves the root logger alone when it finds a formatted handler there
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(logging.INFO)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for every call of an API
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        except Exception as error:
            if not isinstance(error, LongcatError):
                logging.getLogger("longcat").exception("the run failed")
                error.add_note(f"details are in {path}")
            raise
        finally:
            root.setLevel(level)
            for handler in handlers:
                root.removeHandler(handler)


class _Warnings(logging.Handler):
    """Hands on what flows and stages warn of."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        ours = record.name.startswith(("longcat", "prefect.flow_runs", "prefect.task_runs"))
        if ours and record.levelno == logging.WARNING:
            self._warn(record.getMessage())


def print_summary(summary: Mapping[str, Any]) -> None:
    """The table at the end of a run."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    wide = console.width >= 110  # enough for whole run ids; on less, their beginning
    table = Table(
        title=f"longcat {summary['flow']}, preset {summary['preset']}, {summary['seconds']:.1f} s", title_justify="left"
    )
    for column in ("stage", "time", "", "key figure", "MLflow run"):
        table.add_column(column, justify="right" if column == "time" else "left", no_wrap=True)
    for row in summary["stages"]:
        table.add_row(
            row["stage"],
            f"{row['seconds']:.1f} s",
            "[dim]cached[/dim]" if row["status"] == "cached" else row["status"],
            escape(row["headline"]),
            (row["mlflow_run_id"] or "not sent yet")[: None if wide else 12],
        )
    console.print(table)
    if all(row["status"] == "cached" for row in summary["stages"]):
        console.print("Everything was finished already and has been reused.")
    for row in summary["stages"]:
        for line in row["remarks"]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("Curves, reports and flow runs: make ui", highlight=False)


def print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    """A table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, escape(str(value)))
    Console().print(table)


def print_mfu(found: Mapping[str, Any]) -> None:
    """The answer of `longcat mfu`: the figures, how others would count them, and the nearest published runs."""
    console = Console()
    pairs = {
        "model": f"{found['family']}, {found['activated_parameters'] / 1e9:.3g} B of "
        f"{found['total_parameters'] / 1e9:.3g} B parameters activated",
        "speed": f"{found['tokens_per_second']:,.0f} tokens/s on {found['devices']} x {found['device']}, "
        f"{found['tflops_per_device']:.4g} TFLOP/s each",
        "peak": f"{found['peak_flops'] / 1e12:.4g} TFLOP/s; {found['peak_source']}",
        "best product measured": None
        if not found["measured_gemm_flops"]
        else f"{found['measured_gemm_flops'] / 1e12:.4g} TFLOP/s, of which the run reaches "
        f"{found['tflops_per_device'] * 1e12 / found['measured_gemm_flops']:.1%}",
        "MFU": f"{found['mfu']:.1%}, causal attention",
        "MFU, full attention": f"{found['mfu_full_attention']:.1%}, as PaLM and the older A100 rows count",
        "HFU": f"{found['hfu']:.1%}, recomputation {found['recomputation']}",
    }
    if "log" in found:
        log = found["log"]
        pairs["log"] = f"{log['kind']}, median of {log['readings']} readings, spread {log['spread']:.1%}"
    print_pairs("model FLOPs utilisation", {name: value for name, value in pairs.items() if value})

    total = sum(found["flops_per_token"].values())
    parts = Table(title=f"a training token: {total / 1e9:,.4g} GFLOP", title_justify="left")
    parts.add_column("component")
    parts.add_column("GFLOP", justify="right")
    parts.add_column("share", justify="right")
    for name, flops in sorted(found["flops_per_token"].items(), key=lambda pair: -pair[1]):
        parts.add_row(name.replace("_", " "), f"{flops / 1e9:,.4g}", f"{flops / total:.1%}")
    console.print(parts)

    others = Table(title="MFU as others count it", title_justify="left")
    others.add_column("convention")
    others.add_column("MFU", justify="right")
    for name, value in found["mfu_by_convention"].items():
        others.add_row(name, f"{value:.1%}")
    console.print(others)

    comparison = found["comparison"]
    console.print(
        _runs(
            "published A100 runs, " + ("comparable" if comparison["fair"] else "nearest, none comparable"),
            comparison["matches"],
        )
    )
    if comparison["others"]:
        what = "mixtures" if found["kind"] == "moe" else "dense models"
        console.print(_runs(f"for orientation: {what} on other devices", comparison["others"]))
    tables: dict[str, list[str]] = {}
    for row in [*comparison["matches"], *comparison["others"]]:
        tables.setdefault(row["source"], []).append(row["table"])
    for source, places in tables.items():
        console.print(f"Source: {escape(source)}: {escape('; '.join(dict.fromkeys(places)))}.", soft_wrap=True)
    for assumption in found["assumptions"]:
        console.print(f"Assumed: {escape(assumption)}.")
    console.print(f"Verdict: {escape(comparison['verdict'])}.", soft_wrap=True)


def _runs(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Published runs, and ours as they count."""
    table = Table(title=title, title_justify="left")
    for column in ("run", "MFU", "ours, counted so", "ratio"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for row in rows:
        ours, ratio = (
            ("-", "-") if row["ratio"] is None else (f"{row['ours']:.1%} {row['convention']}", f"{row['ratio']:.2f}")
        )
        run = f"{row['model']}, {row['devices']} x {row['device']}, {row['sequence_length']} tokens"
        table.add_row(run, f"{row['mfu']:.1%}", ours, ratio)
    return table
