"""The alias of the champion in MLflow, also of decisions that were made while MLflow was away."""

import pytest

from longcat.artifact import Artifact
from longcat.config import load_config
from longcat.tracking import Tracker, model_name, sender
from longcat.tracking.sync import sync

CONFIG = load_config("smoke")
NAME = model_name(CONFIG)


@pytest.fixture
def checkpoint(tmp_path):
    def make(digest):
        folder = tmp_path / "checkpoint" / digest / "huggingface"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        return Artifact("checkpoint", digest, folder.parent, {}, None)

    return make


def judge(workspace, checkpoint, *, champion, tags=None):
    tracker = Tracker(workspace, CONFIG, "judged")
    with tracker.stage("evaluate") as run:
        run.judge_model(NAME, checkpoint, tags or {}, champion=champion)
    return tracker.close("FINISHED")


def test_the_version_gets_scores_and_only_a_good_one_the_alias(workspace, client, checkpoint):
    tags = {"score.held_out/bits_per_byte": "2.5", "score.my task (zh)/acc,strict": "0.5", "gates": "x" * 9000}
    assert judge(workspace, checkpoint("a"), champion=True, tags=tags) is None
    assert judge(workspace, checkpoint("b"), champion=False, tags={"gates": "worse"}) is None
    best = client.get_model_version_by_alias(NAME, "champion")
    assert best.tags["digest"] == "a"
    assert best.tags["score.held_out/bits_per_byte"] == "2.5"
    assert best.tags["score.my task _zh_/acc_strict"] == "0.5"
    assert len(best.tags["gates"]) == 5000
    versions = {version.tags["digest"]: version for version in client.search_model_versions(f"name = '{NAME}'")}
    assert versions["b"].tags["gates"] == "worse"
    assert judge(workspace, checkpoint("b"), champion=True) is None
    assert client.get_model_version_by_alias(NAME, "champion").version == versions["b"].version
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
    assert not list((workspace.path / "tracking").glob("refused/*"))


def test_a_decision_that_is_sent_late_does_not_unseat_a_later_one(workspace, client, checkpoint, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sender, "END_S", 0.1)
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
        tracker = Tracker(workspace, CONFIG, "away")
        with tracker.stage("evaluate") as run:
            run.register_model(NAME, checkpoint("early"))
            run.judge_model(NAME, checkpoint("early"), {"gates": "early"}, champion=True)
        assert "longcat sync" in tracker.close("FINISHED")
    # this run's own events are sent before those that are left
    tracker = Tracker(workspace, CONFIG, "back")
    with tracker.stage("evaluate") as run:
        run.register_model(NAME, checkpoint("late"))
        run.judge_model(NAME, checkpoint("late"), {"gates": "late"}, champion=True)
    tracker.close("FINISHED")
    sync(workspace)
    for alias in ("champion", "latest-checkpoint"):
        assert client.get_model_version_by_alias(NAME, alias).tags["digest"] == "late"
    tags = [version.tags["gates"] for version in client.search_model_versions(f"name = '{NAME}'")]
    assert sorted(tags) == ["early", "late"]
