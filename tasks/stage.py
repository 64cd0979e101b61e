"""Wrapper of every stage: Prefect progress and cancellation, an MLflow run, the state "Cached".

Tasks are called directly, never submitted: a thread could not be interrupted when the run is cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed, State

from longcat.artifact import Artifact, FactsT
from longcat.errors import Cancelled, LongcatError
from longcat.printable import markdown_text, shown_warnings
from longcat.progress import Progress, Reporter, progress_listeners
from longcat.redaction import redact_error
from longcat.tracking import StageRun, Tracker
from tasks.orchestrator import BestEffortTask, Prefect, prefect_session, run_logger

UPDATE_S = 2.0
ASK_S = 3.0


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
) -> State[Artifact[FactsT]]:
    """Run a stage under its MLflow run, publish its artifact, and report to Prefect whether it was cached."""
    with (
        prefect_session() as prefect,
        tracker.stage(name) as run,
        shown_warnings(lambda text: run_logger().warning(text)),
    ):
        try:
            artifact = work(_Reporter(name, prefect), run)
        except Exception as error:  # Prefect and MLflow record its text
            redact_error(error)
            raise
        run.set_tags({"artifact": f"{artifact.kind}/{artifact.digest}", "cached": str(artifact.cached).lower()})
        run.log_metrics(_numbers(artifact.facts.model_dump()) | _known(artifact.facts.figures))
        run.log_artifact(artifact.path / "manifest.json")
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


def _known(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


class _Reporter:
    """Reporter that passes progress to a Prefect artifact and to listeners, and ends a stage that is cancelled."""

    def __init__(self, stage: str, prefect: Prefect) -> None:
        self.stage, self.prefect = stage, prefect
        self._artifact: UUID | None = None
        self._updated = self._asked = 0.0

    def __call__(self, progress: Progress) -> None:
        for listener in progress_listeners():
            listener(progress)
        context = TaskRunContext.get()
        if context is None:
            return
        if self.prefect.cancelling:
            raise Cancelled(
                f"{self.stage} was cancelled; run the same command again to continue from the last checkpoint"
            )
        now = time.monotonic()
        if now - self._updated > UPDATE_S:
            self._updated = now
            self.prefect.mention(self._update, progress)
        flow_run = context.task_run.flow_run_id
        if flow_run is not None and now - self._asked > ASK_S:
            self._asked = now
            self.prefect.mention(self.prefect.ask_for_cancellation, flow_run)

    def _update(self, progress: Progress) -> None:
        percent = round(100 * progress.fraction, 1)
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key=self.stage, description=f"Progress of {self.stage}")
        else:
            update_progress_artifact(
                self._artifact, percent, description=f"{self.stage}: {markdown_text(progress.message)}"
            )
