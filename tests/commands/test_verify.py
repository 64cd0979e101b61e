import json

import pytest
import typer

from longcat.artifact import Workspace
from longcat.commands.tools import verify
from longcat.errors import ConfigError
from tests.test_artifact import RECIPE, build


def test_every_finished_result_is_read(tmp_path, capsys):
    workspace = Workspace(tmp_path / "w")
    verify(workspace.path)
    assert capsys.readouterr().out == "there are no finished results\n"
    artifact = workspace.materialize(RECIPE, build)
    verify(workspace.path)
    assert f"{artifact.path}: 2 files are intact\n1 finished results, 0 damaged" in capsys.readouterr().out
    (artifact.path / "deep" / "a.bin").unlink()
    with pytest.raises(typer.Exit) as left:
        verify(workspace.path, as_json=True)
    assert left.value.exit_code == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["damaged"] == 1
    assert "a.bin is missing" in answer["artifacts"][0]["problem"]


def test_there_has_to_be_a_workspace(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        verify(tmp_path / "typo")
