"""The parts of a step, on traces made by hand and on one of a real profiler."""

import gzip
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat import unpacking
from longcat.accelerator import choose
from longcat.benchmark.breakdown import (
    DATA,
    OPTIMIZER,
    PARTS,
    STEP,
    breakdown,
    intersection,
    length,
    read_trace,
    union,
)
from longcat.errors import DataError

TIME = st.integers(0, 60)
INTERVALS = st.lists(st.tuples(TIME, TIME).map(sorted).map(tuple), max_size=8)


def event(name, begin, end, kind):
    return {"ph": "X", "name": name, "cat": kind, "ts": begin * 1e6, "dur": (end - begin) * 1e6}


def seconds(intervals):
    """The oracle: whole seconds, one by one."""
    return {second for begin, end in intervals for second in range(begin, end)}


@settings(deadline=None)
@given(INTERVALS, INTERVALS)
def test_intervals_are_sets_of_time(some, others):
    merged = union(some)
    assert seconds(merged) == seconds(some)
    assert length(merged) == len(seconds(some))
    assert seconds(intersection(merged, union(others))) == seconds(some) & seconds(others)


@settings(deadline=None)
@given(INTERVALS, INTERVALS, INTERVALS, INTERVALS, st.booleans())
def test_every_moment_belongs_to_one_part(computed, exchanged, updating, waiting, on_device):
    compute, exchange = ("kernel", "kernel") if on_device else ("cpu_op", "user_annotation")
    collective = "ncclDevKernel_AllReduce" if on_device else "gloo:all_reduce"
    annotation = "gpu_user_annotation" if on_device else "user_annotation"
    events = [event(STEP, 0, 30, "user_annotation"), event(STEP, 30, 50, "user_annotation")]
    events += [event("aten::mm", *one, compute) for one in [*computed, (1, 2)]]
    events += [event(collective, *one, exchange) for one in exchanged]
    events += [event(OPTIMIZER, *one, annotation) for one in updating]
    events += [event(DATA, *one, "user_annotation") for one in waiting]
    found = breakdown(events)

    inside = set(range(50))
    c, m, o, d = (
        seconds(i) & inside for i in (union([*computed, (1, 2)]), union(exchanged), union(updating), union(waiting))
    )
    expected = {
        "data_wait": d,
        "exposed_communication": m - c - d,
        "optimizer": (c & o) - d,
        "compute": c - o - d,
        "other": inside - c - m - d,
    }
    assert found.step_seconds == pytest.approx(25)
    assert sum(found.parts.values()) == pytest.approx(25)
    assert found.hidden_communication == pytest.approx(len(c & m) / 2)
    for name in PARTS:
        assert found.parts[name] == pytest.approx(len(expected[name]) / 2)


def test_the_hosts_launch_of_a_collective_is_none_on_a_device():
    events = [
        event(STEP, 0, 10, "user_annotation"), event("c10d::allreduce_", 0, 5, "cpu_op"),
        event("ncclDevKernel_AllReduce", 6, 8, "kernel"), event("gemm", 0, 7, "kernel"),
        event("aten::mm", 8, 10, "cpu_op"),
    ]  # fmt: skip
    parts = breakdown(events).parts
    assert parts["exposed_communication"] == pytest.approx(1)
    assert parts["compute"] == pytest.approx(7)


def test_a_real_trace(tmp_path):
    with choose("cpu").profiler() as profiler:
        for _ in range(3):
            with torch.profiler.record_function(STEP):
                a = torch.randn(300, 300)
                with torch.profiler.record_function(OPTIMIZER):
                    a @ a
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    (tmp_path / "trace.json.gz").write_bytes(gzip.compress((tmp_path / "trace.json").read_bytes()))
    found = breakdown(read_trace(tmp_path / "trace.json"))
    assert found == breakdown(read_trace(tmp_path / "trace.json.gz"))
    assert found.steps == 3
    assert 0 < found.parts["optimizer"] < found.step_seconds
    assert sum(found.parts.values()) == pytest.approx(found.step_seconds)


@pytest.mark.parametrize(
    ("events", "message"),
    [([], "has no annotation 'longcat.step'"), ([event(STEP, 0, 1, "user_annotation")], "no computing")],
)
def test_a_trace_without_steps_or_computing(events, message):
    with pytest.raises(DataError, match=message):
        breakdown(events)


def test_a_file_that_is_no_trace(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"events": []}))
    with pytest.raises(DataError, match="is not a Chrome trace"):
        read_trace(tmp_path / "a.json")


def test_a_compressed_trace_is_no_bomb_and_no_ruin(tmp_path, monkeypatch):
    path = tmp_path / "trace.json.gz"
    whole = gzip.compress(b'{"traceEvents": [{"ph": "X"}]}')
    path.write_bytes(whole)
    assert read_trace(path) == [{"ph": "X"}]
    for damaged in (
        whole[:-10],
        whole[:12] + b"\xff\xff" + whole[14:],
        gzip.compress(b"[" * 100_000),
        gzip.compress(b"3"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is not a Chrome trace"):
            read_trace(path)
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 20)
    path.write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 250 times its size"):
        read_trace(path)
