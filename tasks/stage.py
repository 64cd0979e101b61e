"""Wrapper of every stage: Prefect progress and cancellation, an MLflow run, the state "Cached".

Tasks are called directly, never submitted: a thread could not be interrupted when the run is cancelled.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from prefect import get_client, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, State

from longcat.artifact import Artifact, FactsT
from longcat.errors import Cancelled, LongcatError
from longcat.progress import Progress, Reporter, progress_listeners
from longcat.redaction import redact_error
from longcat.tracking import StageRun, Tracker

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


stage_task = task(
    cache_policy=NO_CACHE, persist_result=False, retries=1, retry_delay_seconds=5, retry_condition_fn=retry_helps
)
"""Decorator of stage tasks: the artifact store decides what is reused, so Prefect's own cache is off."""


def run_stage(
    name: str,
    tracker: Tracker,
    work: Callable[[Reporter, StageRun], Artifact[FactsT]],
    publish: Callable[[StageRun, Artifact[FactsT]], None],
) -> State[Artifact[FactsT]]:
    """Run a stage under its MLflow run, publish its artifact, and report to Prefect whether it was cached."""
    with tracker.stage(name) as run, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            artifact = work(_Reporter(name), run)
        except Exception as error:  # Prefect and MLflow record its text
            redact_error(error)
            raise
        run.set_tags({"artifact": f"{artifact.kind}/{artifact.digest}", "cached": str(artifact.cached).lower()})
        run.log_metrics(_numbers(artifact.facts.model_dump()) | _known(artifact.facts.figures))
        run.log_artifact(artifact.path / "manifest.json")
        publish(run, artifact)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            _logger().warning(str(warning.message))
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


def _logger() -> Any:
    try:
        return get_run_logger()
    except Exception:  # called outside a run, as in a test
        return logging.getLogger("longcat")


class _Reporter:
    """Reporter that passes progress to a Prefect artifact and to listeners, and checks regularly for cancellation."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._artifact: UUID | None = None
        self._updated = self._asked = 0.0

    def __call__(self, progress: Progress) -> None:
        for listener in progress_listeners():
            listener(progress)
        context = TaskRunContext.get()
        if context is None:
            return
        now = time.monotonic()
        try:
            if now - self._updated > UPDATE_S:
                self._updated = now
                self._update(progress)
            if now - self._asked > ASK_S:
                self._asked = now
                self._check_cancelled(context.task_run.flow_run_id)
        except Cancelled:
            raise
        except Exception as error:  # work continues while the orchestrator is unreachable
            _logger().debug("Prefect cannot be reached: %s", error)

    def _update(self, progress: Progress) -> None:
        percent = round(100 * progress.fraction, 1)
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, key=self.stage, description=f"Progress of {self.stage}")
        else:
            update_progress_artifact(self._artifact, percent, description=f"{self.stage}: {progress.message}")

    def _check_cancelled(self, flow_run: UUID | None) -> None:
        """Raise `Cancelled` if this flow run is being cancelled."""
        if flow_run is None:
            return
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run).state
        if state is not None and state.is_cancelling():
            raise Cancelled(
                f"{self.stage} was cancelled; run the same command again to continue from the last checkpoint"
            )
