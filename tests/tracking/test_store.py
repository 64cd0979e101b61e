"""A store that is damaged or half made is set aside, and a new one gets everything from the journals."""

import sqlite3
import subprocess
import sys

import pytest

from longcat.tracking import forwarding
from longcat.tracking.store import prepare, tracking_uri
from longcat.tracking.sync import sync
from tests.tracking.test_refusals import runs_of, warnings_of


@pytest.fixture
def made_here(monkeypatch, store_with_a_run):
    """Stores are copied instead of made, which takes seconds; the copy has no run."""

    class Copied:
        def __init__(self, uri):
            self.uri = uri

        def search_experiments(self, max_results):
            path = forwarding.Path(self.uri.removeprefix("sqlite:///"))
            path.write_bytes(store_with_a_run.read_bytes())
            with sqlite3.connect(path) as store:
                store.execute("DELETE FROM tags")
                store.execute("DELETE FROM runs")
            store.close()

    monkeypatch.setattr(forwarding, "import_mlflow", lambda: type("mlflow", (), {"MlflowClient": Copied}))
    return forwarding.prepare_store


RUN = """
import sys
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.tracking import Tracker

tracker = Tracker(Workspace(sys.argv[1]), load_config("smoke"), "first")
with tracker.stage("pretrain") as run:
    run.log_records([{"step": step, "time": 1e9 + step, "train/loss": 1.0 / step} for step in range(1, 8)])
tracker.close("FINISHED")
"""


def test_a_damaged_store_is_filled_again_from_the_journals(workspace, caplog):
    subprocess.run([sys.executable, "-c", RUN, str(workspace.path)], check=True, timeout=300)
    (workspace.path / "mlflow.db").write_bytes(b"nothing that can be read" * 1000)
    assert sync(workspace) == 1
    (warning,) = warnings_of(caplog)
    assert "is damaged, so a new one is made; the old one is kept as mlflow.db.unusable-" in warning
    assert len(list(workspace.path.glob("mlflow.db.unusable-*"))) == 1
    client = forwarding.import_mlflow().MlflowClient(tracking_uri(workspace))
    runs = runs_of(client)
    assert {name: run.info.status for name, run in runs.items()} == {
        "first-smoke": "FINISHED",
        "pretrain-smoke": "FINISHED",
    }
    assert len(client.get_metric_history(runs["pretrain-smoke"].info.run_id, "train/loss")) == 7


def test_a_half_made_store_is_told_from_an_empty_one(tmp_path, made_here, caplog):
    path = tmp_path / "mlflow.db"
    assert made_here(path) is False  # there was none
    assert made_here(path) is False  # whole, though without a run
    assert warnings_of(caplog) == []
    with sqlite3.connect(path) as store:
        store.execute("UPDATE alembic_version SET version_num = 'of the middle'")
    store.close()
    assert made_here(path) is True
    assert "is half made" in warnings_of(caplog)[0]
    with sqlite3.connect(path) as store:
        store.execute("DROP TABLE alembic_version")
    store.close()
    assert made_here(path) is True
    assert len(list(tmp_path.iterdir())) == 3


def test_an_old_store_with_runs_is_left_alone(tmp_path, made_here, store_with_a_run, caplog):
    path = tmp_path / "mlflow.db"
    path.write_bytes(store_with_a_run.read_bytes())
    with sqlite3.connect(path) as store:
        store.execute("UPDATE alembic_version SET version_num = 'of last year'")
    store.close()
    content = path.read_bytes()
    assert made_here(path) is False
    assert path.read_bytes() == content
    assert warnings_of(caplog) == []


def test_the_store_of_somebody_else_is_never_touched(workspace, tmp_path, monkeypatch):
    other = tmp_path / "other.db"
    other.write_bytes(b"nothing that can be read" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    assert prepare(workspace) is False
    assert other.exists()
