"""Launching of processes under torchrun, supervised so that none is left behind."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from longcat import errors
from longcat.disk import trouble
from longcat.errors import TrainingError
from longcat.processes.child import supervised

POLL_S = 0.25
LOG = "processes.log"


def launch(
    module: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    processes: int,
    environment: Mapping[str, str],
    deadline_s: float,
    grace_s: float,
    poll: Callable[[], None],
) -> None:
    """Run a Python module in several processes and wait for their end.

    Args:
        module: run as `python -m` in every process; it reports a failure with `write_failure`.
        arguments: command-line arguments of the module.
        directory: folder for the log and the reports of failures.
        processes: number of processes.
        environment: variables set in addition to those of this process.
        deadline_s: seconds after which the processes are ended.
        grace_s: seconds that processes have to save their work when they are ended.
        poll: called a few times per second; an exception from it ends the processes.

    Raises:
        TrainingError: a process failed, or `deadline_s` has passed; the message has the first failing rank's cause.
        UserError: the cause of the failure is a user error, for example a full disk.
    """
    for old in directory.glob("error-*.json"):
        old.unlink()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=0",
        f"--nproc-per-node={processes}", "-m", module, *arguments,
    ]  # fmt: skip
    variables = {**environment, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, int(grace_s)))}
    began = time.monotonic()
    with supervised(command, log=directory / LOG, environment=variables, grace_s=grace_s) as process:
        while process.poll() is None:
            poll()
            if time.monotonic() - began > deadline_s:
                raise TrainingError(f"training did not finish within training.deadline_s={deadline_s:g}; {directory}")
            time.sleep(POLL_S)
    if process.returncode != 0:
        raise _failure(directory, process.returncode)


def _failure(directory: Path, code: int) -> Exception:
    reports: list[dict[str, Any]] = []
    for path in directory.glob("error-*.json"):
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:  # the disk was full while it was written
            continue
    log = directory / LOG
    if not reports:
        if (refused := trouble(directory)) is not None:  # then there is no room for a report either
            return refused
        tail = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
        signals = sorted({line.strip() for line in tail.splitlines() if "exitcode" in line})
        return TrainingError(f"a training process ended with {'; '.join(signals) or f'code {code}'}; see {log}")
    first = min(reports, key=lambda report: float(report["time"]))
    known = getattr(errors, first["type"], None)
    if first["expected"] and known is not None:
        return known(first["message"])
    return TrainingError(f"rank {first['rank']}: {first['type']}: {first['message'].splitlines()[0]}; see {log}")
