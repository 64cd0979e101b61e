"""How an attempt fares on its nodes."""

import json
import re
from dataclasses import asdict

import pytest

from longcat.errors import DeviceError, StorageError
from longcat.processes.orders import Death, Outcome
from longcat.processes.verdict import judge
from longcat.training.attempt import Attempt, loss_of
from tests.training.nodes import node


def watching(*members):
    return Attempt(members, attempt=3)


def ended(member, outcome, attempt=3):
    values = {"code": outcome.code, "deaths": [], "signal": outcome.signal}
    member.inbox.put({"word": "ended", "outcome": values, "attempt": attempt})


def test_the_end_of_another_attempt_is_none():
    one, other = node("a"), node("b")
    watch = watching(one, other)
    ended(one, Outcome(1), attempt=2)
    assert watch.running() == [one, other]
    ended(one, Outcome(0))
    assert watch.running() == [other]
    assert not watch.failed()
    ended(other, Outcome(1, signal=9))
    assert watch.running() == []
    assert watch.failed()


def test_the_first_failure_may_be_told_last(tmp_path):
    one, other = node("a"), node("b")
    watch = watching(one, other)
    ended(one, Outcome(1))
    assert watch.running() == [other]
    other.inbox.put(
        {"word": "ended", "attempt": 3, "outcome": asdict(Outcome(1, (Death(1, -9, 0, " (out of memory?)"),)))}
    )
    watch.listen(60)
    failure = judge(tmp_path, watch.outcomes, tmp_path)
    assert "rank 1 on node b was killed by SIGKILL (out of memory?)" in str(failure)


def test_a_lost_node(tmp_path):
    one, other = node("a"), node("b")
    watch = watching(one, other)
    other.lost = "power"
    assert watch.running() == [one]
    assert watch.failed()
    assert "node b was lost (power); see" in str(loss_of(watch, tmp_path))


def test_a_node_that_does_not_end_its_processes_is_lost():
    one = node("a")
    watch = watching(one)
    watch.stop(0.1)
    assert [message["word"] for message in one.channel.heard] == ["stop", "closed"]
    assert watch.lost == {"a": "its processes did not end within 0.1 s"}


@pytest.mark.parametrize(
    ("problem", "kind", "message"),
    [
        ("no way to the launcher", DeviceError, "^node b: no way to the launcher$"),
        ("[Errno 28] No space left on device", StorageError, "no space left"),
    ],
)
def test_a_node_that_could_not_start_is_named_before_those_that_have_failed_of_it(tmp_path, problem, kind, message):
    outcomes = {"a": Outcome(1, (Death(0, -6, 0),)), "b": Outcome(1, problem=problem)}
    failure = judge(tmp_path, outcomes, tmp_path)
    assert type(failure) is kind
    assert re.search(message, str(failure))


@pytest.mark.parametrize(("type_", "named"), [("DeviceError", True), ("StorageError", True), ("DataError", False)])
def test_what_a_machine_lacks_is_told_with_its_name(tmp_path, type_, named):
    report = {"time": 1.0, "rank": 1, "type": type_, "message": "no device 7", "expected": True}
    (tmp_path / "error-1.json").write_text(json.dumps(report))
    outcomes = {"a": Outcome(1, (Death(0, -15, 0),)), "b": Outcome(1, (Death(1, 1, 0),))}
    failure = judge(tmp_path, outcomes, tmp_path)
    assert str(failure) == ("node b: no device 7" if named else "no device 7")
    assert failure.exit_code == 2
    assert str(judge(tmp_path, {"": outcomes["b"]}, tmp_path)) == "no device 7"
