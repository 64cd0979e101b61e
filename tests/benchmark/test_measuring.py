"""Steps with and without the profiler take turns, and their traces become one."""

import itertools
import json
import time
from pathlib import Path

import pytest
import torch

from longcat.accelerator import choose
from longcat.benchmark.breakdown import STEP, read_trace
from longcat.benchmark.measuring import TRACE, profile
from longcat.parallel.axes import Degrees
from longcat.parallel.mesh import join, leave
from longcat.processes.child import free_port


@pytest.fixture
def one_process(monkeypatch):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    yield join(choose("cpu"), Degrees(), timeout_s=60)
    leave()


class Recording:
    """A profiler that says whether it runs."""

    running = False

    def __init__(self, inner):
        self.inner, self.export_chrome_trace = inner, inner.export_chrome_trace

    def __enter__(self):
        self.inner.__enter__()
        Recording.running = True

    def __exit__(self, *error):
        Recording.running = False
        self.inner.__exit__(*error)


class Watched:
    """A CPU whose profilers are watched."""

    synchronize = choose("cpu").synchronize

    def profiler(self):
        return Recording(choose("cpu").profiler())


def test_plain_and_profiled_steps_take_turns(one_process, tmp_path):
    numbers, watched, here = [], [], Path.cwd()

    def step(number):
        numbers.append(number)
        watched.append(Recording.running)
        torch.ones(8, 8) @ torch.ones(8, 8)
        time.sleep(0.002)

    found = profile(step, 10, 3, Watched(), tmp_path, one_process)
    assert numbers == list(range(10, 18)), "each batch once"
    assert watched == [True, False] * 4, "each profiled step but the first lies between two plain ones"
    assert len(found["plain_seconds"]) == 4
    assert len(found["profiled_seconds"]) == found["steps"] == 3
    assert min(found["plain_seconds"] + found["profiled_seconds"]) > 0.002
    assert found["step_seconds"] == pytest.approx(sum(found["parts"].values()))
    steps = [event for event in read_trace(tmp_path / TRACE) if event.get("name") == STEP]
    assert len(steps) == 3
    ends = [(event["ts"], event["ts"] + event["dur"]) for event in steps]
    assert all(one[1] < two[0] for one, two in itertools.pairwise(ends)), "one after another in one trace"
    assert [path.name for path in tmp_path.iterdir()] == [TRACE], "no other trace is left"
    assert Path.cwd() == here


def test_a_profiler_that_recorded_nothing_gives_no_breakdown(one_process, tmp_path):
    class Blind:
        def synchronize(self):
            pass

        def profiler(self):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def export_chrome_trace(self, path):
            Path(path).write_text(json.dumps({"traceEvents": []}))

    assert profile(lambda number: None, 0, 1, Blind(), tmp_path, one_process) is None
