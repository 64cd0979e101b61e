"""`python -m longcat.processes.supervisor GRACE_S COMMAND...`: run a command that cannot outlive its owner.

The owner holds the writing end of this process' standard input. When it is closed, by the owner or by its death, every
process of the command gets SIGTERM, and after the grace time SIGKILL. The exit code is that of the command.

A supervisor that somebody has stopped (SIGSTOP) goes on when its owner dies: the kernel sends it SIGCONT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from types import FrameType

import psutil

from longcat.processes.child import die_with_parent


def main() -> int:
    """Run the command given by the arguments until it ends or standard input is closed; returns its exit code."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    die_with_parent(signal.SIGCONT)  # stopped as it may be, it then sees its input closed
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )
    released = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        released.set()

    def watch() -> None:
        # not sys.stdin: its lock would be held by this thread when the interpreter ends
        while os.read(0, 4096):
            pass
        released.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=watch, daemon=True).start()
    while child.poll() is None:
        if released.wait(0.1):
            end(child.pid, grace_s)
    end(child.pid, 0)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def end(pid: int, grace_s: float) -> None:
    """End a process and its children: SIGTERM to the root, which passes it on; SIGKILL to the rest after `grace_s`."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        root.terminate()
        root.send_signal(signal.SIGCONT)  # one that was stopped would not hear of it
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=grace_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)


if __name__ == "__main__":
    sys.exit(main())
