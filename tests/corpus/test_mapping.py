import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.corpus.blocks import FileBlock, FileSlice, stamp
from longcat.corpus.mapping import in_order, processes
from longcat.errors import DataError
from longcat.processes.pool import WorkLostError, WorkNotFoundError
from tests.waiting import all_gone, wait_until


def square(number):
    return number * number


def slower_for_small(number):
    time.sleep(0.02 * (10 - number))
    return number, os.getpid()


def fail_at_three(number):
    if number == 3:
        raise DataError("record 3: broken")
    return number


def die_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def finished(result):
    future = Future()
    future.set_result(result)
    return future


@given(st.lists(st.integers()), st.integers(1, 9))
def test_no_more_than_pending_are_under_way(items, pending):
    started, results = [], []

    def submit(item):
        started.append(item)
        return finished(item)

    for result in in_order(submit, items, pending):
        results.append(result)
        assert len(started) - len(results) < pending
    assert results == started == items


def test_results_come_in_the_order_of_the_items_from_several_processes():
    before = psutil.Process().children(recursive=True)
    with processes(2) as mapper:
        found = list(mapper(slower_for_small, range(10)))
        assert [number for number, _ in found] == list(range(10))
        assert 1 <= len({process for _, process in found} - {os.getpid()}) <= 2
        assert os.getpid() not in {process for _, process in found}
        assert list(mapper(square, range(5))) == [0, 1, 4, 9, 16]  # the same processes again
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert all("resource_tracker" in " ".join(child.cmdline()) for child in left)


@pytest.mark.parametrize(("count", "items"), [(1, [1, 2, 3]), (3, [4]), (3, [])])
def test_little_work_is_done_here(count, items):
    with processes(count) as mapper:
        assert list(mapper(lambda item: (item, os.getpid()), items)) == [(item, os.getpid()) for item in items]


def test_items_are_taken_as_they_are_needed():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with processes(2) as mapper:
        results = mapper(square, items())
        assert taken == []
        assert next(results) == 0
        assert len(taken) <= 6
        results.close()


def write_slowly(path):
    time.sleep(0.5)
    path.write_text("late")
    return path


def test_nothing_is_written_after_whoever_asked_has_gone(tmp_path):
    """Else what is left out of a finished artifact could be written beside it."""
    with processes(2) as mapper:
        results = mapper(write_slowly, (tmp_path / str(number) for number in range(100)))
        next(results)
        results.close()
        there = sorted(tmp_path.iterdir())
        time.sleep(1)
        assert sorted(tmp_path.iterdir()) == there


def test_what_a_function_raises_arrives_after_the_results_before_it():
    with processes(2) as mapper:
        results = mapper(fail_at_three, range(20))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match="record 3: broken"):
            next(results)
        assert list(mapper(square, range(3))) == [0, 1, 4]


def test_an_item_that_kills_its_process_twice_is_named_and_the_others_go_on():
    with processes(2) as mapper:
        for _ in range(2):
            with (
                pytest.warns(UserWarning, match=r"worker process \d+ was killed by SIGKILL \(.*\) in 3; another one"),
                pytest.raises(
                    WorkLostError, match=r"worker process \d+ was killed by SIGKILL \(.*\) in 3, .*run again"
                ),
            ):
                list(mapper(die_at_three, range(6)))
        assert list(mapper(square, range(3))) == [0, 1, 4]


class Awkward(Exception):
    """Cannot be made of its text alone."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def raise_awkward(number):
    raise Awkward(number, "more")


def test_what_a_function_raises_is_told_even_if_it_cannot_travel():
    with processes(2) as mapper, pytest.raises(RuntimeError, match="Awkward: 0 and more") as told:
        list(mapper(raise_awkward, range(3)))
    assert "in raise_awkward" in str(told.value.__cause__)


def test_work_that_a_process_cannot_load_is_told_as_that(tmp_path, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def work(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with (
        processes(2) as mapper,
        pytest.raises(WorkNotFoundError, match="cannot load .*ModuleNotFoundError: No module named 'only_here'"),
    ):
        list(mapper(module.work, range(3)))
    (tmp_path / "found_there.py").write_text("def work(item): return -item")
    monkeypatch.syspath_prepend(tmp_path)
    import found_there

    with processes(2) as mapper:
        assert list(mapper(found_there.work, range(3))) == [0, -1, -2]


def once(folder, what):
    """Do something to this process, but only in the first one that comes here."""
    try:
        (folder / "done").mkdir()
    except FileExistsError:
        return
    what()


def lose_one(task):
    folder, number, how = task
    if number == 3:
        once(folder, {"killed": kill_oneself, "stopped": stop_oneself, "sleeps": sleep_long, "quits": quit_here}[how])
    return number


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_oneself():
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep_long():
    time.sleep(3600)


def quit_here():
    os._exit(3)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("killed", r"was killed by SIGKILL \(.*\)"),
        ("quits", "ended with exit code 3"),
        ("stopped", r"was stopped by a signal \(SIGSTOP\) \d+ s ago"),
        ("sleeps", r"has used no processor time for \d+ s"),
    ],
)
def test_what_a_lost_process_was_at_is_done_by_another_one(tmp_path, how, said):
    limit_s = 0.3 if how == "sleeps" else 2  # ten times as long without processor time
    tasks = [(tmp_path, number, how) for number in range(6)]
    with processes(2, limit_s) as mapper, pytest.warns(UserWarning, match=rf"worker process \d+ {said} in .*another"):
        assert list(mapper(lose_one, tasks)) == list(range(6))


def test_a_process_that_was_stopped_while_it_had_nothing_to_do_is_replaced():
    with processes(2, 1) as mapper:
        assert list(mapper(square, range(4))) == [0, 1, 4, 9]
        workers = [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
        for one in workers:
            one.suspend()
        with pytest.warns(UserWarning, match="SIGSTOP"):
            assert list(mapper(square, range(4))) == [0, 1, 4, 9]


def die_of_poison(block):
    for record in block.records(["utf-8"], 10**6):
        if record == "poison":
            kill_oneself()
    return True


@pytest.mark.parametrize("begin", [0, 1])
def test_the_file_and_the_line_that_kill_are_named(tmp_path, begin):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "good"}), "", json.dumps({"text": "good"}), json.dumps({"text": "poison"})]
    path.write_text("\n".join([*lines, lines[0]]))
    good = tmp_path / "b.jsonl"
    good.write_text(lines[0])
    blocks = [FileBlock((FileSlice(of, stamp(of), start),), "text") for of, start in ((path, begin), (good, 0))]
    with (
        processes(2) as mapper,
        pytest.warns(UserWarning, match=f"{path}, line 4"),
        pytest.raises(WorkLostError, match=f"{path}, line 4"),
    ):
        list(mapper(die_of_poison, blocks))


SLEEPER = """
import sys
from longcat.corpus.mapping import processes
from noting import note

with processes(2) as mapper:
    list(mapper(note, [sys.argv[1]] * 4))
"""
NOTING = """
import os, time

def note(folder):
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_do_not_outlive_their_parent(tmp_path, number):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "noting.py").write_text(NOTING)
    (tmp_path / "pids").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "sleeper.py"), str(tmp_path / "pids")]
    parent = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: len(list((tmp_path / "pids").iterdir())) >= 2, parent)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
    finally:
        parent.send_signal(number)
        parent.wait()
    assert all_gone(children)


def test_work_can_be_done_in_a_thread():
    found = []

    def work():
        with processes(2) as mapper:
            found.extend(mapper(square, range(4)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0, 1, 4, 9]
