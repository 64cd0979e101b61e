"""The wrapper of stages: what is warned of is said when it happens, even if the stage fails then."""

import contextlib
import logging
import warnings
from types import SimpleNamespace

import pytest

from tasks.stage import run_stage


@pytest.fixture
def tracker():
    return SimpleNamespace(stage=lambda _name: contextlib.nullcontext(SimpleNamespace()))


def test_a_warning_is_said_while_the_stage_runs(tracker, caplog, monkeypatch):
    monkeypatch.setattr("tasks.stage.run_logger", lambda: logging.getLogger("longcat"))
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
