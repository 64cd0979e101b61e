"""`longcat ls`, `show`, `pin`, `unpin`, `rm` and `gc`, as a user has them."""

import json
import subprocess
import sys

import pytest
from rich.console import Console

from longcat.artifact import Workspace
from longcat.commands import workspace as commands
from longcat.errors import ConfigError
from longcat.evaluation.decisions import decisions_path
from longcat.tracking.journal import Journal, Sent
from tests.inventory.making import grown, half_made, make, name


@pytest.fixture
def workspace(tmp_path):
    return grown(tmp_path / "w")


def answer(capsys, command, *arguments, **options):
    command(*arguments, as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def crown(space, checkpoint, evaluation):
    path = decisions_path(space.path, "m")
    path.parent.mkdir()
    decision = dict(model="m", checkpoint=checkpoint.digest, evaluation=evaluation.digest, promoted=True, decided=1.0)
    path.write_text(json.dumps([decision | {"passed": [], "failed": [], "scores": {}, "measured": {}}]))


def test_a_list_says_what_is_kept_and_why(workspace, capsys):
    space, made = workspace
    crown(space, made["first"], made["scores of first"])
    commands.pin([made["scores of second"].digest[:8]], space.path)
    half = half_made(space, "benchmark", "0123", [made["second"]])
    make(space, "comparison", 9)
    capsys.readouterr()
    found = answer(capsys, commands.ls, space.path)
    rows = {f"{row['kind']}/{row['digest']}": row for row in found["results"]}
    assert found["in_use_by"] is None
    assert rows[name(made["first"])]["kept"] == "the champion of m"
    assert rows[name(made["first"])]["champion"]
    assert rows[name(made["scores of first"])]["kept"] == "what the champion of m was chosen by"
    assert rows[name(made["scores of second"])]["pinned"]
    assert rows[name(made["second"])]["kept"].endswith("is made from it, which is pinned")
    assert rows["benchmark/0123"]["half_made"]
    assert rows["benchmark/0123"]["path"] == str(half)
    assert [row["kind"] for row in found["results"] if row["may_go"]] == ["comparison"]
    assert found["may_go_bytes"] == 1000
    commands.ls(space.path)
    lines = capsys.readouterr().out.splitlines()
    assert any(made["first"].digest[:12] in line and "checkpoint 2" in line and "champion" in line for line in lines)
    assert any("comparison 9" in line and "may go" in line for line in lines)
    assert "7 results, " in lines[-3] and "longcat clean" in lines[-2] and "longcat gc" in lines[-1]


def test_a_narrow_terminal_shortens_headlines_alone(workspace, capsys, monkeypatch):
    space, made = workspace
    monkeypatch.setattr("longcat.tables.Console", lambda **_: Console(width=56, file=sys.stdout))
    make(space, "checkpoint", 1_000_000_000_000_000_000_000)
    commands.ls(space.path)
    lines = capsys.readouterr().out.splitlines()
    assert all(any(one.digest[:12] in line and one.kind in line for line in lines) for one in made.values())
    assert any("…" in line and line.rstrip().endswith("may go") for line in lines)


def test_what_mlflow_has_not_been_sent_stays(workspace, capsys):
    space, made = workspace
    journal = Journal(space.path / "tracking" / "run.jsonl")
    journal.append("artifact", "stage:evaluate", path=str(made["scores of first"].path / "report.md"), folder=None)
    journal.close()
    listed = [row["digest"] for row in answer(capsys, commands.gc, space.path)["results"]]
    assert listed == [made["second"].digest, made["scores of second"].digest]
    Sent(journal.path.stat().st_size).save(journal.path)
    assert len(answer(capsys, commands.gc, space.path)["results"]) == len(made)


def test_show_tells_the_lineage_both_ways(workspace, capsys):
    space, made = workspace
    found = answer(capsys, commands.show, made["second"].digest[:6], space.path)
    assert {one["name"]: one["of"] for one in found["made_from"]} == {
        name(made["tokens"]): [name(made["documents"])],
        name(made["first"]): [name(made["tokens"])],
        name(made["documents"]): [],
    }
    assert [(one["name"], one["of"]) for one in found["made_of_it"]] == [(name(made["scores of second"]), [])]
    assert found["files"].keys() == {"data.bin"}
    commands.rm([name(made["tokens"])], space.path, force=True)
    capsys.readouterr()
    commands.show(name(made["second"]), space.path)
    text = capsys.readouterr().out
    assert f"tokens/{made['tokens'].digest[:12]}  not in this workspace" in text
    assert f"evaluation/{made['scores of second'].digest[:12]}  evaluation 5" in text
    assert "yes, longcat gc lists it" in text


def test_a_narrow_list_cuts_nothing_and_a_path_can_be_copied(workspace, capsys, monkeypatch):
    space, made = workspace
    monkeypatch.setenv("COLUMNS", "40")
    commands.ls(space.path)
    text = capsys.readouterr().out
    assert "…" not in text and all(f"digest: {one.digest[:12]}" in text for one in made.values())
    monkeypatch.setenv("COLUMNS", "80")
    commands.show(name(made["second"]), space.path)
    assert f"Path: {made['second'].path}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [50, 80, 140])
def test_a_long_lineage_with_many_ways_is_shown_in_few_lines(tmp_path, capsys, monkeypatch, columns):
    """Each is made from the two before it, so that there are more ways through 60 of them than could be printed."""
    monkeypatch.setenv("COLUMNS", str(columns))
    space, made = Workspace(tmp_path), []
    for number in range(60):
        made.append(make(space, "checkpoint", number, made[-2:]))
    for one, way in ((made[0], "made_of_it"), (made[-1], "made_from")):
        assert len(answer(capsys, commands.show, one.digest, space.path)[way]) == 59
        commands.show(one.digest, space.path)
        text = capsys.readouterr().out
        lines = [line for line in text.splitlines() if "── " in line]
        assert any(line.endswith(", see above") for line in lines) and any(
            line.endswith(", and so on") for line in lines
        )
        assert len(lines) < 80 and max(map(len, lines)) <= columns


def test_collecting_removes_what_it_has_listed_and_nothing_else(workspace, capsys):
    space, made = workspace
    commands.pin([name(made["first"])], space.path)
    capsys.readouterr()
    listed = answer(capsys, commands.gc, space.path)
    assert not listed["removed"]
    assert len(space.finished()) == len(made)
    removed = answer(capsys, commands.gc, space.path, yes=True)
    assert removed == listed | {"removed": True}
    assert removed["bytes"] == 3000
    assert set(space.finished()) == {made[of].path for of in ("documents", "tokens", "first")}
    commands.gc(space.path, yes=True)
    assert capsys.readouterr().out == "nothing may go\n"
    commands.unpin([made["first"].digest[:6]], space.path)
    assert capsys.readouterr().out == "nothing is pinned\n"
    commands.gc(space.path, yes=True)
    assert capsys.readouterr().out.endswith("removed 0.0 MB\n")
    assert space.finished() == []


def test_nothing_is_removed_while_a_run_works(workspace):
    space, made = workspace
    with space.lease():
        for arguments in (["rm", made["scores of first"].digest], ["gc", "--yes"]):
            result = subprocess.run(
                [sys.executable, "-m", "longcat.cli", *arguments, "--workspace", str(space.path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
            assert (result.returncode, result.stdout) == (2, "")
            assert "in use by process" in result.stderr
    assert len(space.finished()) == len(made)


def test_names_that_are_refused_change_nothing(workspace):
    space, made = workspace
    with pytest.raises(ConfigError, match="are made from"):
        commands.rm([made["scores of second"].digest, made["first"].digest], space.path)
    with pytest.raises(ConfigError, match="no result"):
        commands.rm([made["scores of second"].digest, "ffff"], space.path)
    assert len(space.finished()) == len(made)
    half_made(space, "benchmark", "0123")
    with pytest.raises(ConfigError, match="half made"):
        commands.pin(["0123"], space.path)
    with pytest.raises(ConfigError, match="no result that is pinned"):
        commands.unpin([made["first"].digest], space.path)


def test_a_pin_of_what_was_deleted_by_hand_can_be_taken_back(workspace, capsys):
    space, made = workspace
    commands.pin([name(made["scores of first"])], space.path)
    for path in (made["scores of first"].path / "manifest.json", made["scores of first"].path / "data.bin"):
        path.unlink()
    commands.unpin([name(made["scores of first"])], space.path)
    assert capsys.readouterr().out.endswith("nothing is pinned\n")


def test_three_hundred_results_are_listed_without_reading_them(tmp_path, capsys, monkeypatch):
    space = Workspace(tmp_path)
    for number in range(300):
        folder = tmp_path / "things" / f"{number:032x}"
        folder.mkdir(parents=True)
        files = {"gone.bin": {"bytes": 1_000_000, "sha256": "0"}}
        (folder / "manifest.json").write_text(
            json.dumps({"parents": [], "files": files, "headline": f"number {number}"})
        )
    monkeypatch.setattr("longcat.artifact.sha256_file", lambda _: pytest.fail("read"))
    assert len(answer(capsys, commands.ls, space.path)["results"]) == 300
    assert len(answer(capsys, commands.gc, space.path)["results"]) == 300


@pytest.mark.parametrize("command", [commands.ls, commands.gc])
def test_there_has_to_be_a_workspace(tmp_path, command):
    with pytest.raises(ConfigError, match="no such folder"):
        command(tmp_path / "typo")
    assert not (tmp_path / "typo").exists()


def test_an_empty_workspace(tmp_path, capsys):
    commands.ls(tmp_path)
    commands.gc(tmp_path)
    assert capsys.readouterr().out == "there are no results\nnothing may go\n"
