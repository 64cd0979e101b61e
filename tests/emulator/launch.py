"""Starting torchrun from a test, never to wait for ever."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def torchrun(processes, program, *arguments, seconds=150, **variables):
    """`(exit code, what it printed)`; all processes are gone afterwards."""
    command = ["torchrun", "--standalone", "--max-restarts=0", f"--nproc-per-node={processes}", str(program)]
    process = subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"torchrun did not end in {seconds} s:\n{output[-3000:]}") from None
    return process.returncode, output


def machines(count, program, *arguments, seconds=150, **variables):
    """The same with a torchrun of one process for each of several machines, which are all this one."""
    folder = tempfile.mkdtemp()
    command = [
        "torchrun", f"--nnodes={count}", "--nproc-per-node=1", "--max-restarts=0", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}", str(program), *map(str, arguments),
    ]  # fmt: skip
    logs = [open(Path(folder) / str(machine), "w+") for machine in range(count)]
    processes = [
        subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        )
        for log in logs
    ]  # fmt: skip
    end, codes = time.monotonic() + seconds, []
    for process in processes:
        try:
            codes.append(process.wait(timeout=max(1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            codes.append(process.wait())
    output = ""
    for log in logs:
        log.seek(0)
        output += log.read()
        log.close()
    shutil.rmtree(folder)
    return max(map(abs, codes)), output


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
