"""The way through a flow, without Prefect and MLflow."""

import shutil
from itertools import islice

import pytest

from longcat.flows.dag import STAGES
from longcat.flows.walk import call_plainly, prepare
from longcat.inference.given import same_tokenizer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("known", [False, True])
def test_a_checkpoint_brings_its_tokenizer_before_anything_is_tokenised(smoke_run, smoke_settings, tmp_path, known):
    """Whether it is of another corpus, or of the documents that are there."""
    first, workspace = smoke_run[0], tmp_path / "workspace"
    [checkpoint] = (first / "checkpoint").glob("[!.]*")
    if known:
        shutil.copytree(first / "documents", workspace / "documents")
    (tmp_path / "other.txt").write_text(
        "\n".join(f"Another text {n} of {' '.join(map(str, range(n, n + 99)))}" for n in range(400))
    )
    other = f"corpus.sources=[{{kind: files, path: {tmp_path / 'other.txt'}, documents: lines}}]"
    settings = smoke_settings if known else [*smoke_settings, other]
    walk = prepare("evaluate", STAGES, "smoke", None, settings, workspace, str(checkpoint))
    [(stage, tokens, _)] = islice(walk.go(call_plainly), 1)
    assert stage.name == "preprocess"
    assert same_tokenizer(tokens.path, checkpoint)
    assert walk.config.corpus.tokenizer == (None if known else str(checkpoint / "huggingface" / "tokenizer.json"))
    assert len([*(workspace / "documents").glob("[!.]*")]) == len([*(workspace / "tokens").glob("[!.]*")]) == 1
