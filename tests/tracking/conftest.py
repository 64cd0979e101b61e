import shutil

import pytest

from longcat.artifact import Workspace
from longcat.tracking import sender
from longcat.tracking.store import tracking_uri


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A store that is only slow is waited for."""
    for limit in ("START_S", "END_S"):
        monkeypatch.setattr(sender, limit, 300.0)


@pytest.fixture(scope="session")
def store_with_a_run(tmp_path_factory):
    """A whole MLflow store, which takes seconds to make."""
    from longcat.stores import sqlite_url
    from longcat.tracking.forwarding import import_mlflow, prepare_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(path)
    client = import_mlflow().MlflowClient(sqlite_url(path))
    client.create_run("0")
    return path


@pytest.fixture
def workspace(tmp_path, store_with_a_run):
    """A workspace whose store is there already."""
    shutil.copy(store_with_a_run, tmp_path / "mlflow.db")
    return Workspace(tmp_path)


@pytest.fixture
def client(workspace):
    import mlflow

    return mlflow.MlflowClient(tracking_uri(workspace))
