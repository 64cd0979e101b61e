"""Starting training processes under torchrun, watching them, and making sure that none is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from longcat import errors
from longcat.accelerator import environment
from longcat.errors import StorageError, TrainingError
from longcat.training.job import Job

POLL_S = 0.25
LOG = "processes.log"


def launch(job: Job, *, deadline_s: float, grace_s: float, poll: Callable[[], None]) -> None:
    """Run a job to its end.

    `poll` is called a few times a second; what it raises ends the processes, who get `grace_s` to save a checkpoint.

    Raises:
        TrainingError: a process failed, or `deadline_s` has passed; carries the first failing rank's cause.
        UserError: the cause is one of these, for example a full disk.
    """
    directory = Path(job.directory)
    for old in directory.glob("error-*.json"):
        old.unlink()
    command = [
        sys.executable, "-m", "longcat.training.lifeline", str(grace_s),
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=0",
        f"--nproc-per-node={job.layout.processes}", "-m", "longcat.training.worker", str(job.write()),
    ]  # fmt: skip
    variables = {**os.environ, **environment(job.layout.accelerator, job.layout.processes), **_shutdown_time(grace_s)}
    began = time.monotonic()
    with (directory / LOG).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            while process.poll() is None:
                poll()
                if time.monotonic() - began > deadline_s:
                    raise TrainingError(
                        f"training did not finish within training.deadline_s={deadline_s:g}; {directory}"
                    )
                time.sleep(POLL_S)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # lets go of the lifeline: whatever still runs is ended
            try:
                process.wait(grace_s + 15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _failure(directory, process.returncode)


def _shutdown_time(grace_s: float) -> Mapping[str, str]:
    return {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(max(1, int(grace_s)))}


def _failure(directory: Path, code: int) -> Exception:
    reports: list[dict[str, Any]] = []
    for path in directory.glob("error-*.json"):
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError:  # the disk was full while it was written
            continue
    log = directory / LOG
    if not reports:
        tail = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
        if "No space left on device" in tail:
            return StorageError(f"no space left on the device while training wrote {directory}")
        signals = sorted({line.strip() for line in tail.splitlines() if "exitcode" in line})
        return TrainingError(f"a training process ended with {'; '.join(signals) or f'code {code}'}; see {log}")
    first = min(reports, key=lambda report: float(report["time"]))
    known = getattr(errors, first["type"], None)
    if first["expected"] and known is not None:
        return known(first["message"])
    if "No space left on device" in first["message"]:
        return StorageError(f"no space left on the device while training wrote {directory}")
    return TrainingError(f"rank {first['rank']}: {first['type']}: {first['message'].splitlines()[0]}; see {log}")
