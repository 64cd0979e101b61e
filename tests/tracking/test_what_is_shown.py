"""What MLflow has to show of runs: names, parameters, notes, data, models and what the machine did."""

import json
import shutil
from pathlib import Path

import pytest

from longcat.artifact import Artifact
from longcat.config import load_config
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.tracking import Tracker, model_name
from longcat.tracking.journal import Journal
from longcat.tracking.notes import flow_note, stage_note
from longcat.tracking.runs import runs_in_journals, runs_in_mlflow
from longcat.tracking.sync import sync
from tests.tracking.test_tracking import runs_of

OVERRIDES = ["training.optimizer.learning_rate=0.01"]
CONFIG = load_config("smoke", None, OVERRIDES)
NAME = model_name(CONFIG)
SUFFIX = "-smoke-learning_rate=0.01"


@pytest.fixture
def checkpoint(tmp_path):
    def make(digest):
        folder = tmp_path / "checkpoint" / digest / "huggingface"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"vocab_size": 512}))
        (folder / "model.safetensors").write_bytes(b"w" * 1000)
        facts = CheckpointFacts(parameters=1000, final_loss=2.5, steps=7)
        return Artifact("checkpoint", digest, folder.parent, {"seconds": 75.0}, facts)

    return make


def test_parent_and_child_say_what_they_are_and_who_began_them(workspace, client):
    tracker = Tracker(workspace, CONFIG, "pipeline", "x/mine.yaml", OVERRIDES)
    with tracker.stage("pretrain") as run:
        run.log_params({"training": {"steps": 3}, "facts": {"processes": 2}})
        run.set_note("**good**")
    assert tracker.close("FINISHED") is None
    runs = runs_of(client)
    assert set(runs) == {f"{part}-smoke-mine-learning_rate=0.01" for part in ("pipeline", "pretrain")}
    child = runs["pretrain-smoke-mine-learning_rate=0.01"].data
    assert child.params == {"training.steps": "3", "facts.processes": "2"}
    assert child.tags["overrides"] == OVERRIDES[0] and child.tags["preset"] == "smoke"
    assert child.tags["mlflow.note.content"] == "**good**"
    assert child.tags["mlflow.user"] and child.tags["mlflow.source.name"]
    assert len(child.tags.get("mlflow.source.git.commit", "0" * 40)) == 40
    assert tracker.experiment_id == client.get_experiment_by_name("longcat").experiment_id
    # for comparing, a child's settings are the whole configuration, and no facts
    [found] = [one for one in runs_in_journals(workspace.path / "tracking") if one.name.startswith("pretrain")]
    [asked] = runs_in_mlflow(tracker.uri, tracker.run_id("pretrain"))
    for params in (found.params, asked.params):
        assert params["training.steps"] == "3" and params["seed"] == "0" and "facts.processes" not in params


def test_a_checkpoint_is_a_logged_model_without_a_copy_of_its_weights(workspace, client, checkpoint):
    made = checkpoint("a" * 32)
    tracker = Tracker(workspace, CONFIG, "pipeline", None, OVERRIDES)
    for _ in range(2):  # the second time it is reused
        with tracker.stage("pretrain") as run:
            run.log_metrics({"final_loss": 2.5})
            run.register_model(
                NAME,
                made,
                description="a model",
                params={"training": {"steps": 7}},
                metrics={"final_loss": 2.5},
                tags={"final_loss": "2.5"},
                step=7,
            )
    with tracker.stage("evaluate") as run:
        run.use_model(NAME, made, {"held_out/bits_per_byte": 3.0})
        run.judge_model(NAME, made, {"score": "3"}, champion=True, metrics={"held_out/bits_per_byte": 3.0})
    assert tracker.close("FINISHED") is None
    [model] = client.search_logged_models([tracker.experiment_id])
    assert (model.source_run_id, str(model.status)) == (tracker.run_id("pretrain"), "READY")
    assert model.params == {"training.steps": "7"}
    assert {one.key: one.value for one in model.metrics} == {"final_loss": 2.5, "held_out/bits_per_byte": 3.0}
    for point in client.get_metric_history(model.source_run_id, "final_loss"):
        assert point.step == 0  # the run has no other points for the sake of its model
    [version] = client.search_model_versions(f"name = '{NAME}'")
    assert (version.description, version.run_id) == ("a model", model.source_run_id)
    assert version.tags["checkpoint"] == str(made.path) and version.tags["final_loss"] == "2.5"
    assert set(client.get_model_version(NAME, version.version).aliases) == {"latest-checkpoint", "champion"}
    outputs = client.get_run(tracker.run_id("pretrain")).outputs.model_outputs
    assert [(one.model_id, one.step) for one in outputs] == [(model.model_id, 7)]
    inputs = client.get_run(tracker.run_id("evaluate")).inputs.model_inputs
    assert {one.model_id for one in inputs} == {model.model_id}
    kept = list((workspace.path / "mlartifacts").rglob("*"))
    assert not [path for path in kept if path.suffix == ".safetensors"]
    [described] = [path for path in kept if path.name == "MLmodel"]
    from mlflow.models import Model

    signature = Model.load(str(described)).signature
    assert signature.inputs.input_names() == ["input_ids"]
    assert signature.outputs.inputs[0].shape == (-1, -1, 512)


def test_a_server_without_logged_models_gets_the_versions(workspace, client, checkpoint, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND

    def old(*_, **__):
        raise MlflowException("there is no such endpoint", ENDPOINT_NOT_FOUND)

    made = checkpoint("b" * 32)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_logged_models", old)
        tracker = Tracker(workspace, CONFIG, "pipeline")
        with tracker.stage("pretrain") as run:
            run.register_model(NAME, made, description="a model")
            run.use_model(NAME, made)
        assert tracker.close("FINISHED") is None
    [version] = client.search_model_versions(f"name = '{NAME}'")
    assert version.description == "a model"
    assert [file.path for file in client.list_artifacts(version.run_id, "model")] == ["model/config.json"]
    assert not list((workspace.path / "tracking").glob("refused/*"))


def test_a_model_whose_making_was_interrupted_is_finished(workspace, client, checkpoint, monkeypatch):
    from mlflow import MlflowClient

    def fail(*_):
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "finalize_logged_model", fail)
        tracker = Tracker(workspace, CONFIG, "pipeline")
        with tracker.stage("pretrain") as run:
            run.register_model(NAME, checkpoint("c" * 32))
        patch.setattr("longcat.tracking.sender.END_S", 1.0)
        assert "longcat sync" in tracker.close("FINISHED")
    sync(workspace)
    [model] = client.search_logged_models([client.get_experiment_by_name("longcat").experiment_id])
    assert str(model.status) == "READY"


def test_journals_of_the_version_before_are_still_sent(workspace, client, checkpoint):
    made = checkpoint("d" * 32)
    journal = Journal(workspace.path / "tracking" / "20250101-000000-abcdef.jsonl")
    start = {"experiment": "longcat", "time": 1e9}
    journal.append("start", "pipeline", name="pipeline-smoke", parent=None, tags={"python": "3"}, **start)
    journal.append("start", "stage:pretrain", name="pretrain", parent="pipeline", tags={"stage": "pretrain"}, **start)
    of = {"name": NAME, "digest": made.digest, "path": str(made.path / "huggingface"), "time": 1e9}
    journal.append("input", "stage:pretrain", name="tokens", digest="e" * 32, source="/w/tokens/e", context="training")
    journal.append("model", "stage:pretrain", **of)
    journal.append("judged", "stage:pretrain", tags={"gates": "met"}, champion=True, **of)
    journal.append("end", "stage:pretrain", status="FINISHED", time=1e9)
    journal.append("end", "pipeline", status="FINISHED", time=1e9)
    journal.close()
    state = {"offset": 0, "run_ids": {}, "complete": False}  # without what is remembered since
    journal.path.with_suffix(".sent.json").write_text(json.dumps(state))
    assert sync(workspace) == 1
    run = runs_of(client)["pretrain"]
    assert json.loads(run.inputs.dataset_inputs[0].dataset.source) == {"uri": "file:///w/tokens/e"}
    assert client.get_model_version_by_alias(NAME, "champion").tags["gates"] == "met"
    assert not list((workspace.path / "tracking").glob("refused/*"))


def test_data_sets_have_digest_source_and_size_and_samples_are_a_table_once(workspace, client):
    tracker = Tracker(workspace, CONFIG, "pipeline")
    with tracker.stage("preprocess") as run:
        run.log_data("code", "f" * 64, {"path": "a/b"}, "corpus", {"documents": 3}, "hugging_face")
        for _ in range(2):
            run.log_table("samples.json", ("step", "text"), [(5, "a | b"), (10, "c")])
    assert tracker.close("FINISHED") is None
    run = client.get_run(tracker.run_id("preprocess"))
    [data] = [one.dataset for one in run.inputs.dataset_inputs]
    assert (data.name, data.digest, data.source_type) == ("code", "f" * 36, "hugging_face")
    assert json.loads(data.source) == {"path": "a/b"} and json.loads(data.profile) == {"documents": 3}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]
    path = client.download_artifacts(run.info.run_id, "samples.json")
    with Path(path).open() as stream:
        assert json.load(stream) == {"columns": ["step", "text"], "data": [[5, "a | b"], [10, "c"]]}


def test_the_machine_is_seen_through_the_journal(workspace, client):
    tracker = Tracker(workspace, CONFIG, "pipeline")
    for _ in range(2):  # the server that was asked is gone, and the stage is done again
        with tracker.stage("pretrain") as run, run.watch_machine(workspace.path):
            pass
    assert tracker.close("FINISHED") is None
    points = client.get_metric_history(tracker.run_id("pretrain"), "system/system_memory_usage_percentage")
    assert all(0 < point.value < 100 for point in points)
    assert sorted(point.step for point in points) == [0, 1, 2, 3]
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= set(
        client.get_run(tracker.run_id("pretrain")).data.metrics
    )
    shutil.rmtree(workspace.path / "tracking")


def test_notes_say_what_came_of_a_run_and_how_to_go_on(checkpoint):
    made = checkpoint("0" * 32)
    note = stage_note(made, 75.0, {"final|loss": 2.5}, "http://p/runs/flow-run/1", "report.html")
    assert "**loss 2.500 after 0 tokens** (made in 1 min 15 s)" in note
    assert r"| final\|loss |" in note and "[Flow run in Prefect](http://p/runs/flow-run/1)" in note
    assert f"longcat generate --checkpoint {made.path}" in note and "`report.html`" in note
    row = {
        "stage": "pretrain",
        "status": "run",
        "seconds": 75,
        "headline": "loss *2.5*",
        "artifact": {"kind": "checkpoint", "digest": made.digest, "path": str(made.path)},
    }
    note = flow_note(
        [row], "/w of mine", command="longcat run", error="TrainingError: it ended", runs={"pretrain": None}
    )
    assert "**Stopped:** TrainingError: it ended" in note and "not sent yet" in note
    assert r"loss \*2.5\*" in note and "longcat ui --workspace '/w of mine'" in note
    assert "MLflow run" not in flow_note([], "/w")
