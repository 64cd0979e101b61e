"""Records of a run: what they say at its end does not depend on how often it was interrupted, and they are JSON."""

import json
import math

import pytest

from longcat.training.metrics import MetricsFile, read_metrics, summarise


def record(step, loss, **more):
    return {"step": step, "time": float(step), "train/loss": loss, "moe/ffn_experts_per_token": step / 10, **more}


def strict(text):
    """Each line as JSON without the words that only Python knows."""

    def refuse(word):
        raise ValueError(word)

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_numbers_that_are_not_finite_stay_json_and_come_back_as_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, after_step=0)
    for step, loss in enumerate((1.0, math.nan, math.inf, -math.inf), 1):
        metrics.append(record(step, loss))
    MetricsFile(path, after_step=3)  # what is kept is written again
    assert [line["train/loss"] for line in strict(path.read_text())] == [1.0, None, None]
    assert [math.isnan(line["train/loss"]) for line in read_metrics(path)] == [False, True, True]


def test_facts_are_those_of_the_file_however_often_it_was_begun_again(tmp_path):
    def made(name, stops):
        path = tmp_path / name
        metrics = MetricsFile(path, after_step=0)
        for step in range(1, 31):
            if step in stops:  # back to the checkpoint two steps before
                metrics = MetricsFile(path, after_step=step - 3)
                for again in range(step - 2, step):
                    metrics.append(record(again, 1 / again, **{"perf/tokens_per_second": 1e3 * again}))
            metrics.append(record(step, 1 / step, **{"perf/tokens_per_second": 1e3 * step}))
        return summarise(read_metrics(path))

    whole = made("whole", ())
    assert whole["final_loss"] == pytest.approx(sum(1 / step for step in range(11, 31)) / 20)
    assert whole["ffn_experts_per_token"] == 3.0
    assert whole["tokens_per_second"] == 23e3
    assert made("once", (30,)) == made("often", (5, 17, 18, 29)) == whole


def test_skipped_steps_are_no_part_of_the_final_loss():
    records = [record(step, math.nan if step % 2 else 2.0) for step in range(1, 13)]
    assert summarise(records)["final_loss"] == 2.0
    hopeless = summarise([record(step, math.nan, **{"held_out/loss": math.inf}) for step in range(1, 13)])
    assert hopeless == {
        "final_loss": None,
        "held_out_loss": None,
        "ffn_experts_per_token": 1.2,
        "tokens_per_second": None,
        "mfu": None,
    }
    assert set(summarise([]).values()) == {None}


def test_a_run_without_a_finite_loss_has_a_headline():
    from longcat.interchange.checkpoint_facts import CheckpointFacts

    facts = CheckpointFacts(parameters=1, steps=12, tokens=3_000_000)
    assert facts.headline == "no finite loss in the last steps of 3.00 M tokens"
