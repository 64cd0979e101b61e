"""How many files a change touches: a stage is its code and a line of the table; an evaluation one file."""

import sys
from dataclasses import replace

import pytest

from longcat.config import load_config
from longcat.errors import ConfigError
from longcat.evaluation.suites import find_suite
from longcat.flows.dag import PIPELINE, STAGES, Stage, stages_of

STAGE = """
from longcat.artifact import Artifact, Facts, Recipe
from longcat.provenance import code_of


class WordFacts(Facts):
    words: int

    @property
    def headline(self):
        return f"{self.words} words"

    @property
    def figures(self):
        return {"words": float(self.words)}


def count_words(config, tokens, *, workspace, report):
    recipe = Recipe("words", WordFacts, 1, {"seed": config.seed}, parents=(tokens,))
    return workspace.materialize(recipe, lambda directory: WordFacts(words=tokens.facts.train_tokens))


def check(config):
    from longcat.errors import ConfigError

    if config.seed == 13:
        raise ConfigError("seed=13 cannot be counted")
"""

SUITE = """
import torch

from longcat.evaluation.suites import Scores, Suite


def run(checkpoint):
    with torch.inference_mode():
        logits = checkpoint.model.logits(torch.tensor([[checkpoint.corpus.end_of_text]]))
    size = float(logits.shape[-1])
    return Scores({"toy": {"logits": size}}, f"## Toy\\n\\n{size:.0f} logits\\n", f"{size:.0f} logits")


SUITE = Suite(run)
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder of modules that can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda name, text: (tmp_path / f"{name}.py").write_text(text)
    for name in ("toy_stage", "toy_suite"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_stage_is_its_code_and_a_line_of_the_table(finished, modules):
    from longcat.flows.pipeline import make_flow

    modules("toy_stage", STAGE)
    line = Stage(
        "words", "Words of the corpus", "toy_stage:count_words", needs=("preprocess",), check="toy_stage:check"
    )
    flow = make_flow("words", line.title, (*STAGES, line))
    _, options, first, _ = finished
    summary = flow(**options)
    tokens, words = summary["stages"]
    assert (tokens["stage"], tokens["status"]) == ("preprocess", "cached")
    assert words["stage"] == "words"
    assert words["facts"] == {"words": first["stages"][0]["facts"]["train_tokens"]}
    assert words["headline"] == f"{words['facts']['words']} words"
    assert words["mlflow_run_id"]

    with pytest.raises(ConfigError, match="seed=13 cannot be counted"):
        flow(**{**options, "overrides": [*options["overrides"], "seed=13"]})


@pytest.mark.slow
def test_an_evaluation_is_one_file(finished, modules):
    from longcat.flows.pipeline import FLOWS

    modules("toy_suite", SUITE)
    workspace, options, *_ = finished
    overrides = [*options["overrides"], "evaluation.suites=[toy_suite:SUITE]"]
    row = FLOWS["evaluate"](**{**options, "overrides": overrides})["stages"][-1]
    size = load_config("smoke").model.vocabulary
    assert row["facts"]["scores"] == {"toy": {"logits": float(size)}}
    assert row["headline"] == f"{size} logits"
    assert f"{size} logits" in (workspace / "evaluation" / row["artifact"]["digest"] / "report.md").read_text()

    modules("toy_suite", SUITE.replace("## Toy", "## Another"))  # its source is part of what the scores depend on
    sys.modules.pop("toy_suite")
    again = FLOWS["evaluate"](**{**options, "overrides": overrides})["stages"][-1]
    assert again["status"] == "run"
    assert again["artifact"]["digest"] != row["artifact"]["digest"]


def test_unknown_suites_are_refused(modules):
    with pytest.raises(
        ConfigError, match=r"unknown suite 'nope'; there are: held_out, intrinsic, tasks, or package\.module:NAME"
    ):
        find_suite("nope")
    with pytest.raises(ConfigError, match=r"no_such_module:X cannot be imported: No module named 'no_such_module'"):
        find_suite("no_such_module:X")
    modules("toy_suite", "SUITE = 3\n")
    with pytest.raises(ConfigError, match=r"toy_suite:SUITE is a int, not a longcat\.evaluation\.suites\.Suite"):
        find_suite("toy_suite:SUITE")


def names(flow, table=STAGES):
    return [stage.name for stage in stages_of(flow, table)]


def test_a_flow_has_the_stages_that_its_own_needs_in_the_order_of_the_table():
    assert names(PIPELINE) == ["preprocess", "pretrain", "benchmark", "evaluate"]
    assert names("evaluate") == ["preprocess", "pretrain", "evaluate"]
    assert names("pretrain") == ["preprocess", "pretrain"]
    # needs of needs
    deep = (*STAGES, replace(STAGES[0], name="last", needs=("evaluate",)))
    assert names("last", deep) == ["preprocess", "pretrain", "evaluate", "last"]
    with pytest.raises(KeyError):
        stages_of("nope")
