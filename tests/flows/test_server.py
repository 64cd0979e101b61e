"""A Prefect server of our own: what is wrong with it costs its pages, and nothing else."""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import psutil
import pytest

from longcat.flows import server as module
from longcat.flows.server import _Server

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    with ExitStack() as stack:
        server = _Server(tmp_path)
        server.stack = stack
        yield server


def states(workspace, table):
    with sqlite3.connect(workspace / "prefect" / "prefect.db") as database:
        return [state for (state,) in database.execute(f"SELECT state_type FROM {table}")]


@pytest.mark.parametrize("damage", ["other", "half"])
def test_a_database_that_no_server_can_use_is_set_aside(server, damage):
    if damage == "other":
        server.database.write_bytes(b"no database" * 1000)
    else:  # tables, but no word of how far their making had come
        with sqlite3.connect(server.database) as database:
            database.execute("CREATE TABLE flow (id)")
        database.close()
    size = server.database.stat().st_size
    server.start(server.stack)
    assert server.wait(server.stack) is None
    (aside,) = server.database.parent.glob("prefect.db.unusable-*[0-9]")
    assert aside.stat().st_size == size


def test_a_server_that_cannot_start_is_not_the_fault_of_its_database(server, monkeypatch):
    with sqlite3.connect(server.database) as database:
        database.execute("CREATE TABLE flow (id)")
    database.close()
    content = server.database.read_bytes()
    monkeypatch.setattr(module.sys, "executable", "false")
    monkeypatch.setattr("longcat.processes.child.sys.executable", sys.executable)
    server.start(server.stack)
    assert "has ended, see " in server.wait(server.stack)
    assert [file.name for file in server.database.parent.iterdir()] == ["prefect.db"]
    assert server.database.read_bytes() == content


def test_a_server_that_does_nothing_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 1.0)
    idle = [sys.executable, "-c", "import time; time.sleep(600)"]
    supervised = module.supervised
    monkeypatch.setattr(module, "supervised", lambda _, **options: supervised(idle, **options))
    server.start(server.stack)
    assert "is idle and does not answer" in server.wait(server.stack)


def test_a_run_outlives_its_server_and_the_next_run_closes_what_it_left(corpus_file, tmp_path):
    """The server is killed while text is read: the run ends well, and is closed in Prefect by the next one."""
    command = [
        sys.executable, "-m", "longcat.cli", "preprocess", "--preset", "smoke", "--workspace", str(tmp_path),
        "--set", f"corpus.sources={corpus_file}", "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        wait_for_the_flow(tmp_path)
        killer = threading.Thread(target=kill_servers, args=(run,))  # also the one that is started again
        killer.start()
        out, err = run.communicate(timeout=300)
        killer.join()
    assert run.returncode == 0, err
    assert (tmp_path / "logs" / "run.log").read_text().count("WARNING longcat: Prefect at") == 1
    assert '"status": "completed"' in out
    assert (tmp_path / "summary.json").exists()
    assert "RUNNING" in states(tmp_path, "flow_run")
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stderr
    assert sorted(states(tmp_path, "flow_run")) == ["COMPLETED", "CRASHED"]
    assert "RUNNING" not in states(tmp_path, "task_run")


def wait_for_the_flow(workspace):
    """Wait until a run is known to its Prefect server."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            if "RUNNING" in states(workspace, "flow_run"):
                break
        except sqlite3.Error:
            pass
        time.sleep(0.02)


def kill_servers(run):
    """Kill every Prefect server of a run until the run ends."""
    while run.poll() is None:
        with suppress(psutil.Error):
            for process in psutil.Process(run.pid).children(recursive=True):
                with suppress(psutil.Error):
                    command = process.cmdline()
                    if "longcat.flows.prefect_server" in command and "longcat.processes.supervisor" not in command:
                        process.kill()
        time.sleep(0.05)


def test_a_server_that_ends_during_a_run_is_started_again_once(server, tmp_path, monkeypatch):
    program, starts = tmp_path / "program", tmp_path / "starts"
    program.write_text(f"#!/bin/sh\necho $$ >> {starts}\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "sys", SimpleNamespace(executable=str(program)))
    monkeypatch.setattr(module, "WATCH_S", 0.05)
    server.start(server.stack)
    with server.kept_running():
        end = time.monotonic() + 300
        while len(starts.read_text().split()) < 2 if starts.exists() else True:
            assert time.monotonic() < end
            time.sleep(0.05)
        for watcher in [thread for thread in threading.enumerate() if thread.name == "prefect-server"]:
            watcher.join(300)
    assert len(starts.read_text().split()) == 2


@pytest.mark.parametrize("end", ["kill -9 $$", "kill -15 $$", "exit 0"])
def test_a_server_that_somebody_ended_is_not_the_fault_of_its_database(server, monkeypatch, end):
    """The database keeps its name, and the next run its history."""
    with sqlite3.connect(server.database) as database:
        database.execute("CREATE TABLE flow (id)")
    database.close()
    program = server.log.parent / "program"
    program.write_text(f"#!/bin/sh\n{end}\n")
    program.chmod(0o755)
    monkeypatch.setattr(module, "sys", SimpleNamespace(executable=str(program)))
    server.start(server.stack)
    assert "has ended, see " in server.wait(server.stack)
    assert [file.name for file in server.database.parent.iterdir()] == ["prefect.db"]


def test_a_server_that_was_killed_while_it_made_its_database_leaves_none_of_it(tmp_path, monkeypatch):
    """Beside a database that is whole: no later run makes one, and would clear away what is left."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)

    class Killed(module._Server):
        def start(self, stack):
            self._process = subprocess.Popen(["true"])
            self._process.wait()
            self.database.touch()
            folder = self.database.parent / f".{self.database.name}.half-made-1"
            folder.mkdir()
            for suffix in ("", "-wal", "-shm"):
                (folder / f"{self.database.name}{suffix}").touch()

        def wait(self, stack):
            return "its server has ended"

    monkeypatch.setattr(module, "_Server", Killed)
    with module.prefect_api(tmp_path):
        pass
    assert [file.name for file in (tmp_path / "prefect").iterdir() if "prefect.db" in file.name] == ["prefect.db"]
