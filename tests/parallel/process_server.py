"""A process that has imported torch and longcat once, and forks the ranks of a case whenever it is asked.

`python -m tests.parallel.process_server`, started by `tests.parallel.ranks`. It reads one request a line from stdin and
answers with a line of exit codes. The ranks end with their case, or with the server; the server ends with its stdin.
It does no work in torch itself: a process with threads must not fork.
"""

import faulthandler
import importlib
import json
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

PRELOADED = (
    "pytest",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "longcat.training.trainer",
    "longcat.training.checkpoint",
)
GRACE_S = 30.0
"""Seconds that the other ranks have to end after the first one that failed; they are in a collective without it."""


def serve() -> None:
    """Answer requests until stdin ends."""
    from longcat.processes.child import die_with_parent

    die_with_parent(signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is printed by imports is no answer
    warnings.filterwarnings("ignore")
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers)


def run(folder: str, processes: int, limit_s: float, environment: dict[str, str]) -> list[int | str]:
    """Fork the ranks of one case and wait for them.

    Returns:
        Each rank's exit code, negative for a signal, or "hung" for one that was killed at the limit.
    """
    started = {rank: fork(rank, processes, Path(folder), environment) for rank in range(processes)}
    running, codes = dict(started), [0] * processes
    end = time.monotonic() + limit_s
    while running and time.monotonic() < end:
        for rank, child in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del running[rank]
                codes[rank] = os.waitstatus_to_exitcode(status)
                if codes[rank]:
                    end = min(end, time.monotonic() + GRACE_S)
        time.sleep(0.005)
    for child in running.values():
        os.kill(child, signal.SIGUSR1)  # they write down where they are
    if running:
        time.sleep(1)
    for rank, child in running.items():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        codes[rank] = "hung"
    return codes


def fork(rank: int, processes: int, folder: Path, environment: dict[str, str]) -> int:
    """Start a rank; returns its process number."""
    server = os.getpid()
    if child := os.fork():
        return child
    code = 1
    try:
        be_rank(rank, processes, folder, environment, server)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def be_rank(rank: int, processes: int, folder: Path, environment: dict[str, str], server: int) -> None:
    """Do the work of a rank: call what the request asks for, and keep what it returns."""
    from longcat.processes.child import die_with_parent

    die_with_parent(signal.SIGKILL)
    assert os.getppid() == server, "the server ended before its child began"
    output = os.open(folder / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({**environment, **{name: str(value) for name, value in ranks.items()}})
    function, arguments = pickle.loads((folder / "call.pickle").read_bytes())
    result = function(*arguments)
    written = folder / f"rank-{rank}.tmp"
    written.write_bytes(pickle.dumps(result))
    written.rename(folder / f"rank-{rank}.pickle")


if __name__ == "__main__":
    serve()
