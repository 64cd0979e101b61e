"""Supervision of the training processes: one launch after another, until the job is done or no longer gets further."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from longcat.config import PipelineConfig
from longcat.errors import TrainingError
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.lease import check_lease
from longcat.progress import Progress, Reporter
from longcat.training.checkpoint_files import saved
from longcat.training.job import RESULT, Job
from longcat.training.launchers import Launcher, open_launcher
from longcat.training.life import record_event
from longcat.training.metrics import Follower, Records, read_metrics
from longcat.training.step_line import StepLine
from longcat.training.watch import Watch


def supervise(
    module: str,
    job: Job,
    config: PipelineConfig,
    report: Reporter,
    on_metrics: Callable[[Records], None],
    on_settled: Callable[[Job], None] = lambda job: None,
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
        on_metrics: gets the records of metrics.jsonl as they appear, see `Follower`.
        on_settled: gets the job of each attempt, with its layout and device, before it is launched.

    Raises:
        TrainingError: the processes failed more often than `training.max_restarts` allows; the last failure's cause.
        UserError: the cause of a failure is a user error, for example a full disk.
    """
    training, directory = config.training, Path(job.directory)
    folder = CheckpointFolder(directory)
    follower = Follower(folder.metrics)
    deadline = time.monotonic() + training.deadline_s
    line = StepLine(training.steps, time.time())

    def poll() -> None:
        check_lease()
        if records := follower.new():
            on_metrics(records)
            line.add(records)
        report(Progress("pretrain", follower.last_step, training.steps, str(line) or "starting processes"))

    def wait(message: str) -> None:
        check_lease()
        report(Progress("pretrain", follower.last_step, training.steps, message))

    attempt = failures = 0
    with open_launcher(job, config) as launcher:
        while not (directory / RESULT).is_file():
            start, failure, regroup = newest_step(folder), None, False
            settled = launcher.settle(replace(job, attempt=attempt), wait)
            on_settled(settled)
            try:
                limit_s = deadline - time.monotonic()
                trained = partial(has_trained, folder, attempt)
                regroup = run_attempt(launcher, module, settled, config, limit_s, poll, trained)
            except TrainingError as error:
                failure = error
            check_lease()  # a process that has noticed first does not say so, see `longcat.training.worker`
            attempt += 1
            if not (directory / RESULT).is_file():
                if failure is None:
                    why = "is ended for nodes that have come" if regroup else "was asked to leave before its last step"
                    failure = TrainingError(f"training {why}; see {directory}")
                failures = 0 if regroup or newest_step(folder) > start else failures + 1
                if failures > training.max_restarts or time.monotonic() > deadline:
                    raise failure
                step = newest_step(folder)
                record_event(directory, "restart", attempt=attempt, step=step, message=str(failure))
                warnings.warn(f"training starts again from step {step}: {failure}", stacklevel=2)
    poll()


def has_trained(folder: CheckpointFolder, attempt: int) -> bool:
    """Say whether an attempt has done a step."""
    return any(record["attempt"] == attempt for record in read_metrics(folder.metrics)[-1:])


def newest_step(folder: CheckpointFolder) -> int:
    """Return the step that training would go on from, 0 without a checkpoint."""
    return max((step for step, _ in saved(folder.progress)), default=0)


def run_workers(module: str, job: Job, config: PipelineConfig, deadline_s: float, poll: Callable[[], None]) -> Job:
    """Run a module of worker processes on a job, once and to its end.

    Returns:
        The job with the layout that it was run in.

    Raises:
        TrainingError: a process failed, or `deadline_s` has passed; the message has the first failing rank's cause.
        UserError: the cause of the failure is a user error.
    """
    with open_launcher(job, config) as launcher:
        settled = launcher.settle(job, lambda _: poll())
        run_attempt(launcher, module, settled, config, deadline_s, poll)
    return settled


def run_attempt(
    launcher: Launcher,
    module: str,
    job: Job,
    config: PipelineConfig,
    deadline_s: float,
    poll: Callable[[], None],
    may_regroup: Callable[[], bool] = lambda: False,
) -> bool:
    """Run the processes of one attempt and watch them, see `Launcher.run`."""
    watch = Watch(Path(job.directory), job.layout.degrees.processes, config.training.hang_timeout_s)

    def look() -> None:
        watch.look()
        poll()

    return launcher.run(module, job, deadline_s, look, may_regroup)
