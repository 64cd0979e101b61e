"""The evaluation stage: how good is a checkpoint, against simple baselines and on tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import Artifact, Recipe, Workspace, sha256_file, write_json
from longcat.config import PipelineConfig, identity
from longcat.corpus.loader import Loader
from longcat.corpus.shards import Batch, TokenCorpus
from longcat.errors import ArtifactError
from longcat.evaluation import harness
from longcat.evaluation.ngram import NGram
from longcat.evaluation.report import markdown
from longcat.progress import Progress, Reporter, silent

STAGE_VERSION = 2


def evaluate(
    config: PipelineConfig,
    tokens: Artifact,
    checkpoint: Artifact,
    *,
    workspace: Workspace,
    report: Reporter = silent,
) -> Artifact:
    """Score a checkpoint: held-out bits per byte beside n-gram baselines, and lm-evaluation-harness tasks.

    Returns:
        An `evaluation` artifact: `result.json` and `report.md`.

    Raises:
        ArtifactError: the checkpoint was trained with another tokenizer.
        ConfigError: a task is unknown.
    """
    corpus = TokenCorpus.open(tokens.path)
    digest = sha256_file(checkpoint.path / "huggingface/tokenizer.json")
    if digest != corpus.tokenizer_sha256:
        raise ArtifactError(
            f"{checkpoint.path} was trained with tokenizer {digest[:12]}, {tokens.path} has {corpus.tokenizer_sha256[:12]}"
        )
    evaluation = config.evaluation
    recipe = Recipe(
        kind="evaluation",
        version=STAGE_VERSION,
        identity={
            "evaluation": identity(evaluation),
            "tasks": harness.identity_of(evaluation.tasks),
            "trained_on": [config.seed, config.training.steps, config.training.global_batch_sequences],
        },
        parents=(tokens, checkpoint),
        sources=(Path(__file__).parent,),
    )

    def build(directory: Path) -> Mapping[str, Any]:
        result = _score(config, corpus, checkpoint, report)
        write_json(directory / "result.json", result)
        (directory / "report.md").write_text(markdown(result), encoding="utf-8")
        return result

    return workspace.materialize(recipe, build)


def trained_rows(config: PipelineConfig, corpus: TokenCorpus) -> Batch:
    """The rows that training has seen, each once: what a fair baseline is counted over."""
    training = config.training
    if training.steps * training.global_batch_sequences >= len(corpus.train):
        return corpus.train.take(np.arange(len(corpus.train)))
    loader = Loader(corpus.train, config.seed, training.global_batch_sequences)
    return corpus.train.take(np.concatenate([loader.indices(step) for step in range(training.steps)]))


def _score(config: PipelineConfig, corpus: TokenCorpus, checkpoint: Artifact, report: Reporter) -> dict[str, Any]:
    from longcat.corpus.tokenizer import open_tokenizer
    from longcat.evaluation.perplexity import model_bits, text_bytes
    from longcat.interchange import load_huggingface

    evaluation = config.evaluation
    count = min(evaluation.held_out_sequences, len(corpus.held_out))
    spread = np.linspace(0, len(corpus.held_out) - 1, count).astype(np.int64)  # over as many documents as there are
    held_out = corpus.held_out.take(spread)
    size = text_bytes(held_out, corpus.token_bytes)
    model = load_huggingface(checkpoint.path / "huggingface")
    bits = model_bits(
        model,
        held_out,
        evaluation.batch_sequences,
        lambda done: report(Progress("evaluate", 0.5 * done / len(held_out), 1, f"{done} held-out sequences")),
        mask_documents=config.training.mask_documents,
    )
    report(Progress("evaluate", 0.5, 1, "counting n-grams"))
    rows = trained_rows(config, corpus)
    baseline = [
        -np.log2(probability).sum()
        for probability in NGram(rows, evaluation.ngram_order, corpus.vocabulary_size).probabilities(held_out)
    ]
    report(Progress("evaluate", 0.7, 1, f"tasks: {', '.join(evaluation.tasks)}"))
    scores = {}
    if evaluation.tasks:
        scores = harness.score(
            model,
            open_tokenizer(checkpoint.path / "huggingface/tokenizer.json"),
            evaluation.tasks,
            length=corpus.sequence_length,
            batch=evaluation.batch_sequences,
            limit=evaluation.task_limit,
            seed=config.seed,
        )
    return {
        "bits_per_byte": bits / size,
        "unigram_bits_per_byte": float(baseline[0]) / size,
        "ngram_bits_per_byte": float(baseline[-1]) / size,
        "ngram_order": evaluation.ngram_order,
        "held_out_sequences": len(held_out),
        "held_out_bytes": size,
        "baseline_tokens": rows.learnt,
        "tasks": scores,
    }
