"""Starting torchrun from a test, never to wait for ever."""

import os
import signal
import subprocess


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
