"""MLflow may hang, fail, refuse and be away: a run does not wait for it, and no record is lost."""

import errno
import json
import logging
import os
import threading

import pytest

from longcat.artifact import Workspace
from longcat.commands.tools import _send_before_showing
from longcat.config import load_config
from longcat.tracking import Tracker, journal
from longcat.tracking import sender as sender_module
from longcat.tracking.forwarding import Forwarder
from longcat.tracking.journal import Journal
from longcat.tracking.sender import Sender
from longcat.tracking.sync import sync
from tests.prefect_api import fake_prefect as fake_server

HOUR_S = 3600


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "longcat" and r.levelno == logging.WARNING]


def record(step):
    return {"step": step, "time": 1e9 + step, "train/loss": 1.0 / step, "train/norm": float(step)}


def test_no_point_is_lost_or_doubled_in_an_outage_of_an_hour(workspace, client, monkeypatch, caplog):
    """A step every 30 s of a clock that the sender's own waits move; MLflow is away from minute 5 to minute 65."""
    now, steps, attempts = 0.0, 0, []
    forward = Forwarder.forward

    def unreliable(self, event, run_ids):
        if 300 <= now < 300 + HOUR_S:
            attempts.append(now)
            raise ConnectionError("connection refused")
        return forward(self, event, run_ids)

    def pause(sender, seconds):
        nonlocal now, steps
        now += seconds
        while steps < now / 30 and steps < 150:
            steps += 1
            run.log_records([record(steps)])
        if steps == 150:
            sender._finish.set()
            sender._given_up.set()

    monkeypatch.setattr(Forwarder, "forward", unreliable)
    monkeypatch.setattr(Sender, "_pause", pause)
    monkeypatch.setattr(Sender, "start", lambda *_, **__: None)
    tracker = Tracker(workspace, load_config("smoke"), "hours")
    with tracker.stage("pretrain") as run:
        tracker._sender._run()  # in this thread, until the last step
    assert now > 300 + HOUR_S
    assert 500 < len(attempts) < 1000
    tracker._sender.send_all()
    points = client.get_metric_history(tracker.run_id("pretrain"), "train/loss")
    assert [(p.step, p.value) for p in points] == [(step, 1.0 / step) for step in range(1, 151)]
    assert len(client.get_metric_history(tracker.run_id("pretrain"), "train/norm")) == 150
    (warning,) = warnings_of(caplog)
    assert "could not be reached (ConnectionError: connection refused); the run goes on, and its records" in warning


@pytest.mark.parametrize("trouble", ["hang", "junk", 500, 503, 401, 404, "dead"])
def test_a_run_ends_in_its_own_time_and_says_once_what_is_wrong(workspace, monkeypatch, caplog, trouble):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(sender_module, "END_S", 0.5)
    with fake_server() as server:
        server.mode = trouble
        if trouble == "dead":
            server.die()
        uri = server.url.removesuffix("/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracker = Tracker(workspace, load_config("smoke"), "trouble")
        with tracker.stage("pretrain") as run:
            run.log_records([record(1)])
            wait_until(lambda: tracker._sender.service.away)
        said = tracker.close("FINISHED")
    (warning,) = warnings_of(caplog)
    assert f"MLflow at {uri} " in warning
    assert ("could not be reached" in warning) == (trouble in ("hang", "dead"))
    sends = f"`longcat sync --workspace {workspace.path}`"  # another workspace than the default one has to be named
    assert sends in said and sends in warning
    assert "None" not in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert sync(workspace) == 1


def test_an_mlflow_that_is_only_slow_is_not_said_to_be_away(workspace, monkeypatch):
    monkeypatch.setattr(sender_module, "START_S", 0.0)
    released = threading.Event()
    monkeypatch.setattr(Sender, "send_all", lambda _: released.wait(60))
    tracker = Tracker(workspace, load_config("smoke"), "slow")
    said = tracker.close("FINISHED")
    released.set()
    assert "has not taken all records yet" in said
    assert "reached" not in said


class Simulated:
    """A clock and a sender's thread that never ends: waiting for the thread moves the clock."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def is_alive(self):
        return True

    def join(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("uri", "run_s", "state", "waited_s"),
    [
        ("http://127.0.0.1:9", 20, "connected", 2),
        ("http://127.0.0.1:9", 86_400, "connected", 864),  # 1 %
        ("http://127.0.0.1:9", 86_400, "away", 2),  # it is not asked again for a quarter of an hour
        ("http://127.0.0.1:9", 20, "unconnected", 15),  # importing MLflow is work of this process
        ("", 20, "connected", 60),  # a store in a file is only slow
        ("", 20, "away", 2),
    ],
)
def test_the_end_of_a_run_waits_for_mlflow_for_a_bounded_time(tmp_path, monkeypatch, uri, run_s, state, waited_s):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(sender_module, "START_S", 15.0)
    monkeypatch.setattr(sender_module, "END_S", 2.0)
    sender = Sender(tmp_path / "run.jsonl", Workspace(tmp_path))
    sender.journal.append("tags", "a", tags={})
    simulated = Simulated()
    monkeypatch.setattr(sender_module, "time", simulated)
    sender._thread = simulated
    sender.service.away = state == "away"
    sender._connected_at = None if state == "unconnected" else 900.0
    said = sender.finish(run_s)
    assert simulated.now - 1000 == pytest.approx(waited_s, abs=0.11)
    assert f"are kept in {sender.path}" in said
    assert sender.unsent_bytes > 0


def test_a_full_disk_keeps_the_order_of_records(tmp_path, monkeypatch, caplog):
    write, full = os.write, True

    def limited(file, data):
        if full:
            if len(data) > 10:
                return write(file, data[:10])  # the last bytes that there is room for
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    lines = journal.Journal(tmp_path / "tracking" / "run.jsonl")
    lines.append("tags", "a", tags={})
    monkeypatch.setattr(journal.os, "write", limited)
    lines.append("tags", "b", tags={})
    lines.append("tags", "c", tags={})
    assert lines.waiting == 2
    full = False
    lines.append("tags", "d", tags={})
    assert lines.waiting == 0
    assert [json.loads(line)["key"] for line in lines.path.read_text().splitlines()] == list("abcd")
    (warning,) = warnings_of(caplog)
    assert "No space left on device" in warning


def wait_until(holds):
    from time import monotonic, sleep

    end = monotonic() + 120
    while not holds():
        assert monotonic() < end
        sleep(0.02)


def left_behind(workspace, name):
    """The journal of a run that has ended, nothing of which has been sent."""
    written = Journal(workspace.path / "tracking" / f"{name}.jsonl")
    written.append("start", "pipeline", experiment="longcat", name=name, parent=None, time=1.0, tags={})
    for step in range(450):
        written.append("points", "pipeline", points=[["train/loss", 1.0, 1000 + step, step]])
    written.append("end", "pipeline", status="FINISHED", time=2.0)
    written.close()
    return written.path


def test_a_run_that_ends_at_once_sends_what_earlier_ones_have_left(workspace, client):
    earlier = [left_behind(workspace, f"20250101-00000{number}-abcdef") for number in range(2)]
    tracker = Tracker(workspace, load_config("smoke"), "short")
    assert tracker.close("FINISHED") is None
    for path in earlier:
        run = client.get_run(journal.Sent.of(path).run_ids["pipeline"])
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 450
    assert client.get_run(tracker.run_id()).info.status == "FINISHED"


def test_what_is_shown_has_been_sent_before(workspace, client, monkeypatch, capsys):
    path = left_behind(workspace, "20250101-000000-abcdef")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    _send_before_showing(workspace)
    assert "MLflow's pages lack them" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    _send_before_showing(workspace)
    assert capsys.readouterr().out == "sent MLflow the records that 1 run had left\n"
    assert client.get_run(journal.Sent.of(path).run_ids["pipeline"]).info.status == "FINISHED"
    _send_before_showing(workspace)
    assert capsys.readouterr() == ("", "")


def test_a_run_sends_its_own_records_while_it_sends_those_of_others(workspace, client, monkeypatch):
    """Its own end is sent between two batches of what an earlier one has left."""
    left_behind(workspace, "20250101-000000-abcdef")
    forward, order = Forwarder.forward, []

    def noted(self, event, run_ids):
        if event["key"] == "pipeline" and event["event"] in ("points", "end"):
            order.append(event["event"])
        if len(order) == 100:
            tracker._journal.append("end", "pipeline", status="FINISHED", time=3.0)
        return forward(self, event, run_ids)

    monkeypatch.setattr(Forwarder, "forward", noted)
    tracker = Tracker(workspace, load_config("smoke"), "short")
    assert tracker.close("FINISHED") is None
    assert order.index("end") < 450


def test_what_earlier_runs_have_left_is_told_where_time_is_over(workspace, monkeypatch):
    left_behind(workspace, "20250101-000000-abcdef")
    for limit in ("END_S", "STORE_END_S"):
        monkeypatch.setattr(sender_module, limit, 0.0)
    released = threading.Event()
    monkeypatch.setattr("longcat.tracking.send_others", lambda *_: released.wait(60))
    tracker = Tracker(workspace, load_config("smoke"), "short")
    wait_until(lambda: tracker._sender.run_ids and tracker._sender.unsent_bytes == 0)
    tracker._journal.append = lambda *_, **__: None  # its end has been sent already
    said = tracker.close("FINISHED")
    released.set()
    assert "records of earlier runs" in said
    assert f"`longcat sync --workspace {workspace.path}`" in said
