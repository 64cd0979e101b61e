"""The evaluation as a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def markdown(result: Mapping[str, Any]) -> str:
    """A page with bits per byte against the baselines, and the tasks' scores."""
    bits, unigram, ngram = (result[key] for key in ("bits_per_byte", "unigram_bits_per_byte", "ngram_bits_per_byte"))
    order = result["ngram_order"]
    verdict = f"below the {order}-gram baseline" if bits < ngram else f"not below the {order}-gram baseline"
    lines = [
        "# Checkpoint evaluation",
        "",
        f"Held-out text costs **{bits:.3f} bits per byte**, {verdict}.",
        "",
        "| | bits per byte | against the model |",
        "| --- | ---: | ---: |",
        f"| this checkpoint | {bits:.3f} | |",
        f"| {order}-gram, same training tokens | {ngram:.3f} | {ngram / bits - 1:+.1%} |",
        f"| unigram, same training tokens | {unigram:.3f} | {unigram / bits - 1:+.1%} |",
        "",
        f"Measured on {result['held_out_sequences']} held-out sequences ({result['held_out_bytes']:,} bytes). The baselines "
        f"are counted over the {result['baseline_tokens']:,} tokens that the checkpoint was trained on.",
        "",
        "| task | metric | score | ± stderr | documents |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, figures in result["tasks"].items():
        for metric, value in figures.items():
            if metric.endswith("_stderr") or metric in ("version", "documents", "sample_len"):
                continue
            error = figures.get(f"{metric}_stderr")
            error_text = "" if error is None else f"{error:.3f}"
            lines.append(f"| {name} | {metric} | {value:.3f} | {error_text} | {figures['documents']:.0f} |")
    return "\n".join(lines) + "\n"
