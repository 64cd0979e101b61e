"""Real processes: a run goes on in another layout, past a damaged checkpoint, and to more steps than it was finished with."""

import json
import shutil

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import ArtifactError, Cancelled
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.progress import Progress
from longcat.training.checkpoint_files import saved
from longcat.training.life import read_events
from longcat.training.metrics import read_metrics
from longcat.training.stage import pretrain

pytestmark = pytest.mark.slow

STEPS = 40
"""So many that a run is never done before it is cancelled."""


def test_a_run_goes_on_in_another_layout_and_to_more_steps(smoke_settings, smoke_tokens, recwarn):
    workspace = Workspace(smoke_tokens)

    def config(*settings):
        return load_config(
            "smoke", None, [*smoke_settings, f"training.steps={STEPS}", "training.micro_batch_sequences=4", *settings]
        )

    tokens = preprocess(config(), workspace=workspace)

    def cancel(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 6:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pretrain(config(), tokens, workspace=workspace, report=cancel)
    [partial] = (workspace.path / "checkpoint").glob(".*.partial")
    (kept, before), (step, newest) = saved(CheckpointFolder(partial).progress)[-2:]
    part = next(newest.glob("__1_*.distcp"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0x40
    part.write_bytes(data)

    one = pretrain(config("training.processes=1"), tokens, workspace=workspace)
    said = [str(warning.message) for warning in recwarn.list]
    assert any(f"going on from step {step}, trained on 2 processes (shard 2" in line for line in said)
    assert any(part.name in line and f"goes on from {before.name}" in line for line in said)
    assert [layout.processes for layout in one.facts.layouts] == [2, 1]
    assert one.facts.layouts[1].from_step == kept
    assert one.facts.processes == 1
    records = read_metrics(CheckpointFolder(one.path).metrics)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    kinds = [event["kind"] for event in read_events(one.path)]
    assert {"fallback", "layout", "save", "end"} <= set(kinds)
    assert not (one.path / "checkpoints").exists()

    recwarn.clear()
    again = pretrain(config(), tokens, workspace=workspace)
    assert again.cached
    assert again.path == one.path
    assert "this configuration would use 2 processes" in str(recwarn.pop(UserWarning).message)

    longer = pretrain(config(f"training.steps={STEPS + 3}"), tokens, workspace=workspace)
    assert [parent["digest"] for parent in longer.manifest["parents"]] == [tokens.digest, one.digest]
    more = read_metrics(CheckpointFolder(longer.path).metrics)
    assert [record["step"] for record in more] == list(range(1, STEPS + 4))
    assert more[:STEPS] == records
    assert [layout.from_step for layout in longer.facts.layouts] == [0, kept, STEPS]
    assert any(
        f"going on from step {STEPS}, the end of checkpoint/{one.digest}" in str(warning.message)
        for warning in recwarn.list
    )
    assert json.loads((longer.path / "state/run.json").read_text())["batches"] == STEPS + 3
    assert pretrain(config(f"training.steps={STEPS + 3}"), tokens, workspace=workspace).cached


def test_checkpoints_of_another_run_are_refused_in_one_line_and_stay(smoke_settings, smoke_tokens):
    workspace, partials = Workspace(smoke_tokens), []

    def cancel(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 5:
            raise Cancelled("enough")

    for seed in (0, 1):
        config = load_config("smoke", None, [*smoke_settings, f"seed={seed}", f"training.steps={STEPS}"])
        with pytest.raises(Cancelled):
            pretrain(config, preprocess(config, workspace=workspace), workspace=workspace, report=cancel)
        [partial] = set(workspace.half_made()) - set(partials)
        partials.append(partial)
    first, second = (CheckpointFolder(partial).progress for partial in partials)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(ArtifactError, match="is of another run") as told:
        pretrain(config, preprocess(config, workspace=workspace), workspace=workspace)
    assert told.value.exit_code == 2
    assert len(str(told.value).splitlines()) == 1
    assert [path.name for _, path in saved(second)] == [path.name for _, path in saved(first)]
