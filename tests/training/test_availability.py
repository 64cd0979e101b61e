"""How much of a run's life went into steps that count, and its picture."""

import json

import pytest

from longcat.training.availability import Interval, life_of
from longcat.training.life import CheckpointFolder, record_event
from longcat.training.life_picture import plot_life


def event(time, kind, **facts):
    return {"time": float(time), "kind": kind, **facts}


def records(*times):
    return [{"step": number, "time": float(time), "attempt": 0} for number, time in enumerate(times, 1)]


def test_an_undisturbed_run_is_always_available():
    life = life_of([event(100, "start"), event(105, "save"), event(111, "end")], records(*range(101, 111)))
    assert (life.seconds, life.lost_seconds, life.availability_percent) == (10.0, 0.0, 100.0)
    assert life.counts == {"start": 1, "save": 1, "end": 1}
    assert life.figures["life/availability_percent"] == 100.0
    assert life.figures["life/save_events"] == 1


def test_what_lies_between_a_failure_and_the_same_step_again_is_lost():
    """A step a second; after step 5 a checkpoint of step 3, 20 s without training, and steps 4 and 5 again."""
    kept = records(101, 102, 103, 124, 125, 126)
    life = life_of([event(100, "start"), event(105, "hang"), event(123, "start")], kept)
    assert life.intervals == (Interval("lost", 104.0, 124.0),)
    assert life.seconds == 26.0
    assert life.availability_percent == pytest.approx(100 * 6 / 26)


def test_going_back_is_lost_and_being_stopped_is_no_part_of_the_life():
    happened = [event(100, "start"), event(104.5, "rewind"), event(108, "stop"), event(1000, "start")]
    life = life_of(happened, records(101, 102, 105, 106, 107, 1001, 1002))
    assert life.intervals == (
        Interval("lost", 103.0, 105.0),
        Interval("paused", 108.0, 1000.0),
        Interval("lost", 1000.0, 1001.0),
    )
    assert life.seconds == 902 - 892


def test_a_stop_in_the_middle_of_the_loss():
    life = life_of([event(100, "start"), event(110, "stop"), event(200, "start")], records(101, 102, 103, 201))
    assert life.intervals == (
        Interval("lost", 104.0, 110.0),
        Interval("paused", 110.0, 200.0),
        Interval("lost", 200.0, 201.0),
    )


def test_runs_without_a_start_or_a_record_have_no_life():
    assert life_of([], records(1)) is None
    assert life_of([event(1, "start")], []) is None
    assert life_of([event(100, "start")], records(1, 2)) is None  # records of the run before alone
    assert life_of([event(100, "start")], records(1, 2, 101, 102)).seconds == 2


def test_the_picture_shows_every_kind_that_happened(tmp_path, monkeypatch):
    plot_life(tmp_path, records(1), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    for time, kind in ((100, "start"), (103, "save"), (105, "hang"), (106, "restart"), (123, "start"), (126, "end")):
        record_event(tmp_path, kind)
        path = CheckpointFolder(tmp_path).events
        lines = path.read_text().splitlines()
        lines[-1] = json.dumps({**json.loads(lines[-1]), "time": float(time)})
        path.write_text("\n".join(lines) + "\n")
    said = []
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    label, title = Axes.set_yticks, Figure.suptitle
    monkeypatch.setattr(
        Axes, "set_yticks", lambda axes, *given, **named: said.extend(given[1]) or label(axes, *given, **named)
    )
    monkeypatch.setattr(
        Figure, "suptitle", lambda figure, text, **named: said.append(text) or title(figure, text, **named)
    )
    plot_life(tmp_path, records(101, 102, 103, 124, 125, 126), tmp_path / "life.png")
    assert said == [
        "start (2)", "save (1)", "hang (1)", "restart (1)", "end (1)",
        "23.08 % available: 20 of 26 seconds lost",
    ]  # fmt: skip
    assert (tmp_path / "life.png").read_bytes().startswith(b"\x89PNG")
