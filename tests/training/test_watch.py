"""Who stands still, told from the signs of life of several processes, with a clock that the test turns."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings

import pytest

from longcat.config import load_config
from longcat.errors import StorageError
from longcat.parallel.axes import Degrees
from longcat.training import watch as module
from longcat.training.beat import Beat
from longcat.training.heartbeat import Heartbeat, _Collectives
from longcat.training.job import Job
from longcat.training.layout import ParallelLayout
from longcat.training.life import read_events, record_event
from longcat.training.watch import PATIENCE, RankStands, Watch
from tests.waiting import wait_until


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, _):
        pass


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class NoGroups:
    def __init__(self):
        self.groups, self.beside = {}, {}


def in_collective(heart, name, group="shard"):
    """Let a process wait in a collective for ever."""
    region = _Collectives(heart, NoGroups(), False)._region(None, name)
    region._group = group.encode()
    region.__enter__()
    return region


@pytest.fixture
def scene(tmp_path, clock):
    """Makes a watch and the hearts of its ranks, in the loop over steps; what they look like is the test's to say."""

    def make(ranks=2, timeout=10.0):
        watch = Watch(tmp_path, ranks, timeout)
        hearts = [Heartbeat(tmp_path, rank) for rank in range(ranks)]
        for heart in hearts:
            heart.started()
            heart.begin_step(7)
        return watch, hearts

    return make


def pass_time(watch, clock, seconds, *alive):
    for _ in range(int(seconds * 2)):
        clock.now += 0.5
        for heart in alive:
            heart.beat()
        watch.look()


def test_processes_that_move_are_left_alone(scene, clock):
    watch, hearts = scene()
    pass_time(watch, clock, 100, *hearts)


def test_the_one_that_stands_is_named_and_what_the_others_wait_for(scene, clock, tmp_path):
    watch, hearts = scene(3)
    pass_time(watch, clock, 5, *hearts)
    in_collective(hearts[0], "all_gather")
    in_collective(hearts[2], "all_gather")
    with hearts[1].region("longcat.compute"):
        hearts[1]._layer(1, True)
        with pytest.raises(RankStands) as told:
            pass_time(watch, clock, 30)
    said = str(told.value)
    assert "rank 1 " in said
    assert "step 7, compute (backward from layer 1)" in said
    assert "ranks 0, 2 wait in all_gather over shard" in said
    assert "\n" not in said
    [event] = read_events(tmp_path)
    assert (event["kind"], event["ranks"], event["step"]) == ("hang", [1], 7)
    assert event["waiting"] == {"0": "all_gather over shard", "2": "all_gather over shard"}
    assert (tmp_path / "stacks.txt").is_file()


def test_it_takes_the_time_that_was_asked_for(scene, clock):
    watch, hearts = scene(timeout=10.0)
    pass_time(watch, clock, 5, *hearts)
    pass_time(watch, clock, 9, hearts[0])
    with pytest.raises(RankStands, match=r"rank 1 .* still for 1\d s"):
        pass_time(watch, clock, 3, hearts[0])


@pytest.mark.parametrize("phase", ["data", "first step", "held-out loss", "checkpoint", "loading", "finish"])
def test_a_long_phase_is_no_hang_but_has_an_end(scene, clock, phase):
    watch, hearts = scene()
    in_collective(hearts[0], "barrier")
    with hearts[1].region(f"longcat.{phase}"), hearts[1].region("longcat.compute"):
        pass_time(watch, clock, 10 * (PATIENCE - 1))
        with pytest.raises(RankStands, match=f"rank 1 .* step 7, {phase}, compute.*rank 0 waits in barrier"):
            pass_time(watch, clock, 40)


def test_all_who_wait_for_one_another_are_told_by_the_one_that_is_behind(scene, clock):
    watch, hearts = scene()
    hearts[0].begin_step(8)
    in_collective(hearts[0], "all_reduce")
    in_collective(hearts[1], "all_to_all", "expert")
    with pytest.raises(
        RankStands, match=r"rank 1 .*waiting in all_to_all over expert.* step 7.*rank 0 waits in all_reduce"
    ):
        pass_time(watch, clock, 30)


def test_pauses_that_were_seen_before_are_no_hang(scene, clock):
    watch, hearts = scene()
    for _ in range(3):
        pass_time(watch, clock, 9)
        pass_time(watch, clock, 1, *hearts)
    pass_time(watch, clock, 20)
    with pytest.raises(RankStands):
        pass_time(watch, clock, 20)


def test_a_launcher_that_was_stopped_itself_blames_nobody(scene, clock):
    watch, hearts = scene()
    pass_time(watch, clock, 5, *hearts)
    clock.now += 3600
    watch.look()
    pass_time(watch, clock, 5, *hearts)


def test_processes_that_are_not_started_yet_are_waited_for(tmp_path, clock):
    watch = Watch(tmp_path, 2, 10.0)
    pass_time(watch, clock, 1000)
    heart = Heartbeat(tmp_path, 0)
    with pytest.raises(RankStands, match="rank 1 gave no sign of life"):
        pass_time(watch, clock, 1000, heart)


def test_files_of_an_earlier_attempt_say_nothing(tmp_path, clock):
    Heartbeat(tmp_path, 0).started()
    watch = Watch(tmp_path, 1, 10.0)
    assert Beat.read(tmp_path / "heartbeats" / "0") is None
    pass_time(watch, clock, 1000)


def test_no_time_limit_no_hang(scene, clock):
    watch, _ = scene(timeout=0)
    pass_time(watch, clock, 1000)


def test_events_are_told_at_once(scene, clock, tmp_path):
    record_event(tmp_path, "skip", step=1, in_a_row=1, loss=1.0, gradient_norm=1.0)  # of an earlier attempt
    watch, _ = scene()
    record_event(tmp_path, "skip", step=3, in_a_row=1, loss=float("nan"), gradient_norm=2.0)
    record_event(tmp_path, "skip", step=4, in_a_row=2, loss=float("nan"), gradient_norm=2.0)
    record_event(tmp_path, "rewind", step=4, to=0, batches=[0, 3])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.look()
        watch.look()
    said = [str(one.message) for one in caught]
    assert said == [
        "step 3 is skipped, as its loss (nan) or its gradients (norm 2) are not finite; nothing has moved",
        "training goes back from step 4 to step 0; batches 0 to 3 are passed over",
    ]


def test_a_process_that_is_stopped_before_it_gives_a_sign_of_life_is_found_as_soon(scene, clock):
    watch, hearts = scene(1)
    watch._ranks.append(type(watch._ranks[0])())  # rank 1 has not begun
    started = {**os.environ, "RANK": "1", "TORCHELASTIC_RUN_ID": "attempt-0"}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=started)
    try:
        pass_time(watch, clock, 20, *hearts)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(RankStands, match=r"rank 1 was stopped by a signal \(SIGSTOP\) 1\d s ago"):
            pass_time(watch, clock, 20, *hearts)
    finally:
        process.kill()
        process.wait()


PROCESS = """
import sys, time
from pathlib import Path
from longcat.training.heartbeat import Heartbeat

heart = Heartbeat(Path(sys.argv[1]), int(sys.argv[2]))
heart.started()
def stand_here():
    while True:
        time.sleep(0.01)
        if sys.argv[3] == "beats":
            heart.beat()
stand_here()
"""


@pytest.mark.parametrize("stopped", [True, False])
def test_a_real_process_is_found_shown_and_ended(tmp_path, stopped):
    watch = Watch(tmp_path, 1, 2.0)
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path), "0", "beats" if stopped else "stands"])
    try:
        beat = wait_until(
            lambda: (of := Beat.read(tmp_path / "heartbeats" / "0")) and of.phase == "between steps" and of, process
        )
        assert beat.pid == process.pid
        if stopped:
            os.kill(process.pid, signal.SIGSTOP)

        def found():
            try:
                watch.look()
            except RankStands as stands:
                return str(stands)
            return None

        said = wait_until(found)
        assert process.wait(60) == -signal.SIGKILL
    finally:
        process.kill()
    stacks = (tmp_path / "stacks.txt").read_text()
    if stopped:
        assert "was stopped by a signal (SIGSTOP)" in said
        assert "stopped, so it cannot write its stack" in stacks or "stand_here" in stacks  # py-spy can
    else:
        assert "in stand_here" in said
        assert "stand_here" in stacks


@pytest.mark.parametrize("of", ["heartbeats", "heartbeats/1", "heartbeats/stack-1.txt"])
def test_a_process_that_cannot_make_its_page_ends_with_one_line(tmp_path, of):
    place = tmp_path / of
    if of == "heartbeats":
        place.touch()
    else:
        place.mkdir(parents=True)
    with pytest.raises(
        StorageError, match=f"cannot make {tmp_path}/heartbeats/.*1.*signs of life: .*(directory|exists)"
    ) as told:
        Heartbeat(tmp_path, 1)
    assert told.value.exit_code == 2
    assert "\n" not in str(told.value)


def test_a_page_needs_room_on_the_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match="heartbeats/0, .*No space left on device"):
        Heartbeat(tmp_path, 0)


def test_a_training_process_without_a_page_says_so(tmp_path):
    (tmp_path / "heartbeats").touch()
    config = load_config("smoke").model_dump(mode="json")
    job = Job(config, ParallelLayout("cpu", Degrees(1), "fp32"), "tokens", str(tmp_path)).write()
    done = subprocess.run(
        [sys.executable, "-c", "from longcat.training.worker import run; run(print)", str(job)],
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "1"},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 1
    report = json.loads((tmp_path / "error-0.json").read_text())
    assert report["expected"]
    assert report["type"] == "StorageError"
    assert "signs of life" in report["message"]
