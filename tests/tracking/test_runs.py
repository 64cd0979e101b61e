"""Runs are found by id and name, in journals and in MLflow."""

import json

import pytest

from longcat.errors import DataError
from longcat.tracking.journal import Journal, Sent
from longcat.tracking.record import tree_of
from longcat.tracking.runs import named_so, runs_in_journals, runs_in_mlflow
from longcat.tracking.store import tracking_uri


def journal(folder, number, results):
    written = Journal(folder / f"{number}.jsonl")
    written.append("start", "pipeline", name="pipeline-smoke", time=float(number))
    written.append("params", "pipeline", params={"seed": "0"})
    for stage, result in results.items():
        written.append("start", f"stage:{stage}", name=stage, time=float(number))
        written.append("tags", f"stage:{stage}", tags={"artifact": result})
        written.append("tags", f"stage:{stage}", tags={"other": "tag"})
    written.close()
    return written.path


def test_journals_say_what_each_run_made(tmp_path):
    first = journal(tmp_path, 1, {"preprocess": "tokens/aa", "pretrain": "checkpoint/bb"})
    Sent(0, {"pipeline": "0123abcd", "stage:pretrain": "4567abcd"}).save(first)
    second = journal(tmp_path, 2, {})
    second.write_bytes(
        second.read_bytes()
        + b'{"event": "tags", "key": "stage:lost", "tags": {"artifact": "x/y"}}\n{"event": "start", "ke'
    )
    runs = runs_in_journals(tmp_path)
    assert [(run.name, run.id, run.started) for run in runs] == [
        ("pipeline-smoke", "0123abcd", 1.0),
        ("preprocess", None, 1.0),
        ("pretrain", "4567abcd", 1.0),
        ("pipeline-smoke", None, 2.0),
    ]
    assert [run.results for run in runs] == [["tokens/aa", "checkpoint/bb"], ["tokens/aa"], ["checkpoint/bb"], []]
    assert all(run.params == {"seed": "0"} for run in runs)
    assert named_so(runs, "4567") == [runs[2]]
    assert named_so(runs, "pretrain") == [runs[2]]
    assert named_so(runs, "pipeline-smoke") == [runs[0], runs[3]]
    assert named_so(runs, "456") == named_so(runs, "") == []


def test_mlflow_is_asked_for_a_run_with_its_stages(workspace, client):
    parent = client.create_run("0", run_name="pipeline-o'clock", start_time=1000)
    client.log_param(parent.info.run_id, "seed", json.dumps(0))
    for place, result in enumerate(("tokens/aa", "checkpoint/bb")):
        tags = {"mlflow.parentRunId": parent.info.run_id, "artifact": result}
        client.create_run("0", run_name="stage", start_time=2000 + place, tags=tags)
    uri = tracking_uri(workspace)
    for what in (parent.info.run_id, "pipeline-o'clock"):
        [run] = runs_in_mlflow(uri, what)
        assert (run.id, run.started, run.params) == (parent.info.run_id, 1.0, {"seed": "0"})
        assert run.results == ["tokens/aa", "checkpoint/bb"]
    assert len(runs_in_mlflow(uri, "stage")) == 2
    assert runs_in_mlflow(uri, "absent") == runs_in_mlflow(uri, "it's \" absent") == []


def test_a_flow_of_one_stage_and_that_stage_are_one_run(tmp_path, workspace, client):
    written = Journal(tmp_path / "1.jsonl")
    for key in ("pipeline", "stage:preprocess"):
        written.append("start", key, name="preprocess-smoke", time=1.0)
    written.close()
    Sent(0, {"pipeline": "0123abcd", "stage:preprocess": "4567abcd"}).save(written.path)
    runs = runs_in_journals(tmp_path)
    assert len(runs) == 2
    assert named_so(runs, "preprocess-smoke") == [runs[0]]
    assert named_so(runs, "4567") == [runs[1]]
    ids = []
    for _ in range(2):
        parent = client.create_run("0", run_name="preprocess-smoke")
        tags = {"mlflow.parentRunId": parent.info.run_id, "artifact": "tokens/aa"}
        ids.append((parent.info.run_id, client.create_run("0", run_name="preprocess-smoke", tags=tags).info.run_id))
    uri = tracking_uri(workspace)
    assert {run.id for run in runs_in_mlflow(uri, "preprocess-smoke")} == {parent for parent, _ in ids}
    assert [run.id for run in runs_in_mlflow(uri, ids[0][1])] == [ids[0][1]]


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    assert runs_in_mlflow(f"sqlite:///{tmp_path / 'mlflow.db'}", "absent") == []
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_is_away_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        DataError,
        match=r"MLflow at http://127\.0\.0\.1:9 cannot be asked for run absent: MlflowException: Connection refused$",
    ):
        runs_in_mlflow("http://127.0.0.1:9", "absent")


WHOLE = {"preset": '"smoke"', "seed": "0", "corpus.near_duplicates": "null"}


def test_stages_are_told_by_their_tag_and_have_the_configuration_besides_their_own_part(tmp_path):
    written = Journal(tmp_path / "1.jsonl")
    written.append("start", "pipeline", name="pipeline-smoke", time=1.0, tags={})
    written.append("params", "pipeline", params=WHOLE)
    for number in (1, 2):  # begun again, with another tokenizer
        written.append("start", "stage:preprocess", name="preprocess-smoke", time=1.0, tags={"stage": "preprocess"})
        written.append("params", "stage:preprocess", params={"corpus.workers": "2"})
        written.append("tags", "stage:preprocess", tags={"artifact": f"tokens/{number}"})
    written.close()
    whole, stage = runs_in_journals(tmp_path)
    assert stage.tags["stage"] == "preprocess" and not stage.complete
    assert stage.params == WHOLE | {"corpus.workers": "2"}
    assert whole.results == stage.results == ["tokens/2"]


def test_a_row_of_a_sweep_keeps_its_own_configuration(tmp_path):
    """A section of a row, where the sweep's first point has none, is not mixed with it."""
    row = {"preset": '"smoke"', "seed": "0", "corpus.near_duplicates.threshold": "0.8"}
    written = Journal(tmp_path / "1.jsonl")
    written.append("start", "pipeline", name="sweep-smoke", time=1.0, tags={})
    written.append("params", "pipeline", params=WHOLE)
    written.append("start", "stage:near_duplicates={}", name="pretrain-smoke", time=1.0, tags={"stage": "x"})
    written.append("params", "stage:near_duplicates={}", params=row)
    written.append("tags", "stage:near_duplicates={}", tags={"stage": "pretrain"})
    written.close()
    _, one = runs_in_journals(tmp_path)
    assert one.complete and one.params == row and one.tags["stage"] == "pretrain"
    assert tree_of(one.params)["corpus"] == {"near_duplicates": {"threshold": 0.8}}


def test_a_stage_of_mlflow_knows_its_siblings(workspace, client):
    parent = client.create_run("0", run_name="pipeline-smoke", start_time=1000)
    for name, value in WHOLE.items():
        client.log_param(parent.info.run_id, name, value)
    for place, stage in enumerate(("preprocess", "pretrain")):
        tags = {"mlflow.parentRunId": parent.info.run_id, "stage": stage, "artifact": f"{stage}/aa"}
        last = client.create_run("0", run_name=f"{stage}-smoke", start_time=2000 + place, tags=tags)
    [run] = runs_in_mlflow(tracking_uri(workspace), last.info.run_id)
    assert [part.tags["stage"] for part in run.whole.parts] == ["preprocess", "pretrain"]
    assert run.params == WHOLE and not run.complete
