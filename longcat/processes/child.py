"""Child processes that cannot outlive this process: they run under `longcat.processes.supervisor`."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from longcat.lease import held_locks

_PR_SET_PDEATHSIG = 1
_MARGIN_S = 15.0
"""Seconds that a supervisor has to end its processes, beyond their own grace time."""


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
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "longcat.processes.supervisor", str(grace_s), *command],
            env={**os.environ, **environment},
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
        try:
            process.wait(grace_s + _MARGIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends for any reason (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def free_port() -> int:
    """Return a loopback port that is unused right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
