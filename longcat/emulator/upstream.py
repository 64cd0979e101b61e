"""Test files of torch_npu's makers on the emulated device: what passes, and why the rest does not.

A file is run as `python FILE` would, in a fork of a server that has imported torch and torch_npu once. The fork reports each
test before and after it has run; one that takes too long or dies is replaced by another fork for the rest of the file.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import selectors
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from longcat.emulator.fork import MARK, REASON_CHARACTERS, is_unsupported, work
from longcat.errors import UserError

FAILURES = ("unsupported", "wrong", "refused", "hang", "crash", "environment")
"""Why a test fails: no kernel; another value or message; an exception; its limit; a signal; something missing here."""
NOT_TESTED = ("skipped", "disabled")
"""What is left out of a share: upstream does not run it on this device or here, or has it on its list of disabled tests."""
FILE_LIMITS = 10
"""A file has this many times the limit of a test."""
_SLOWEST = 5
"""A test that computes may take this many times its limit, on a machine that is busy with other things."""
_IDLE = 0.01
"""Fraction of a processor below which a test does not compute."""
_START_S, _GRACE_S = 300.0, 5.0
"""Limit for reading a file, and seconds between two attempts to end it."""
_POLL_S, _LOOK_S = 0.1, 1.0
_MOST_OUTPUT = 1 << 20
_FILE_OVER = "the file took too long"

_FOLDERS = {
    "nn": "nn", "autograd": "autograd", "optim": "optim", "npu": "npu", "custom_ops": "custom_ops",
    "distributed": "distributed", "test_base_ops": "op-plugin base ops", "test_custom_ops": "op-plugin custom ops",
}  # fmt: skip
GROUPS = ("nn", "autograd", "optim", "amp", *list(_FOLDERS.values())[3:], "other")
"""Names of the table's rows, in its order; custom operators have a second row for those of training."""
_OF_OPERATORS = ("custom_ops", "op-plugin custom ops")

_DERIVATIVE = re.compile(r"(_backward|_grad)(_|$)|bk$")
_HELPER = re.compile(
    r"apply_adam|float_status|non_finite|silent_check|ring_attention_update|moe_|grouped_matmul|gmm"
    r"|all_gather|all_?to_?all|reduce_scatter|distribute_barrier"
)
_INFERENCE = re.compile(r"quant|infer|cache|worker|update_expert")


@dataclass(frozen=True)
class Result:
    """What became of one test."""

    file: str
    """Path below the suite's folder of tests."""
    test: str
    status: str
    """passed, one of `NOT_TESTED` or one of `FAILURES`."""
    reason: str = ""
    seconds: float = 0.0


@dataclass
class _File:
    """A test file on its way, and the fork that is at it."""

    path: Path
    name: str
    began: float
    plan: list[str] = field(default_factory=list)
    """Names of its tests, once a fork has read it."""
    results: dict[int, Result] = field(default_factory=dict)
    others: list[Result] = field(default_factory=list)
    """What failed outside a test: the file as a whole, or a fixture's clean-up."""
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status and reason of classes whose set-up failed or skipped them."""
    current: int | None = None
    since: float = 0.0
    """When the last report came, or the attempt to end it."""
    began_test: float = 0.0
    tried: set[int | None] = field(default_factory=set)
    """Tests that the system killed, which are run once more; None is the reading of the file."""
    killed: str = ""
    ended: str = ""
    """How the last fork ended."""
    ready: bool = False
    """Whether the fork has read the file."""
    progress: bool = False
    """Whether the fork has ended a test."""
    looked: float = 0.0
    used: float = 0.0
    """CPU seconds that it had used when its test began, or it did."""
    computing: tuple[float, float] = (0.0, 0.0)
    """When it was last seen to compute, and the CPU seconds that it had used by then."""
    pid: int = 0
    reports: int = -1
    text: bytes = b""
    log: Path = Path()
    mark: str = ""
    output_from: int = 0


def find(suite: Path, chosen: Sequence[str]) -> tuple[Path, list[Path]]:
    """Find the test files of a checkout.

    Args:
        suite: the checkout, or its folder of tests.
        chosen: files and folders, below the checkout or its folder of tests; empty for all.

    Returns:
        The folder of tests, and the files in alphabetical order.

    Raises:
        UserError: there is no such folder or file, or no test in it.
    """
    if not suite.is_dir():
        raise UserError(f"--suite {suite}: no such folder; a checkout of Ascend/pytorch or Ascend/op-plugin is wanted")
    root = (suite / "test" if (suite / "test").is_dir() else suite).resolve()
    files: set[Path] = set()
    for name in chosen or ["."]:
        path = next((p for p in (root / name, suite / name, Path(name)) if p.exists()), None)
        if path is None or not path.resolve().is_relative_to(root):
            raise UserError(f"{name}: no such file or folder in {root}")
        files.update(path.resolve().rglob("test_*.py") if path.is_dir() else [path.resolve()])
    if not files:
        raise UserError(f"--suite {suite}: no file test_*.py in {', '.join(chosen) or 'it'}")
    return root, sorted(files)


def disabled_tests(root: Path, version: str) -> Path | None:
    """Find the list of the tests that upstream itself leaves out, if the checkout has one.

    Upstream gives its path in `DISABLED_TESTS_FILE`, by which the wheel's test classes skip what is on it.

    Args:
        root: the suite's folder of tests.
        version: torch's; a list may be for one release.
    """
    release = ".".join(version.split(".")[:2])
    names = (f".pytorch-disabled-tests{of}.json" for of in (f"-{release}", ""))
    return next((path for name in names if (path := root / "unsupported_test_cases" / name).is_file()), None)


def group_of(name: str) -> str:
    """Return the row of the table that a test file belongs to."""
    folder, stem = Path(name).parts[0], Path(name).stem
    if re.search(r"(^|_)(amp|autocast)(_|$)", stem) and folder in ("npu", Path(name).name):
        return "amp"
    if stem == "test_optim":
        return "optim"
    return _FOLDERS.get(folder, "other")


def run(root: Path, files: Sequence[Path], *, seconds: float, jobs: int) -> Iterator[list[Result]]:
    """Run test files, some at a time; yields the results of each as it ends.

    Args:
        root: the suite's folder of tests.
        files: test files below it.
        seconds: most seconds that a test may take; a file may take `FILE_LIMITS` times as many.
        jobs: files that run at the same time.
    """
    waiting, running = list(files), list[_File]()
    with tempfile.TemporaryDirectory(prefix="longcat-conformance-") as folder, selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    path = waiting.pop(0)
                    running.append(_File(path, str(path.relative_to(root)), time.monotonic()))
                    _fork(running[-1], root, Path(folder), selector)
                for key, _ in selector.select(_POLL_S):
                    _read(key.data)
                for one in list(running):
                    _check_limits(one, seconds)
                    if not _has_ended(one):
                        continue
                    _close(one, selector)
                    if _again(one):
                        _fork(one, root, Path(folder), selector)
                    else:
                        running.remove(one)
                        yield _all(one)
        finally:
            for one in running:
                _end(one)


def _fork(file: _File, root: Path, folder: Path, selector: selectors.BaseSelector) -> None:
    reading, writing = os.pipe()
    file.log, file.mark = folder / uuid.uuid4().hex, uuid.uuid4().hex
    file.ended = "the file ended before"
    file.text, file.current, file.killed = b"", None, ""
    file.ready = file.progress = False
    file.since, file.output_from, file.used = time.monotonic(), 0, 0.0
    file.computing = file.since, 0.0
    sys.stdout.flush()
    sys.stderr.flush()
    scratch = Path(tempfile.mkdtemp(dir=folder))
    file.pid = os.fork()
    if file.pid == 0:
        os.close(reading)
        work(file.path, root, scratch, set(file.results), file.mark, writing, file.log)
    os.close(writing)
    os.set_blocking(reading, False)
    file.reports = reading
    selector.register(reading, selectors.EVENT_READ, file)


def _read(file: _File) -> None:
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(file.reports, 1 << 16):
            file.text += piece
    *lines, file.text = file.text.split(b"\n")
    for line in lines:
        _take(file, json.loads(line))


def _take(file: _File, report: dict[str, Any]) -> None:
    """Take in one report of the fork."""
    file.since = file.began_test = time.monotonic()
    file.used = _cpu_seconds(file)
    file.computing = file.since, file.used
    if "plan" in report:
        file.plan, file.ready = report["plan"], True
    elif "start" in report:
        file.current = report["start"]
        file.output_from = report["output"]
    elif "end" in report:
        number = report["end"]
        status, reason = _with_output(file, report)
        file.results[number] = Result(file.name, file.plan[number], status, reason, round(report["seconds"], 2))
        file.current, file.progress = None, True
    elif report["what"].startswith("setUp"):
        file.classes[report["what"].partition("(")[2].rstrip(")")] = report["status"], report["reason"]
    else:
        file.others.append(Result(file.name, report["what"], *_with_output(file, report)))


def _with_output(file: _File, report: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of a failure, classified also by what the test's child processes have printed."""
    if report["status"] in ("wrong", "refused"):
        printed = is_unsupported(_output(file.log, file.output_from, report["output"]))
        if printed:
            return "unsupported", printed
    return report["status"], report["reason"]


def _check_limits(file: _File, seconds: float) -> None:
    """Kill the fork when a test, or the file, has taken too long.

    A busy machine makes everything slow, so that what counts is the time a test has computed, or waited without computing.
    """
    now = time.monotonic()
    waited = now - file.since
    if file.killed:
        if waited > _GRACE_S:
            _end(file)
        return
    limit = seconds if file.ready else max(seconds, _START_S)
    if now - file.looked < _LOOK_S:
        return
    file.looked = now
    if now - file.began > FILE_LIMITS * seconds * _SLOWEST:
        file.killed = _FILE_OVER
    else:
        used = _cpu_seconds(file)
        when, before = file.computing
        if used - before > _IDLE * (now - when):
            file.computing = now, used
        if used - file.used > limit or now - file.computing[0] > limit or waited > _SLOWEST * limit:
            file.killed = f"took over {limit:g} s"
    if not file.killed:
        return
    file.since = now
    with contextlib.suppress(ProcessLookupError):
        os.kill(file.pid, signal.SIGABRT)  # faulthandler says where it stands


def _cpu_seconds(file: _File) -> float:
    """Return the CPU time that a fork and its children have used."""
    total = 0.0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(file.pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += sum(one.cpu_times()[:4])
    return total


def _has_ended(file: _File) -> bool:
    """Whether the fork has ended; its number stays taken, as that of its group, until it is waited for."""
    return os.waitid(os.P_PID, file.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _close(file: _File, selector: selectors.BaseSelector) -> None:
    """Take the last reports of a fork that has ended, and decide what that means for its test."""
    _read(file)
    selector.unregister(file.reports)
    os.close(file.reports)
    _end(file)
    seconds = round(time.monotonic() - file.began_test, 2)
    code = os.waitstatus_to_exitcode(os.waitpid(file.pid, 0)[1])
    if code == 0 and file.current is None:
        return
    if code == -signal.SIGKILL and not file.killed and file.current not in file.tried:  # most likely for want of memory
        file.tried.add(file.current)
        file.progress = True
        return
    status = "hang" if file.killed else "crash"
    reason = file.killed or (f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}")
    reason = f"{reason}{_place(_output(file.log, file.output_from))}"
    if not file.ready and not file.results:
        file.others.append(Result(file.name, "(file)", status, reason))
    elif file.current is None:
        file.ended = reason
    else:
        file.results[file.current] = Result(file.name, file.plan[file.current], status, reason, seconds)
        file.progress = True
    if file.killed == _FILE_OVER:
        for number, test in enumerate(file.plan):
            file.results.setdefault(number, Result(file.name, test, "hang", f"not run: {file.killed}"))


def _again(file: _File) -> bool:
    """Whether another fork is to go on; tests that none can reach get their result."""
    for number, test in enumerate(file.plan):
        for owner, (status, reason) in file.classes.items():
            if test.startswith(f"{owner}."):
                file.results.setdefault(number, Result(file.name, test, status, reason))
    left = [number for number in range(len(file.plan)) if number not in file.results]
    if left and not file.progress:
        for number in left:
            file.results[number] = Result(file.name, file.plan[number], "crash", "the file ended before this test")
        return False
    return bool(left) or (not file.ready and file.progress)


def _all(file: _File) -> list[Result]:
    found = [file.results[number] for number in sorted(file.results)] + file.others
    return found or [Result(file.name, "(file)", "skipped", "no tests")]


def _end(file: _File) -> None:
    """Kill a fork and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(file.pid, signal.SIGKILL)
    killed = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == file.mark:
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=_GRACE_S)


def _output(log: Path, start: int, end: int | None = None) -> str:
    """Return what a fork has printed between two places of its log, of long output the end."""
    if not log.exists():
        return ""
    end = log.stat().st_size if end is None else end
    start = max(start, end - _MOST_OUTPUT)
    with log.open("rb") as stream:
        stream.seek(start)
        return stream.read(max(end - start, 0)).decode(errors="replace")


def _place(printed: str) -> str:
    """Return where a process stood that faulthandler has seen end: the innermost lines, else the end of its output."""
    stack = printed.rpartition("most recent call first")[2]
    lines = re.findall(r'^ +File "(.*)", line (\d+) in (.+)$', stack, re.M)[:4] if stack != printed else []
    where = ", ".join(f"{Path(name).name}:{number} {function}" for name, number, function in lines)
    return f" in {where}" if where else f": {' '.join(printed.split())[-REASON_CHARACTERS:]}"


def subject(path: Path, operators: Iterable[str]) -> set[str]:
    """Return the operators of torch_npu that a test file is about: the one it is named after, else all that it names.

    Args:
        path: test file.
        operators: names of torch_npu's operators, without overloads.
    """
    known = set(operators)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return set()
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    stem = path.stem.removeprefix("test_")
    for name in (stem, f"npu_{stem}", f"_{stem}", f"_npu_{stem}"):
        if name in known:
            return {name}
    found = named & known
    return found - {"npu_format_cast", "npu_dtype_cast", "get_npu_format"} or found


def used_by_training(name: str, differentiable: Callable[[str], bool]) -> bool:
    """Whether training uses an operator of torch_npu.

    It does if the wheel differentiates it, if it is a derivative, or if optimizers, AMP, routing or collectives need it;
    what quantises, or keeps a cache for inference, it does not use.

    Args:
        name: name without namespace and overload.
        differentiable: whether the wheel differentiates the operator of this name.
    """
    if _INFERENCE.search(name):
        return False
    return differentiable(name) or bool(_DERIVATIVE.search(name) or _HELPER.search(name))


def differentiable_in_wheel() -> tuple[set[str], Callable[[str], bool]]:
    """Return the names of torch_npu's operators, and whether the wheel differentiates one of them.

    It does if it has an autograd kernel for that name or its private form, or an operator that is the derivative.
    """
    import torch

    overloads: dict[str, list[str]] = {}
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        if namespace in ("npu", "atb"):
            full = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
            overloads.setdefault(name, []).append(full)

    def differentiable(name: str) -> bool:
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        forms = [full for form in (name, f"_{name}") for full in overloads.get(form, ())]
        own = any(has(full, "AutogradPrivateUse1") for full in forms)
        return own or not overloads.keys().isdisjoint((f"{name}_backward", f"{name}_grad"))

    return set(overloads), differentiable


def files_of_training(root: Path, names: Iterable[str]) -> set[str]:
    """Return the test files that are about an operator that training uses."""
    operators, differentiable = differentiable_in_wheel()
    return {
        name
        for name in names
        if any(used_by_training(operator, differentiable) for operator in subject(root / name, operators))
    }


def share(results: Sequence[Result]) -> float:
    """Return the fraction of tests that passed, what is not tested left out; 1 if there are none."""
    counts = Counter(result.status for result in results)
    tested = _tested(results)
    return counts["passed"] / tested if tested else 1.0


def progress(results: Sequence[Result]) -> str:
    """Format the counts of one file in a line, and each of its failures in another."""
    counts = Counter(result.status for result in results)
    line = f"{results[0].file}: " + ", ".join(
        f"{counts[s]} {s}" for s in ("passed", *NOT_TESTED, *FAILURES) if counts[s]
    )
    return "\n".join([line, *(f"  {r.status} {r.test}: {r.reason}" for r in results if r.status in FAILURES)])


def table(results: Sequence[Result], training: set[str]) -> str:
    """Format the results by group and by file, and a line for the documentation.

    Args:
        results: what became of each test.
        training: files of custom operators that training uses.
    """
    rows = _rows(results, training)
    files: dict[str, list[Result]] = {}
    for result in results:
        files.setdefault(result.file, []).append(result)
    lines = [_heading("group"), *(_line(name, found) for name, found in rows), "", _heading("file")]
    lines += [_line(name, found) for name, found in sorted(files.items())]
    said = ", ".join(f"{name} {share(found):.1%} of {_tested(found):,}" for name, found in rows if _tested(found))
    return "\n".join([*lines, "", f"Passed, skips left out: {said}."])


def _rows(results: Sequence[Result], training: set[str]) -> list[tuple[str, list[Result]]]:
    rows = []
    for name in GROUPS:
        found = [result for result in results if group_of(result.file) == name]
        if found:
            rows.append((name, found))
        if found and name in _OF_OPERATORS:
            rows.append((f"{name} of training", [result for result in found if result.file in training]))
    return [*rows, ("all", list(results))]


def _tested(results: Sequence[Result]) -> int:
    return sum(result.status not in NOT_TESTED for result in results)


def _heading(what: str) -> str:
    return f"{what:<58}" + "".join(f"{name:>12}" for name in ("share", "passed", *NOT_TESTED, *FAILURES))


def _line(name: str, results: Sequence[Result]) -> str:
    counts = Counter(result.status for result in results)
    numbers = (counts[status] for status in ("passed", *NOT_TESTED, *FAILURES))
    return f"{name:<58}{share(results):>12.1%}" + "".join(f"{number:>12}" for number in numbers)
