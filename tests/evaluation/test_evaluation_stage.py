"""An interrupted evaluation goes on with the suite that it was at."""

import pytest

from longcat.artifact import Workspace, open_artifact
from longcat.config import load_config
from longcat.corpus.facts import TokensFacts
from longcat.evaluation import stage as module
from longcat.evaluation.stage import evaluate
from longcat.evaluation.suites import Scores, Suite
from longcat.interchange.checkpoint_facts import CheckpointFacts

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("moment", ["second suite", "report", "hashing"])
def test_an_interrupted_evaluation_goes_on(smoke_run, smoke_settings, tmp_path, monkeypatch, moment):
    config = load_config("smoke", None, smoke_settings)
    assert config.evaluation.suites == ["held_out", "tasks"]
    [tokens], [checkpoint] = ((smoke_run[0] / kind).glob("[!.]*") for kind in ("tokens", "checkpoint"))
    scored = []

    def suite(name):
        def run(_):
            scored.append(name)
            if name == "tasks" and scored.count(name) == 1 and moment == "second suite":
                raise KeyboardInterrupt
            return Scores({name: {"bits": 1.5}}, f"## {name}", f"{name} 1.5")

        return Suite(run)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "find_suite", suite)
    parents = open_artifact(tokens, TokensFacts), open_artifact(checkpoint, CheckpointFacts)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment != "second suite":
            patch.setattr(
                {"report": module.__name__ + ".write_text", "hashing": "longcat.artifact._describe"}[moment], interrupt
            )
        evaluate(config, *parents, workspace=Workspace(tmp_path))
    made = evaluate(config, *parents, workspace=Workspace(tmp_path))
    assert scored == ["held_out", "tasks"] + ["tasks"] * (moment == "second suite")
    assert made.facts.scores == {"held_out": {"bits": 1.5}, "tasks": {"bits": 1.5}}
    assert made.facts.headlines == ["held_out 1.5", "tasks 1.5"]
    assert {path.name for path in made.path.iterdir()} == {"result.json", "report.md", "report.html", "manifest.json"}
