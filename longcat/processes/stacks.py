"""Where processes of this machine are: the Python stack of each, without their help where py-spy is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from longcat.distribution import install_command

ASKING = signal.SIGUSR2
"""Signal at which a process writes its stack to its file, see `faulthandler.register`."""
LIMIT_S = 10.0
_WAIT_S = 3.0
_FRAME = re.compile(
    r'^\s*(?:File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<function>\S+)|(?P<name>\S+) \((?P<place>[^)]+)\))',
    re.MULTILINE,
)


def take_stacks(processes: Mapping[int, int], files: Mapping[int, Path], stopped: set[int]) -> dict[int, str]:
    """Take the stacks of processes.

    Args:
        processes: process number of each rank; all are children of this process, or theirs.
        files: what each of them writes its stack to when it gets `ASKING`.
        stopped: ranks that were stopped by a signal, which cannot write it.

    Returns:
        For each rank its stack, or why there is none.
    """
    found = {rank: text for rank, pid in processes.items() if (text := _by_py_spy(pid))}
    asked = {rank: _size(files[rank]) for rank in processes if rank not in found and rank not in stopped}
    for rank in asked:
        try:
            os.kill(processes[rank], ASKING)
        except OSError:
            continue
    end = time.monotonic() + _WAIT_S
    while time.monotonic() < end and any(_size(files[rank]) == size for rank, size in asked.items()):
        time.sleep(0.05)
    time.sleep(0.1)  # a stack is written in pieces
    for rank, size in asked.items():
        text = files[rank].read_bytes()[size:].decode(errors="replace") if files[rank].is_file() else ""
        found[rank] = text or "no answer: it does not even handle signals"
    for rank in stopped & processes.keys():
        found.setdefault(
            rank, f"stopped, so it cannot write its stack; py-spy would show it ({install_command('health')})"
        )
    return found


def innermost(stack: str) -> str | None:
    """Return the innermost frame of a stack's main thread as `file.py:12 in function`; none if there is no frame."""
    # the main thread is the last one of faulthandler's; py-spy's names it
    threads = re.split(r"^(?=Thread |Current thread )", stack, flags=re.MULTILINE)
    main = next((of for of in threads if "MainThread" in of.split("\n", 1)[0]), threads[-1])
    if (frame := _FRAME.search(main)) is None:
        return None
    if frame["file"]:
        return f"{Path(frame['file']).name}:{frame['line']} in {frame['function']}"
    return f"{Path(frame['place'].rpartition(':')[0]).name}:{frame['place'].rpartition(':')[2]} in {frame['name']}"


def _by_py_spy(pid: int) -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.is_file() else shutil.which("py-spy")
    if program is None:
        return None
    try:
        # without --nonblocking it would stop and continue the process, and so wake one that is stopped
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and "Thread" in done.stdout else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
