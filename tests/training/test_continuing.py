"""What training goes on from, chosen by what lies in the workspace."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from longcat.artifact import Artifact, Recipe, Workspace, open_artifact
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.parallel.axes import Degrees
from longcat.training import continuing
from longcat.training.checkpoint_files import RUN, RunRecord
from longcat.training.continuing import choose_start, first_state, peak_so_far, tell, tell_of_reuse
from longcat.training.job import JOB
from longcat.training.life import read_events
from tests.training.test_layouts import ONE, TWO, since

TOKENS = Artifact("tokens", "1" * 32, Path("tokens"), {}, facts=None)


def recipe_of(steps, seed=0, tokens=TOKENS, version=1):
    def of(earlier=None):
        identity = {"seed": seed, "training": {"steps": steps, "losses": {"weight": 0.1}}}
        parents = (tokens,) if earlier is None else (tokens, earlier)
        return Recipe("checkpoint", CheckpointFacts, version, identity, parents)

    return of


def finish(workspace, recipe, steps, record=True):
    def build(directory):
        folder = CheckpointFolder(directory)
        folder.state.mkdir()
        folder.samples.mkdir()
        (folder.samples / "00000004.txt").write_text("def x")
        folder.metrics.write_text(json.dumps({"step": steps}) + "\n")
        folder.expert_load.write_text(json.dumps({"step": steps, "slots": []}) + "\n")
        if record:
            RunRecord(steps, {}, (since(0, TWO),)).write(folder.state)
        return CheckpointFacts(parameters=1, steps=steps, layouts=(since(0, TWO),))

    return workspace.materialize(recipe, build)


def begin(workspace, recipe, step=4):
    path = workspace.partial(recipe) / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def chosen(workspace, recipe):
    found, earlier = choose_start(workspace, recipe)
    return found.digest, None if earlier is None else earlier.facts.steps


def test_without_anything_there_it_begins_at_the_start(workspace):
    assert chosen(workspace, recipe_of(12)) == (recipe_of(12)().digest, None)


def test_more_steps_go_on_from_the_most_that_are_finished(workspace):
    finish(workspace, recipe_of(8)(), 8)
    twelve = finish(workspace, recipe_of(12)(), 12)
    finish(workspace, recipe_of(24)(), 24)
    digest, steps = chosen(workspace, recipe_of(16))
    assert steps == 12
    assert digest == recipe_of(16)(twelve).digest != recipe_of(16)().digest
    # and once more, from what was made so
    sixteen = finish(workspace, recipe_of(16)(twelve), 16)
    assert chosen(workspace, recipe_of(20)) == (recipe_of(20)(sixteen).digest, 16)


def test_fewer_or_as_many_steps_do_not(workspace):
    finish(workspace, recipe_of(12)(), 12)
    assert chosen(workspace, recipe_of(8)) == (recipe_of(8)().digest, None)
    assert chosen(workspace, recipe_of(12)) == (recipe_of(12)().digest, None)


@pytest.mark.parametrize(
    "other",
    [
        recipe_of(8, seed=1),
        recipe_of(8, tokens=replace(TOKENS, digest="2" * 32)),
        recipe_of(8, version=2),
    ],
)
def test_another_run_is_no_start(workspace, other):
    finish(workspace, other(), 8)
    assert chosen(workspace, recipe_of(12)) == (recipe_of(12)().digest, None)


def test_a_checkpoint_without_a_state_is_no_start(workspace):
    finish(workspace, recipe_of(8)(), 8, record=False)
    assert chosen(workspace, recipe_of(12)) == (recipe_of(12)().digest, None)


def test_what_is_finished_comes_first_then_what_is_half_made(workspace):
    eight = finish(workspace, recipe_of(8)(), 8)
    begin(workspace, recipe_of(16)())
    assert chosen(workspace, recipe_of(16)) == (recipe_of(16)().digest, None)
    finish(workspace, recipe_of(16)(eight), 16)
    assert chosen(workspace, recipe_of(16)) == (recipe_of(16)(eight).digest, 8)
    finish(workspace, recipe_of(16)(), 16)
    assert chosen(workspace, recipe_of(16)) == (recipe_of(16)().digest, None)


def test_what_was_begun_from_a_shorter_one_is_not_begun_again_from_a_longer_one(workspace):
    eight = finish(workspace, recipe_of(8)(), 8)
    begin(workspace, recipe_of(16)(eight), 12)
    finish(workspace, recipe_of(10)(), 10)
    assert chosen(workspace, recipe_of(16)) == (recipe_of(16)(eight).digest, 8)


def test_a_damaged_one_is_named_and_the_one_before_is_taken(workspace):
    eight = finish(workspace, recipe_of(8)(), 8)
    twelve = finish(workspace, recipe_of(12)(), 12)
    (twelve.path / "state" / RUN).write_text("{}")
    with pytest.warns(UserWarning, match=twelve.digest):
        assert chosen(workspace, recipe_of(16)) == (recipe_of(16)(eight).digest, 8)


def test_records_and_samples_go_on(workspace, tmp_path):
    eight = finish(workspace, recipe_of(8)(), 8)
    directory = tmp_path / "new"
    directory.mkdir()
    assert first_state(None, directory) is None
    assert list(directory.iterdir()) == []
    assert first_state(eight, directory) == str(eight.path / "state")
    new = CheckpointFolder(directory)
    assert json.loads(new.metrics.read_text()) == {"step": 8}
    assert (new.samples / "00000004.txt").read_text() == "def x"
    new.metrics.write_text("more")
    first_state(eight, directory)
    assert new.metrics.read_text() == "more", "taken over once"


def test_what_is_about_to_happen_is_said_before(workspace, recwarn):
    eight = finish(workspace, recipe_of(8)(), 8)
    directory = workspace.partial(recipe_of(16)())
    path = begin(workspace, recipe_of(16)(), 4)
    tell(directory, None, since(0, TWO))  # an unreadable record is the processes' to tell of
    RunRecord(4, {}, (since(0, TWO),)).write(path)
    tell(directory, None, since(0, TWO))
    assert not recwarn.list
    tell(directory, None, since(0, ONE))
    assert str(recwarn.pop().message).startswith(
        "going on from step 4, trained on 2 processes (shard 2); now on 1 process: numbers equal within rounding"
    )
    [event] = read_events(directory)
    assert (event["kind"], event["step"], event["now"]) == ("layout", 4, "1 process")
    other = workspace.path / "other"
    other.mkdir()
    tell(other, eight, since(0, TWO))
    assert str(recwarn.pop().message) == (
        f"going on from step 8, the end of checkpoint/{eight.digest}, which stays as it is"
    )
    tell(other, eight, since(0, ONE))
    assert "which stays as it is, trained on 2 processes (shard 2); now on 1 process" in str(recwarn.pop().message)


def test_a_finished_one_in_another_layout_is_reused_and_told(workspace, recwarn):
    eight = finish(workspace, recipe_of(8)(), 8)
    tell_of_reuse(eight, since(0, TWO))
    tell_of_reuse(eight, since(0, TWO, device="other"))
    assert not recwarn.list
    tell_of_reuse(eight, since(0, Degrees(4)))
    assert str(recwarn.pop().message) == (
        f"reusing checkpoint/{eight.digest}, trained on 2 processes (shard 2); this configuration would use "
        "4 processes (shard 4)"
    )


def test_only_the_checkpoint_that_is_gone_on_from_is_read(workspace, monkeypatch):
    """Each of them may have hundreds of gigabytes."""
    for steps in (4, 8, 12):
        finish(workspace, recipe_of(steps)(), steps)
    read = []

    def opened(path, facts):
        read.append(json.loads((path / "manifest.json").read_text())["facts"]["steps"])
        return open_artifact(path, facts)

    monkeypatch.setattr(continuing, "open_artifact", opened)
    assert chosen(workspace, recipe_of(16))[1] == 12
    assert read == [12]
    read.clear()
    [twelve] = [path for path in workspace.path.glob("checkpoint/*/metrics.jsonl") if '"step": 12' in path.read_text()]
    twelve.write_text("damaged")
    with pytest.warns(UserWarning, match="not going on from"):
        assert chosen(workspace, recipe_of(16))[1] == 8
    assert read == [12, 8]
    read.clear()
    assert chosen(workspace, recipe_of(8)) == (recipe_of(8)().digest, None)
    assert read == []


def test_a_curve_keeps_the_peak_that_it_began_with(workspace, tmp_path):
    earlier = replace(
        finish(workspace, recipe_of(4)(), 4),
        facts=CheckpointFacts(parameters=1, steps=4, device="a CPU", peak_flops=3e11),
    )
    directory = tmp_path / "made"
    directory.mkdir()
    assert peak_so_far(directory, None, "a CPU") is None
    assert peak_so_far(directory, earlier, "a CPU") == 3e11
    assert peak_so_far(directory, earlier, "another CPU") is None
    (directory / JOB).write_text(json.dumps({"device": "a CPU", "peak_flops": 2e11}))
    assert peak_so_far(directory, earlier, "a CPU") == 2e11
    assert peak_so_far(directory, earlier, "another CPU") is None
    (directory / JOB).write_text("{}")  # of an older version
    assert peak_so_far(directory, None, "a CPU") is None
