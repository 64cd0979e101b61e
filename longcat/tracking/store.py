"""MLflow's store of a workspace: its address, how it is made, and what can be read from it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from longcat.artifact import Workspace
from longcat.benchmark.logs.throughput import Recorded
from longcat.best_effort import reason
from longcat.errors import DataError
from longcat.redaction import redact
from longcat.stores import sqlite_path, sqlite_url
from longcat.tracking.forwarding import import_mlflow, open_client, prepare_store
from longcat.tracking.journal import forget_what_was_sent

_prepared = set[Path]()


def tracking_uri(workspace: Workspace) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the URI of an SQLite store in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(store_path(workspace))


def store_path(workspace: Workspace) -> Path:
    """Return the file of the workspace's own store."""
    return workspace.path / "mlflow.db"


def prepare(workspace: Workspace) -> bool:
    """Make the workspace's own store whole; returns whether it is another one now, which is sent everything again.

    It is looked at once in a process.
    """
    store = store_path(workspace)
    if tracking_uri(workspace) != sqlite_url(store) or (store in _prepared and store.exists()):
        return False
    renewed = prepare_store(store)
    _prepared.add(store)
    if renewed:
        forget_what_was_sent(workspace.path / "tracking")
    return renewed


def read_run(uri: str, run_id: str, keys: Iterable[str]) -> Recorded:
    """Read the parameters of a run, and the values that it has logged under the given names; missing ones are left out.

    Of a step that was done again, which has several values, the last one logged counts.

    Args:
        uri: tracking server or store, as for MLFLOW_TRACKING_URI.
        run_id: MLflow's id of the run.
        keys: names of metrics.

    Raises:
        DataError: the store cannot be reached, or has no such run.
    """
    store = sqlite_path(uri)
    if store is not None and not store.is_file():  # MLflow would create one
        raise DataError(
            f"there is no MLflow store at {store}; give its address by --tracking-uri or MLFLOW_TRACKING_URI"
        )
    import_mlflow()
    from mlflow.exceptions import MlflowException

    try:
        client = open_client(uri)
        data = client.get_run(run_id).data
        known = data.metrics
        histories = {key: client.get_metric_history(run_id, key) for key in keys if key in known}
    except (MlflowException, DataError) as error:
        raise DataError(f"MLflow run {run_id} cannot be read from {redact(uri)}: {reason(error)}") from None
    metrics = {
        key: list({p.step: p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))}.values())
        for key, points in histories.items()
    }
    return Recorded(metrics, dict(data.params))
