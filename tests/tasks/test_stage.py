"""The wrapper of stages: what is warned of is said when it happens, even if the stage fails then."""

import contextlib
import logging
import warnings
from types import SimpleNamespace

import pytest

from longcat.errors import Cancelled
from longcat.progress import Progress, progress_listener
from longcat.tasks import stage
from longcat.tasks.stage import run_stage
from tests.waiting import wait_until


@pytest.fixture
def tracker():
    run = SimpleNamespace(set_tags=lambda _tags: None, watch_machine=lambda _folder: contextlib.nullcontext())
    return SimpleNamespace(stage=lambda _name: contextlib.nullcontext(run), workspace=SimpleNamespace(path=None))


def test_a_warning_is_said_while_the_stage_runs(tracker, caplog, monkeypatch):
    monkeypatch.setattr("longcat.tasks.stage.run_logger", lambda: logging.getLogger("longcat"))
    said = []

    def work(_report, _run):
        warnings.warn("step 3 is skipped", stacklevel=1)
        warnings.warn("of a library", DeprecationWarning, stacklevel=1)
        said.extend(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
        raise ValueError("and then it fails")

    show = warnings.showwarning
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="fails"):
        run_stage("words", tracker, work, lambda *_: None)
    assert said == ["step 3 is skipped"]
    assert warnings.showwarning is show


@pytest.fixture
def artifacts(monkeypatch):
    """What Prefect's progress artifact was told, as (percent, description)."""
    told = []
    monkeypatch.setattr(
        stage, "create_progress_artifact", lambda percent, **of: told.append((percent, of["description"]))
    )
    monkeypatch.setattr(
        stage, "update_progress_artifact", lambda _, percent, **of: told.append((percent, of["description"]))
    )
    monkeypatch.setattr(
        stage.TaskRunContext, "get", lambda: SimpleNamespace(task_run=SimpleNamespace(flow_run_id=None))
    )
    return told


def reporter():
    at_once = SimpleNamespace(cancelling=False, tell=lambda call, *of: call(*of), mention=lambda call, *of: call(*of))
    return stage._Reporter("pretrain", at_once)


def test_progress_ends_at_all_of_it_and_says_what_was_made(artifacts, caplog):
    report, heard = reporter(), []
    made = SimpleNamespace(cached=False, path="/w/checkpoint/d", facts=SimpleNamespace(headline="loss 3.5"))
    with caplog.at_level(logging.INFO), progress_listener(heard.append):
        for step in range(5):
            report(Progress("pretrain", step, 10, f"step {step}"))
        report.finish(made)
    assert artifacts[0] == (0.0, "pretrain: step 0")
    assert artifacts[-1] == (100.0, "pretrain: loss 3.5")
    assert heard[-1] == Progress("pretrain", 1, 1, "loss 3.5")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["pretrain: step 0", "pretrain: loss 3.5; /w/checkpoint/d"]
    made.cached = True
    report.finish(made)
    assert artifacts[-1] == (100.0, "pretrain: reused: loss 3.5")


@pytest.mark.parametrize(
    ("error", "word"),
    [(ValueError("odd\nand more"), "failed"), (Cancelled("enough"), "stopped"), (KeyboardInterrupt(), "stopped")],
)
def test_progress_ends_at_what_failed(artifacts, error, word):
    report = reporter()
    report(Progress("pretrain", 3, 10, "step 3"))
    report.fail(error)
    percent, text = artifacts[-1]
    assert percent == 30.0
    assert text.startswith(f"pretrain: {word} at 30%, step 3: ")
    assert text.split(": ")[-1] in ("odd", "enough", "KeyboardInterrupt")


def test_a_line_comes_at_every_interval(artifacts, caplog, monkeypatch):
    report, now = reporter(), [0.0]
    monkeypatch.setattr(stage.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO):
        for step in range(35):
            now[0] = float(step)
            report(Progress("pretrain", step, 35, f"step {step}"))
    assert [record.getMessage() for record in caplog.records] == [f"pretrain: step {step}" for step in (0, 11, 22, 33)]


def test_a_stage_that_fails_says_so_in_its_artifact(tracker, artifacts):
    def work(report, _run):
        report(Progress("words", 1, 4, "reading"))
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        run_stage("words", tracker, work, lambda *_: None)
    wait_until(lambda: len(artifacts) == 2)
    assert artifacts[-1] == (25.0, "words: failed at 25%, reading: odd")
