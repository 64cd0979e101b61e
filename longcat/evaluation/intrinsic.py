"""The suite of what held-out text tells about a model from inside.

Bits per byte by source, by language, by kind of token and by position in the sequence; how often experts are used, by
layer and by kind of token; and whether its probabilities can be believed (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from longcat.artifact import write_json
from longcat.config import PipelineConfig
from longcat.corpus.language import language
from longcat.corpus.origins import held_out_sources
from longcat.corpus.shards import Batch
from longcat.corpus.tokenizer import decode
from longcat.errors import ArtifactError
from longcat.evaluation.bootstrap import standard_error
from longcat.evaluation.held_out import held_out_rows
from longcat.evaluation.perplexity import by_document, bytes_of_targets, documents_of
from longcat.evaluation.suites import Checkpoint, Scores, Suite
from longcat.evaluation.token_kinds import KINDS, kinds_of
from longcat.model.transformer import LongcatModel
from longcat.padding import IGNORE
from longcat.printable import markdown_text
from longcat.progress import Progress

RESULT = "intrinsic.json"
BINS = 10
"""Of the reliability diagram, equally wide."""
_UNSAFE = re.compile(r"[^\w-]+")
_RARE = 0.02
"""Part of the tokens below which a language is one of the others: short texts are often taken for rare languages."""
_SHORTEST = 20
"""Characters of a text from which on its language is told."""


def _run(checkpoint: Checkpoint) -> Scores:
    config, corpus = checkpoint.config, checkpoint.corpus
    numbers, rows = held_out_rows(config, corpus)
    seen = observe(checkpoint, rows)
    sizes = bytes_of_targets(rows, corpus.token_bytes)
    kinds = kinds_of(checkpoint.tokenizer, checkpoint.model.config.vocabulary)
    learnt = rows.targets != IGNORE
    by_target = np.where(learnt, kinds[rows.targets.clip(min=0)], -1)
    names, languages = _documents(config, checkpoint, numbers, rows)
    seen_in = documents_of(rows)
    result: dict[str, Any] = {
        "by source": _bits_by(names, seen["bits"], sizes, learnt, seen_in),
        "by language": _bits_by(languages, seen["bits"], sizes, learnt, seen_in),
        "by kind of token": _bits_by(by_target, seen["bits"], sizes, learnt, seen_in, KINDS),
        "by position": by_position(seen["bits"], sizes, learnt),
        "calibration": calibration(seen["top"][learnt], seen["right"][learnt]),
        "experts": seen["experts"],
    }
    write_json(checkpoint.directory / RESULT, result)
    scores = {
        f"bits_per_byte.{short}.{_UNSAFE.sub('_', name)}{ending}": one[figure]
        for group, short in (("by source", "source"), ("by language", "language"), ("by kind of token", "kind"))
        for name, one in result[group].items()
        for figure, ending in (("bits_per_byte", ""), ("stderr", "_stderr"))
        if one[figure] is not None
    }
    error = result["calibration"]["ece"]
    zero = seen["experts"]["zero_fraction"]
    return Scores({"intrinsic": {"ece": error, "zero_expert_fraction": zero, **scores}}, _markdown(result))


def observe(checkpoint: Checkpoint, rows: Batch) -> dict[str, Any]:
    """Let rows through the model once and note what is seen of each token.

    Returns:
        `bits` of each target, the `top` probability and whether the likeliest token was `right`, all `[rows, length]`; and
        `experts`, see `_use`.
    """
    model, device = checkpoint.model, checkpoint.opened.device
    batch = checkpoint.config.evaluation.batch_sequences
    kinds = torch.from_numpy(kinds_of(checkpoint.tokenizer, model.config.vocabulary)).to(device)
    shape = rows.targets.shape
    bits, top, right = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    slots = model.config.n_routed_experts + model.config.zero_expert_num
    load = torch.zeros(len(model.blocks), len(KINDS), slots, dtype=torch.float64)
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = slice(start, start + batch)
            tokens = torch.from_numpy(rows.tokens[part]).to(device)
            documents = torch.from_numpy(rows.documents[part]).to(device)
            inputs = {"documents": documents} if checkpoint.config.training.mask_documents else {}
            with _chosen(model) as chosen:
                states = model(tokens, **inputs).float()
            kind = torch.where(documents >= 0, kinds[tokens], -1).flatten()
            for layer, experts in enumerate(chosen):
                for number in range(len(KINDS)):
                    of = experts[kind == number].flatten()
                    load[layer, number] += torch.bincount(of, minlength=slots)[:slots].cpu().double()
            targets = torch.from_numpy(rows.targets[part]).to(device)
            for row in range(len(tokens)):  # the whole vocabulary of one row at a time
                scores = states[row].log_softmax(-1)
                best, place = scores.max(-1)
                cost = -scores.gather(-1, targets[row].clamp(min=0)[:, None])[:, 0] / math.log(2)
                learnt = targets[row] != IGNORE
                bits[start + row] = torch.where(learnt, cost, 0).cpu().double().numpy()
                top[start + row] = best.exp().cpu().double().numpy()
                right[start + row] = (place == targets[row]).cpu().numpy()
            checkpoint.report(
                Progress("evaluate", min(start + batch, len(rows)) / len(rows), 1, "held-out text, inside")
            )
    return {"bits": bits, "top": top, "right": right, "experts": _use(load.numpy(), model.config.n_routed_experts)}


def by_position(bits: np.ndarray, sizes: np.ndarray, learnt: np.ndarray) -> list[dict[str, float | None]]:
    """Sum bits over bytes for positions 0, 1, 2 to 3, 4 to 7, ...: each part with its first position."""
    length = bits.shape[1]
    edges = [0, *(1 << power for power in range(length.bit_length())), length]
    edges = sorted({edge for edge in edges if edge <= length})
    return [
        {"first": float(low), **_ratio(bits[:, low:high], sizes[:, low:high], learnt[:, low:high])}
        for low, high in itertools.pairwise(edges)
    ]


def calibration(top: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Compare the top probability with how often it is right, in bins; `ece` is the mean distance over tokens.

    Args:
        top: probability of the likeliest token, `[tokens]`.
        right: whether it came.
    """
    place = np.minimum((top * BINS).astype(int), BINS - 1)
    rows: list[dict[str, float | None]] = []
    distance = 0.0
    for number in range(BINS):
        inside = place == number
        count = int(inside.sum())
        if not count:
            rows.append({"tokens": 0, "probability": None, "right": None})
            continue
        mean, share = float(top[inside].mean()), float(right[inside].mean())
        rows.append({"tokens": count, "probability": mean, "right": share})
        distance += count * abs(mean - share)
    return {"ece": distance / max(1, len(top)), "bins": rows}


def _use(load: np.ndarray, routed: int) -> dict[str, Any]:
    """Return use of experts from slots `[layers, kinds, experts]`, as fractions: of all slots, and of zero experts.

    `effective_experts` is the exponential of the entropy over routed experts: all of them, if all are used alike.
    """
    layers = []
    for of_layer in load:
        by_kind = {
            name: {"slots": float(of_kind.sum()), "zero_fraction": _fraction(of_kind, routed)}
            for name, of_kind in zip(KINDS, of_layer, strict=True)
            if of_kind.sum()
        }
        used = of_layer.sum(0)
        shares = used[:routed] / max(1.0, used[:routed].sum())
        entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
        layers.append(
            {
                "zero_fraction": _fraction(used, routed),
                "effective_experts": math.exp(entropy),
                "unused_experts": int((used[:routed] == 0).sum()),
                "load": (used / max(1.0, used.sum())).tolist(),
                "by kind of token": by_kind,
            }
        )
    return {"zero_fraction": _fraction(load.sum((0, 1)), routed), "layers": layers}


def _fraction(slots: np.ndarray, routed: int) -> float:
    return float(slots[routed:].sum() / max(1.0, slots.sum()))


@contextmanager
def _chosen(model: LongcatModel) -> Iterator[list[torch.Tensor]]:
    """Collect the numbers of the experts that each layer's router chooses, `[tokens, slots]`."""
    chosen: list[torch.Tensor] = []
    hooks = [
        layer.mlp.router.register_forward_hook(lambda _module, _inputs, found: chosen.append(found[1]))
        for layer in model.blocks
    ]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


def _documents(
    config: PipelineConfig, checkpoint: Checkpoint, numbers: np.ndarray, rows: Batch
) -> tuple[np.ndarray, np.ndarray]:
    """Return the source and the language of the document of each target, `[rows, length]`, empty where not known."""
    try:
        sources: Sequence[Sequence[str]] | None = held_out_sources(config.corpus, checkpoint.corpus.path)
    except (ArtifactError, OSError):  # the documents are gone
        sources = None
    names = np.full(rows.targets.shape, "", object)
    languages = np.full(rows.targets.shape, "", object)
    for place, number in enumerate(numbers.tolist()):
        for document in range(int(rows.documents[place].max()) + 1):
            inside = rows.documents[place] == document
            text = decode(checkpoint.tokenizer, rows.tokens[place][inside])
            languages[place][inside] = language(text) if len(text) >= _SHORTEST else "too short"
            if sources is not None:
                names[place][inside] = sources[number][document]
    known = (rows.targets != IGNORE) & (languages != "")
    for code in set(languages[known].tolist()):
        if (languages[known] == code).mean() < _RARE:
            languages[languages == code] = "other"
    return names, languages


def _bits_by(
    groups: np.ndarray,
    bits: np.ndarray,
    sizes: np.ndarray,
    learnt: np.ndarray,
    documents: np.ndarray,
    names: Sequence[str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Sum bits over bytes for each group; `stderr` is that of bits per byte, over the `documents` that have some of it."""
    found = {}
    for group in sorted(set(groups[learnt].tolist())):
        inside = learnt & (groups == group)
        if group != "":
            costs, lengths = by_document(documents[inside], bits[inside], sizes[inside])
            found[names[group] if names else group] = {
                **_ratio(bits[inside], sizes[inside], learnt[inside]),
                "documents": float(len(costs)),
                "stderr": standard_error(costs, lengths),
            }
    return found


def _ratio(bits: np.ndarray, sizes: np.ndarray, learnt: np.ndarray) -> dict[str, float | None]:
    size = float(sizes.sum())
    return {
        "tokens": float(learnt.sum()),
        "bytes": size,
        "bits_per_token": float(bits.sum() / learnt.sum()) if learnt.any() else None,
        "bits_per_byte": float(bits.sum() / size) if size else None,
    }


def _markdown(result: Mapping[str, Any]) -> str:
    lines = ["## Held-out text, from inside", ""]
    for group in ("by source", "by language", "by kind of token"):
        head = group.removeprefix("by ")
        lines += [f"| {head} | bits per byte | ± stderr | bits per token | tokens | documents |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [_line_of_group(name, one) for name, one in result[group].items()] + [""]
    lines += ["| position | bits per byte | bits per token | tokens |", "| --- | ---: | ---: | ---: |"]
    lines += [_line(f"from {one['first']:.0f} on", one) for one in result["by position"]] + [""]
    found = result["calibration"]
    lines += [f"Expected calibration error: {found['ece']:.3f}.", ""]
    lines += ["| probability of the likeliest token | it is right | tokens |", "| ---: | ---: | ---: |"]
    lines += [
        f"| {row['probability']:.3f} | {row['right']:.3f} | {row['tokens']:,} |"
        for row in found["bins"]
        if row["tokens"]
    ]
    lines += [
        "",
        "| layer | zero-expert slots | experts in use, effectively | unused |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {number} | {one['zero_fraction']:.1%} | {one['effective_experts']:.1f} | {one['unused_experts']} |"
        for number, one in enumerate(result["experts"]["layers"])
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, one: Mapping[str, float | None]) -> str:
    cells = [f"{one[key]:.3f}" if one[key] is not None else "n/a" for key in ("bits_per_byte", "bits_per_token")]
    return f"| {markdown_text(name)} | {' | '.join(cells)} | {one['tokens']:,.0f} |"


def _line_of_group(name: str, one: Mapping[str, float | None]) -> str:
    cells = ["n/a" if one[key] is None else f"{one[key]:.3f}" for key in ("bits_per_byte", "stderr", "bits_per_token")]
    return f"| {markdown_text(name)} | {' | '.join(cells)} | {one['tokens']:,.0f} | {one['documents']:,.0f} |"


def _scores(config: PipelineConfig) -> list[str]:
    """Return the scores; sources and languages are those of the corpus."""
    parts = [f"bits_per_byte.{short}.*" for short in ("source", "language", "kind")]
    return [f"intrinsic/{name}" for name in ("ece", "zero_expert_fraction", *parts)]


SUITE = Suite(run=_run, scores=_scores)
