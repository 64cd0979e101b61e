"""`longcat evaluate --compare` scores what has no scores, and judges nothing."""

from typer.testing import CliRunner

from longcat.cli import app
from longcat.commands import evaluate
from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.interchange.folder import save_huggingface
from longcat.model.transformer import LongcatModel


def test_a_checkpoint_that_is_scored_for_a_comparison_is_not_judged(tmp_path, monkeypatch):
    """One that would fail a gate ends no comparison, and one that would pass becomes no champion."""
    asked = []

    def scored(flow, preset, config, overrides, *_):
        asked.append((flow, load_config(preset, config, overrides)))
        raise ConfigError("enough")

    monkeypatch.setattr(evaluate, "flow_summary", scored)
    model = LongcatModel(load_config("smoke").model)
    for name in ("one", "two"):
        save_huggingface(model, tmp_path / name)
    gate = "evaluation.gates=[{score: held_out/bits_per_byte, at_most: 1}]"
    limit = "evaluation.task_limit=3"
    names = [str(tmp_path / name) for name in ("one", "two")]
    result = CliRunner().invoke(
        app, ["evaluate", "-p", "smoke", "--set", gate, "--set", limit, "-w", str(tmp_path), "--compare", *names]
    )
    assert str(result.exception) == "enough"
    [(flow, settings)] = asked
    assert flow == "evaluate"
    assert settings.evaluation.gates == []
    assert settings.evaluation.task_limit == 3
