"""A process that has imported torch and longcat once, and forks the ranks of a case whenever it is asked.

`python -m tests.parallel.process_server`, started by `tests.parallel.ranks`. It reads one request a line from stdin and
answers with a line of exit codes. The ranks end with their case, or stay for later ones of as many ranks, until one of them
fails. All end with the server, and the server ends with its stdin. It does no work in torch itself: a process with threads
must not fork.
"""

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

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
    gc.collect()
    gc.freeze()  # a rank that collects garbage would look through all that is imported, and copy it
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers)


@dataclass(frozen=True)
class Rank:
    """A child that is a rank.

    Attributes:
        process: its number.
        cases: gets the folder of each case but the first, if it stays.
        done: has a line for each case that is done, if it stays.
    """

    process: int
    cases: TextIO | None = None
    done: TextIO | None = None

    def next(self, folder: str) -> None:
        """Let it do another case."""
        with contextlib.suppress(BrokenPipeError):  # that it has ended is seen later
            print(folder, file=self.cases, flush=True)

    def state(self) -> int | None:
        """Return its exit code, 0 if it has done its case and stays, none if it is not done."""
        if self.done is not None and select.select([self.done], [], [], 0)[0] and self.done.readline():
            return 0
        ended, status = os.waitpid(self.process, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None

    def end(self) -> None:
        """End it, if it has not ended."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        for stream in (self.cases, self.done):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


STAYING: dict[int, list[Rank]] = {}
"""Ranks that wait for their next case, by how many they are."""


def run(folder: str, processes: int, limit_s: float, environment: dict[str, str], stay: bool) -> list[int | str]:
    """Let ranks do a case, and wait for them.

    Args:
        folder: of the case.
        processes: number of ranks.
        limit_s: after it, the ranks are killed.
        environment: variables for ranks that are forked for this case.
        stay: whether ranks do it that have stayed from such a case before, if there are any, and stay for the next one.

    Returns:
        Each rank's exit code, negative for a signal, or "hung" for one that was killed at the limit.
    """
    ranks = STAYING.pop(processes, []) if stay else []
    for known in ranks:
        known.next(folder)
    for rank in range(len(ranks), processes):
        ranks.append(fork(rank, processes, Path(folder), environment, stay))
    running, codes = dict(enumerate(ranks)), [0] * processes
    end = time.monotonic() + limit_s
    while running and time.monotonic() < end:
        for rank, child in list(running.items()):
            if (code := child.state()) is not None:
                del running[rank]
                codes[rank] = code
                if code:
                    end = min(end, time.monotonic() + GRACE_S)
        time.sleep(0.005)
    for child in running.values():
        os.kill(child.process, signal.SIGUSR1)  # they write down where they are
    if running:
        time.sleep(1)
    codes = ["hung" if rank in running else code for rank, code in enumerate(codes)]
    if stay and not any(codes):
        STAYING[processes] = ranks
    else:
        for child in ranks:
            child.end()
    return codes


def fork(rank: int, processes: int, folder: Path, environment: dict[str, str], stay: bool) -> Rank:
    """Start a rank with its first case."""
    server = os.getpid()
    pipes = [os.pipe(), os.pipe()] if stay else []
    if child := os.fork():
        if not stay:
            return Rank(child)
        (cases, to_rank), (from_rank, done) = pipes
        os.close(cases)
        os.close(done)
        return Rank(child, os.fdopen(to_rank, "w"), os.fdopen(from_rank))
    code = 1
    try:
        be_rank(rank, processes, environment, server)
        do_case(rank, folder)
        if stay:
            (cases, _), (_, done) = pipes
            with os.fdopen(done, "w", buffering=1) as answers:
                print(file=answers)
                for line in os.fdopen(cases):
                    do_case(rank, Path(line.rstrip("\n")))
                    print(file=answers)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def be_rank(rank: int, processes: int, environment: dict[str, str], server: int) -> None:
    """Become a rank as torchrun starts it, without the server's input and output."""
    from longcat.processes.child import die_with_parent

    die_with_parent(signal.SIGKILL)
    assert os.getppid() == server, "the server ended before its child began"
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({**environment, **{name: str(value) for name, value in ranks.items()}})


def do_case(rank: int, folder: Path) -> None:
    """Call what the case asks for, and keep what it returns, and what is written meanwhile."""
    output = os.open(folder / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    for target in (1, 2):
        os.dup2(output, target)
    os.close(output)
    function, arguments = pickle.loads((folder / "call.pickle").read_bytes())
    result = function(*arguments)
    written = folder / f"rank-{rank}.tmp"
    written.write_bytes(pickle.dumps(result))
    written.rename(folder / f"rank-{rank}.pickle")


if __name__ == "__main__":
    serve()
