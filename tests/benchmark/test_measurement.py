"""What is measured, of which checkpoint; an interrupted measurement goes on with the setting that it was at."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from longcat.artifact import Workspace, open_artifact
from longcat.benchmark import measurement as module
from longcat.benchmark.measurement import Measurement, MeasurementFacts, measure, read_measurement
from longcat.config import load_config
from longcat.corpus.facts import TokensFacts
from longcat.inference.given import given_checkpoint
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder
from longcat.training.heartbeat import Heartbeat

pytestmark = pytest.mark.slow
TIMED = Measurement(
    **{field.name: None for field in dataclasses.fields(Measurement)}
    | {"window_seconds": [1.0], "window_steps": 2, "batch_tokens": 512, "peak_memory_bytes": 9, "device_name": "test"}
    | {"processes": 2, "precision": "fp32"}
)


def artifact(workspace, kind, facts):
    [folder] = (workspace / kind).glob("[!.]*")
    return open_artifact(folder, facts)


@pytest.mark.parametrize("failing", [2, 4])
def test_an_interrupted_measurement_goes_on(smoke_run, smoke_settings, tmp_path, monkeypatch, failing):
    """At the second of three settings, or while files are hashed."""
    config = load_config("smoke", None, [*smoke_settings, "benchmark.sweep={micro_batch_sequences: [1, 2]}"])
    tokens = artifact(smoke_run[0], "tokens", TokensFacts)
    checkpoint = artifact(smoke_run[0], "checkpoint", CheckpointFacts)
    timed = []

    def time_steps(*_, directory, **options):
        timed.append(options.get("note", "own"))
        directory.mkdir()
        (directory / module.TRACE).write_bytes(b"trace")
        if len(timed) == failing:
            raise KeyboardInterrupt
        return TIMED

    monkeypatch.setattr(module, "time_steps", time_steps)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if failing == 4:
            patch.setattr("longcat.artifact._describe", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        measure(config, tokens, checkpoint, workspace=Workspace(tmp_path))
    before = list(timed)
    made = measure(config, tokens, checkpoint, workspace=Workspace(tmp_path))
    assert before == ["own", "timing setting 1 of 2", "timing setting 2 of 2"][: failing if failing < 4 else None]
    assert timed[len(before) :] == (["timing setting 1 of 2", "timing setting 2 of 2"] if failing == 2 else [])
    own, sweep = read_measurement(made.path)
    assert own == TIMED
    assert [row["timed"] for row in sweep] == [TIMED, TIMED]
    assert {path.name for path in made.path.iterdir()} == {"measurement.json", module.TRACE, "manifest.json"}
    assert made.facts == MeasurementFacts(tokens_per_second=1024, peak_memory_bytes=9, device_name="test", processes=2)


def test_all_nodes_are_waited_for(tmp_path, monkeypatch):
    """A measurement is named by its layout; one of fewer nodes would be taken for it."""
    settings = "training.launcher=join", "training.nodes=2", "training.min_nodes=1", "training.processes=2"
    config = load_config("smoke", None, settings)
    asked = []

    def run_workers(_worker, job, config, *_):
        asked.append((job.layout.degrees.processes, config.training.nodes, config.training.min_nodes))
        raise InterruptedError

    monkeypatch.setattr(module, "run_workers", run_workers)
    there = SimpleNamespace(path=tmp_path / "kind" / "digest")
    with pytest.raises(InterruptedError):
        module.time_steps(config, there, there, directory=tmp_path / "processes")
    assert asked == [(2, 2, 0)]


def test_progress_is_that_of_the_first_process(tmp_path, monkeypatch):
    config = load_config("smoke", None, ["training.processes=1", "benchmark.profiled_steps=2"])
    first, steps = config.training.steps, module.planned_steps(config.benchmark)
    heard = []

    def run_workers(_worker, job, _config, _deadline_s, poll):
        poll()
        heart = Heartbeat(Path(job.directory), 0)
        for step in (first, first + 1, first + steps - 1, first + steps):
            heart.begin_step(step)
            poll()
        raise InterruptedError

    monkeypatch.setattr(module, "run_workers", run_workers)
    there = SimpleNamespace(path=tmp_path / "kind" / "digest")
    with pytest.raises(InterruptedError):
        module.time_steps(config, there, there, directory=tmp_path / "processes", report=heard.append, of=(1, 2))
    assert [round(one.done - 1, 6) for one in heard] == [
        round(done / (steps + 1), 6) for done in (0, 0, 1, steps - 1, steps)
    ]
    assert {one.total for one in heard} == {2}
    said = [one.message.removeprefix("timing training steps: ") for one in heard]
    assert said[:3] == ["starting processes", "starting processes", f"step 1 of {steps}"]
    assert said[-1] == "operators and collectives"


def test_a_folder_of_weights_is_timed_with_the_settings_asked_for(smoke_run, smoke_settings, tmp_path):
    """One that this project did not train has no state of training, and another directory than its artifacts."""
    settings = ["benchmark.windows=1", "benchmark.profiled_steps=0", "benchmark.kernel_seconds=0"]
    config = load_config("smoke", None, [*smoke_settings, *settings, "training.global_batch_sequences=4"])
    tokens = artifact(smoke_run[0], "tokens", TokensFacts)
    trained = artifact(smoke_run[0], "checkpoint", CheckpointFacts)
    folder = shutil.copytree(CheckpointFolder(trained.path).huggingface, tmp_path / "theirs")
    space = Workspace(tmp_path / "workspace")
    made = measure(config, tokens, given_checkpoint(folder, space), workspace=space)
    own, sweep = read_measurement(made.path)
    assert own.batch_tokens == 4 * config.corpus.sequence_length_tokens and sweep == []
    assert own.tokens_per_second > 0 and own.processes * own.memory["weights"] >= 4 * trained.facts.parameters


@pytest.mark.parametrize(
    "setting", ["training.micro_batch_sequences=2", "training.optimizer.offload=true", "parallel.chunks=2"]
)
def test_steps_that_are_made_otherwise_are_another_measurement(
    smoke_run, smoke_settings, tmp_path, monkeypatch, setting
):
    """Of a checkpoint that is named, too, which was trained with settings of its own or of others."""
    monkeypatch.setattr(module, "time_steps", lambda *_, **__: TIMED)
    tokens = artifact(smoke_run[0], "tokens", TokensFacts)
    checkpoint = artifact(smoke_run[0], "checkpoint", CheckpointFacts)
    digests = {
        measure(load_config("smoke", None, settings), tokens, checkpoint, workspace=Workspace(tmp_path)).digest
        for settings in (smoke_settings, smoke_settings, [*smoke_settings, setting])
    }
    assert len(digests) == 2
