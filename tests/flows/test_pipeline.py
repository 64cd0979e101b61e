"""The whole flow on `smoke` under Prefect's test harness: run, run again, what MLflow has, and what a failure leaves."""

import pytest

pytestmark = pytest.mark.slow


def test_runs_then_reuses_everything(finished):
    _, _, first, second = finished
    assert [row["stage"] for row in first["stages"]] == ["preprocess", "pretrain", "benchmark", "evaluate"]
    assert [row["status"] for row in first["stages"]] == ["run"] * 4
    assert [row["status"] for row in second["stages"]] == ["cached"] * 4
    assert [row["artifact"] for row in first["stages"]] == [row["artifact"] for row in second["stages"]]
    facts = {row["stage"]: row["facts"] for row in first["stages"]}
    assert 0 < facts["benchmark"]["mfu"] < 1
    assert "CPU run" in facts["benchmark"]["verdict"]
    assert facts["benchmark"]["ratio_to_a100"] is None
    assert 0 < facts["evaluate"]["scores"]["held_out"]["bits_per_byte"] < 9
    assert facts["evaluate"]["scores"]["python_completion"]["documents"] == 8


def test_mlflow_has_a_parent_and_a_child_for_each_stage(finished):
    import mlflow

    _, _, first, _ = finished
    client = mlflow.MlflowClient(first["mlflow"]["tracking_uri"])
    parent = client.get_run(first["mlflow"]["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params["preset"] == "smoke"
    scores = first["stages"][3]["facts"]["scores"]
    assert parent.data.metrics["held_out/bits_per_byte"] == pytest.approx(scores["held_out"]["bits_per_byte"])
    children = {row["stage"]: client.get_run(row["mlflow_run_id"]) for row in first["stages"]}
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children.values())
    assert all(run.info.status == "FINISHED" for run in children.values())
    losses = client.get_metric_history(children["pretrain"].info.run_id, "train/loss")
    assert [point.step for point in losses] == list(range(1, 13))
    assert children["pretrain"].inputs.dataset_inputs[0].dataset.digest == first["stages"][0]["artifact"]["digest"]
    pretrain = children["pretrain"].info.run_id
    assert [point.step for point in client.get_metric_history(pretrain, "held_out/loss")] == [4, 8, 12]
    assert client.get_metric_history(pretrain, "moe/layer_0/router_entropy")
    names = {file.path for file in client.list_artifacts(pretrain)}
    assert {"metrics.jsonl", "expert-load.png", "samples"} <= names
    samples = {file.path for file in client.list_artifacts(pretrain, "samples")}
    assert samples == {f"samples/{step:08d}.txt" for step in (5, 10, 12)}
    names = {file.path for file in client.list_artifacts(children["benchmark"].info.run_id)}
    assert {"report.html", "mfu.png", "manifest.json"} <= names
    measured = children["benchmark"].data.metrics
    assert not [name for name in measured if "ratio" in name], "a CPU beside an A100"
    assert {"axis_fractions/shard", "axis_fractions/expert", "exposed_fractions/shard"} <= measured.keys()
    assert not {"peak_flops", "processes", "parallel/expert", "sequence_length"} & measured.keys()
    assert "facts.parallel.expert" in children["benchmark"].data.params
    for stage, run in children.items():
        assert run.info.run_name.startswith(f"{stage}-smoke-sources=")
        assert "| " in run.data.tags["mlflow.note.content"] and "longcat show" in run.data.tags["mlflow.note.content"]
        assert "system/cpu_utilization_percentage" in run.data.metrics
        assert not [
            name for name in run.data.metrics if name.rpartition("/")[2] in ("end_of_text", "version", "few_shot")
        ]
    [corpus] = [one.dataset for one in children["preprocess"].inputs.dataset_inputs]
    assert corpus.source_type == "local" and "documents.jsonl" in corpus.source and "documents" in corpus.profile
    assert children["preprocess"].data.tags["output.tokens"] == first["stages"][0]["artifact"]["digest"]
    assert children["pretrain"].data.params["training.steps"] == "12"
    assert "model.hidden_size" not in children["preprocess"].data.params
    assert {"cost/device_hours", "cost/tokens", "cost/flops"} <= children["pretrain"].data.metrics.keys()
    assert "cost/money" not in children["pretrain"].data.metrics
    assert len(client.get_metric_history(parent.info.run_id, "train/loss")) == 12
    assert "| pretrain | loss" in parent.data.tags["mlflow.note.content"]
    versions = client.search_model_versions("name = 'longcat-smoke'")
    assert len(versions) == 1  # registered once, although two runs used it
    [model] = client.search_logged_models([parent.info.experiment_id])
    assert model.tags["checkpoint"] == first["stages"][1]["artifact"]["path"] == versions[0].tags["checkpoint"]
    assert {"final_loss", "mfu", "held_out/bits_per_byte"} <= {one.key for one in model.metrics}
    for stage in ("benchmark", "evaluate"):
        assert [one.model_id for one in children[stage].inputs.model_inputs] == [model.model_id]


def test_prefect_says_cached_and_shows_reports(finished):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        names = {run.state.name for run in client.read_task_runs(limit=50) if run.state}
        reports = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["mfu-report"])))
    assert "Cached" in names
    assert reports


def test_a_damaged_artifact_stops_the_flow_and_stays(finished):
    from longcat.errors import ArtifactError
    from longcat.flows.pipeline import pipeline

    workspace, options, _, _ = finished
    weights = next((workspace / "checkpoint").glob("*/huggingface/model.safetensors"))
    good = weights.read_bytes()
    summary = (workspace / "summary.json").read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        with pytest.raises(ArtifactError, match=r"model\.safetensors is damaged: sha256"):
            pipeline(**options)
        assert weights.stat().st_size == len(good)
        assert (workspace / "summary.json").read_bytes() == summary
    finally:
        weights.write_bytes(good)


def test_a_changed_table_makes_another_report_of_the_same_measurement(finished, monkeypatch, tmp_path):
    from longcat.benchmark import measurement, stage
    from longcat.flows.pipeline import FLOWS

    workspace, options, first, _ = finished
    before = first["stages"][2]
    table = tmp_path / "hardware.csv"
    lines = stage.HARDWARE.read_text(encoding="utf-8").splitlines(keepends=True)
    table.write_text("".join([*lines, lines[1].replace(lines[1].split(",")[0], "one more", 1)]), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "HARDWARE", table)
        patch.setattr(measurement, "run_workers", lambda *_, **__: pytest.fail("measured again"))
        rows = FLOWS["benchmark"](**options)["stages"]
    assert [(row["stage"], row["status"]) for row in rows] == [
        ("preprocess", "cached"), ("pretrain", "cached"), ("benchmark", "run"),
    ]  # fmt: skip
    after = rows[-1]
    assert after["artifact"]["digest"] != before["artifact"]["digest"]
    assert after["facts"]["measurement"] == before["facts"]["measurement"]
    assert len([path for path in (workspace / "measurement").iterdir() if not path.name.startswith(".")]) == 1
    assert FLOWS["benchmark"](**options)["stages"][-1]["artifact"] == before["artifact"]
