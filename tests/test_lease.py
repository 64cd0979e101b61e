import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from longcat import lease as module
from longcat.errors import StorageError, WorkspaceBusyError
from longcat.lease import check_lease, lease
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
    assert {file.name for file in tmp_path.iterdir()} == {"lease", "lease.lock"}


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


def test_another_host_holds_as_long_as_it_gives_signs_of_life(tmp_path, monkeypatch):
    path = tmp_path / "lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0, "since": "today"}))
    with pytest.raises(WorkspaceBusyError, match="process 1 on elsewhere"), lease(path):
        pytest.fail("two holders")
    monkeypatch.setattr(module, "WATCH_S", 0.1)
    long_ago = time.time() - module.STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    with lease(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_number_used_again_is_not_the_holder(tmp_path):
    """The lock is free, so whoever wrote this is gone, whichever process has its number now."""
    path = tmp_path / "lease"
    with lease(path):
        me = json.loads(path.read_text())
    path.write_text(json.dumps(me | {"token": "another"}))
    with lease(path):
        assert json.loads(path.read_text())["token"] not in ("another", me["token"])


def test_a_process_number_used_again_is_not_a_live_holder_whose_children_are_waited_for(tmp_path, holder):
    """The holder is gone, something it started still has the lock, and its number is now that of this process."""
    path = tmp_path / "lease"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"pid": os.getpid()}))
    assert said["started"] == module._started(holder.pid) != module._started(os.getpid())
    threading.Timer(0.3, holder.kill).start()
    with lease(path):
        assert json.loads(path.read_text())["token"] != said["token"]


@pytest.mark.parametrize("step_s", [-86400, 86400])
def test_a_clock_that_is_set_takes_no_lease_from_another_host(tmp_path, monkeypatch, step_s):
    path = tmp_path / "lease"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs", "kernel": "another"}))
    stop = threading.Event()

    def live():
        while not stop.wait(0.01):
            os.utime(path)

    other = threading.Thread(target=live)
    other.start()
    try:
        now = time.time
        monkeypatch.setattr(module.time, "time", lambda: now() + step_s)
        with pytest.raises(WorkspaceBusyError, match="process 1 on elsewhere"), lease(path):
            pytest.fail("two holders")
    finally:
        stop.set()
        other.join()
    monkeypatch.setattr(module, "WATCH_S", 0.1)
    with lease(path):  # no sign of life any more, whatever the clock says
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_holder_in_another_container_of_the_same_host_name_is_seen(tmp_path, holder):
    command = [
        "unshare", "-p", "-f", "--mount-proc",
        sys.executable, "-c", HOLDER, str(tmp_path / "lease"),
    ]  # fmt: skip
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot make a namespace of process numbers")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert f"in use by process {holder.pid}" in done.stderr
    assert "held" not in done.stdout


def test_a_holder_that_was_replaced_notices_and_spares_the_other(tmp_path, monkeypatch):
    path = tmp_path / "lease"
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    theirs = json.dumps({"host": "elsewhere", "pid": 1, "token": "theirs"})
    with lease(path):
        check_lease()
        path.write_text(theirs)
        os.utime(path, (0, 0))
        with pytest.raises(WorkspaceBusyError, match="taken by process 1 on elsewhere.*stood still"):
            check_lease()
        code = "from longcat.lease import check_lease; check_lease()"  # in a child
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert "WorkspaceBusyError" in done.stderr
        time.sleep(0.1)
        assert path.stat().st_mtime == 0  # nor does it keep the other's lease alive
    assert path.read_text() == theirs
    check_lease()


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_where_there_are_no_locks_signs_of_life_decide(tmp_path, monkeypatch, holder):
    path = tmp_path / "lease"
    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    monkeypatch.setattr(module, "SETTLE_S", 0.05)
    with pytest.raises(WorkspaceBusyError, match=f"process {holder.pid} on"), lease(path):
        pytest.fail("two holders")
    holder.kill()
    holder.wait()
    with lease(path):
        check_lease()
        assert json.loads(path.read_text())["locked"] is False
    assert not list(tmp_path.iterdir())


def test_where_there_are_no_locks_the_last_to_write_holds(tmp_path, monkeypatch):
    path = tmp_path / "lease"
    monkeypatch.setattr(module.fcntl, "flock", no_locks)
    monkeypatch.setattr(
        module.time, "sleep", lambda _: path.write_text(json.dumps({"host": "quicker", "pid": 3, "token": "theirs"}))
    )
    with pytest.raises(WorkspaceBusyError, match="process 3 on quicker"), lease(path):
        pytest.fail("two holders")
    assert json.loads(path.read_text())["token"] == "theirs"


def test_no_link_is_needed_and_none_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "link", lambda *_: pytest.fail("there are no hard links here"))
    with lease(tmp_path / "lease"):
        pass
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lease.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError), lease(tmp_path / "lease"):
        pytest.fail("through a link")
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EIO, errno.ELOOP])
@pytest.mark.parametrize("call", ["open", "replace"])
def test_every_refusal_is_one_line(tmp_path, monkeypatch, code, call):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code), "x")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, refuse)
        with (
            pytest.raises(StorageError, match=f"{os.strerror(code)}.*choose another --workspace") as caught,
            lease(tmp_path / "lease"),
        ):
            pytest.fail("it holds what cannot be written")
    assert "\n" not in str(caught.value)
    with lease(tmp_path / "lease"):
        pass


ORPHAN = """
import os, signal, sys, time
from pathlib import Path
from longcat.lease import lease
from longcat.processes.child import supervised
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
with lease(Path(sys.argv[1])), supervised(
    [sys.executable, "-c", stubborn, sys.argv[2]], log=Path(sys.argv[2]), environment={}, grace_s=1
):
    while b"up" not in Path(sys.argv[2]).read_bytes():
        time.sleep(0.05)
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_of_a_killed_holder_are_waited_for(tmp_path):
    path, log = tmp_path / "lease", tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(path), str(log)], capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"held\n"
    children = [p for p in psutil.process_iter(["cmdline"]) if str(log) in (p.info["cmdline"] or [])]
    assert children
    with lease(path):
        assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_what_is_written_under_a_lease_is_private(tmp_path):
    before = os.umask(0o022)
    try:
        with lease(tmp_path / "lease"):
            (tmp_path / "private").touch()
            subprocess.run(["touch", str(tmp_path / "of a child")], check=True)
        (tmp_path / "public").touch()
        tmp_path.chmod(0o770)
        with lease(tmp_path / "lease"):
            (tmp_path / "shared").touch(0o666)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes == {"private": "0o600", "of a child": "0o600", "public": "0o644", "shared": "0o660"}


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
