"""The pages of metrics and of artifacts say what a real run makes, and nothing that no run makes."""

from fnmatch import fnmatch

import mlflow
import pytest

from docs.reference import artifacts, metrics
from longcat.artifact import MANIFEST
from longcat.training.metrics import read_metrics

pytestmark = pytest.mark.slow
OF_THE_RECORD = {"step", "time", "attempt"}


@pytest.fixture(scope="module")
def logged(finished):
    """Names of the metrics in MLflow, by stage and of the run of the whole pipeline."""
    workspace, _, first, _ = finished
    client = mlflow.MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    runs = {row["stage"]: row["mlflow_run_id"] for row in first["stages"]} | {"pipeline": first["mlflow"]["run_id"]}
    return {stage: set(client.get_run(run).data.metrics) for stage, run in runs.items()}


def compare(names, documented):
    """Return names without a row, and rows that every run has without a name."""
    unknown = {name for name in names if not any(one.pattern.fullmatch(name) for one in documented)}
    missing = {one.name for one in documented if one.always and not any(map(one.pattern.fullmatch, names))}
    return unknown, missing


def test_records_are_documented(finished):
    [path] = finished[0].glob("checkpoint/*/metrics.jsonl")
    names = {name for record in read_metrics(path) for name in record} - OF_THE_RECORD
    assert compare(names, metrics.RECORDS) == (set(), set())


@pytest.mark.parametrize("stage", ["preprocess", "pretrain", "benchmark", "evaluate"])
def test_metrics_of_a_stage_are_documented(logged, stage):
    figures = {"mfu", "tokens_per_second", "tflops_per_device"} if stage == "benchmark" else set()
    assert figures <= logged[stage]
    assert compare(logged[stage], metrics.documented(stage)) == (set(), set())


def test_metrics_of_the_pipeline_are_those_of_its_stages(logged):
    everything = [
        one for stage in ("preprocess", "pretrain", "benchmark", "evaluate") for one in metrics.documented(stage)
    ]
    assert compare(logged["pipeline"], everything)[0] == set()


def test_a_metric_that_nobody_has_entered_is_found():
    assert compare({"train/loss", "train/new"}, metrics.RECORDS)[0] == {"train/new"}
    assert "train/loss" in compare({"train/lost"}, metrics.RECORDS)[1]


def test_a_server_has_the_families_that_are_listed():
    names = {family.name for family in metrics.server()}
    assert {"longcat_requests", "longcat_texts_running"} <= names
    assert all(f"`{name}`" in metrics.page() for name in names)


@pytest.mark.parametrize("kind", artifacts.KINDS, ids=lambda kind: kind.name)
def test_files_of_artifacts_are_documented(finished, kind):
    folders = [path.parent for path in finished[0].glob(f"{kind.name}/[!.]*/{MANIFEST}")]
    if kind.name in ("comparison", "sweep"):
        assert folders == []  # made by commands of their own
        return
    assert folders
    for folder in folders:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        patterns = {MANIFEST, *kind.files, *kind.may_have}
        assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
        assert [pattern for pattern in kind.files if not any(fnmatch(name, pattern) for name in names)] == []
