"""Tracking events as calls of MLflow, and what its answers mean."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from enum import Enum
from pathlib import Path
from shlex import quote
from typing import Any

from longcat.best_effort import reason
from longcat.errors import DataError
from longcat.processes.environment import NO_TELEMETRY
from longcat.stores import (
    clear_half_made,
    is_sound,
    made_whole,
    remove_misspelt_folder,
    set_aside,
    sqlite_path,
    sqlite_url,
)
from longcat.tracking.models import Models

_ENVIRONMENT = {
    **NO_TELEMETRY,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # opens the pages for training, not those for chat
_AT_ONCE = 100
"""Parameters in one call, as MLflow allows."""
_NOT_NOW = {401, 403, 407, 408, 425, 429, 499}
"""Answers that are about the caller or the moment, not about what was sent."""
_DIGEST = 36
"""Most characters of a data set's digest, as MLflow allows."""
KEY_TAG = "longcat.key"
_TABLES = "mlflow.loggedArtifacts"

Refusals = list[tuple[dict[str, Any], str]]
"""Events, or parts of them, each with the reason why it was refused."""


class Verdict(Enum):
    """What an exception of MLflow means."""

    REFUSED = "what was sent will never be taken"
    ANSWERED = "the server or store is there, and cannot do it now"
    UNREACHED = "nobody answered"


def import_mlflow() -> Any:
    """Import mlflow, with short waits and without telemetry."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow

    return mlflow


def open_client(uri: str) -> Any:
    """Return a client of a tracking server or store.

    Raises:
        DataError: the store was written by another version of MLflow.
        MlflowException: there is no such store.
    """
    mlflow = import_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.MlflowClient(uri)
    except MlflowException as error:
        if "database schema" not in str(error):
            raise
        raise DataError(
            f"it was written by another version of MLflow than {mlflow.__version__}; go on with that one, or copy the file and "
            f"run: mlflow db upgrade {quote(uri)}"
        ) from None


def verdict(error: Exception) -> Verdict:
    """Return what an exception of a call means."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, MlflowException):
        text = str(error)
        bare = re.search(r"failed with error code (\d{3})", text)
        status = int(bare[1]) if bare else error.get_http_status_code()
        if bare and status == 404:  # MLflow itself says what does not exist: this is another server
            return Verdict.ANSWERED
        if error.error_code == "INVALID_STATE" or (
            400 <= status < 500 and status not in _NOT_NOW and error.error_code != "ENDPOINT_NOT_FOUND"
        ):
            return Verdict.REFUSED
        answered = bare or isinstance(error, RestException) or "error responses" in text or "Response body" in text
        return Verdict.ANSWERED if answered else Verdict.UNREACHED
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return Verdict.REFUSED  # a file to be logged
    if isinstance(error, KeyError | TypeError | ValueError) and not isinstance(error, OSError):
        return Verdict.REFUSED
    return Verdict.ANSWERED if isinstance(error, DataError) else Verdict.UNREACHED


def prepare_store(path: Path) -> bool:
    """Make a workspace's store whole: one that is damaged or half made is set aside, and a missing one is made.

    Returns:
        Whether an old store has been set aside.
    """
    clear_half_made(path)
    old = path.exists()
    if old and not is_sound(path):
        set_aside(path, "is damaged")
    elif old and _first(path, "SELECT 1 FROM runs LIMIT 1"):
        return False
    mlflow = import_mlflow()
    with made_whole(path) as new:
        mlflow.MlflowClient(sqlite_url(new)).search_experiments(max_results=1)
        version = "SELECT version_num FROM alembic_version"
        if path.exists() and _first(path, version) != _first(new, version):
            set_aside(path, "is half made")
        elif path.exists():
            return False
    return old


def _first(path: Path, query: str) -> Any:
    try:
        with closing(sqlite3.connect(path, timeout=5)) as database:
            return database.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise


class Forwarder:
    """MLflow, as one journal's events are sent to it."""

    def __init__(self, uri: str, artifacts: Path, mark: str) -> None:
        """Connect to a tracking server or store.

        Args:
            uri: as for MLFLOW_TRACKING_URI.
            artifacts: folder of the files of a store without a server.
            mark: name of the journal, by which a run that was created before is found again.
        """
        # set_tracking_uri would set a variable of this process, and so the store of its other workspaces and children
        self._client, self._mark = open_client(uri), mark
        self._models = Models(self._client)
        self.experiment_id: str | None = None
        """MLflow's id of the experiment that a run was started in last."""
        self._artifacts = artifacts.as_uri() if uri.startswith("sqlite:") else None
        self._gone: dict[str, str] = {}
        if store := sqlite_path(uri):
            remove_misspelt_folder(store)

    def forward(self, event: dict[str, Any], run_ids: dict[str, str]) -> Refusals:
        """Send an event; returns what of it was refused.

        Args:
            event: from a journal.
            run_ids: MLflow's run of each key; a new one is added.

        Raises:
            Exception: whatever MLflow raises that is not a refusal.
        """
        key = event["key"]
        try:
            if event["event"] == "start":
                run_ids[key] = self._start(event, run_ids)
                return []
            if key in self._gone or key not in run_ids:
                return [(event, self._gone.get(key, "its run has not been started"))]
            return self._send(event, run_ids[key])
        except Exception as error:
            if verdict(error) is not Verdict.REFUSED:
                raise
            if event["event"] == "start" or not self._is_active(run_ids[key]):
                self._gone[key] = reason(error)
            return [(event, reason(error))]

    def _send(self, event: dict[str, Any], run_id: str) -> Refusals:
        from mlflow.entities import Metric, Param

        client = self._client
        match event["event"]:
            case "params":
                params = [(name, str(value)[:6000]) for name, value in event["params"].items()]
                return self._in_parts(
                    event,
                    run_id,
                    [params[start : start + _AT_ONCE] for start in range(0, len(params), _AT_ONCE)],
                    lambda part: client.log_batch(run_id, params=[Param(*pair) for pair in part]),
                    lambda part: {"params": dict(part)},
                )
            case "points":
                return self._in_parts(
                    event,
                    run_id,
                    [event["points"]],
                    lambda part: client.log_batch(run_id, metrics=[Metric(*point) for point in part]),
                    lambda part: {"points": list(part)},
                )
            case "tags":
                for name, value in event["tags"].items():
                    client.set_tag(run_id, name, value)
            case "artifact":
                self._artifact(run_id, Path(event["path"]), event["folder"])
            case "input":
                self._input(run_id, event)
            case "table":
                self._table(run_id, event)
            case "model":
                self._models.made(run_id, event)
            case "model input":
                self._models.used(run_id, event)
            case "judged":
                self._models.judged(run_id, event)
            case "end":
                client.set_terminated(run_id, event["status"], end_time=int(event["time"] * 1000))
            case unknown:
                raise ValueError(f"there is no event {unknown!r}")
        return []

    def _in_parts(
        self,
        event: dict[str, Any],
        run_id: str,
        parts: list[Sequence[Any]],
        send: Callable[[Sequence[Any]], None],
        rest: Callable[[Sequence[Any]], dict[str, Any]],
    ) -> Refusals:
        """Send parts, each halved until only what is refused is left."""
        refusals: Refusals = []
        while parts:
            part = parts.pop()
            try:
                send(part)
            except Exception as error:
                if verdict(error) is not Verdict.REFUSED:
                    raise
                if not self._is_active(run_id):
                    self._gone[event["key"]] = reason(error)
                    refusals += [({**event, **rest(left)}, reason(error)) for left in (part, *parts)]
                    return refusals
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    refusals.append(({**event, **rest(part)}, reason(error)))
        return refusals

    def _is_active(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except Exception as error:
            if verdict(error) is not Verdict.REFUSED:
                raise
            return False

    def _start(self, event: dict[str, Any], run_ids: dict[str, str]) -> str:
        from mlflow.exceptions import MlflowException

        client, name = self._client, event["experiment"]
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                experiment_id = client.create_experiment(name, artifact_location=self._artifacts, tags=_KIND)
            except MlflowException:  # another process was faster
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
                experiment_id = experiment.experiment_id
        else:
            experiment_id = experiment.experiment_id
        self.experiment_id = str(experiment_id)
        mark = f"{self._mark}/{event['key']}"
        # an earlier attempt may have created the run and died before recording it
        existing = client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{mark}'", max_results=1)
        if existing:
            return str(existing[0].info.run_id)
        tags = {**event["tags"], KEY_TAG: mark, "mlflow.runName": event["name"]}
        if event["parent"] in run_ids:
            tags["mlflow.parentRunId"] = run_ids[event["parent"]]
        return str(client.create_run(experiment_id, start_time=int(event["time"] * 1000), tags=tags).info.run_id)

    def _artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), folder)
        elif path.is_file():
            self._client.log_artifact(run_id, str(path), folder)

    def _table(self, run_id: str, event: dict[str, Any]) -> None:
        """Log a table that MLflow's page of artifacts shows as one; `log_table` would add to what was sent before."""
        columns, rows = event["columns"], event["rows"]
        self._client.log_dict(run_id, {"columns": columns, "data": rows}, event["name"])
        known = json.loads(self._client.get_run(run_id).data.tags.get(_TABLES, "[]"))
        if (own := {"path": event["name"], "type": "table"}) not in known:
            self._client.set_tag(run_id, _TABLES, json.dumps([*known, own]))

    def _input(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = event["source"]  # a path, in journals of older versions
        place = source if isinstance(source, dict) else {"uri": Path(source).as_uri()}
        dataset = Dataset(
            event["name"],
            event["digest"][:_DIGEST],
            event.get("source_type", "local"),
            json.dumps(place),
            profile=json.dumps(event["profile"]) if event.get("profile") else None,
        )
        self._client.log_inputs(
            run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", event["context"])])]
        )
