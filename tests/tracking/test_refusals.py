"""What MLflow will never take is set aside by name, and all the rest is sent."""

import errno
import json
import logging
import sqlite3
from contextlib import closing

import pytest

from longcat.config import load_config
from longcat.errors import DataError, TrackingError
from longcat.tracking import Tracker, sender
from longcat.tracking.forwarding import Forwarder
from longcat.tracking.journal import refused_path
from longcat.tracking.record import MlflowFiles
from longcat.tracking.runs import runs_in_mlflow
from longcat.tracking.sender import Sender
from longcat.tracking.store import read_run, tracking_uri
from longcat.tracking.sync import sync

RECORDS = [{"step": step, "time": 1e9 + step, "train/loss": 1.0 / step} for step in range(1, 8)]


@pytest.fixture
def journal(workspace, monkeypatch):
    """Makes the journal of a run that has not been sent."""

    def make(name="a run", records=RECORDS):
        with monkeypatch.context() as patch:
            patch.setattr(Sender, "start", lambda *_, **__: None)
            patch.setattr(Sender, "finish", lambda *_: None)
            tracker = Tracker(workspace, load_config("smoke"), name)
            with tracker.stage("pretrain") as run:
                run.log_records(records)
            tracker.close("FINISHED")
        return tracker._journal.path

    return make


def runs_of(client, name="longcat"):
    experiment = client.get_experiment_by_name(name)
    return {run.data.tags["mlflow.runName"]: run for run in client.search_runs([experiment.experiment_id])}


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "longcat" and r.levelno == logging.WARNING]


def set_aside(path):
    """What is kept of a journal: (reason, event) of every line."""
    refused = refused_path(path)
    return [json.loads(line) for line in refused.read_text().splitlines()] if refused.exists() else []


def first_lines(path, number):
    """Cut a journal after some lines, and return the rest."""
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:number]))
    return "".join(lines[number:])


def test_a_run_deleted_on_the_page_does_not_block_others(workspace, client, journal, caplog):
    deleted, whole = journal("deleted"), journal("whole")
    later = first_lines(deleted, 5)  # both its runs have started
    assert sync(workspace) == 2
    runs = runs_of(client)
    gone = next(run for run in runs.values() if run.data.tags["longcat.key"] == f"{deleted.stem}/stage:pretrain")
    client.delete_run(gone.info.run_id)
    with deleted.open("a") as stream:
        stream.write(later)
    caplog.clear()
    assert sync(workspace) == 1
    kept = set_aside(deleted)
    assert [line["event"]["event"] for line in kept] == ["points", "end"]
    assert "deleted" in kept[0]["reason"]
    (warning,) = warnings_of(caplog)
    assert gone.info.run_id in warning
    assert deleted.name in warning
    assert "reached" not in warning
    assert set_aside(whole) == []
    assert runs_of(client)["whole-smoke"].info.status == "FINISHED"
    assert sync(workspace) == 0


def test_only_what_is_refused_of_an_event_is_set_aside(workspace, client, journal, caplog):
    path = journal("mixed", [{**RECORDS[0], "not a name: \x00!": 2.0}, *RECORDS[1:]])
    lines = path.read_text().splitlines()
    event = json.loads(lines[1])
    assert event["event"] == "params"
    event["params"] = {"seed": "another", "fresh": "value", "preset": "smoke"}
    lines.insert(2, json.dumps(event))
    path.write_text("\n".join(lines) + "\n")
    assert sync(workspace) == 1
    kept = [line["event"] for line in set_aside(path)]
    assert kept[0]["params"] == {"seed": "another"}
    assert [point[0] for point in kept[1]["points"]] == ["not a name: \x00!"]
    runs = runs_of(client)
    assert runs["mixed-smoke"].data.params["fresh"] == "value"
    assert runs["mixed-smoke"].data.params["seed"] != "another"
    points = client.get_metric_history(runs["pretrain-smoke"].info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(1, 8))
    assert len(warnings_of(caplog)) == 2  # one for each run


@pytest.mark.parametrize("line", ['{"event": "po', "[1]", "\ufffd\ufffd", '{"event": 3, "key": "x"}', "", '{"event": "new", "key": "pipeline"}'])  # fmt: skip
def test_an_unreadable_line_is_set_aside(workspace, client, journal, line):
    path = journal("spoilt")
    lines = path.read_text().splitlines()
    lines.insert(3, line)
    path.write_text("\n".join(lines) + "\n")
    assert sync(workspace) == 1
    assert len(set_aside(path)) == 1
    runs = runs_of(client)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert len(client.get_metric_history(runs["pretrain-smoke"].info.run_id, "train/loss")) == 7


def test_a_run_whose_start_is_unreadable(workspace, client, journal):
    path = journal("headless")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["?", *lines[1:]]) + "\n")
    assert sync(workspace) == 1
    assert {line.get("event", {}).get("key", "unreadable") for line in set_aside(path)} == {"unreadable", "pipeline"}
    assert runs_of(client)["pretrain-smoke"].info.status == "FINISHED"


def test_a_deleted_experiment(workspace, client, journal, caplog):
    journal("before")
    assert sync(workspace) == 1
    client.delete_experiment(client.get_experiment_by_name("longcat").experiment_id)
    path = journal("after")
    caplog.clear()
    assert sync(workspace) == 1
    assert len(set_aside(path)) == len(path.read_text().splitlines())
    assert all("deleted" in warning for warning in warnings_of(caplog))
    assert sync(workspace) == 0


def test_a_journal_that_cannot_be_sent_now_does_not_stop_the_others(workspace, client, journal, monkeypatch):
    from mlflow.exceptions import RestException

    stuck, fine = journal("stuck"), journal("fine")
    forward = Forwarder.forward

    def fail(self, event, run_ids):
        if self._mark == stuck.stem:
            raise RestException({"error_code": "PERMISSION_DENIED", "message": "not you"})
        return forward(self, event, run_ids)

    with monkeypatch.context() as patch:
        patch.setattr(Forwarder, "forward", fail)
        with pytest.raises(TrackingError, match=rf"answered with an error .*not you.* kept in .*{stuck.name}"):
            sync(workspace)
    assert runs_of(client)["fine-smoke"].info.status == "FINISHED"
    assert set_aside(stuck) == set_aside(fine) == []
    assert sync(workspace) == 1
    assert "stuck-smoke" in runs_of(client)


def test_a_sent_journal_is_not_read_again(workspace, journal, monkeypatch):
    journal("old")
    assert sync(workspace) == 1
    monkeypatch.setattr("longcat.tracking.sync.close_abandoned", lambda path: pytest.fail(f"{path} is read"))
    assert sync(workspace) == 0


def test_what_a_failing_disk_may_still_forget_is_not_sent(workspace, client, journal, monkeypatch):
    """Else a journal could be shorter than what was sent of it, and what is appended to it never be read."""
    journal("old")

    def fail(path):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(sender, "sync_file", fail)
        sync(workspace)
        assert client.get_experiment_by_name("longcat") is None
    sync(workspace)
    assert set(runs_of(client)) == {"old-smoke", "pretrain-smoke"}


def test_a_store_of_another_version_of_mlflow_comes_with_the_remedy(workspace, journal):
    """MLflow upgrades no store by itself; that nobody could reach it was not true, and the remedy was cut off."""
    journal("later")
    with closing(sqlite3.connect(workspace.path / "mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = 'of last year'")
    uri = tracking_uri(workspace)
    remedy = rf"written by another version of MLflow than \S+; .* run: mlflow db upgrade {uri}"
    with pytest.raises(
        TrackingError, match=rf"MLflow at {uri} answered with an error \(it was {remedy}\); the records"
    ):
        sync(workspace)
    for ask in (lambda: runs_in_mlflow(uri, "a"), lambda: read_run(uri, "a", []), lambda: MlflowFiles(uri)):
        with pytest.raises(DataError, match=rf"^MLflow .*{remedy}"):
            ask()
