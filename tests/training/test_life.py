"""The life of a run: what is written down, and what can be read whatever a crash left."""

import json
import multiprocessing
from pathlib import Path

from longcat.training.life import read_events, record_event


def test_events_are_read_as_they_were_written(tmp_path):
    assert read_events(tmp_path) == []
    record_event(tmp_path, "start", attempt=0, processes=2)
    record_event(tmp_path, "skip", step=3, loss=float("nan"), where=[Path("/x"), float("inf")])
    start, skip = read_events(tmp_path)
    assert (start["kind"], start["processes"]) == ("start", 2)
    assert (skip["step"], skip["loss"], skip["where"]) == (3, "nan", ["/x", "inf"])
    assert start["time"] <= skip["time"]
    for line in (tmp_path / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


def test_a_line_that_was_cut_short_costs_only_itself(tmp_path):
    record_event(tmp_path, "start")
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1.0, "kind": "sa')
    record_event(tmp_path, "save", step=5)
    assert [event["kind"] for event in read_events(tmp_path)] == ["start", "save"]


def test_what_is_no_event_is_left_out(tmp_path):
    (tmp_path / "events.jsonl").write_bytes(b'[1]\n{"kind": "start"}\n{"time": 1.5, "kind": "party"}\n\xff\xfe\n\n')
    assert read_events(tmp_path) == []


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    record_event(tmp_path / "gone", "start")
    (tmp_path / "events.jsonl").mkdir()
    record_event(tmp_path, "start")
    assert read_events(tmp_path / "gone") == []


def many(directory):
    for number in range(200):
        record_event(directory, "save", step=number)


def test_processes_that_write_at_once_do_not_mix_their_lines(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=many, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert len(read_events(tmp_path)) == 400
