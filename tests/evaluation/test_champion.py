"""The champion is who met the gates last; one who does not leaves the older one in its place."""

import json

import numpy as np
import pytest

from longcat.artifact import Artifact, Workspace
from longcat.config import load_config
from longcat.corpus.block_tasks import DOCUMENT
from longcat.errors import ArtifactError, GateError
from longcat.evaluation.champion import decide, require, tags_of
from longcat.evaluation.decisions import champion, champions, decisions, last_decision
from longcat.evaluation.stage import EvaluationFacts

MODEL = "longcat-smoke"
NO_WORSE = "{score: held_out/bits_per_byte, no_worse_than_champion: true}"
AT_MOST = "{score: held_out/bits_per_byte, at_most: 3}"


@pytest.fixture
def judged(tmp_path):
    """A function that judges a checkpoint of a name with these bits per byte, and returns the decision."""
    space = Workspace(tmp_path)

    def text(tokens, keys):
        (tmp_path / "tokens" / tokens).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tokens" / tokens / "manifest.json").write_text(json.dumps({"identity": {"documents": tokens}}))
        table = np.zeros(len(keys), DOCUMENT)
        table["key"], table["held_out"] = keys, True
        (tmp_path / "documents" / tokens).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "documents" / tokens / "documents.npy", table)

    def run(name, bits, gates=NO_WORSE, overrides=(), tokens="t", keys=(1, 2)):
        text(tokens, keys)
        config = load_config("smoke", overrides=[f"evaluation.gates=[{gates}]", *overrides])
        parents = [{"kind": "tokens", "digest": tokens}, {"kind": "checkpoint", "digest": name}]
        suites = {"tasks": {"lm_eval": "1", "group": [{"name": "t", "files": [config.evaluation.task_limit]}]}}
        manifest = {"parents": parents, "identity": {"suites": suites}}
        facts = EvaluationFacts(scores={"held_out": {"bits_per_byte": bits}, "t": {"acc": 0.5}}, headlines=[])
        scores = Artifact("evaluation", f"e{name}", tmp_path / "evaluation" / f"e{name}", manifest, facts)
        run.checkpoint = Artifact("checkpoint", name, tmp_path / name, {"parents": parents[:1]}, None)
        run.scores, run.space = scores, space
        return decide(config, MODEL, scores, run.checkpoint, space)

    return run


def test_no_gates_judge_nothing(judged, tmp_path):
    assert judged("a", 2.0, gates="") is None
    require(None, judged.space, judged.scores)
    assert champion(tmp_path, MODEL) is None
    assert not (tmp_path / "champions").exists()


def test_the_older_champion_stays(judged, tmp_path):
    assert judged("first", 2.5).promoted
    require(champion(tmp_path, MODEL), judged.space, judged.scores)
    worse = judged("second", 2.6)
    assert not worse.promoted
    with pytest.raises(
        GateError,
        match=r"second is not the champion of longcat-smoke: held_out/bits_per_byte 2\.6 is worse than the champion's 2\.5; "
        r"first stays the champion; the scores are in .*report\.md",
    ) as error:
        require(worse, judged.space, judged.scores)
    assert error.value.exit_code == 1
    assert champion(tmp_path, MODEL).checkpoint == "first"
    assert judged("third", 2.4).promoted
    assert [one.checkpoint for one in decisions(tmp_path, MODEL)] == ["first", "second", "third"]
    assert champion(tmp_path, MODEL).checkpoint == "third"
    assert [one.checkpoint for one in champions(tmp_path)] == ["third"]
    assert last_decision(tmp_path, "esecond").reason.startswith("second is not the champion")
    assert last_decision(tmp_path, "unknown") is None


def test_all_gates_have_to_be_met(judged, tmp_path):
    found = judged("a", 2.5, gates=f"{AT_MOST}, {{score: t/acc, at_least: 0.6}}")
    assert (found.passed, found.failed) == (
        ["held_out/bits_per_byte 2.5 is at most 3"],
        ["t/acc 0.5 is not at least 0.6"],
    )
    with pytest.raises(GateError, match="there is no champion"):
        require(found, judged.space, judged.scores)


def test_the_champion_scored_again_is_no_worse_than_itself(judged, tmp_path):
    assert judged("a", 2.5).promoted
    assert judged("a", 2.7, overrides=["evaluation.held_out_sequences=3"]).promoted
    assert champion(tmp_path, MODEL).scores["held_out/bits_per_byte"] == 2.7


@pytest.mark.parametrize(
    ("change", "score", "reason"),
    [
        ({"overrides": ["evaluation.held_out_sequences=3"]}, "held_out/bits_per_byte", "another held_out_sequences"),
        ({"tokens": "u", "keys": (1, 3)}, "held_out/bits_per_byte", "another held-out text"),
        ({"tokens": "u", "keys": (2, 1)}, "held_out/bits_per_byte", None),  # the same text, by another tokenizer
        ({"tokens": "u", "keys": (1, 3)}, "t/acc", None),
        ({"overrides": ["evaluation.task_limit=3"]}, "t/acc", "another task_limit and another version of the task"),
        ({"overrides": ["evaluation.task_limit=3"]}, "held_out/bits_per_byte", None),
        ({"overrides": ["evaluation.suites=[held_out]"]}, "t/acc", None),
    ],
)
def test_only_like_is_set_beside_like(judged, change, score, reason):
    gate = f"{{score: {score}, no_worse_than_champion: true}}"
    assert judged("a", 2.5, gate).promoted
    found = judged("b", 2.4, gate, **change)
    assert found.promoted is (reason is None)
    assert (
        reason is None or f"the champion's was made with {reason}; longcat evaluate --checkpoint a" in found.failed[0]
    )


def test_what_a_version_is_told(judged):
    decision = judged("a", 2.5)
    tags = tags_of(decision, judged.scores, judged.checkpoint)
    assert tags == {
        "gates": "a is the champion of longcat-smoke: held_out/bits_per_byte 2.5, and there is no champion yet",
        "lineage.evaluation": "ea",
        "lineage.tokens": "t",
        "score.held_out/bits_per_byte": "2.5",
        "score.t/acc": "0.5",
    }


def test_a_damaged_record_is_no_empty_one(judged, tmp_path):
    judged("a", 2.5)
    (tmp_path / "champions" / f"{MODEL}.json").write_text('[{"model": ')
    with pytest.raises(ArtifactError, match="restore it from a copy"):
        judged("b", 2.4)
