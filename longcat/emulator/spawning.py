"""Processes that a test spawns are forked from one that has imported torch_npu, as the test itself is.

`multiprocessing` starts an interpreter for each, which imports torch_npu for many seconds before it does anything; tests of
collectives spawn four at a time. What they get to do, see and return is the same, but for variables that torch_npu reads
when it is imported. What a spawned process spawns has an interpreter of its own, as has one for which the copy cannot be had.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import json
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Sequence
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any, NoReturn

from longcat.processes.child import die_with_parent

_SET_CHILD_SUBREAPER = 36
_MOST_BYTES, _MOST_DESCRIPTORS = 1 << 20, 200
_STANDARD = (0, 1, 2)
_SECONDS_TO_FETCH = 5.0


def fork_what_is_spawned() -> None:
    """Let `multiprocessing` fork what this process spawns from a copy of it as it is now.

    Raises:
        OSError: the system does not let this process adopt what its copy starts.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "children of a child cannot be adopted")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
    if os.fork() == 0:
        try:
            ours.close()
            _serve(theirs)
        except BaseException:  # this copy must not go on as the process that it is a copy of
            traceback.print_exc()
        finally:
            os._exit(1)
    theirs.close()
    owner, lock, start = os.getpid(), threading.Lock(), multiprocessing.util.spawnv_passfds

    def spawn(path: bytes, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
        """Start a process, as `multiprocessing.util.spawnv_passfds` does, and return its number."""
        words = [os.fsdecode(word) for word in arguments]
        if "--multiprocessing-fork" not in words or os.getpid() != owner:
            return start(path, arguments, descriptors)
        sys.stdout.flush()
        sys.stderr.flush()
        numbers = sorted({*_STANDARD, *descriptors})
        request = {"code": words[words.index("-c") + 1], "descriptors": numbers, "folder": str(Path.cwd()),
                   "environment": dict(os.environ)}  # fmt: skip
        with lock, contextlib.suppress(OSError):
            socket.send_fds(ours, [json.dumps(request).encode()], numbers)
            if number := ours.recv(_MOST_BYTES):
                return int(number)
        return start(path, arguments, descriptors)  # the copy is gone, cannot fork, or does not take as much

    multiprocessing.util.spawnv_passfds = spawn  # type: ignore[assignment]


def _serve(requests: socket.socket) -> NoReturn:
    """Fork what is asked for until the one who asks is gone."""
    die_with_parent(signal.SIGKILL)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, _MOST_DESCRIPTORS)
        if not message:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            parent, child = os.getpid(), os.fork()
            if child:
                os.write(writing, str(child).encode())
                os._exit(0)
            for end in (requests.fileno(), reading, writing):
                os.close(end)
            _run(json.loads(message), descriptors, parent)
        os.close(writing)
        os.waitpid(between, 0)  # from now on the child is one of the process that asks
        requests.send(os.read(reading, 32))
        for end in (reading, *descriptors):
            os.close(end)


def _run(request: dict[str, Any], descriptors: list[int], between: int) -> NoReturn:
    """Be the process that was asked for, once its parent `between` is gone: with its descriptors, variables and folder."""
    code = 1
    _forget_what_the_runner_does_at_its_end()
    # before the socket for fetching is removed (0), and once queues are flushed (-5)
    for priority in (5, -50):
        multiprocessing.util.Finalize(None, _await_fetching, exitpriority=priority)
    try:
        above = max(request["descriptors"]) + 1
        moved = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, above) for number in descriptors]
        for number in descriptors:
            os.close(number)
        for number, wanted in zip(moved, request["descriptors"], strict=True):
            os.dup2(number, wanted, inheritable=wanted in _STANDARD)
            os.close(number)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        _drop_signal_handlers()
        sys.argv = ["-c", "--multiprocessing-fork"]
        while os.getppid() == between:
            time.sleep(0.001)
        exec(request["code"], {"__name__": "__main__"})  # nosec B102 # what multiprocessing gives to its interpreter
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _await_fetching() -> None:
    """Stay while others have not fetched what this process shares, at most some seconds.

    A tensor in a queue is fetched from the process that has put it there. Tests rely on the one who asks being the faster, as it is on
    a host whose processors outnumber the ranks.
    """
    until, sharer = time.monotonic() + _SECONDS_TO_FETCH, resource_sharer._resource_sharer  # type: ignore[attr-defined]
    while time.monotonic() < until:
        with sharer._lock:
            if not sharer._cache:
                break
        time.sleep(0.01)
    resource_sharer.stop(_SECONDS_TO_FETCH)  # the last of them may be on its way


def _forget_what_the_runner_does_at_its_end() -> None:
    """Let this process, a copy of the runner, end as an interpreter that has imported torch_npu, and nothing else, does."""
    atexit._clear()
    if lifecycle := sys.modules.get("torch_npu._init.core.runtime_lifecycle"):
        atexit.register(lifecycle._npu_shutdown)
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    # executors' own, which are registered once in the life of a process, let their threads end
    threading._threading_atexits[:] = [  # type: ignore[attr-defined]
        call
        for call in threading._threading_atexits  # type: ignore[attr-defined]
        if call.func.__module__.startswith("concurrent.futures.")
    ]


def _drop_signal_handlers() -> None:
    """Let this process, a copy of the runner, meet signals as an interpreter does that has just been started."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
