"""Names, tags and links of flow runs."""

from uuid import uuid4

import pytest

from flows import naming
from flows.naming import MOST, describe, mlflow_page, run_name, run_tags


def test_a_name_says_what_was_run_and_overridden():
    assert run_name("pipeline", "tiny", None, []) == "pipeline-tiny"
    overrides = ["training.steps=500", "training.optimizer.learning_rate=1e-3"]
    assert run_name("pretrain", "tiny", "x/mine.yaml", overrides) == "pretrain-tiny-mine-steps=500-learning_rate=1e-3"
    assert run_tags("pretrain", "tiny", overrides) == ["pretrain", "tiny", *overrides]


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
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read_flow_run(self, flow_run):
            return type("Run", (), {"name": before, "tags": ["mine", "tiny"]})

        def update_flow_run(self, flow_run, **values):
            told.update(values)

    monkeypatch.setattr(naming, "get_client", lambda **_: Client())
    describe(uuid4(), "new", ["pipeline", "tiny"])
    assert told == {"name": after, "tags": ["mine", "pipeline", "tiny"]}


def test_links_lead_to_the_server_there_is(monkeypatch):
    summary = {"workspace": "/w", "mlflow": {"tracking_uri": "sqlite:////w/mlflow.db", "experiment": "longcat"}}
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    own = mlflow_page(summary, {"pretrain": "0" * 32, "evaluate": None})
    assert f"(http://127.0.0.1:5010/#/runs/{'0' * 32})" in own
    assert "longcat ui --workspace /w" in own and "| evaluate | not sent yet |" in own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://curves:5000")
    page = mlflow_page(summary, {"pretrain": "0" * 32})
    assert f"(http://curves:5000/#/runs/{'0' * 32})" in page and "longcat ui" not in page
