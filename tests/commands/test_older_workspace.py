"""A workspace of an older version: what can be shown is shown, and what cannot be used is told in a line."""

import json
import subprocess
import sys

import pytest

from longcat.artifact import Facts, Recipe, Workspace, read_manifest
from longcat.errors import ArtifactError


class Old(Facts):
    old_key: int = 1

    @property
    def headline(self):
        return "old"

    @property
    def figures(self):
        return {}


class New(Facts):
    @property
    def headline(self):
        return "new"

    @property
    def figures(self):
        return {}


@pytest.fixture
def workspace(tmp_path):
    """One result whose manifest has a key that is no more, and none of those that came later; an older summary."""
    space = Workspace(tmp_path)

    def build(directory):
        (directory / "data").write_text("x")
        return Old()

    made = space.materialize(Recipe(kind="tokens", facts=Old, version=1, identity={}, sources=()), build)
    manifest = made.path / "manifest.json"
    told = json.loads(manifest.read_text())
    for name in ("git_commit", "seconds", "headline"):
        told.pop(name, None)
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(told))
    (tmp_path / "summary.json").write_text(json.dumps({"stages": [{"stage": "preprocess", "key_figure": "old"}]}))
    return tmp_path, made


@pytest.mark.parametrize("command", [["ls"], ["gc"], ["clean"], ["verify"], ["sync"], ["show", "DIGEST"]])
def test_commands_that_list_go_on(longcat, workspace, command):
    path, made = workspace
    answer = longcat(*[made.digest if word == "DIGEST" else word for word in command], "--workspace", path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert made.path.is_dir()


def test_facts_of_another_version_are_told_in_a_line(workspace):
    _, made = workspace
    with pytest.raises(ArtifactError) as told:
        read_manifest(made.path, New)
    text = str(told.value)
    assert "of another version of longcat (facts.old_key: " in text and "delete" in text and "\n" not in text


@pytest.mark.parametrize("command", ["gc", "rm", "sync", "preprocess"])
def test_who_would_write_beside_another_is_refused(workspace, command):
    path, made = workspace
    arguments = {"gc": ["--yes"], "rm": [made.digest], "preprocess": ["-p", "smoke"]}.get(command, [])
    with Workspace(path).lease():
        answer = subprocess.run(
            [sys.executable, "-m", "longcat", command, *arguments, "--workspace", str(path)],
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip
    assert answer.returncode == 2 and "is in use by process" in answer.stderr
