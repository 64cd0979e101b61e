"""Supervision of the training processes: one launch after another, until the job is done or no longer gets further."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from longcat.accelerator import environment
from longcat.config import PipelineConfig
from longcat.errors import TrainingError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.lease import check_lease
from longcat.processes.launch import launch
from longcat.progress import Progress, Reporter
from longcat.training.job import RESULT, Job
from longcat.training.metrics import Follower, Records, read_metrics
from longcat.training.watch import Watch


def supervise(
    module: str, job: Job, config: PipelineConfig, report: Reporter, on_metrics: Callable[[Records], None]
) -> None:
    """Launch a training job, and launch it again after a failure, as long as each attempt gets further than the one before.

    Args:
        module: of the worker processes.
        job: what to do.
        config: its configuration.
        report: hears of progress in steps.
        on_metrics: gets the records of metrics.jsonl as they appear, each step once.

    Raises:
        TrainingError: the processes failed more often than `training.max_restarts` allows, or left before the last step.
        UserError: the cause of a failure is a user error, for example a full disk.
    """
    training, directory = config.training, Path(job.directory)
    metrics = CheckpointFolder(directory).metrics
    follower = Follower(metrics)
    deadline = time.monotonic() + training.deadline_s
    furthest, loss = -1, ""

    def poll() -> None:
        nonlocal loss
        check_lease()
        if records := follower.new():
            on_metrics(records)
            loss = f"loss {records[-1]['train/loss']:.3f}"
        report(Progress("pretrain", follower.last_step, training.steps, loss or "starting processes"))

    for attempt in range(training.max_restarts + 1):
        try:
            run_workers(module, replace(job, attempt=attempt), config, deadline - time.monotonic(), poll)
            break
        except TrainingError:
            reached = max((record["step"] for record in read_metrics(metrics)), default=0)
            if attempt == training.max_restarts or reached <= furthest or time.monotonic() > deadline:
                raise
            furthest = reached
    poll()
    if not (directory / RESULT).is_file():
        raise TrainingError(f"training left before its last step; run the same command again to go on from {directory}")


def run_workers(module: str, job: Job, config: PipelineConfig, deadline_s: float, poll: Callable[[], None]) -> None:
    """Run a module of worker processes on a job, to its end; see `longcat.processes.launch.launch`."""
    layout = job.layout
    watch = Watch(Path(job.directory), layout.degrees.processes, config.training.hang_timeout_s)

    def look() -> None:
        watch.look()
        poll()

    launch(
        module,
        [str(job.write())],
        directory=Path(job.directory),
        processes=layout.degrees.processes,
        environment=environment(layout.accelerator, layout.degrees.processes),
        deadline_s=deadline_s,
        grace_s=config.training.grace_s,
        poll=look,
    )
