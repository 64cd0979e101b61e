"""Grids of settings, their names, and what is kept of their results."""

import json
from dataclasses import replace

import pytest

from longcat.artifact import Recipe, Workspace
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.interchange.checkpoint_facts import CheckpointFacts
from longcat.training.sweep import (
    BEST,
    PICTURE,
    RESULT,
    Outcome,
    Point,
    best_of,
    names_of,
    record_sweep,
    split_overrides,
)

RATE = "training.optimizer.learning_rate"


def test_settings_with_several_values_make_a_grid():
    fixed, points = split_overrides([f"{RATE}=1e-3,2e-3", "seed=3", "training.steps=4, 8", "corpus.filters=[a,b]"])
    assert fixed == ["seed=3", "corpus.filters=[a,b]"]
    assert [point.overrides for point in points] == [
        [f"{RATE}={rate}", f"training.steps={steps}"] for rate in ("1e-3", "2e-3") for steps in ("4", "8")
    ]
    assert names_of(points)[:2] == ["learning_rate=1e-3, steps=4", "learning_rate=1e-3, steps=8"]


def test_commas_within_a_value_divide_nothing():
    key = "model.sparse_attention"
    _, points = split_overrides(
        [f"{key}={{index_topk: 8, index_init_tokens: 1}},null", "training.sample_prompt='a, b'"]
    )
    assert [point.settings[key] for point in points] == ["{index_topk: 8, index_init_tokens: 1}", "null"]
    _, points = split_overrides(["training.answers_after=[['A:', 'B:']],[]"])
    assert [point.settings["training.answers_after"] for point in points] == ["[['A:', 'B:']]", "[]"]


def test_keys_that_end_alike_are_named_in_full():
    _, points = split_overrides(["corpus.seed=1,2", "seed=3,4"])
    assert names_of(points)[0] == "corpus.seed=1, seed=3"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=3"], "a sweep needs a setting with several values"),
        ([], "a sweep needs a setting with several values"),
        (["seed=1,2", "seed=3,4"], "--set seed: two lists of values"),
        (["seed=1,1"], "the value '1' is empty or there twice"),
        (["seed=1,"], "the value '' is empty or there twice"),
    ],
)
def test_what_is_no_grid(overrides, message):
    with pytest.raises(ConfigError, match=message):
        split_overrides(overrides)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def outcome(workspace, loss, speed=1.0, **settings):
    """A point whose checkpoint has this loss; one without loss has failed."""
    point = Point({key.replace("__", "."): str(value) for key, value in settings.items()})
    config = load_config("smoke", overrides=[*point.overrides])
    if loss is None:
        return Outcome(names_of([point])[0], point.settings, config, error="it failed")
    facts = CheckpointFacts(parameters=1, final_loss=loss, tokens_per_second=speed)
    recipe = Recipe("checkpoint", CheckpointFacts, 1, {"loss": loss, **point.settings})
    return Outcome(names_of([point])[0], point.settings, config, workspace.materialize(recipe, lambda _: facts))


def test_the_best_has_the_least_loss_or_the_most_speed(workspace):
    outcomes = [
        outcome(workspace, None, seed=1),
        outcome(workspace, 3.0, 5.0, seed=2),
        outcome(workspace, 2.0, 4.0, seed=3),
    ]
    assert best_of(outcomes, "final_loss", False) is outcomes[2]
    assert best_of(outcomes, "tokens_per_second", True) is outcomes[1]
    assert best_of(outcomes, "mfu", True) is None
    assert best_of([*outcomes, replace(outcomes[2], name="the same again")], "final_loss", False) is outcomes[2]


def test_the_best_configuration_can_be_run(workspace):
    rates = {1e-3: 3.0, 8e-3: 2.0, 0.5: None}
    outcomes = [
        outcome(workspace, loss if loss is None else loss + seed, training__optimizer__learning_rate=rate, seed=seed)
        for rate, loss in rates.items()
        for seed in (1, 2)
    ]
    made = record_sweep(outcomes, "final_loss", workspace)
    assert (made.facts.points, made.facts.failed, made.facts.best_score) == (6, 2, 3.0)
    assert made.facts.headline == "learning_rate=0.008, seed=1: final_loss 3"
    assert load_config(file=made.path / BEST) == outcomes[2].config
    assert (made.path / PICTURE).read_bytes().startswith(b"\x89PNG")
    result = json.loads((made.path / RESULT).read_text())
    assert result["best"] == outcomes[2].name
    assert [row["final_loss"] for row in result["points"]] == [4.0, 5.0, 3.0, 4.0, None, None]
    assert result["points"][4]["error"] == "it failed"
    assert [parent["digest"] for parent in made.manifest["parents"]] == [of.checkpoint.digest for of in outcomes[:4]]
    assert record_sweep(outcomes, "final_loss", workspace).cached


def test_without_any_score_there_is_no_best(workspace):
    made = record_sweep([outcome(workspace, None, seed=1), outcome(workspace, None, seed=2)], "mfu", workspace)
    assert (made.facts.best, made.facts.failed) == (None, 2)
    assert not (made.path / BEST).exists()
    assert made.facts.headline == "no point has a score"


def test_values_that_are_no_numbers_are_drawn_side_by_side(workspace):
    names = ("cosine", "wsd")
    made = record_sweep(
        [outcome(workspace, 2.0 + n, training__optimizer__schedule=name) for n, name in enumerate(names)],
        "final_loss",
        workspace,
    )
    assert (made.path / PICTURE).read_bytes().startswith(b"\x89PNG")
