import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from longcat import lease as module
from longcat.errors import WorkspaceBusyError
from longcat.lease import lease
from tests.waiting import wait_until

HOLDER = """
import sys
from pathlib import Path
from longcat.lease import lease
with lease(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lease")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_refused_and_told_who(tmp_path, holder):
    with (
        pytest.raises(WorkspaceBusyError, match=rf"in use by process {holder.pid} on .*--workspace"),
        lease(tmp_path / "lease"),
    ):
        pytest.fail("two holders")
    assert [file.name for file in tmp_path.iterdir()] == ["lease"]


def test_lease_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lease(tmp_path / "lease"):
        assert json.loads((tmp_path / "lease").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_nested_use_is_free_and_ends_with_the_outermost(tmp_path):
    path = tmp_path / "lease"
    with lease(path):
        with lease(path):
            assert path.exists()
        assert path.exists()
    assert not path.exists()


def test_lease_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lease(tmp_path / "lease"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_another_host_holds_as_long_as_it_gives_signs_of_life(tmp_path):
    path = tmp_path / "lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0, "since": "today"}))
    with pytest.raises(WorkspaceBusyError, match="process 1 on elsewhere"), lease(path):
        pytest.fail("two holders")
    long_ago = time.time() - module.STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    with lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_number_used_again_is_not_the_holder(tmp_path):
    path = tmp_path / "lease"
    with lease(path):
        me = json.loads(path.read_text())
    path.write_text(json.dumps({**me, "started": me["started"] - 1000}))
    with lease(path):
        assert json.loads(path.read_text())["started"] == me["started"]


def test_heartbeat_keeps_the_lease_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)
    path = tmp_path / "lease"
    with lease(path):
        os.utime(path, (0, 0))
        wait_until(lambda: path.stat().st_mtime > 0)


def test_threads_of_a_process_share_it(tmp_path):
    path = tmp_path / "lease"
    held = []

    def work():
        with lease(path):
            held.append(path.exists())

    with lease(path):
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert path.exists()
    assert held == [True] * 8
    assert not list(tmp_path.iterdir())
