"""An evaluation by all suites; an interrupted one goes on with the suite that it was at."""

import json

import pytest

from longcat.artifact import Workspace, open_artifact
from longcat.config import load_config
from longcat.config.evaluation import Gate
from longcat.corpus.facts import TokensFacts
from longcat.errors import EvaluationError
from longcat.evaluation import stage as module
from longcat.evaluation.gates import check_gates
from longcat.evaluation.stage import evaluate, refuse_failures
from longcat.evaluation.suites import Scores, Suite, find_suite
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.unpacking import read_json

pytestmark = pytest.mark.slow


def test_scores_samples_and_failures_are_recorded(smoke_run, smoke_settings, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "scores.py").write_text("def broken(doc, results):\n    raise KeyError('price')\n")
    task = (
        "task: bad\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: a\n"
        "doc_to_choice: [b, c]\ndoc_to_target: answer\nprocess_results: !function scores.broken\n"
    )
    (tasks / "bad.yaml").write_text(task)
    (tasks / "bad.jsonl").write_text('{"answer": 0}\n')
    own = ["evaluation.tasks=[python_completion,bad]", f"evaluation.task_paths=[{tasks}]", "evaluation.task_limit=5"]
    own.append("evaluation.suites=[held_out,intrinsic,tasks]")
    config = load_config("smoke", None, [*smoke_settings, *own])
    [tokens], [checkpoint] = ((smoke_run[0] / kind).glob("[!.]*") for kind in ("tokens", "checkpoint"))
    parents = open_artifact(tokens, TokensFacts), open_artifact(checkpoint, CheckpointFacts)
    said = []
    made = evaluate(config, *parents, workspace=Workspace(tmp_path), report=said.append)
    assert {path.name for path in made.path.iterdir()} == {
        "result.json", "results.json", "report.md", "report.html", "held_out.jsonl", "samples", "manifest.json",
        "intrinsic.json",
    }  # fmt: skip
    assert [path.name for path in (made.path / "samples").iterdir()] == ["python_completion.jsonl"]
    samples = [json.loads(line) for line in (made.path / "samples/python_completion.jsonl").read_text().splitlines()]
    assert len(samples) == 5
    figures = made.facts.figures
    assert figures["python_completion/acc"] == sum(sample["right"] for sample in samples) / 5
    assert figures["python_completion/acc_chance"] == 0.25
    foreseen = [find_suite(name).scores(config) for name in config.evaluation.suites]
    check_gates([Gate(score=name, at_least=0) for name in figures], foreseen)
    assert figures["held_out/bits_per_byte"] > 0
    inside = read_json(made.path / "intrinsic.json")
    errors = {name: value for name, value in figures.items() if name.endswith("_stderr") and "bits" in name}
    assert all(0 < error < 1 for error in errors.values())
    assert "held_out/bits_per_byte_stderr" in errors
    page = (made.path / "report.html").read_text()
    for group in ("source", "language"):
        for name, one in inside[f"by {group}"].items():
            if one["documents"] > 1:
                assert one["stderr"] in errors.values() and f"{one['stderr']:.3f}" in page, name
        assert any(name.startswith(f"intrinsic/bits_per_byte.{group}.") for name in errors)
    assert made.facts.failures == {"bad": "KeyError: 'price'"}
    report = (made.path / "report.md").read_text()
    assert "| python_completion | acc |" in report
    assert "* bad: KeyError: 'price'" in report
    assert "1 task failed" in made.facts.headline
    assert any("task bad" in progress.message for progress in said)
    with pytest.raises(
        EvaluationError, match=r"tasks without scores: bad: KeyError: 'price'; the others are in .*report\.md"
    ):
        refuse_failures(made)


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
