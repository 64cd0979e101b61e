"""Whatever Prefect's server does, a flow returns what it returns and raises what it raises."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.artifacts import create_markdown_artifact
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed

from longcat.errors import Cancelled, TrainingError
from longcat.tasks import orchestrator
from longcat.tasks.orchestrator import BestEffortFlow, prefect_session, tell
from longcat.tasks.stage import stage_task
from tests.prefect_api import fake_prefect

TROUBLE = ["hang", "junk", "dead", 500, 503, 429, 401, 404]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    for name in ("REQUEST_S", "PAUSE_S", "SETTLE_S"):
        monkeypatch.setattr(orchestrator, name, 0.5)


@pytest.fixture
def server():
    with fake_prefect() as server, temporary_settings({PREFECT_API_URL: server.url}):
        yield server


def break_down(server, trouble):
    if trouble == "dead":
        server.die()
    else:
        server.mode = trouble


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "longcat" and r.levelno == logging.WARNING]


def flow_of(*steps):
    """A flow of three tasks; `steps` are called in the second."""

    @stage_task
    def first():
        return Completed(data=1)

    @stage_task
    def second(value):
        tell(create_markdown_artifact, "# before", key="before")
        for step in steps:
            step()
        tell(create_markdown_artifact, "# after", key="after")
        return Completed(name="Cached", data=value + 1)

    def run(add: int = 0):
        return {"sum": second(first().result()).result() + first().result() + add}

    return BestEffortFlow(run, name="toy", persist_result=False)


def test_a_server_that_is_well_is_told_everything(server, caplog):
    assert flow_of()(add=4) == {"sum": 7}
    assert server.states == ["RUNNING", "COMPLETED"]
    assert server.artifacts == ["before", "after"]
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_from_the_start(server, caplog, trouble):
    break_down(server, trouble)
    assert flow_of()(add=4) == {"sum": 7}
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"Prefect at {server.url} ")
    assert warning.endswith("; the run goes on, and Prefect's pages will lack what it has not been told")
    assert ("could not be reached" in warning) == (trouble in ("hang", "junk", "dead"))


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_in_the_middle(server, caplog, trouble):
    assert flow_of(lambda: break_down(server, trouble))(add=4) == {"sum": 7}
    assert server.states == ["RUNNING"]
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("trouble", ["hang", "dead", 500])
@pytest.mark.parametrize("error", [TrainingError("rank 1: boom"), ValueError("boom"), KeyboardInterrupt()])
def test_the_cause_of_a_failure_survives(server, caplog, monkeypatch, trouble, error):
    monkeypatch.setattr("time.sleep", lambda _: None)  # before a retry

    def fail():
        break_down(server, trouble)
        raise error

    with pytest.raises(type(error)) as raised:
        flow_of(fail)()
    assert raised.value is error
    assert len([w for w in warnings_of(caplog) if w.startswith("Prefect")]) == 1


@pytest.mark.parametrize("trouble", ["well", "dead"])
def test_sigterm_reaches_the_handler_of_the_command_line(server, trouble):
    def stop(*_):
        raise Cancelled("stopped")

    def terminate():
        break_down(server, trouble)
        signal.raise_signal(signal.SIGTERM)

    handler = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Cancelled, match="stopped"):
            flow_of(terminate)()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_server_that_hangs_costs_one_wait(server):
    """Once it has left a request without an answer, the engine asks no more."""

    def hang():
        server.mode = "hang"

    flow_of(hang)()
    asked = [path for mode, _, path in server.requests if mode == "hang"]
    assert len([path for path in asked if path.endswith("/set_state")]) <= 1
    with fake_prefect() as from_the_start, temporary_settings({PREFECT_API_URL: from_the_start.url}):
        from_the_start.mode = "hang"
        flow_of()()
    assert len({path for _, _, path in from_the_start.requests}) == 1


def test_a_server_that_comes_back_is_told_what_it_missed(server, caplog):
    with prefect_session() as session:

        def outage():
            server.mode = 503
            tell(create_markdown_artifact, "# meanwhile", key="meanwhile")
            wait_until(lambda: session.service.away)
            server.mode = "well"
            wait_until(lambda: "meanwhile" in server.artifacts)

        assert flow_of(outage)() == {"sum": 3}
        wait_until(lambda: "after" in server.artifacts)
    assert server.artifacts == ["before", "meanwhile", "after"]
    assert server.states == ["RUNNING", "COMPLETED"]
    assert len(warnings_of(caplog)) == 1


def test_a_connection_that_is_lost_once_is_no_failure(server, caplog, monkeypatch):
    monkeypatch.setattr(orchestrator, "SETTLE_S", 60.0)
    monkeypatch.setattr(orchestrator, "REQUEST_S", 60.0)

    def lose():
        server.lose_next = True

    assert flow_of(lose)() == {"sum": 3}
    assert server.artifacts == ["before", "after"]
    assert server.states == ["RUNNING", "COMPLETED"]
    assert warnings_of(caplog) == []


def test_a_refused_call_does_not_stop_the_others(server, caplog):
    reply = server.reply

    def refuse(method, path, body):
        return (422, {"detail": "no"}) if body and body.get("key") == "before" else reply(method, path, body)

    server.reply = refuse
    assert flow_of()() == {"sum": 3}
    assert server.artifacts == ["after"]
    assert server.states == ["RUNNING", "COMPLETED"]
    (warning,) = warnings_of(caplog)
    assert "refused a request (422 " in warning


def test_wrong_parameters_are_no_fault_of_the_server(server, caplog):
    server.mode = 500
    with pytest.raises(Exception, match="valid integer"):
        flow_of()(add="four")
    with pytest.raises(TypeError, match="surplus"):
        flow_of()(surplus=1)
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("mode", ["hang", "dead"])
def test_the_interpreter_ends_although_prefect_has_been_told_nothing(mode):
    """Prefect's threads would wait for their server, each event for minutes, when the interpreter ends."""
    program = Path(__file__).with_name("exiting.py")
    root = str(program.parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, str(program), mode],
        capture_output=True, text=True, timeout=100, check=False, cwd=root, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{mode}\n"


def wait_until(holds):
    from time import monotonic, sleep

    end = monotonic() + 60
    while not holds():
        assert monotonic() < end
        sleep(0.02)
