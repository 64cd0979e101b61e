"""The suite of held-out text: bits per byte of the model beside n-gram baselines over the same training tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from longcat.config import PipelineConfig
from longcat.corpus.loader import Loader
from longcat.corpus.shards import Batch, TokenCorpus
from longcat.disk import write_text
from longcat.evaluation.bootstrap import standard_error
from longcat.evaluation.ngram import NGram
from longcat.evaluation.perplexity import by_document, bytes_of_targets, documents_of, target_bits
from longcat.evaluation.suites import Checkpoint, Scores, Suite
from longcat.progress import Progress

SEQUENCES = "held_out.jsonl"
"""Held-out sequences that were scored: a hash of the tokens, the cost in bits, and the bytes of the text."""


def trained_rows(config: PipelineConfig, corpus: TokenCorpus) -> Batch:
    """Take the rows that training has seen, each once; a fair baseline is counted over exactly these."""
    training = config.training
    if training.steps * training.global_batch_sequences >= len(corpus.train):
        return corpus.train.take(np.arange(len(corpus.train)))
    loader = Loader(corpus.train, config.seed, training.global_batch_sequences)
    return corpus.train.take(np.concatenate([loader.indices(step) for step in range(training.steps)]))


def held_out_rows(config: PipelineConfig, corpus: TokenCorpus) -> tuple[np.ndarray, Batch]:
    """Take the held-out rows that are scored, spread over as many documents as possible; also returns their numbers."""
    count = min(config.evaluation.held_out_sequences, len(corpus.held_out))
    numbers = np.linspace(0, len(corpus.held_out) - 1, count).astype(np.int64)
    return numbers, corpus.held_out.take(numbers)


def _run(checkpoint: Checkpoint) -> Scores:
    config, corpus, report = checkpoint.config, checkpoint.corpus, checkpoint.report
    evaluation = config.evaluation
    _, held_out = held_out_rows(config, corpus)
    bytes_of = bytes_of_targets(held_out, corpus.token_bytes)
    bits_of = target_bits(
        checkpoint.model,
        held_out,
        evaluation.batch_sequences,
        lambda done: report(Progress("evaluate", done / len(held_out), 1, f"{done} held-out sequences")),
        mask_documents=config.training.mask_documents,
        device=checkpoint.opened.device,
    )
    sizes, bits_of_rows = bytes_of.sum(1), bits_of.sum(1)
    costs, lengths = by_document(documents_of(held_out), bits_of, bytes_of)
    error = standard_error(costs, lengths)
    size, bits = int(sizes.sum()), float(bits_of_rows.sum())
    lines = [
        json.dumps({"sequence": hashlib.sha256(row.tobytes()).hexdigest()[:16], "bits": cost, "bytes": length}) + "\n"
        for row, cost, length in zip(held_out.tokens, bits_of_rows.tolist(), sizes.tolist(), strict=True)
    ]
    write_text(checkpoint.directory / SEQUENCES, "".join(lines))
    report(Progress("evaluate", 1, 1, "counting n-grams"))
    rows = trained_rows(config, corpus)
    baseline = [
        -np.log2(probability).sum()
        for probability in NGram(rows, evaluation.ngram_order, corpus.vocabulary_size).probabilities(held_out)
    ]
    figures = {
        "bits_per_byte": bits / size,
        "unigram_bits_per_byte": float(baseline[0]) / size,
        "ngram_bits_per_byte": float(baseline[-1]) / size,
        "sequences": float(len(held_out)),
        "held_out_documents": float(len(costs)),
        "bytes": float(size),
        "baseline_tokens": float(rows.learnt),
    }
    if error is not None:
        figures["bits_per_byte_stderr"] = error
    order = evaluation.ngram_order
    headline = f"{figures['bits_per_byte']:.3f} bits/byte ({order}-gram {figures['ngram_bits_per_byte']:.3f})"
    return Scores({"held_out": figures}, _markdown(figures, order), headline)


def _markdown(figures: Mapping[str, float], order: int) -> str:
    bits, unigram, ngram = (figures[name] for name in ("bits_per_byte", "unigram_bits_per_byte", "ngram_bits_per_byte"))
    error = figures.get("bits_per_byte_stderr")
    within = "" if error is None else f" ± {error:.3f}"
    verdict = f"below the {order}-gram baseline" if bits < ngram else f"not below the {order}-gram baseline"
    return f"""## Held-out text

Held-out text costs **{bits:.3f}{within} bits per byte**, {verdict}.

| | bits per byte | against the model |
| --- | ---: | ---: |
| this checkpoint | {bits:.3f} | |
| {order}-gram, same training tokens | {ngram:.3f} | {ngram / bits - 1:+.1%} |
| unigram, same training tokens | {unigram:.3f} | {unigram / bits - 1:+.1%} |

Measured on {figures["sequences"]:,.0f} held-out sequences ({figures["bytes"]:,.0f} bytes) of {figures["held_out_documents"]:,.0f} \
documents; ± is the standard error of a bootstrap over them. The baselines are counted over the \
{figures["baseline_tokens"]:,.0f} tokens that the checkpoint was trained on.
"""


def _identity(config: PipelineConfig) -> dict[str, Any]:
    """Return what determines the rows that training has seen, as the baseline is counted over them."""
    return {"trained_on": [config.seed, config.training.steps, config.training.global_batch_sequences]}


def _scores(config: PipelineConfig) -> list[str]:
    """Return the names of the figures that `_run` makes."""
    bits = ("bits_per_byte", "bits_per_byte_stderr", "unigram_bits_per_byte", "ngram_bits_per_byte")
    return [f"held_out/{name}" for name in (*bits, "sequences", "held_out_documents", "bytes", "baseline_tokens")]


SUITE = Suite(run=_run, identity=_identity, scores=_scores)
