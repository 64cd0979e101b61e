"""The pre-training stage around the processes that train."""

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.training import stage
from longcat.training.job import RESULT


class Killed(BaseException):
    """What a signal would do."""


def test_a_faster_folder_that_killed_processes_have_left_is_removed(
    smoke_settings, smoke_tokens, tmp_path, monkeypatch
):
    config = load_config("smoke", None, [*smoke_settings, f"training.checkpoint_local={tmp_path / 'fast'}"])
    workspace, left = Workspace(smoke_tokens), []

    def trained(_module, job, *_):
        left.append(job.local_folder / "step-00000024")
        left[-1].mkdir(parents=True)
        with (workspace.half_made()[0] / RESULT).open("w"):
            pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(stage, "supervise", trained)
    monkeypatch.setattr(stage, "remove", killed)
    tokens = preprocess(config, workspace=workspace)
    with pytest.raises(Killed):
        stage.pretrain(config, tokens, workspace=workspace)
    assert left[0].is_dir()
    monkeypatch.undo()
    monkeypatch.setattr(stage, "state_reader", killed)
    with pytest.raises(Killed):
        stage.pretrain(config, tokens, workspace=workspace)
    assert len(left) == 1
    assert not left[0].parent.exists()
