"""Real processes: a run goes on in another layout, past a damaged checkpoint, and to more steps than it was finished with."""

import json

import pytest

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import Cancelled
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.progress import Progress
from longcat.training.checkpoint_files import saved
from longcat.training.life import read_events
from longcat.training.metrics import read_metrics
from longcat.training.stage import pretrain

pytestmark = pytest.mark.slow

ROWS = "training.micro_batch_sequences=4"


def test_a_run_goes_on_in_another_layout_and_to_more_steps(smoke_run, smoke_settings, smoke_tokens, recwarn):
    workspace = Workspace(smoke_tokens)

    def config(*settings):
        return load_config("smoke", None, [*smoke_settings, ROWS, *settings])

    tokens = preprocess(config(), workspace=workspace)

    def cancel(progress: Progress) -> None:
        if progress.stage == "pretrain" and progress.done >= 6:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pretrain(config(), tokens, workspace=workspace, report=cancel)
    [partial] = (workspace.path / "checkpoint").glob(".*.partial")
    (_, before), (step, newest) = saved(CheckpointFolder(partial).progress)[-2:]
    part = next(newest.glob("__1_*.distcp"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 0x40
    part.write_bytes(data)

    one = pretrain(config("training.processes=1"), tokens, workspace=workspace)
    said = [str(warning.message) for warning in recwarn.list]
    assert any(f"going on from step {step}, trained on 2 processes (shard 2" in line for line in said)
    assert any(part.name in line and f"goes on from {before.name}" in line for line in said)
    assert [layout.processes for layout in one.facts.layouts] == [2, 1]
    assert one.facts.layouts[1].from_step == 4
    assert one.facts.processes == 1
    [straight] = (smoke_run[0] / "checkpoint").glob("[!.]*")
    records, expected = (read_metrics(CheckpointFolder(path).metrics) for path in (one.path, straight))
    assert [record["step"] for record in records] == list(range(1, 13))
    for record, same in zip(records, expected, strict=True):
        assert record["train/loss"] == pytest.approx(same["train/loss"], rel=2e-3), record["step"]
    kinds = [event["kind"] for event in read_events(one.path)]
    assert {"fallback", "layout", "save", "end"} <= set(kinds)
    assert not (one.path / "checkpoints").exists()

    recwarn.clear()
    again = pretrain(config(), tokens, workspace=workspace)
    assert again.cached
    assert again.path == one.path
    assert "this configuration would use 2 processes" in str(recwarn.pop(UserWarning).message)

    longer = pretrain(config("training.steps=15"), tokens, workspace=workspace)
    assert [parent["digest"] for parent in longer.manifest["parents"]] == [tokens.digest, one.digest]
    records = read_metrics(CheckpointFolder(longer.path).metrics)
    assert [record["step"] for record in records] == list(range(1, 16))
    assert records[:12] == read_metrics(CheckpointFolder(one.path).metrics)
    assert [layout.from_step for layout in longer.facts.layouts] == [0, 4, 12]
    assert any(
        f"going on from step 12, the end of checkpoint/{one.digest}" in str(warning.message) for warning in recwarn.list
    )
    assert json.loads((longer.path / "state/run.json").read_text())["batches"] == 15
    assert pretrain(config("training.steps=15"), tokens, workspace=workspace).cached
