"""Names, tags and links of flow runs."""

import json
import os
import sqlite3
import subprocess
import sys
import uuid
from types import SimpleNamespace

import pytest

from longcat.best_effort import SERVERS
from longcat.flows import naming
from longcat.flows.naming import describe, mlflow_page, mlflow_runs
from longcat.flows.pipeline import make_flow
from longcat.tracking.names import MOST, UNJUDGED, run_name, run_tags
from longcat.ui_pages import choose_ports, ui_address


def test_a_name_says_what_was_run_and_overridden():
    assert run_name("pipeline", "tiny", None, []) == "pipeline-tiny"
    overrides = ["training.steps=500", "training.optimizer.learning_rate=1e-3"]
    assert run_name("pretrain", "tiny", "x/mine.yaml", overrides) == "pretrain-tiny-mine-steps=500-learning_rate=1e-3"
    assert run_tags("pretrain", "tiny", overrides) == ["pretrain", "tiny", *overrides]


def test_what_a_comparison_sets_by_itself_is_in_no_name():
    assert run_name("evaluate", "tiny", None, [UNJUDGED]) == "evaluate-tiny"
    assert run_name("evaluate", "tiny", None, ["seed=3", UNJUDGED]) == "evaluate-tiny-seed=3"
    assert run_tags("evaluate", "tiny", [UNJUDGED]) == ["evaluate", "tiny"]


def test_names_and_tags_are_bounded_and_hold_no_secrets_and_no_control_characters():
    overrides = ["corpus.sources=[" + "x" * 500 + "]", "corpus.sources=https://me:secret@host/\x1b[2J a\nb"]
    for one in overrides:
        for text in (run_name("run", "tiny", None, [one]), *run_tags("run", "tiny", [one])):
            assert len(text) <= MOST
            assert "secret" not in text and text.isprintable()


@pytest.mark.parametrize(("before", "after"), [("curious-hyena", "new"), ("My run 3", "My run 3")])
def test_a_name_that_somebody_gave_stays(monkeypatch, before, after):
    told = {}

    class Client:
        """It is open already, as that of a run is."""

        def read_flow_run(self, flow_run):
            return type("Run", (), {"name": before, "tags": ["mine", "tiny"]})

        def update_flow_run(self, flow_run, **values):
            told.update(values)

    monkeypatch.setattr(naming, "get_client", lambda **_: Client())
    describe(uuid.uuid4(), "new", ["pipeline", "tiny"])
    assert told == {"name": after, "tags": ["mine", "pipeline", "tiny"]}


@pytest.mark.parametrize(
    ("before", "parameters", "after"),
    [
        ("curious-hyena", {"preset": "smoke", "overrides": ["training.steps=3"]}, "pretrain-smoke-steps=3"),
        ("curious-hyena", {"preset": None, "overrides": None, "config_file": None}, "pretrain-tiny"),
        ("curious-hyena", {"preset": "absent"}, "pretrain"),
        ("My run 3", {"preset": "smoke"}, "My run 3"),
    ],
)
def test_a_flow_run_has_its_name_from_its_first_line_on(monkeypatch, before, parameters, after):
    context = SimpleNamespace(flow_run=SimpleNamespace(name=before), parameters=parameters)
    monkeypatch.setattr(naming.FlowRunContext, "get", lambda: context)
    assert make_flow("pretrain", "").flow_run_name() == after


def test_a_long_value_does_not_hide_what_follows():
    name = run_name("pretrain", "tiny", None, ["corpus.sources=/data/" + "x" * 90 + "/last.jsonl", "seed=3"])
    assert name.endswith("/last.jsonl-seed=3")
    assert len(run_name("pretrain", "tiny", None, ["corpus.filters=[" + "gopher," * 9 + "]", "seed=3"])) < 60


def test_links_lead_to_the_server_there_is(tmp_path, monkeypatch):
    where = {"tracking_uri": "sqlite:////w/mlflow.db", "experiment": "longcat"}
    training = "?workflowType=machine_learning"  # else MLflow opens with its pages for chat
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    choose_ports(tmp_path, {"MLflow": 5123})
    runs = mlflow_runs("7", {"pretrain": "0" * 32, "evaluate": None}, tmp_path)
    assert runs == {"pretrain": f"http://127.0.0.1:5123/#/experiments/7/runs/{'0' * 32}{training}", "evaluate": None}
    page = mlflow_page("the note", where, "7", runs["pretrain"], tmp_path)
    assert f"(http://127.0.0.1:5123/#/experiments/7/runs{training})" in page and "the note" in page
    assert "longcat ui --workspace" in page
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://curves:5000")
    runs = mlflow_runs("7", {"pretrain": "0" * 32}, tmp_path)
    assert f"http://curves:5000/#/experiments/7/runs/{'0' * 32}{training}" in runs.values()
    assert "longcat ui" not in mlflow_page("", where, "7", runs["pretrain"], tmp_path)
    assert "not been sent" in mlflow_page("", where, None, mlflow_runs(None, {"all": "0"}, tmp_path)["all"], tmp_path)


@pytest.mark.slow
def test_what_prefect_and_mlflow_have_of_a_run(corpus_file, tmp_path):
    """Of a workspace's own servers: name, tags, progress, log, and where each other's pages are."""
    command = [sys.executable, "-m", "longcat.cli", "preprocess", "--preset", "smoke", "--workspace", str(tmp_path)]
    source = f"corpus.sources={corpus_file}"
    environment = {name: value for name, value in os.environ.items() if name not in SERVERS.values()}
    run = subprocess.run(
        [*command, "--set", source], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Prefect at" not in run.stderr
    with sqlite3.connect(tmp_path / "prefect" / "prefect.db") as database:
        [(flow_run, name, tags)] = database.execute("SELECT id, name, tags FROM flow_run")
        assert name == run_name("preprocess", "smoke", None, [source])
        assert json.loads(tags) == sorted(run_tags("preprocess", "smoke", [source]))
        rows = database.execute("SELECT key, description, data FROM artifact").fetchall()
        artifacts = {key: (text, data) for key, text, data in rows}
        assert float(artifacts["preprocess"][1]) == 100
        assert artifacts["preprocess"][0].endswith("training tokens")
        assert f"{ui_address('MLflow', tmp_path)}/#/experiments/" in artifacts["mlflow"][1]
        assert not [data for _, data in artifacts.values() if "file:" in str(data)]
        lines = [line for (line,) in database.execute("SELECT message FROM log")]
        assert f"Beginning flow run {name!r} for flow 'preprocess'" in lines
        assert [line for line in lines if line.startswith("preprocess: ") and str(tmp_path / "tokens") in line]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        pages = {value for (value,) in database.execute("SELECT value FROM tags WHERE key = 'prefect.url'")}
    assert pages == {f"{ui_address('Prefect', tmp_path)}/runs/flow-run/{uuid.UUID(flow_run)}"}
