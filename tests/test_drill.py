"""The accounts of benchmarks/drill.py see every promise that is broken."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.training.life import record_event
from longcat.training.metrics import MetricsFile
from tests.waiting import wait_until

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Training:
    """What training leaves on the disk, without training."""

    def __init__(self, workspace):
        from drills.accounts import Steps

        self.folder = workspace / "checkpoint/.0123.partial"
        self.folder.mkdir(parents=True)
        self.steps = Steps(workspace, 5)

    def start(self, step, attempt=0):
        self.records = MetricsFile(self.folder / "metrics.jsonl", step)
        record_event(self.folder, "start", step=step, attempt=attempt)
        self.steps.look()

    def train(self, *steps, saved=()):
        for step in steps:
            self.records.append({"step": step, "time": 1.0, "attempt": 0, "train/loss": 2.0})
            if step in saved:
                record_event(self.folder, "save", step=step)
            self.steps.look()


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path)


@pytest.mark.parametrize(
    ("last", "saved", "resumed", "lost"),
    [
        (14, (5, 10), 10, 0),
        (15, (5, 10), 10, 0),  # the checkpoint of step 15 is being written
        (17, (5, 10), 10, 0),
        (17, (5, 10), 5, 5),  # there was a newer one
        (17, (5,), 5, 5),  # one was never written
        (3, (), 0, 0),
        (19, (5, 10, 15), 15, 0),
        (19, (5, 10, 15), 0, 15),
    ],
)
def test_steps_are_lost_that_a_checkpoint_was_due_for(training, last, saved, resumed, lost):
    training.start(0)
    training.train(*range(1, last + 1), saved=saved)
    training.start(resumed, attempt=1)
    assert training.steps.lost == lost
    assert training.steps.again == last - resumed
    assert training.steps.starts == 2


def test_a_training_that_begins_again_after_its_end_has_lost_everything(training):
    training.start(0)
    training.train(*range(1, 13), saved=(5, 10))
    record_event(training.folder, "end", step=12)
    training.start(10)
    assert training.steps.lost == 2


def test_the_same_seed_draws_the_same_faults():
    from drills.faults import KINDS, MLFLOW, draw

    assert draw(3, 40, KINDS) == draw(3, 40, KINDS)
    assert draw(3, 40, KINDS) != draw(4, 40, KINDS)
    assert {fault.kind for fault in draw(1, 400, KINDS)} == set(KINDS)
    assert {fault.target for fault in draw(1, 40, ["hangs", "refuses"])} == {MLFLOW}


@pytest.fixture
def store(tmp_path):
    """An MLflow store with the tables that are read, and a finished checkpoint of two steps."""
    checkpoint = tmp_path / "checkpoint/c0ffee"
    checkpoint.mkdir(parents=True)
    records = MetricsFile(checkpoint / "metrics.jsonl", 0)
    for step in (1, 2):
        records.append({"step": step, "time": 1.0, "attempt": 0, "train/loss": step / 4, "perf/mfu": 0.1})
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE runs (run_uuid, name, status, start_time)")
        database.execute("CREATE TABLE tags (run_uuid, key, value)")
        database.execute("CREATE TABLE metrics (run_uuid, key, step, value, timestamp)")
        database.execute("INSERT INTO runs VALUES ('r', 'pretrain', 'FINISHED', 1), ('old', 'pretrain', 'RUNNING', 0)")
        database.execute("INSERT INTO tags VALUES ('r', 'artifact', 'checkpoint/c0ffee')")
        database.executemany("INSERT INTO metrics VALUES ('r', 'train/loss', ?, ?, 1)", [(1, 0.25), (2, 0.5)])
    journal = tmp_path / "tracking/j.jsonl"
    journal.parent.mkdir()
    points = [["train/loss", 0.25, 1, 1], ["train/loss", 0.5, 1, 2]]
    journal.write_text(json.dumps({"event": "points", "key": "stage:pretrain", "points": points}) + "\n")
    journal.with_suffix(".sent.json").write_text(json.dumps({"run_ids": {"stage:pretrain": "r"}}))
    return tmp_path


def change(store, statement):
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute(statement)


def test_points_that_are_lost_changed_or_doubled_are_seen(store):
    from drills.accounts import curve_lost, journaled, open_runs, stored

    database, checkpoint = store / "mlflow.db", store / "checkpoint/c0ffee"
    assert curve_lost(database, checkpoint) == 0
    assert journaled(store) == stored(database)
    assert open_runs(database) == ["pretrain (old)"]
    change(store, "INSERT INTO metrics VALUES ('r', 'train/loss', 2, 0.5, 2)")
    assert stored(database)[("r", "train/loss", 2)] == 2
    change(store, "UPDATE metrics SET value = 0.75 WHERE step = 2")
    assert curve_lost(database, checkpoint) == 1
    change(store, "DELETE FROM metrics WHERE step = 2")
    assert curve_lost(database, checkpoint) == 1
    assert [key for key in journaled(store) if key not in stored(database)] == [("r", "train/loss", 2)]


def finished(folder, weights=b"weights", loss=0.5, seconds=1.0):
    """A checkpoint artifact, as far as accounts read it."""
    from longcat.artifact import sha256_file

    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    MetricsFile(folder / "metrics.jsonl", 0).append(
        {"step": 1, "time": seconds, "train/loss": loss, "perf/mfu": seconds}
    )
    files = {name: {"sha256": sha256_file(folder / name)} for name in ("model.safetensors", "metrics.jsonl")}
    facts = {"final_loss": loss, "seconds_training": seconds, "peak_flops": 1e12 / seconds}
    (folder / "manifest.json").write_text(json.dumps({"files": files, "facts": facts}))
    return folder


def test_one_bit_makes_a_checkpoint_another_one(tmp_path):
    from drills.accounts import damaged, differences

    name = "0" * 32
    whole = finished(tmp_path / "whole" / "checkpoint" / name)
    assert differences(finished(tmp_path / "same" / name, seconds=2.0), whole) == []
    assert differences(finished(tmp_path / "bit" / name, b"weighty"), whole) == ["model.safetensors"]
    assert differences(finished(tmp_path / "loss" / name, loss=0.25), whole) == [
        "final_loss=0.25, not 0.5",
        "the curves of metrics.jsonl",
    ]
    assert differences(finished(tmp_path / "other" / ("1" * 32)), whole) == [f"digest {'1' * 32}, not {name}"]
    assert damaged(tmp_path / "whole") == []
    (whole / "model.safetensors").write_bytes(b"weighty")
    assert len(damaged(tmp_path / "whole")) == 1
    (whole / "model.safetensors").unlink()
    assert len(damaged(tmp_path / "whole")) == 1


def test_an_end_that_its_faults_do_not_allow_is_told():
    from drills.command import Done, Ending, judge
    from drills.faults import AFTER, DISK, FLOW, RANK, Fault

    def after(*done):
        return [Done(Fault(kind, target, AFTER, 0, 0), 1, 0, target, [], 0, 0) for kind, target in done]

    rank = after(("SIGKILL", RANK))
    assert judge(Ending(0, ""), [], rank) == []
    assert judge(Ending(1, "error: rank 1 was killed"), [], rank) != []
    assert judge(Ending(1, "error: training: rank 1 was killed"), [], rank * 6) == []
    assert judge(Ending(-signal.SIGKILL, ""), [], rank) != []
    assert judge(Ending(-signal.SIGKILL, ""), [], after(("SIGKILL", FLOW))) == []
    assert judge(Ending(130, "error: interrupted"), [], after(("SIGINT", FLOW))) == []
    assert judge(Ending(143, "error: stopped by SIGTERM"), [], after(("SIGTERM", FLOW))) == []
    assert judge(Ending(130, "error: interrupted"), [], after(("SIGTERM", FLOW))) != []
    assert judge(Ending(2, "error: no space left"), [], after(("full", DISK))) == []
    assert judge(Ending(2, "error: no space left"), [], rank) != []
    assert judge(Ending(1, "error"), ["Traceback (most recent call last):"], after(("full", DISK))) != []
    assert judge(Ending(0, ""), ["Traceback (most recent call last):"], rank) == ["it printed a traceback"]


def test_leftover_processes_locks_and_files_are_found(tmp_path):
    from drills.accounts import left_files, processes_of

    for name in (".lease.lock", "tokens/.x.0.tmp", "checkpoint/.0.partial/checkpoints/.step-5", ".mlflow.db.1-2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert left_files(tmp_path) == [
        ".lease.lock", ".mlflow.db.1-2", "checkpoint/.0.partial", "checkpoint/.0.partial/checkpoints/.step-5",
        "tokens/.x.0.tmp",
    ]  # fmt: skip
    mark = ("LONGCAT_DRILL", f"test-{os.getpid()}")
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], env={**os.environ, mark[0]: mark[1]}, stdin=subprocess.PIPE
    )
    try:
        wait_until(lambda: [of.pid for of in processes_of(mark)] == [child.pid], child)
    finally:
        child.kill()
        child.wait()
    assert not list(processes_of(mark))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk_is_full_read_only_and_sound_again(tmp_path):
    from drills.disk import Disk

    disk = Disk(tmp_path / "disk")
    if disk.missing:
        pytest.skip(disk.missing)
    try:
        disk.fill(0)
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(bytes(1 << 20))
        disk.empty()
        with (disk.folder / "open").open("wb", buffering=0) as stream:
            stream.write(b"1")
            disk.fail()
            with pytest.raises(OSError, match="Read-only"):
                (disk.folder / "more").touch()
        disk.mend()
        (disk.folder / "more").write_bytes(bytes(1 << 20))
    finally:
        disk.close()
    assert not list(Path("/dev/shm").glob(f"drill-{os.getpid()}-*"))
