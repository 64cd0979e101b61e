"""Launching: what the processes are told, how their end is told, and that none is left behind."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

from longcat.errors import DataError, StorageError, TrainingError
from longcat.processes.child import supervised
from longcat.processes.launch import launch
from longcat.processes.orders import Order
from tests.waiting import all_gone, wait_until

pytestmark = pytest.mark.slow


OWNER = """
import sys, time
from pathlib import Path
from longcat.processes.child import supervised
with supervised(["sleep", "600"], log=Path(sys.argv[1]), environment={}, grace_s=5):
    time.sleep(600)
"""


class Enough(Exception):
    pass


@pytest.fixture
def run(tmp_path):
    """Launches processes, one for each of these things to do."""

    def run(*what, poll=lambda: None, deadline_s=300):
        for rank, do in enumerate(what):
            (tmp_path / str(rank)).write_text(do)
        order = Order("tests.processes.rank", (str(tmp_path),), str(tmp_path), len(what), {}, grace_s=5, timeout_s=60)
        launch(order, deadline_s=deadline_s, poll=poll)

    return run


def told(tmp_path, rank=0):
    file = tmp_path / f"told-{rank}.json"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def test_processes_of_one_machine_meet_on_loopback_only(run, tmp_path):
    run("leave 0", "leave 0")
    assert told(tmp_path, 0)["at"] == told(tmp_path, 1)["at"] == ["127.0.0.1", "lo"]
    assert [told(tmp_path, rank)["LOCAL_RANK"] for rank in (0, 1)] == ["0", "1"]
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1", "told-0.json", "told-1.json", "logs"}


def logs(tmp_path):
    return {str(file.relative_to(tmp_path / "logs")): file.read_text() for file in (tmp_path / "logs").rglob("*.log")}


def test_each_rank_and_each_start_has_a_log_of_its_own(run, tmp_path):
    """Output and errors are in the order in which they were printed; of an earlier start only what was printed is kept."""
    with pytest.raises(TrainingError) as raised:
        run("print one two three four", "sleep 600")
    last = tmp_path / "logs/start-0001/rank-0.log"
    assert f"rank 0 ended with code 7; see {last}, which ends with: two | three | four" in str(raised.value)
    run("leave 0", "leave 0")
    found = logs(tmp_path)
    assert found.pop("start-0001/rank-0.log") == "one\ntwo\nthree\nfour\n"
    assert "exitcode: 7" in found.pop("start-0001/agent.log")
    assert found == {"start-0002/agent.log": "", "start-0002/rank-0.log": "", "start-0002/rank-1.log": ""}


def test_where_a_process_printed_nothing_this_is_said(run):
    with pytest.raises(TrainingError, match=r"see .*/logs/start-0001/rank-1\.log \(nothing was printed\)$"):
        run("sleep 600", "leave 3")


PLACES = {
    "a host name that nothing resolves": ["--uts", "sh", "-c", 'hostname nodeless-42 && exec "$@"', "sh"],
    "no network but loopback": ["--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"],
    "no loopback": ["--net"],
}


@pytest.fixture
def unshared(tmp_path):
    """Launches two processes that meet by gloo, in a machine that lacks something."""

    def run(lacks):
        if subprocess.run(["unshare", *PLACES[lacks], "true"], check=False, capture_output=True).returncode:
            pytest.skip("namespaces are not for this user")
        program = [sys.executable, "-m", "tests.processes.rank", str(tmp_path), "launch"]
        return subprocess.run(
            ["unshare", *PLACES[lacks], *program], check=False, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.mark.parametrize("lacks", list(PLACES)[:2])
def test_one_machine_needs_neither_a_name_nor_a_network(unshared, tmp_path, lacks):
    done = unshared(lacks)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"sum-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]


def test_a_machine_without_loopback_is_told_so(unshared):
    done = unshared("no loopback")
    assert "DeviceError: processes of one machine talk to each other by its loopback interface" in done.stderr


def report(type_, message, expected=False, rank=1, time=1.0):
    return "report " + json.dumps({"time": time, "rank": rank, "type": type_, "message": message, "expected": expected})


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (
            ("die SIGKILL", "sleep 600"),
            TrainingError,
            r"rank 0 was killed by SIGKILL \((not by|out of mem)[^)]*\); see",
        ),
        (("sleep 600", "die SIGSEGV"), TrainingError, r"rank 1 was killed by SIGSEGV; see"),
        (("sleep 600", "leave 3"), TrainingError, r"rank 1 ended with code 3; see"),
        (("sleep 600", report("ValueError", "no\nmore")), TrainingError, r"rank 1: ValueError: no; see"),
        (("sleep 600", report("DataError", "bad", expected=True)), DataError, "^bad$"),
        (("sleep 600", "leave 28"), StorageError, "no space left"),
        (("sleep 600", report("OSError", "[Errno 28] No space left on device")), StorageError, "no space left"),
    ],
)
def test_the_process_that_failed_is_named(run, tmp_path, what, error, message):
    earlier = tmp_path / "logs" / "start-0001"
    earlier.mkdir(parents=True)
    (earlier / "rank-9.log").write_text("rank 9 exitcode -9 No space left on device\n")
    (tmp_path / "error-0.json").write_text(report("DataError", "of an earlier attempt", expected=True)[7:])
    with pytest.raises(error, match=message):
        run(*what)


def of_module(name):
    return [p for p in psutil.Process().children(recursive=True) if name in " ".join(p.cmdline()[:5])]


def once(found, act):
    """Return a poll that acts on the first process that is found."""
    acted = []

    def poll():
        if not acted and (processes := found()):
            acted.append(processes[0])
            act(processes[0])

    return poll


def test_an_agent_that_is_told_to_end_ends_its_processes(run, tmp_path):
    def terminate(agent):
        wait_until(lambda: told(tmp_path))
        agent.terminate()

    with pytest.raises(TrainingError, match="agent of the training processes was ended by SIGTERM"):
        run("sleep 600", poll=once(lambda: of_module("longcat.training.agent"), terminate))
    assert not psutil.pid_exists(told(tmp_path)["pid"])


def test_an_agent_that_is_killed_leaves_no_process(run, tmp_path):
    def kill(agent):
        wait_until(lambda: told(tmp_path))
        agent.kill()

    with pytest.raises(TrainingError, match="agent of the training processes was ended by SIGKILL"):
        run("sleep 600", poll=once(lambda: of_module("longcat.training.agent"), kill))
    wait_until(lambda: not psutil.pid_exists(told(tmp_path)["pid"]))


@pytest.mark.parametrize("who", ["longcat.processes.supervisor", "longcat.training.agent"])
def test_one_that_watches_and_is_stopped_goes_on(run, tmp_path, who):
    def stop(process):
        wait_until(lambda: told(tmp_path))
        process.suspend()

    run("sleep 1", "sleep 1", poll=once(lambda: of_module(who), stop))


def test_processes_of_a_killed_supervisor_are_waited_for(run, tmp_path):
    def kill(supervisor):
        wait_until(lambda: told(tmp_path))
        supervisor.kill()

    with pytest.raises(TrainingError, match="ended by SIGKILL"):
        run("sleep 600", poll=once(lambda: of_module("longcat.processes.supervisor"), kill))
    assert not psutil.pid_exists(told(tmp_path)["pid"])


def test_a_stopped_supervisor_is_ended_with_its_context(tmp_path):
    with supervised(["sleep", "600"], log=tmp_path / "log", environment={}, grace_s=5) as process:
        family = wait_until(lambda: psutil.Process(process.pid).children(recursive=True), process)
        process.send_signal(signal.SIGSTOP)
    assert all_gone(family)


def test_a_stopped_supervisor_is_ended_when_its_owner_is_killed(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path / "log")])
    family = wait_until(lambda: len(of := psutil.Process(owner.pid).children(recursive=True)) > 1 and of, owner)
    psutil.Process(owner.pid).children()[0].suspend()
    owner.kill()
    owner.wait()
    assert all_gone(family)


def test_an_error_of_the_poll_ends_the_processes(run, tmp_path):
    def poll():
        if told(tmp_path):
            raise Enough

    with pytest.raises(Enough):
        run("sleep 600", "sleep 600", poll=poll)
    assert not of_module("tests.processes.rank")


def test_a_limit_in_time_ends_the_processes(run):
    with pytest.raises(TrainingError, match=r"training\.deadline_s, of which 0\.1 s were left"):
        run("sleep 600", deadline_s=0.1)


def test_a_process_ends_whose_agent_has_ended_before_it_follows():
    """As when an agent is killed while the processes it has just started still import torch."""
    code = "from longcat.processes.child import follow; follow(); print('it lives')"
    for leader, told in (("os.getppid()", "it lives\n"), ("1", "")):
        child = f"import os; os.environ['LONGCAT_LEADER'] = str({leader}); {code}"
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=60, check=False)
        assert (done.stdout, done.returncode) == (told, 0 if told else -signal.SIGKILL)
