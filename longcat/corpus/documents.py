"""The first half of preprocessing: text in, tokenised documents out.

Four steps, of which the first and the last are done block by block (`block_tasks`) wherever the mapper does them:
read and judge; decide over all documents what stays (`selection`); train the tokenizer; tokenise.

NAME.tokens.npy     uint16 or uint32: tokens of the documents of block NAME, each with end-of-text behind it
documents.npy       see `DOCUMENT`, one for each document in the order they were read
blocks.json         names of the blocks
tokenizer.json, token_bytes.npy, samples.json
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import write_json
from longcat.config import CorpusConfig
from longcat.config.tokenizer_file import end_of_text
from longcat.corpus.arrays import save
from longcat.corpus.block_tasks import (
    JudgedBlock,
    JudgeTask,
    TokeniseTask,
    judge_block,
    tokenise_block,
    try_block,
    without,
)
from longcat.corpus.decontamination import NO_RUNS, known_runs
from longcat.corpus.judge import SAMPLE_CHARACTERS, SAMPLES, Judge, reasons
from longcat.corpus.mapping import Mapper
from longcat.corpus.selection import KeptDocuments, select
from longcat.corpus.shards import TOKEN_BYTES, TOKENIZER, token_dtype
from longcat.corpus.sources import Source
from longcat.errors import DataError
from longcat.progress import Progress, Reporter

DOCUMENTS, BLOCKS, SAMPLES_FILE = "documents.npy", "blocks.json", "samples.json"
DOCUMENT = np.dtype(
    [
        ("block", np.uint32),  # its place in blocks.json
        ("begin", np.int64),  # its first token in the block's file
        ("tokens", np.uint32),  # with end-of-text
        ("source", np.uint16),
        ("held_out", np.bool_),
        ("key", np.uint64),  # a place in an arbitrary but fixed order
    ]
)
SCRATCH = "scratch"
"""Folder of files that only `build_documents` itself needs."""
_SAMPLE_BYTES = 8 * SAMPLE_CHARACTERS
_JUDGED, _TRAINED, _TOKENISED = 45.0, 60.0, 85.0  # percentages of the stage at which the steps end


def build_documents(
    corpus: CorpusConfig,
    sources: list[Source],
    evaluations: list[Path],
    directory: Path,
    mapper: Mapper,
    report: Reporter,
) -> dict[str, Any]:
    """Fill the directory of a `documents` artifact, or complete one that was interrupted; returns its facts."""
    import tokenizers

    from longcat.corpus.tokenizer import provide_tokenizer, token_bytes, vocabulary_size

    scratch = directory / SCRATCH
    scratch.mkdir(exist_ok=True)
    known = scratch / "known.npy"
    save(known, known_runs(evaluations))

    facts, blocks = _judge(corpus, sources, scratch, known, mapper, report)
    selection = select(blocks, corpus)
    facts |= _account(corpus, blocks, selection)
    held_out = _held_out(selection, corpus.held_out_fraction)
    for name, members in (("train", ~held_out), ("held_out", held_out)):
        if not (members & selection.keep).any():
            raise DataError(f"no document is left for the {name} split: {describe_losses(facts)}; {MORE[name]}")

    report(Progress("preprocess", _JUDGED, 100, "training the tokenizer"))
    source_of = np.repeat([block.source for block in blocks], np.diff(selection.begins))
    sample = _sample(corpus, blocks, selection, selection.keep & ~held_out, source_of)
    tokenizer = provide_tokenizer(directory / TOKENIZER, corpus, sample)
    save(directory / TOKEN_BYTES, token_bytes(tokenizer))

    end, size = end_of_text(corpus), vocabulary_size(tokenizer)
    tasks = (
        TokeniseTask(
            scratch=scratch,
            name=block.name,
            keep=selection.keep[selection.of(number)],
            cuts=selection.cuts_of(number),
            tokenizer=directory / TOKENIZER,
            tokens=directory / f"{block.name}.tokens.npy",
            dtype=token_dtype(size),
            end_of_text=end,
        )
        for number, block in enumerate(blocks)
    )
    for done, _ in enumerate(mapper(tokenise_block, tasks), start=1):
        percent = _TRAINED + (_TOKENISED - _TRAINED) * done / len(blocks)
        report(Progress("preprocess", percent, 100, "tokenising"))

    table = _table(blocks, selection, held_out, source_of)
    save(directory / DOCUMENTS, table)
    write_json(directory / BLOCKS, [block.name for block in blocks])
    write_json(directory / SAMPLES_FILE, _samples(corpus, blocks, selection))
    return {
        **facts,
        "tokens": int(table["tokens"].sum()),
        "bytes_per_token": facts["text_bytes"] / int(table["tokens"].sum()),
        "vocabulary_size": size,
        "end_of_text": end,
        "versions": {"python": platform.python_version(), "tokenizers": tokenizers.__version__},
    }


# ---------------------------------------------------------------------------------------------------- judging


def _judge(
    corpus: CorpusConfig, sources: list[Source], scratch: Path, known: Path, mapper: Mapper, report: Reporter
) -> tuple[dict[str, Any], list[JudgedBlock]]:
    """Judge all blocks of all sources; returns the facts about what was read, and the blocks."""
    blocks: list[JudgedBlock] = []
    described = []
    bad_lines = 0
    for number, (settings, source) in enumerate(zip(corpus.sources, sources, strict=True)):
        of_source: list[JudgedBlock] = []
        texts = bad = 0

        most = settings.max_documents
        tasks = [
            JudgeTask(corpus, unread, source.tolerant, scratch, f"{number:03d}-{place:05d}", known, most)
            for place, unread in enumerate(source.blocks)
        ]
        for place, judged in enumerate(mapper(judge_block if most is None else try_block, tasks)):
            left = None if most is None else most - texts
            # how many documents are left for a block is only known when those before it are done
            if judged is None or (left and texts and JudgedBlock(scratch, judged, number).counts["texts"] >= left):
                judged = judge_block(replace(tasks[place], name=f"{tasks[place].name}-{left}", limit=left))
            block = JudgedBlock(scratch, judged, number)
            of_source.append(block)
            texts += block.counts["texts"]
            bad += block.counts["bad"]
            done = (number + (place + 1) / len(tasks)) / len(sources)
            report(Progress("preprocess", _JUDGED * done, 100, f"reading {source.name}: {texts:,} documents"))
            if texts == most:
                break
        first_bad = next((block.counts["first_bad"] for block in of_source if block.counts["first_bad"]), None)
        if first_bad and not source.tolerant:
            if bad > corpus.max_bad_fraction * (texts + bad):
                raise DataError(
                    f"{bad} of {texts + bad} records of {source.name} cannot be read, more than "
                    f"corpus.max_bad_fraction={corpus.max_bad_fraction}; the first is {first_bad}"
                )
            bad_lines += bad
        blocks += of_source
        described.append(
            {
                "kind": settings.kind,
                "name": source.name,
                "licence": source.licence,
                **source.pin,
                "documents": texts,
                "skipped": bad,
                "left_out": source.left_out,
            }
        )
    return {"bad_lines": bad_lines, "sources": described}, blocks


def _account(corpus: CorpusConfig, blocks: list[JudgedBlock], selection: KeptDocuments) -> dict[str, Any]:
    """Summarise which documents were kept, and why the others were not, as facts."""
    dropped = Counter(dict.fromkeys(reasons(corpus), 0))
    languages: Counter[str] = Counter()
    first = np.ones(len(selection.keep), bool)
    first[selection.dropped["duplicate"]] = False
    totals = np.zeros(len(corpus.mask) + len(corpus.languages), np.int64)
    for number, block in enumerate(blocks):
        dropped.update(block.counts["dropped"])
        languages.update(block.counts["languages"])
        totals += block.findings()[first[selection.of(number)]].sum(axis=0)
    masked = dict(zip(corpus.mask, totals.tolist(), strict=False))
    languages += Counter(dict(zip(corpus.languages, totals[len(corpus.mask) :].tolist(), strict=True)))
    dropped.update({reason: len(documents) for reason, documents in selection.dropped.items()})
    powers, documents = np.unique(
        np.frexp(selection.characters[selection.keep].astype(float))[1] - 1, return_counts=True
    )
    return {
        "documents": int(selection.keep.sum()),
        "text_bytes": int(selection.sizes[selection.keep].sum()),
        "dropped": dict(dropped),
        "paragraphs_cut": len(selection.cuts),
        "masked": masked,
        "languages": dict(languages.most_common()),
        "length_log2": {str(power): int(count) for power, count in zip(powers, documents, strict=True)},
    }


MORE = {
    "train": "give the corpus more text, or lower corpus.min_characters",
    "held_out": "give the corpus more documents, or raise corpus.held_out_fraction",
}


def describe_losses(facts: Mapping[str, Any]) -> str:
    """Describe in an error message what became of all documents read."""
    losses = {**facts["dropped"], "unreadable": facts["bad_lines"]}
    kept = facts["documents"]
    return f"of {kept + sum(losses.values())} documents read, {kept} were kept" + "".join(
        f", {count} {reason.replace('_', ' ')}" for reason, count in losses.items() if count
    )


def _samples(corpus: CorpusConfig, blocks: list[JudgedBlock], selection: KeptDocuments) -> dict[str, list[str]]:
    """Return the beginnings of the first documents left out, by reason."""
    samples: dict[str, list[str]] = {reason: [] for reason in reasons(corpus)}
    for block in blocks:
        for reason, texts in block.counts["samples"].items():
            samples[reason] += texts
    judge = Judge(corpus, NO_RUNS)
    for reason, documents in selection.dropped.items():
        for document in documents[:SAMPLES]:
            samples[reason].append(judge.sample(_text(blocks, selection, int(document), _SAMPLE_BYTES)))
    return {reason: texts[:SAMPLES] for reason, texts in samples.items()}


def _text(blocks: list[JudgedBlock], selection: KeptDocuments, document: int, limit_bytes: int) -> str:
    """Read the beginning of a document, without the paragraphs that are cut out of it."""
    content = blocks[selection.block_of(document)].read(*selection.bytes_of(document))
    return without(content, selection.cuts_in(document))[:limit_bytes].decode(errors="ignore")


# ---------------------------------------------------------------------------------------------------- tokenising


def _held_out(selection: KeptDocuments, fraction: float) -> np.ndarray:
    """Mark the documents that are never trained on, bool; only the content of each decides, not the rest of the corpus."""
    return selection.digests[:, 0] < np.uint64(fraction * 2**64)


def _sample(
    corpus: CorpusConfig,
    blocks: list[JudgedBlock],
    selection: KeptDocuments,
    members: np.ndarray,
    source_of: np.ndarray,
) -> Iterator[str]:
    """Yield training documents for the tokenizer in the order of their keys, up to the bytes of the sample or of their source."""
    weights = [source.tokenizer_weight for source in corpus.sources]
    groups = [(members, 1.0)]
    if None not in weights:
        total = sum(filter(None, weights))
        groups = [(members & (source_of == n), (weight or 0) / total) for n, weight in enumerate(weights)]
    for group, fraction in groups:
        left = round(fraction * corpus.tokenizer_sample_bytes)
        documents = np.flatnonzero(group)
        for document in documents[np.argsort(selection.digests[documents, 1], kind="stable")]:
            text = _text(blocks, selection, int(document), left)
            yield text
            left -= len(text.encode())
            if left < 4:  # bytes of one character
                break


def _table(
    blocks: list[JudgedBlock], selection: KeptDocuments, held_out: np.ndarray, source_of: np.ndarray
) -> np.ndarray:
    """Make the table with a `DOCUMENT` for each document kept."""
    kept = selection.keep
    table = np.zeros(int(kept.sum()), DOCUMENT)
    table["source"], table["held_out"], table["key"] = source_of[kept], held_out[kept], selection.digests[kept, 1]
    filled = 0
    for number, block in enumerate(blocks):
        lengths = block.lengths()
        rows = table[filled : filled + len(lengths)]
        rows["block"], rows["tokens"] = number, lengths
        rows["begin"] = np.cumsum(lengths) - lengths
        filled += len(lengths)
    return table
