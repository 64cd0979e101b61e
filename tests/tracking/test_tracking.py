"""Tracking: an outage neither blocks nor loses, and runs of killed processes are closed."""

import json
import shutil
import subprocess
import sys
import threading

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.errors import WorkspaceBusyError
from longcat.tracking import Tracker, sender
from longcat.tracking.sender import Sender
from longcat.tracking.store import read_run
from longcat.tracking.sync import sync


def client_of(workspace):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{workspace.path / 'mlflow.db'}")


def runs_of(client):
    return {
        run.data.tags["mlflow.runName"]: run
        for run in client.search_runs([client.get_experiment_by_name("longcat").experiment_id])
    }


RECORDS = [{"step": step, "time": 1e9 + step, "attempt": 0, "train/loss": 1.0 / step} for step in range(1, 8)]


def test_an_outage_costs_no_time_and_loses_nothing(workspace, monkeypatch):
    monkeypatch.setattr(sender, "END_S", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    asked, answered, in_vain = threading.Event(), threading.Event(), []

    def unanswered(sender):
        asked.set()
        in_vain.append(not answered.wait(300))
        send_all(sender)

    send_all = Sender.send_all
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "send_all", unanswered)
        tracker = Tracker(workspace, load_config("smoke"), "outage")
        with tracker.stage("pretrain") as run:
            run.log_records(RECORDS)
        assert asked.wait(300)  # all this time the server is silent
        assert sync(workspace) == 0  # it is still being written
        answered.set()
    assert not any(in_vain)
    warning = tracker.close("FINISHED")
    assert "longcat sync" in warning
    assert tracker.run_id() is None

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(workspace) == 1
    assert sync(workspace) == 0
    client = client_of(workspace)
    runs = runs_of(client)
    assert {name: run.info.status for name, run in runs.items()} == {
        "outage-smoke": "FINISHED",
        "pretrain-smoke": "FINISHED",
    }
    points = client.get_metric_history(runs["pretrain-smoke"].info.run_id, "train/loss")
    assert [(p.step, p.value, p.timestamp) for p in points] == [
        (r["step"], r["train/loss"], int(r["time"] * 1000)) for r in RECORDS
    ]


def test_sending_twice_stores_once(workspace, tmp_path):
    tracker = Tracker(workspace, load_config("smoke"), "twice")
    with tracker.stage("pretrain") as run:
        run.log_records(RECORDS)
    assert tracker.close("FINISHED") is None
    state = next((tmp_path / "tracking").glob("*.sent.json"))
    state.unlink()  # as if the process had died before writing down how far it came
    Sender(next((tmp_path / "tracking").glob("*[0-9a-f].jsonl")), workspace).send_all()
    client = client_of(workspace)
    assert len(runs_of(client)) == 2
    assert len(client.get_metric_history(tracker.run_id("pretrain"), "train/loss")) == len(RECORDS)


def test_the_curve_is_that_of_the_steps_that_count_after_going_back(workspace):
    tracker = Tracker(workspace, load_config("smoke"), "back")
    again = [{**one, "time": one["time"] + 100, "train/loss": 9.0 + one["step"]} for one in RECORDS[4:]]
    with tracker.stage("pretrain") as run:
        run.log_records(RECORDS)
        run.log_records(again)
    assert tracker.close("FINISHED") is None
    run_id = tracker.run_id("pretrain")
    curve = [one["train/loss"] for one in (*RECORDS[:4], *again)]
    assert read_run(tracker.uri, run_id, ["train/loss"]).metrics == {"train/loss": curve}
    assert client_of(workspace).get_run(run_id).data.metrics["train/loss"] == curve[-1]


def test_failed_and_killed_stages_say_so(workspace):
    tracker = Tracker(workspace, load_config("smoke"), "parent")
    with pytest.raises(ValueError, match="boom"), tracker.stage("bad"):
        raise ValueError("boom")
    with pytest.raises(KeyboardInterrupt), tracker.stage("stopped"):
        raise KeyboardInterrupt
    assert tracker.close("FAILED") is None
    runs = runs_of(client_of(workspace))
    assert {name: run.info.status for name, run in runs.items()} == {
        "parent-smoke": "FAILED",
        "bad-smoke": "FAILED",
        "stopped-smoke": "KILLED",
    }
    assert runs["bad-smoke"].data.tags["error"] == "ValueError: boom"


def test_a_killed_process_leaves_no_running_run(workspace, tmp_path):
    code = (
        "import os, sys, time; from longcat.artifact import Workspace; from longcat.config import load_config\n"
        "from longcat.tracking import Tracker\n"
        "t = Tracker(Workspace(sys.argv[1]), load_config('smoke'), 'doomed')\n"
        "with t.stage('pretrain') as run:\n"
        "    run.log_metrics({'x': 1.0})\n"
        "    while t.run_id('pretrain') is None: time.sleep(0.1)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert sync(workspace) == 1
    runs = runs_of(client_of(workspace))
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert runs["pretrain-smoke"].data.metrics == {"x": 1.0}


def test_a_run_in_another_process_is_left_alone_until_that_is_gone(workspace, tmp_path):
    """Whatever its host and number: it has the workspace."""
    code = (
        "import sys; from longcat.artifact import Workspace; from longcat.config import load_config\n"
        "from longcat.tracking import Tracker\n"
        "space = Workspace(sys.argv[1])\n"
        "with space.lease():\n"
        "    Tracker(space, load_config('smoke'), 'at work'); print('started', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "started\n"
            with pytest.raises(WorkspaceBusyError, match=f"in use by process {process.pid}"):
                sync(workspace)
            (journal,) = (tmp_path / "tracking").glob("*[0-9a-f].jsonl")
            assert '"end"' not in journal.read_text()
        finally:
            process.kill()
    assert sync(workspace) == 1
    assert {run.info.status for run in runs_of(client_of(workspace)).values()} == {"KILLED"}


def test_the_journal_is_readable_json(workspace, tmp_path):
    tracker = Tracker(workspace, load_config("smoke"), "journal")
    tracker.close("FINISHED")
    lines = next((tmp_path / "tracking").glob("*[0-9a-f].jsonl")).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "params", "artifact", "artifact", "end"]


def test_two_workspaces_of_one_process_have_a_store_each(workspace, tmp_path, store_with_a_run):
    other = Workspace(tmp_path / "other")
    other.path.mkdir(exist_ok=True)
    shutil.copy(store_with_a_run, other.path / "mlflow.db")
    for space, name in ((workspace, "here"), (other, "there")):
        tracker = Tracker(space, load_config("smoke"), name)
        assert tracker.close("FINISHED") is None
    assert set(runs_of(client_of(workspace))) == {"here-smoke"}
    assert set(runs_of(client_of(other))) == {"there-smoke"}
