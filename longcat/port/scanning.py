"""A repository, scanned: every file that can hold something of CUDA's, in several processes."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.errors import DataError, DeviceError, LongcatError, UserError
from longcat.port import text_code
from longcat.port.exports import with_taken
from longcat.port.files import Source, check_input, read, walk
from longcat.port.findings import EFFORTS, Finding, Unread, counts, efforts
from longcat.port.notebooks import analyse_notebook
from longcat.port.parsing import check_syntax
from longcat.port.python_code import MARKS, Analysis, analyse
from longcat.port.support import Support, read_support
from longcat.processes.child import die_with_parent
from longcat.progress import Progress, Reporter, no_progress

_FEW = 64
"""Files up to which no other process is started."""
_WAITING = 64
"""Files that are given to the processes at a time, so that memory is bounded."""
_LINE = re.compile(r"line (\d+)[^:]*: (.*)", re.DOTALL)


@dataclass
class Scan:
    """What a scan has found."""

    root: Path
    support: Support | None
    no_support: str
    """Why nothing is said of operators; empty if something is."""
    findings: list[Finding] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    files: int = 0
    lines: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json` and the page."""
        return {
            "root": str(self.root),
            "files": self.files,
            "lines": self.lines,
            "operators": self.support.source if self.support else None,
            "no_operators": self.no_support or None,
            "by_class": counts(self.findings),
            "by_effort": efforts(self.findings),
            "worst_effort": max((one.effort for one in self.findings), key=list(EFFORTS).index, default="none"),
            "findings": [one.as_json() for one in self.findings],
            "unread": [{"file": one.file, "line": one.line, "why": one.why} for one in self.unread],
        }


@dataclass(frozen=True)
class Read:
    """A file that was read: its text before and after, and what was found."""

    source: Source
    lines: int
    findings: tuple[Finding, ...]
    before: bytes
    after: bytes
    """As `before` where nothing changes."""
    unread: Unread | None


def examine(source: Source, support: Support | None = None) -> Read:
    """Read one file and find what belongs to CUDA in it; what cannot be read is said, and no error."""
    try:
        text, encoding = read(source)
        analysis = _analyse(text, source, support)
    except DataError as error:
        found = _LINE.match(str(error))
        line, why = (int(found[1]), found[2]) if found else (0, str(error))
        return Read(source, 0, (), b"", b"", Unread(source.name, line, why))
    before = text.encode(encoding)
    after = before if analysis.rewritten == text else analysis.rewritten.encode(encoding)
    return Read(
        source, text.count("\n") + (not text.endswith("\n") and bool(text)), analysis.findings, before, after, None
    )


def _analyse(text: str, source: Source, support: Support | None) -> Analysis:
    if source.kind == "notebook":
        return analyse_notebook(text, source.name, support)
    if source.kind != "python":
        return text_code.analyse(text, source.name, source.kind)
    if MARKS.search(text) is not None:
        return analyse(text, source.name, support, taken=source.taken)
    check_syntax(text)  # quicker, and nothing is to be found
    return Analysis((), text)


def examine_all(
    root: Path, support: Support | None, vendored: bool, report: Reporter = no_progress
) -> Iterator[Read | Unread]:
    """Read all files of a repository, in several processes if there are many; in the order of their names."""
    check_input(root)
    if root.is_file():
        yield _alone(root, support)
        return
    found = list(walk(root, vendored))
    sources = with_taken([one for one in found if isinstance(one, Source)], root)
    yield from (one for one in found if isinstance(one, Unread))
    done = 0

    def say(source: Source) -> None:
        nonlocal done
        done += 1
        report(Progress("port", done, len(sources), f"{done:,} of {len(sources):,} files: {source.name}"))

    if len(sources) <= _FEW:
        for source in sources:
            yield examine(source, support)
            say(source)
        return
    workers = min(8, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(support,)) as pool:
        waiting = list[tuple[Source, Future[Read]]]()
        try:
            for source in sources:
                waiting.append((source, pool.submit(_examine_here, source)))
                if len(waiting) >= _WAITING:
                    first, result = waiting.pop(0)
                    yield result.result()
                    say(first)
            for source, result in waiting:
                yield result.result()
                say(source)
        except BrokenProcessPool as error:
            raise LongcatError(
                f"a process that reads files was ended, by {waiting[0][0].name} or a file after it, or for lack of memory"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone(file: Path, support: Support | None) -> Read:
    """Read the one file that is asked for.

    Raises:
        UserError: it cannot be read, so that nothing can be said.
    """
    [source] = walk(file)
    unread = source if isinstance(source, Unread) else (read := examine(source, support)).unread
    if unread is not None:
        raise UserError(f"{file}{f', line {unread.line}' if unread.line else ''}: {unread.why}")
    return read


_support: Support | None = None


def _begin(support: Support | None) -> None:
    """Begin a process that reads: it ends with its parent, which alone hears an interrupt."""
    global _support
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _support = support


def _examine_here(source: Source) -> Read:
    return examine(source, _support)


def known_support(python: str | None) -> tuple[Support | None, str]:
    """Return what the wheel registers, or None and why it cannot be asked."""
    try:
        return read_support(python), ""
    except DeviceError as error:
        if python is not None:
            raise
        return None, str(error)


def scan(root: Path, python: str | None = None, vendored: bool = False, report: Reporter = no_progress) -> Scan:
    """Scan a repository or a file.

    Args:
        root: folder or file.
        python: of the environment with torch_npu, whose registrations are read; by default as `longcat emulate` finds it.
        vendored: also read folders of others' code.
        report: gets the progress.

    Raises:
        UserError: there is no such folder or file.
    """
    check_input(root)
    support, no_support = known_support(python)
    result = Scan(root, support, no_support)
    for one in examine_all(root, support, vendored, report):
        if isinstance(one, Unread):
            result.unread.append(one)
            continue
        if one.unread is not None:
            result.unread.append(one.unread)
            continue
        result.files += 1
        result.lines += one.lines
        result.findings += one.findings
    return result
