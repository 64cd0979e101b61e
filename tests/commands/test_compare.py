"""`longcat compare`, as a user has it."""

import json

import pytest

from longcat.commands.compare import compare
from longcat.errors import ConfigError, UserError
from tests.inventory.making import grown


def test_a_comparison_is_printed_written_and_given_as_json(tmp_path, capsys):
    space, made = grown(tmp_path / "w")
    before = sorted(space.path.rglob("*"))
    compare(made["first"].digest[:8], made["second"].digest[:8], space.path)
    text = capsys.readouterr().out
    assert "not the same: checkpoint" in text
    page = tmp_path / "page.html"
    compare(made["first"].digest[:8], str(made["second"].path), space.path, html=page, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {row["kind"]: row["same_digest"] for row in found["bytes"]}["tokens"]
    assert page.read_text().startswith("<!doctype html>")
    assert sorted(space.path.rglob("*")) == before


def test_what_is_missing_is_told(tmp_path):
    space, made = grown(tmp_path / "w")
    digest = made["first"].digest
    with pytest.raises(ConfigError, match="there is no workspace to look for it in; name one by --workspace"):
        compare(digest, digest, tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
    with pytest.raises(UserError, match="--html .*there is no folder"):
        compare(digest, digest, space.path, html=tmp_path / "typo/page.html")


def test_folders_need_no_workspace(tmp_path, capsys, monkeypatch):
    _, made = grown(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    compare(str(made["first"].path), str(made["first"].path))
    assert "The same to the last byte: documents, tokens, checkpoint, evaluation." in capsys.readouterr().out
    assert not (tmp_path / "workspace").exists()
