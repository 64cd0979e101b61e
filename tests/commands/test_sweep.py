"""`longcat sweep`: each point is trained once, one that fails does not end the others, and MLflow hears of all."""

import json
import re
import shlex
from pathlib import Path

import pytest

from longcat import tracking
from longcat.artifact import Artifact, Recipe
from longcat.config import load_config
from longcat.errors import StorageError, TrainingError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.interchange.checkpoint_folder import CheckpointFolder

RATE = "training.optimizer.learning_rate"


class NoSender:
    """Sends nothing: what is to be sent stays in the journal."""

    def __init__(self, *_):
        self.run_ids, self.service, self.experiment_id = {}, None, None

    def start(self, then):
        pass

    def finish(self, _seconds):
        return None


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Learning rates that were trained with, by a stage that is quick and fails with the largest ones."""
    rates = []

    def pretrain(config, _tokens, *, workspace, report, on_metrics):
        rate = config.training.optimizer.learning_rate
        recipe = Recipe("checkpoint", CheckpointFacts, 1, {"rate": rate})

        def build(directory):
            rates.append(rate)
            if rate > 1:
                raise StorageError("the disk is full") if rate > 2 else TrainingError("it went wrong")
            record = {"step": 1, "time": 0.0, "attempt": 0, "train/loss": rate}
            CheckpointFolder(directory).metrics.write_text(json.dumps(record) + "\n")
            on_metrics([record])
            return CheckpointFacts(parameters=1, final_loss=abs(rate - 0.02), tokens_per_second=rate)

        return workspace.materialize(recipe, build)

    tokens = Artifact("tokens", "1" * 32, tmp_path, {}, facts=None)
    monkeypatch.setattr("longcat.corpus.stage.preprocess", lambda *_, **__: tokens)
    monkeypatch.setattr("longcat.training.stage.pretrain", pretrain)
    monkeypatch.setattr(tracking, "Sender", NoSender)
    return rates


@pytest.fixture
def swept(longcat, tmp_path, trained):
    """Runs the command in a workspace of the test's own."""

    def run(*arguments):
        done = longcat("sweep", "--preset=smoke", *arguments, f"--workspace={tmp_path / 'w'}")
        print(done.stderr)  # shown where a test fails
        return done

    return run


def events(folder):
    [journal] = (folder / "w" / "tracking").glob("*.jsonl")
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_a_sweep_and_the_same_again(swept, trained, tmp_path):
    arguments = (f"--set={RATE}=0.01,0.02,1.5", "--set=training.steps=3")
    first = swept(*arguments, "--json")
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert [(row["name"], row["status"]) for row in answer["points"]] == [
        ("learning_rate=0.01", "run"),
        ("learning_rate=0.02", "run"),
        ("learning_rate=1.5", "failed"),
    ]
    assert answer["points"][2]["error"] == "it went wrong"
    assert (answer["best"], answer["best_score"]) == ("learning_rate=0.02", 0.0)
    best = load_config("smoke", overrides=[f"{RATE}=0.02", "training.steps=3"])
    assert load_config(file=Path(answer["config"])) == best
    told = events(tmp_path)
    started = [event for event in told if event["event"] == "start"]
    assert [event["name"] for event in started] == [
        "sweep-smoke-learning_rate=0.01,0.02,1.5-steps=3",
        *(f"pretrain-smoke-steps=3-{row['name']}" for row in answer["points"]),
    ]
    assert [event["parent"] for event in started[1:]] == ["pipeline"] * 3
    assert [event["status"] for event in told if event["event"] == "end"] == [
        "FINISHED",
        "FINISHED",
        "FAILED",
        "FINISHED",
    ]
    (tmp_path / "w" / "tracking").rename(tmp_path / "before")
    again = swept(*arguments)
    assert again.returncode == 0
    assert trained == [0.01, 0.02, 1.5, 1.5]  # what has failed is tried again
    assert again.stdout.count("cached") == 2
    assert "warning: learning_rate=1.5 failed: it went wrong" in again.stderr
    assert f"longcat run --config {answer['config']} --workspace {tmp_path / 'w'}" in again.stdout
    assert re.search(r"^pretrain   100% learning_rate=0\.02: reused: \S", again.stderr, re.MULTILINE)


def test_the_command_for_the_best_point_can_be_pasted(longcat, trained, tmp_path):
    place = tmp_path / "a folder [1]"
    text = longcat("sweep", "--preset=smoke", f"--set={RATE}=0.01,0.02", f"--workspace={place}").stdout
    [line] = (line for line in text.splitlines() if line.startswith("longcat run"))
    config = next((place / "sweep").glob("*/best.yaml"))
    assert shlex.split(line) == ["longcat", "run", "--config", str(config), "--workspace", str(place)]
    assert f"Picture: {config.with_name('sweep.png')}" in text.splitlines()


def test_the_score_may_be_another(swept):
    answer = json.loads(swept(f"--set={RATE}=0.01,0.02,0.03", "--score=tokens_per_second", "--json").stdout)
    assert answer["best"] == "learning_rate=0.03"


def test_what_every_point_would_end_with_ends_the_sweep(swept, trained):
    ended = swept(f"--set={RATE}=3,0.01")
    assert (ended.returncode, trained) == (2, [3])
    assert "the disk is full" in ended.stderr


def test_nothing_but_failures_is_one(swept):
    ended = swept(f"--set={RATE}=1.5,1.6", "--json")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "error: every point failed; the first one: it went wrong"
    assert json.loads(ended.stdout)["best"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"--set={RATE}=1e-3",), "a sweep needs a setting with several values"),
        ((f"--set={RATE}=1e-3,-1",), "training.optimizer.learning_rate: Input should be greater than 0"),
        (("--set=training.step=1,2",), "did you mean 'training.steps'"),
        ((f"--set={RATE}=1e-3,2e-3", "--score=beauty"), "--score beauty: there are final_loss"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(swept, trained, arguments, message):
    ended = swept(*arguments)
    assert (ended.returncode, trained) == (2, [])
    [line] = ended.stderr.splitlines()
    assert message in line


def test_a_killed_sweep_of_trials_goes_on(swept, trained, monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    arguments = (f"--set={RATE}=1e-3..0.1", "--trials=6", "--json")
    from longcat.training import stage

    whole = stage.pretrain

    def killed(*given, **named):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return whole(*given, **named)

    monkeypatch.setattr(stage, "pretrain", killed)
    assert swept(*arguments).returncode == 130
    begun = list(trained)
    monkeypatch.setattr(stage, "pretrain", whole)
    answer = json.loads(swept(*arguments).stdout)
    assert [row["status"] for row in answer["points"]] == ["cached"] * 3 + ["run"] * 3
    assert trained[:3] == begun
    assert len(set(trained)) == 6
    best = min(answer["points"], key=lambda row: row["final_loss"])
    assert (answer["best"], answer["best_score"]) == (best["name"], best["final_loss"])
    assert Path(answer["picture"]).read_bytes().startswith(b"\x89PNG")


def test_what_is_minimized_or_maximized(swept, trained):
    rates = f"--set={RATE}=0.01,0.02,0.03"
    assert json.loads(swept(rates, "--maximize=final_loss", "--json").stdout)["best"] == "learning_rate=0.01"
    for arguments, message in {
        ("--minimize=mfu", "--maximize=mfu"): "--minimize and --maximize exclude one another",
        ("--minimize=beauty",): "--minimize beauty: there are final_loss",
        ("--minimize=held_out/bits_per_bite",): "did you mean|there is no score 'held_out/bits_per_bite'",
    }.items():
        before = list(trained)
        ended = swept(rates, *arguments)
        assert (ended.returncode, trained) == (2, before)
        assert any(part in ended.stderr for part in message.split("|"))


def test_a_range_needs_trials(swept):
    ended = swept(f"--set={RATE}=1e-3..1e-2")
    assert (ended.returncode, "a range needs --trials N" in ended.stderr) == (2, True)


def test_points_may_be_judged_by_scores_of_the_evaluation(swept, monkeypatch):
    from longcat.evaluation.stage import EvaluationFacts

    def evaluate(config, tokens, checkpoint, *, workspace, report):
        facts = EvaluationFacts(scores={"held_out": {"bits_per_byte": checkpoint.facts.final_loss}}, headlines=[])
        return workspace.materialize(Recipe("evaluation", EvaluationFacts, 1, {}, (checkpoint,)), lambda _: facts)

    monkeypatch.setattr("longcat.evaluation.stage.evaluate", evaluate)
    answer = json.loads(swept(f"--set={RATE}=0.01,0.02", "--score=held_out/bits_per_byte", "--json").stdout)
    assert (answer["best"], answer["best_score"]) == ("learning_rate=0.02", 0.0)
    assert [row["held_out/bits_per_byte"] for row in answer["points"]] == [0.01, 0.0]
