"""Starting torchrun from a test, never to wait for ever."""

import os
import signal
import socket
import subprocess


def torchrun(processes, program, *arguments, seconds=150, **variables):
    """`(exit code, what it printed)`; all processes are gone afterwards."""
    options = ["--standalone", f"--nproc-per-node={processes}"]
    return ended(start(options, program, arguments, variables), seconds)


def machines(count, program, *arguments, seconds=150, **variables):
    """The same on several machines with a process each, which are all this one; its exit codes and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--nnodes={count}", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    started = [start(options, program, arguments, variables) for _ in range(count)]
    codes, outputs = zip(*(ended(process, seconds) for process in started), strict=True)
    return list(codes), "".join(outputs)


def start(options, program, arguments, variables):
    return subprocess.Popen(
        ["torchrun", *options, "--max-restarts=0", str(program), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


def ended(process, seconds):
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"torchrun did not end in {seconds} s:\n{output[-3000:]}") from None
    return process.returncode, output
