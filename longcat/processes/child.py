"""Child processes that cannot outlive this process: they run under `longcat.processes.supervisor`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil

from longcat.lease import held_locks

_PR_SET_PDEATHSIG = 1
_MARGIN_S = 15.0
"""Seconds that a supervisor has to end its processes, beyond their own grace time."""
_LEADER = "LONGCAT_LEADER"
"""Variable with the process number of a training process' agent."""
_MARK = "LONGCAT_SUPERVISED"
"""Variable by which the processes of one supervisor are known, whatever became of those between."""


class _Script:
    """What the program's main module said of itself, while it is hidden."""

    lock = threading.Lock()
    hiders = 0
    spec: ModuleSpec | None = None


@contextmanager
def without_script() -> Iterator[None]:
    """Have processes that `multiprocessing` spawns while the context is open not run the program's script again.

    They would import it as a module: a script without `if __name__ == "__main__"` begins all its work again in each of them,
    and a program that was read from standard input cannot be found. Nothing else of this process changes; the children have
    its `sys.path`, but nothing that the script defines.
    """
    main = sys.modules["__main__"]
    with _Script.lock:
        if not _Script.hiders:
            _Script.spec = main.__spec__
            main.__spec__ = ModuleSpec("__main__", None)  # a name that multiprocessing does not import
        _Script.hiders += 1
    try:
        yield
    finally:
        with _Script.lock:
            _Script.hiders -= 1
            if not _Script.hiders:
                main.__spec__ = _Script.spec


@contextmanager
def supervised(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], grace_s: float = 5
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the context is open; it and its children end with the context, or if this process is killed.

    The leases of this process (`longcat.lease`) are not free before they have ended.

    Args:
        command: program and arguments.
        log: file that the command's output is appended to.
        environment: variables set in addition to those of this process.
        grace_s: seconds between SIGTERM and SIGKILL.

    Yields:
        The supervisor's process; its exit code is the command's.
    """
    mark = uuid.uuid4().hex
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "longcat.processes.supervisor", str(grace_s), *command],
            env={**os.environ, **environment, _MARK: mark},
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=held_locks(),
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the supervisor ends all processes that still run
        wake(process.pid)
        try:
            process.wait(grace_s + _MARGIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_MARGIN_S)
        if process.returncode is None or process.returncode < 0:  # it was killed, and could end nothing
            _end_marked(mark, grace_s)


def wake(pid: int) -> None:
    """Let a process and its children go on that somebody has stopped: while they stand, nobody watches what they started."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children()):
            if one.status() == psutil.STATUS_STOPPED:
                one.send_signal(signal.SIGCONT)


def _end_marked(mark: str, grace_s: float) -> None:
    """Wait for the processes of a supervisor that is gone; the kernel has told its child. Kill what is left after `grace_s`."""
    orphans = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                process.send_signal(signal.SIGCONT)
                orphans.append(process)
    _, alive = psutil.wait_procs(orphans, timeout=grace_s + _MARGIN_S if orphans else 0)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_MARGIN_S)


def die_with_parent(signal_number: int, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when its parent ends for any reason (Linux).

    Args:
        signal_number: the signal.
        parent: process number of the parent; if that has ended before, the signal comes at once.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal_number)


def lead() -> None:
    """Have processes that this one starts from now on end with it, once they `follow`."""
    os.environ[_LEADER] = str(os.getpid())


def follow() -> None:
    """End this process with the one that leads it, also if that has ended already."""
    leader = os.environ.get(_LEADER)
    die_with_parent(signal.SIGKILL, None if leader is None else int(leader))


def free_port() -> int:
    """Return a loopback port that is unused right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
