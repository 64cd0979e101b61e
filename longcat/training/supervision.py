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
from longcat.processes.orders import Order
from longcat.progress import Progress, Reporter
from longcat.training.checkpoint_files import saved
from longcat.training.job import RESULT, Job
from longcat.training.metrics import Follower, Records
from longcat.training.watch import Watch


def supervise(
    module: str, job: Job, config: PipelineConfig, report: Reporter, on_metrics: Callable[[Records], None]
) -> None:
    """Launch a training job, and launch it again after a failure, from its last checkpoint.

    An attempt has got further if there is a newer checkpoint after it. `training.max_restarts` counts the failures since
    the last one that has: it bounds how often the same steps are tried, not how often a long run may fail. Processes that
    somebody has asked to leave, by a signal that is not from here, count as failed.

    Args:
        module: of the worker processes.
        job: what to do.
        config: its configuration.
        report: hears of progress in steps.
        on_metrics: gets the records of metrics.jsonl as they appear, each step once.

    Raises:
        TrainingError: the processes failed more often than `training.max_restarts` allows; the last failure's cause.
        UserError: the cause of a failure is a user error, for example a full disk.
    """
    training, directory = config.training, Path(job.directory)
    folder = CheckpointFolder(directory)
    follower = Follower(folder.metrics)
    deadline = time.monotonic() + training.deadline_s
    loss = ""

    def poll() -> None:
        nonlocal loss
        check_lease()
        if records := follower.new():
            on_metrics(records)
            loss = f"loss {records[-1]['train/loss']:.3f}"
        report(Progress("pretrain", follower.last_step, training.steps, loss or "starting processes"))

    attempt = failures = 0
    while not (directory / RESULT).is_file():
        start = newest_step(folder)
        try:
            run_workers(module, replace(job, attempt=attempt), config, deadline - time.monotonic(), poll)
            failure = None
        except TrainingError as error:
            failure = error
        attempt += 1
        if not (directory / RESULT).is_file():
            failure = failure or TrainingError(f"training was asked to leave before its last step; see {directory}")
            failures = 0 if newest_step(folder) > start else failures + 1
            if failures > training.max_restarts or time.monotonic() > deadline:
                raise failure
    poll()


def newest_step(folder: CheckpointFolder) -> int:
    """Return the step that training would go on from, 0 without a checkpoint."""
    return max((step for step, _ in saved(folder.progress)), default=0)


def run_workers(module: str, job: Job, config: PipelineConfig, deadline_s: float, poll: Callable[[], None]) -> None:
    """Run a module of worker processes on a job, to its end; see `longcat.processes.launch.launch`."""
    watch = Watch(Path(job.directory), job.layout.degrees.processes, config.training.hang_timeout_s)

    def look() -> None:
        watch.look()
        poll()

    launch(order(module, job, config), deadline_s=deadline_s, poll=look)


def order(module: str, job: Job, config: PipelineConfig) -> Order:
    """Write a job down, and say what to start on this machine for it."""
    layout, training = job.layout, config.training
    return Order(
        module=module,
        arguments=(str(job.write()),),
        directory=job.directory,
        processes=layout.degrees.processes,
        environment=environment(layout.accelerator, layout.degrees.processes),
        grace_s=training.grace_s,
        timeout_s=training.collective_timeout_s,
        attempt=job.attempt,
    )
