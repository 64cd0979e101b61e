"""Terminal output while a run works: progress, warnings, and a log of all else; `longcat.tables` prints what came of it."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from longcat.errors import LongcatError
from longcat.printable import printable
from longcat.progress import Progress
from longcat.redaction import redact, redacted_records

LINE_EVERY_S = 10.0


class Display:
    """Progress display: a bar per stage on a terminal, with what is being done under it; elsewhere lines. All on stderr.

    Lines come every `LINE_EVERY_S` seconds, and the last one of a stage in any case. A stage that is left for another keeps what it
    said last. It writes to the stream that was standard error at construction, so `redirected_output` does not affect it.
    """

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._console = Console(file=sys.stderr)
        self._bars = _Bars(self._console) if self._console.is_terminal and not quiet else None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._held: Progress | None = None
        self._line = ""
        """The last one; one and the same a second time tells nothing."""

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bars:
            if kind is None:
                self._finish(but=None)
            self._bars.stop()
        self._say_held()

    def __call__(self, progress: Progress) -> None:
        """Show one progress report."""
        if self.quiet:
            return
        if self._bars:
            self._finish(but=progress.stage)
            if progress.stage not in self._tasks:
                self._tasks[progress.stage] = self._bars.add_task("", total=1.0, stage=progress.stage)
            self._bars.update(
                self._tasks[progress.stage],
                completed=min(progress.fraction, 0.999),  # a full bar would stop the clock
                total=1.0 if progress.total > 0 else None,
                description=printable(progress.message),
            )
            return
        if self._held is not None and self._held.stage != progress.stage:
            self._say_held()
        self._held = progress
        if time.monotonic() - self._said.get(progress.stage, -LINE_EVERY_S) >= LINE_EVERY_S:
            self._say_held()

    def show(self, pairs: Mapping[str, str]) -> None:
        """Show names and values above the bars, unless quiet."""
        if self.quiet:
            return
        width = max(map(len, pairs))
        if not self._console.is_terminal:
            for name, value in pairs.items():
                self._console.print(
                    f"{name:<{width}}  {printable(value)}", markup=False, highlight=False, soft_wrap=True
                )
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs.items():
            table.add_row(Text(printable(name)), Text(printable(value)))
        self._console.print(table, highlight=False)

    def warn(self, text: str) -> None:
        """Show a warning above the bars."""
        self._console.print(
            f"warning: {printable(text)}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def _say_held(self) -> None:
        """Write the newest report as a line, unless it has been written."""
        if (progress := self._held) is None:
            return
        self._held = None
        self._said[progress.stage] = time.monotonic()
        percent = f"{progress.fraction:4.0%} " if progress.total else ""
        line = f"{progress.stage:<10} {percent}{printable(progress.message)}"
        if line != self._line:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._line = line

    def _finish(self, but: str | None) -> None:
        """Fill the bars of all stages but one, as they are finished."""
        assert self._bars is not None
        for stage, task in self._tasks.items():
            if stage != but:
                self._bars.update(task, completed=1.0, total=1.0)


class _Bars(Bars):
    """Bars with what each stage is doing, or did last, in the lines under its bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("[bold]{task.fields[stage]:<10}"),
            BarColumn(bar_width=max(4, min(32, console.width - 26))),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """Return a bar, and the text under it, for each stage."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.description:
                yield Padding(Text(task.description, overflow="fold"), (0, 0, 0, 2))


@contextlib.contextmanager
def redirected_output(path: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Redirect log records, stdout and stderr to a file; warnings of flows and stages also go to `warn`.

    An unexpected exception is written there with its traceback, and gets a note that names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    level = root.level
    with (
        _Log(path.open("ab", buffering=0), encoding="utf-8", errors="replace", write_through=True) as log,
        redacted_records(),
    ):
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


class _Log(io.TextIOWrapper):
    """Text stream without secrets and control characters.

    Its lines are lost where the disk takes no more of them, as no run ends for the sake of its log.
    """

    def write(self, text: str) -> int:
        """Write what the disk takes."""
        with contextlib.suppress(OSError):
            super().write(printable(redact(text)))
        return len(text)


class _Warnings(logging.Handler):
    """Log handler that passes the warnings of flows and stages to a function."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a record if it is a warning of a flow or a stage."""
        from_pipeline = record.name.startswith(("longcat", "prefect.flow_runs", "prefect.task_runs"))
        if from_pipeline and record.levelno == logging.WARNING:
            self._warn(record.getMessage())
