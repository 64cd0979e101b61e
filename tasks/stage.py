"""Wrapper of every stage: Prefect progress and cancellation, an MLflow run, the state "Cached".

Tasks are called directly, never submitted: a thread could not be interrupted when the run is cancelled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, State

from longcat.artifact import Artifact, Facts, FactsT
from longcat.config import PipelineConfig
from longcat.errors import Cancelled, LongcatError
from longcat.printable import markdown_text, printable, shown_warnings
from longcat.progress import Progress, Reporter, progress_listeners
from longcat.redaction import redact_error
from longcat.tasks.orchestrator import BestEffortTask, Prefect, prefect_session, prefect_tags, run_logger
from longcat.tracking import StageRun, Tracker
from longcat.tracking.notes import stage_note
from longcat.tracking.record import log_manifests

UPDATE_S = 2.0
ASK_S = 3.0
LOG_S = 10.0
"""Pauses between two updates of a progress artifact, questions whether the run is cancelled, and lines of progress in the log."""


def retry_helps(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a retry may succeed: not after an error that longcat raised deliberately."""
    try:
        state.result()
    except LongcatError:
        return False
    except Exception:
        return True
    return False


def stage_task(function: Callable[..., State[Any]]) -> BestEffortTask:
    """Make a stage's task; the artifact store decides what is reused, so Prefect's own cache is off."""
    return BestEffortTask(
        function,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=1,
        retry_delay_seconds=5,
        retry_condition_fn=retry_helps,
    )


def run_stage(
    name: str,
    tracker: Tracker,
    work: Callable[[Reporter, StageRun], Artifact[FactsT]],
    publish: Callable[[StageRun, Artifact[FactsT]], None],
    config: PipelineConfig | None = None,
    settings: Sequence[str] = (),
    report: str | None = None,
) -> State[Artifact[FactsT]]:
    """Run a stage under its MLflow run, publish its artifact, and report to Prefect whether it was cached.

    Args:
        name: of the stage.
        tracker: of the flow.
        work: makes the artifact, or finds it.
        publish: logs what MLflow and Prefect are to have of it.
        config: the configuration.
        settings: the sections of it, or settings, that explain what the run shows; they become its parameters.
        report: name of a file of the artifact that MLflow's page names as its report.
    """
    began = time.monotonic()
    with (
        prefect_session() as prefect,
        tracker.stage(name) as run,
        shown_warnings(lambda text: run_logger().warning(text)),
    ):
        tags = prefect_tags()
        run.set_tags(tags)
        if config is not None:
            run.log_params(part_of(config, settings))
        reporter = _Reporter(name, prefect)
        try:
            with run.watch_machine(tracker.workspace.path):
                artifact = work(reporter, run)
        except BaseException as error:  # Prefect and MLflow record its text
            redact_error(error)
            reporter.fail(error)
            raise
        reporter.finish(artifact)
        run.set_tags({"artifact": f"{artifact.kind}/{artifact.digest}", "cached": str(artifact.cached).lower()})
        run.log_metrics(measured(artifact.facts))
        run.log_params({"facts": chosen(artifact.facts)})
        log_manifests(run, artifact)
        run.set_note(
            stage_note(artifact, time.monotonic() - began, results(artifact.facts), tags.get("prefect.url"), report)
        )
        publish(run, artifact)
    return Completed(name="Cached" if artifact.cached else "Completed", data=artifact)


def _numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the facts that are numbers, and those of a table under its name."""
    found: dict[str, float] = {}
    for key, value in facts.items():
        if isinstance(value, int | float):
            found[key] = float(value)
        elif isinstance(value, Mapping):
            found |= {f"{key}/{name}": number for name, number in _numbers(value).items()}
    return found


def results(facts: Facts) -> dict[str, float]:
    """Return the figures that runs are compared by, but for those that this run does not have."""
    return {
        name: value
        for name, value in facts.figures.items()
        if value is not None and not facts.SETTINGS.intersection(name.split("/"))
    }


def measured(facts: Facts) -> dict[str, float]:
    """Return the facts that are numbers and were found, each under one name."""
    known = results(facts)
    numbers = {
        name: value
        for name, value in _numbers(facts.model_dump()).items()
        if not facts.SETTINGS.intersection(name.split("/")) and not any(name.endswith(f"/{other}") for other in known)
    }
    return numbers | known


def chosen(facts: Facts) -> dict[str, float]:
    """Return the facts that are numbers and were chosen."""
    numbers = _numbers(facts.model_dump()) | {name: value for name, value in facts.figures.items() if value is not None}
    kept = {name: value for name, value in numbers.items() if facts.SETTINGS.intersection(name.split("/"))}
    return {
        name.replace("/", "."): int(value) if value == int(value) else value
        for name, value in kept.items()
        if not any(name.endswith(f"/{other}") for other in kept)
    }


def part_of(config: PipelineConfig, settings: Sequence[str]) -> dict[str, Any]:
    """Return the sections and settings of a configuration that dotted names say, as a tree."""
    part: dict[str, Any] = {}
    for name in settings:
        *sections, last = name.split(".")
        source, place = config.model_dump(mode="json"), part
        for section in sections:
            source, place = source[section], place.setdefault(section, {})
        place[last] = source[last]
    return part


class _Reporter:
    """Reporter that passes progress to listeners, a Prefect artifact and the log, and ends a stage that is cancelled."""

    def __init__(self, stage: str, prefect: Prefect) -> None:
        self.stage, self.prefect = stage, prefect
        self._artifact: UUID | None = None
        self._updated = self._asked = self._logged = -math.inf
        self._last = Progress(stage, 0, 0)

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        for listener in progress_listeners():
            listener(progress)
        now = time.monotonic()
        if progress.message and now - self._logged > LOG_S:
            self._logged = now
            run_logger().info("%s: %s", self.stage, printable(progress.message))
        context = TaskRunContext.get()
        if context is None:
            return
        if self.prefect.cancelling:
            raise Cancelled(
                f"{self.stage} was cancelled; run the same command again to continue from the last checkpoint"
            )
        if now - self._updated > UPDATE_S:
            self._updated = now
            self.prefect.mention(self._update, progress.fraction, progress.message)
        flow_run = context.task_run.flow_run_id
        if flow_run is not None and now - self._asked > ASK_S:
            self._asked = now
            self.prefect.mention(self.prefect.ask_for_cancellation, flow_run)

    def finish(self, artifact: Artifact[Any]) -> None:
        """Tell what the stage has made, as the last that is heard of its progress."""
        text = f"{'reused: ' if artifact.cached else ''}{artifact.facts.headline}"
        for listener in progress_listeners():
            listener(Progress(self.stage, 1, 1, text))
        run_logger().info("%s: %s; %s", self.stage, printable(text), artifact.path)
        self._tell(1.0, text)

    def fail(self, error: BaseException) -> None:
        """Tell where the stage has stopped, and why."""
        why = "stopped" if isinstance(error, Cancelled) or not isinstance(error, Exception) else "failed"
        first = next(iter(str(error).splitlines()), type(error).__name__)
        last = f", {self._last.message}" if self._last.message else ""
        self._tell(self._last.fraction, f"{why} at {self._last.fraction:.0%}{last}: {first}")

    def _tell(self, fraction: float, text: str) -> None:
        if TaskRunContext.get() is not None:
            self.prefect.tell(self._update, fraction, text)

    def _update(self, fraction: float, text: str) -> None:
        percent, description = round(100 * fraction, 1), f"{self.stage}: {markdown_text(text)}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key=self.stage, description=description)
        else:
            update_progress_artifact(self._artifact, percent, description=description)
