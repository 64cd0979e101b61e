"""A state of a run is a checkpoint like others: it is scored, served and compared."""

import json
import shutil

import pytest
import torch

from longcat.accelerator import choose
from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.errors import ArtifactError, ConfigError
from longcat.inference.given import given_checkpoint
from longcat.interchange import load_huggingface
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.parallel.axes import Degrees
from longcat.training import checkpoint_files as files
from longcat.training.checkpoint import state_of, write_state
from longcat.training.given_state import keep_states, state_as_checkpoint
from longcat.training.job import JOB, Job
from longcat.training.layout import ParallelLayout
from longcat.training.trainer import Trainer

pytestmark = pytest.mark.slow
RUN = "beef" * 8


def saved(mesh, config, folder, steps):
    """Write the states of a run whose weights are its seed and its steps."""
    for step in steps:
        trainer = Trainer(config, mesh, choose("cpu"), "fp32")
        with torch.no_grad():
            trainer.model.lm_head.weight.fill_(step)
        path = files.folder_of(CheckpointFolder(folder).progress, step)
        state = state_of(step, trainer.weights, trainer.optimizers)
        digests = write_state(files.unfinished(path), state, config.model)
        files.commit(path, step, files.RunRecord(run=RUN), digests)


@pytest.fixture(scope="module")
def workspace(ranks, smoke_run, smoke_settings, tmp_path_factory):
    """A workspace with a run in progress."""
    space = Workspace(tmp_path_factory.mktemp("running"))
    shutil.copytree(smoke_run[0] / "tokens", space.path / "tokens")
    config = load_config("smoke", None, [*smoke_settings, "training.keep_every_steps=4", "training.steps=8"])
    [tokens] = (space.path / "tokens").glob("[!.]*")
    run = space.path / "checkpoint" / f".{RUN}.partial"
    ranks.on_mesh(Degrees(1), saved, config, run, (3, 4, 8))
    layout = ParallelLayout("cpu", Degrees(1), "fp32")
    Job(config.model_dump(mode="json"), layout, str(tokens), str(run), run=RUN, device="test").write()
    records = [{"step": n, "train/loss": float(n), "moe/ffn_experts_per_token": 2.0} for n in range(1, 9)]
    CheckpointFolder(run).metrics.write_text("".join(json.dumps(one) + "\n" for one in records))
    return space


@pytest.fixture
def run(workspace):
    return workspace.path / "checkpoint" / f".{RUN}.partial"


def test_a_state_is_named_by_its_folder_or_by_run_and_step(workspace, run):
    state = files.folder_of(CheckpointFolder(run).progress, 4)
    made = state_as_checkpoint(str(state), workspace)
    assert made == state_as_checkpoint("beef@4", workspace) == state_as_checkpoint(str(state), None)
    found = given_checkpoint(made, workspace)
    facts = found.facts
    assert (facts.steps, facts.tokens, facts.final_loss) == (4, 4 * 8 * 64, 2.5)
    assert [parent["kind"] for parent in found.manifest["parents"]] == ["tokens"]
    model = load_huggingface(CheckpointFolder(found.path).huggingface)
    assert (model.lm_head.weight == 4).all()
    assert CheckpointFolder(found.path).tokenizer.is_file()
    for other in ("beef", "some/folder", str(workspace.path), made):
        assert state_as_checkpoint(other, workspace) == other


def test_those_that_are_kept_outlive_the_run(workspace, run, tmp_path):
    space = Workspace(tmp_path / "later")
    shutil.copytree(workspace.path / "tokens", space.path / "tokens")
    training = Job.read(run / JOB).pipeline.training
    keep_states(run, training.model_copy(update={"keep_every_steps": 0}), space)
    assert not (space.path / "checkpoint").exists()
    keep_states(run, training, space)
    assert given_checkpoint(state_as_checkpoint("beef@4", space), space).facts.steps == 4
    assert len(list((space.path / "checkpoint").glob("[!.]*"))) == 1


def test_states_that_are_not_there_or_not_what_was_written(workspace, run, tmp_path):
    for name in ("beef@5", "dead@4", "beef@99999999"):
        with pytest.raises(ConfigError, match="no run in .* has a state after step"):
            state_as_checkpoint(name, workspace)
    with pytest.raises(ConfigError, match="no workspace"):
        state_as_checkpoint("beef@4", None)
    other = tmp_path / "checkpoint" / ".other.partial"
    shutil.copytree(run, other)
    state = files.folder_of(CheckpointFolder(other).progress, 3)
    (other / JOB).unlink()
    with pytest.raises(ArtifactError, match=r"job\.json is missing or unreadable"):
        state_as_checkpoint(str(state), Workspace(tmp_path))
    next(state.glob("*.distcp")).write_bytes(b"other")
    with pytest.raises(ArtifactError, match="bytes, .* were written"):
        state_as_checkpoint(str(state), Workspace(tmp_path))
