"""A fork that runs one test file as `python FILE` would, and reports each test before and after it has run."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import faulthandler
import fcntl
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import time
import traceback
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from longcat.emulator.spawning import fork_what_is_spawned
from longcat.processes.child import die_with_parent

MARK = "LONGCAT_CONFORMANCE"
"""Variable by which the processes that a test file starts are known, whatever became of those between."""
_MISSING_HERE = re.compile(
    r"^(ModuleNotFoundError|ImportError|FileNotFoundError|URLError)|cannot open shared object|[Nn]inja is required"
)
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41
REASON_CHARACTERS = 400
"""Most characters of a reason."""


def work(path: Path, root: Path, scratch: Path, done: set[int], mark: str, reports: int, log: Path) -> NoReturn:
    """Run the tests of a file in this process, a fork, which ends with it.

    Args:
        path: test file.
        root: folder of all tests, from which files import one another.
        scratch: empty folder to work in.
        done: numbers of the tests that have run before, in another fork.
        mark: value of `MARK` for this fork.
        reports: file descriptor that reports are written to, as lines of JSON.
        log: file that the fork and its children print to.
    """
    code = 1
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # this process first, not its server
        with log.open("wb", buffering=0) as stream, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        for name, number in (("stdout", 1), ("stderr", 2)):
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
        faulthandler.enable(2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        _own_network()
        os.environ[MARK] = mark
        os.chdir(scratch)
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.argv = [str(path)]
        sys.path[:] = [str(path.parent), *sys.path, str(root)]
        fork_what_is_spawned()
        code = _run(path, _Reports(reports, done, log))
    except BaseException:  # the server reads it in the log
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _own_network() -> None:
    """Give this process and its children ports of their own: files that run at the same time use the same numbers.

    Where the system refuses it (some containers), they share those of the machine.
    """
    libc = ctypes.CDLL(None)
    user = 0 if os.geteuid() == 0 else _NEW_USER
    if libc.unshare(user | _NEW_NETWORK) == 0:
        with socket.socket() as one:  # the loopback is there, and down
            fcntl.ioctl(one, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP_AND_RUNNING))


class _Reports:
    """Reports of this fork to its server."""

    def __init__(self, descriptor: int, done: set[int], log: Path) -> None:
        self.descriptor = descriptor
        self.log = log
        self.done = done
        self.pid = os.getpid()

    def plan(self, names: list[str]) -> None:
        self._send(plan=names)

    def start(self, number: int) -> None:
        self._send(start=number)

    def end(self, number: int, status: str, reason: str, seconds: float) -> None:
        self._send(end=number, status=status, reason=reason, seconds=seconds)

    def other(self, what: str, status: str, reason: str) -> None:
        """Report something that is not a test: a fixture, or the file as a whole."""
        self._send(what=what, status=status, reason=reason)

    def _send(self, **report: Any) -> None:
        """Send a report, with the place in the log where output that follows begins."""
        if os.getpid() != self.pid:  # a test that forks and comes back here
            os._exit(1)
        sys.stdout.flush()
        sys.stderr.flush()
        line = json.dumps({**report, "output": self.log.stat().st_size}).encode() + b"\n"
        while line:
            line = line[os.write(self.descriptor, line) :]


def _run(path: Path, reports: _Reports) -> int:
    source = path.read_text(encoding="utf-8")
    if _imports(source, "pytest"):
        return _run_by_pytest(path, reports)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=str(path), __builtins__=__builtins__, __spec__=None)
    sys.modules["__main__"] = main
    ran = False

    def run_tests(*positional: Any, **named: Any) -> NoReturn:
        nonlocal ran
        ran = True
        _run_by_unittest(main, reports)
        raise SystemExit(0)

    unittest.main = run_tests  # type: ignore[assignment]
    began = time.monotonic()
    status, reason = "passed", ""
    try:
        exec(compile(source, str(path), "exec"), main.__dict__)  # nosec B102 # the test file that the user names
    except SystemExit as error:
        if error.code not in (None, 0):
            status, reason = "refused", f"ended with exit code {error.code}"
        elif not ran and not _is_program(source):
            status, reason = "skipped", "the file left by itself"
    except unittest.SkipTest as error:
        status, reason = "skipped", str(error)
    except BaseException as error:
        status, reason = classify(error)
    if status == "passed" and not ran and _runs_tests(source):
        status, reason = "skipped", "the file runs its tests on other devices only"
    if ran or (status == "passed" and _has_tests(main)):
        if not ran:
            _run_by_unittest(main, reports)
        if status != "passed":
            reports.other("(file)", status, reason)
    elif status == "passed" and not _is_program(source):
        _run_functions(main, reports)
    else:  # it is one program, and has run; or it could not be read
        reports.plan(["(file)"])
        reports.end(0, status, reason, time.monotonic() - began)
    return 0


def _imports(source: str, name: str) -> bool:
    tree = ast.parse(source)
    return any(isinstance(node, ast.Import) and node.names[0].name == name for node in ast.walk(tree))


def _is_program(source: str) -> bool:
    """Whether a file does something when it is the main module, other than to print where its tests are run."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return not all(ast.unparse(line).startswith("print(") for line in node.body)
    return False


def _runs_tests(source: str) -> bool:
    """Whether a file that is the main module calls for its tests, on a condition of its own."""
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in ("run_tests", "unittest.main")
        for outer in ast.parse(source).body
        if isinstance(outer, ast.If) and "__name__" in ast.unparse(outer.test)
        for node in ast.walk(outer)
    )


def _has_tests(module: types.ModuleType) -> bool:
    return unittest.defaultTestLoader.loadTestsFromModule(module).countTestCases() > 0


def _run_by_unittest(module: types.ModuleType, reports: _Reports) -> None:
    _run_suite(list(_flat(unittest.defaultTestLoader.loadTestsFromModule(module))), reports)


def _run_functions(module: types.ModuleType, reports: _Reports) -> None:
    """Run the functions that are named as tests and take no argument."""
    found = [
        unittest.FunctionTestCase(value, description=name)
        for name, value in vars(module).items()
        if name.startswith("test") and isinstance(value, types.FunctionType) and value.__code__.co_argcount == 0
    ]
    _run_suite(list(found), reports)


def _flat(suite: unittest.TestSuite | unittest.TestCase) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
        return
    for one in suite:
        yield from _flat(one)


def _run_suite(tests: list[unittest.TestCase], reports: _Reports) -> None:
    reports.plan([test.id() for test in tests])
    numbers = {id(test): number for number, test in enumerate(tests)}
    unittest.TestSuite(test for number, test in enumerate(tests) if number not in reports.done).run(
        _Outcome(reports, numbers)
    )


class _Outcome(unittest.TestResult):
    """Reports of unittest as they come."""

    def __init__(self, reports: _Reports, numbers: dict[int, int]) -> None:
        super().__init__()
        self.reports = reports
        self.numbers = numbers
        self.found: dict[int, tuple[str, str]] = {}
        self.began = 0.0
        self.shouldStop = False

    def stop(self) -> None:
        """Do not stop: torch's test classes ask for it after an error of a device, and the others can run."""

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.reports.start(self.numbers[id(test)])
        self.began = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        number = self.numbers[id(test)]
        self.reports.end(number, *self.found.pop(number, ("passed", "")), time.monotonic() - self.began)

    def _set(self, test: Any, status: str, reason: str) -> None:
        number = self.numbers.get(id(test))
        if number is None:  # a fixture of a class or of the module
            self.reports.other(test.id(), status, reason)
        else:
            self.found.setdefault(number, (status, reason))

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self._set(test, *classify(err[1]))

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        self._set(test, *classify(err[1]))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self._set(test, *classify(err[1]))

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        if not hasattr(test, "test_case"):  # a part of a test that is skipped is no skipped test
            self._set(test, _skipped(reason), reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        """It passes."""

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        self._set(test, "wrong", "passes, and was expected to fail")


def _run_by_pytest(path: Path, reports: _Reports) -> int:
    try:
        import pytest
    except ImportError as error:
        reports.other("(file)", *classify(error))
        return 0
    main = types.ModuleType("__main__")
    main.__spec__ = None
    sys.modules["__main__"] = main
    pytest.main(
        [str(path), "-q", "-p", "no:cacheprovider", "-p", "no:timeout", "-o", "addopts="], plugins=[_Plugin(reports)]
    )
    return 0


class _Plugin:
    """Reports of pytest as they come."""

    def __init__(self, reports: _Reports) -> None:
        self.reports = reports
        self.numbers: dict[str, int] = {}
        self.found: dict[str, tuple[str, str]] = {}
        self.began = 0.0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        self.numbers = {item.nodeid: number for number, item in enumerate(items)}
        self.reports.plan(list(self.numbers))
        items[:] = [item for item in items if self.numbers[item.nodeid] not in self.reports.done]

    def pytest_exception_interact(self, node: Any, call: Any) -> None:
        status, reason = classify(call.excinfo.value)
        if node.nodeid in self.numbers:
            self.found.setdefault(node.nodeid, (status, reason))
        else:
            self.reports.other("(file)", status, reason)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.reports.start(self.numbers[nodeid])
        self.began = time.monotonic()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr)[-REASON_CHARACTERS:]
            self.found.setdefault(report.nodeid, (_skipped(reason), reason))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        status, reason = self.found.pop(nodeid, ("passed", ""))
        self.reports.end(self.numbers[nodeid], status, reason, time.monotonic() - self.began)


def _skipped(reason: str) -> str:
    """Return the class of a skip: the wheel's test classes say which test is on upstream's list of disabled ones."""
    return "disabled" if "this test is disabled now" in reason else "skipped"


def classify(error: BaseException) -> tuple[str, str]:
    """Return the class of a failure, and its reason in short."""
    return classify_text("".join(traceback.format_exception(error)))


def classify_text(text: str) -> tuple[str, str]:
    """Return the class of a failure by its traceback, which may contain that of another process, and its reason in short."""
    if unsupported := is_unsupported(text):
        return "unsupported", unsupported
    last = _last_error(text)
    if last.startswith("NotImplementedError"):
        return "unsupported", last
    if _MISSING_HERE.search(last):
        return "environment", last
    return ("wrong" if last.startswith(("AssertionError", "Failed")) else "refused"), last


def is_unsupported(text: str) -> str:
    """Return what a text says about something that is not emulated, empty if it says nothing of the kind."""
    found = re.search(r".*(the emulated Ascend has no|not emulated|Failed to find function).*", text)
    return found[0].strip()[:REASON_CHARACTERS] if found else ""


def _last_error(text: str) -> str:
    """Return the last line that names an exception, with what follows."""
    starts = list(
        re.finditer(r"^(?:E\s+)?(?:[\w.]+\.)?((?:\w+(?:Error|Exception|Failed|Timeout)\b|Failed:).*)", text, re.M)
    )
    message = text[starts[-1].start(1) :] if starts else text[-REASON_CHARACTERS:]
    return " ".join(message.split())[:REASON_CHARACTERS]
