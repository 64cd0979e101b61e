"""The first half of preprocessing: text in, tokenised documents out.

Four steps, of which the first and the last are done block by block (`pieces`) wherever the mapper does them:
read and judge; decide over all documents what stays (`selection`); train the tokenizer; tokenise.

NAME.tokens.npy     uint16 or uint32: tokens of the documents of block NAME, each with end-of-text behind it
documents.npy       see `DOCUMENT`, one for each document in the order they were read
blocks.json         names of the blocks
tokenizer.json, token_bytes.npy, samples.json
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import write_json
from longcat.config import CorpusConfig
from longcat.corpus.arrays import save
from longcat.corpus.decontamination import known_runs
from longcat.corpus.judge import SAMPLE_CHARACTERS, SAMPLES, Judge, reasons
from longcat.corpus.mapping import Mapper
from longcat.corpus.pieces import JudgeTask, Piece, TokeniseTask, judge_block, tokenise_block, try_block, without
from longcat.corpus.selection import Selection, select
from longcat.corpus.shards import TOKEN_BYTES, TOKENIZER, token_dtype
from longcat.corpus.sources import Source
from longcat.errors import DataError
from longcat.progress import Progress, Reporter
from longcat.provenance import code_of, source_hashes

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
_SCRATCH = "scratch"
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
    """Fill the directory of a `documents` artifact, or what an interruption left of one; returns its facts."""
    import tokenizers

    from longcat.corpus.tokenizer import end_of_text, given_tokenizer, provide_tokenizer, token_bytes

    if corpus.tokenizer is not None:  # a mistake is told before everything has been read
        given_tokenizer(corpus.tokenizer, corpus)
    scratch = _scratch(directory)
    known = scratch / "known.npy"
    save(known, known_runs(evaluations))

    facts, pieces = _judge(corpus, sources, scratch, known, mapper, report)
    selection = select(pieces, corpus)
    facts |= _account(corpus, pieces, selection)
    held_out = _held_out(selection, corpus.held_out_share)
    for name, members in (("train", ~held_out), ("held_out", held_out)):
        if not (members & selection.keep).any():
            raise DataError(f"no document is left for the {name} split: {describe_losses(facts)}; {MORE[name]}")

    report(Progress("preprocess", _JUDGED, 100, "training the tokenizer"))
    source_of = np.repeat([piece.source for piece in pieces], np.diff(selection.begins))
    sample = _sample(corpus, pieces, selection, selection.keep & ~held_out, source_of)
    tokenizer = provide_tokenizer(directory / TOKENIZER, corpus, sample)
    np.save(directory / TOKEN_BYTES, token_bytes(tokenizer))

    end, size = end_of_text(tokenizer, corpus), tokenizer.get_vocab_size()
    tasks = (
        TokeniseTask(
            scratch=scratch,
            name=piece.name,
            keep=selection.keep[selection.of(number)],
            cuts=selection.cuts_of(number),
            tokenizer=directory / TOKENIZER,
            tokens=directory / f"{piece.name}.tokens.npy",
            dtype=token_dtype(size),
            end_of_text=end,
        )
        for number, piece in enumerate(pieces)
    )
    for done, _ in enumerate(mapper(tokenise_block, tasks), start=1):
        share = done / len(pieces)
        report(Progress("preprocess", _TRAINED + (_TOKENISED - _TRAINED) * share, 100, "tokenising"))

    table = _table(pieces, selection, held_out, source_of)
    save(directory / DOCUMENTS, table)
    write_json(directory / BLOCKS, [piece.name for piece in pieces])
    write_json(directory / SAMPLES_FILE, _samples(corpus, pieces, selection))
    shutil.rmtree(scratch)
    return {
        **facts,
        "tokens": int(table["tokens"].sum()),
        "bytes_per_token": facts["text_bytes"] / int(table["tokens"].sum()),
        "vocabulary_size": size,
        "end_of_text": end,
        "versions": {"python": platform.python_version(), "tokenizers": tokenizers.__version__},
    }


def _scratch(directory: Path) -> Path:
    """The folder of what is only needed until the artifact is whole; emptied if other code has begun to fill it."""
    scratch = directory / _SCRATCH
    written = scratch / "code.json"
    code = source_hashes(code_of(__name__))
    if not written.exists() or json.loads(written.read_text(encoding="utf-8")) != code:
        for path in directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        scratch.mkdir()
        write_json(written, code)
    return scratch


# ---------------------------------------------------------------------------------------------------- judging


def _judge(
    corpus: CorpusConfig, sources: list[Source], scratch: Path, known: Path, mapper: Mapper, report: Reporter
) -> tuple[dict[str, Any], list[Piece]]:
    """All blocks of all sources, as pieces; and the facts about what was read."""
    pieces: list[Piece] = []
    described = []
    bad_lines = 0
    for number, (settings, source) in enumerate(zip(corpus.sources, sources, strict=True)):
        mine: list[Piece] = []
        texts = bad = 0

        most = settings.max_documents
        tasks = [
            JudgeTask(corpus, block, source.tolerant, scratch, f"{number:03d}-{place:05d}", known, most)
            for place, block in enumerate(source.blocks)
        ]
        for block, judged in enumerate(mapper(judge_block if most is None else try_block, tasks)):
            left = None if most is None else most - texts
            # how many documents are left for a block is only known when those before it are done
            if judged is None or (left and texts and Piece(scratch, judged, number).counts["texts"] >= left):
                judged = judge_block(replace(tasks[block], name=f"{tasks[block].name}-{left}", limit=left))
            piece = Piece(scratch, judged, number)
            mine.append(piece)
            texts += piece.counts["texts"]
            bad += piece.counts["bad"]
            share = (number + (block + 1) / len(tasks)) / len(sources)
            report(Progress("preprocess", _JUDGED * share, 100, f"reading {source.name}: {texts:,} documents"))
            if texts == most:
                break
        first_bad = next((piece.counts["first_bad"] for piece in mine if piece.counts["first_bad"]), None)
        if first_bad and not source.tolerant:
            if bad > corpus.max_bad_share * (texts + bad):
                raise DataError(
                    f"{bad} of {texts + bad} records of {source.name} cannot be read, more than "
                    f"corpus.max_bad_share={corpus.max_bad_share}; the first is {first_bad}"
                )
            bad_lines += bad
        pieces += mine
        described.append(
            {
                "kind": settings.kind,
                "name": source.name,
                "licence": source.licence,
                **source.pin,
                "documents": texts,
                "skipped": bad,
            }
        )
    return {"bad_lines": bad_lines, "sources": described}, pieces


def _account(corpus: CorpusConfig, pieces: list[Piece], selection: Selection) -> dict[str, Any]:
    """What was kept and what became of the rest, as facts."""
    dropped = Counter(dict.fromkeys(reasons(corpus), 0))
    languages: Counter[str] = Counter()
    first = np.ones(len(selection.keep), bool)
    first[selection.dropped["duplicate"]] = False
    found = np.zeros(len(corpus.mask) + len(corpus.languages), np.int64)
    for number, piece in enumerate(pieces):
        dropped.update(piece.counts["dropped"])
        languages.update(piece.counts["languages"])
        found += piece.findings()[first[selection.of(number)]].sum(axis=0)
    masked = dict(zip(corpus.mask, found.tolist(), strict=False))
    languages += Counter(dict(zip(corpus.languages, found[len(corpus.mask) :].tolist(), strict=True)))
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
    "held_out": "give the corpus more documents, or raise corpus.held_out_share",
}


def describe_losses(facts: Mapping[str, Any]) -> str:
    """What became of everything that was read, for an error message."""
    losses = {**facts["dropped"], "unreadable": facts["bad_lines"]}
    kept = facts["documents"]
    return f"of {kept + sum(losses.values())} documents read, {kept} were kept" + "".join(
        f", {count} {reason.replace('_', ' ')}" for reason, count in losses.items() if count
    )


def _samples(corpus: CorpusConfig, pieces: list[Piece], selection: Selection) -> dict[str, list[str]]:
    """Beginnings of the first documents left out, by reason."""
    samples: dict[str, list[str]] = {reason: [] for reason in reasons(corpus)}
    for piece in pieces:
        for reason, texts in piece.counts["samples"].items():
            samples[reason] += texts
    judge = Judge(corpus, np.empty(0, np.uint64))
    for reason, documents in selection.dropped.items():
        for document in documents[:SAMPLES]:
            samples[reason].append(judge.sample(_text(pieces, selection, int(document), _SAMPLE_BYTES)))
    return {reason: texts[:SAMPLES] for reason, texts in samples.items()}


def _text(pieces: list[Piece], selection: Selection, document: int, limit_bytes: int) -> str:
    """The beginning of a document, without the paragraphs that are cut out of one that is kept."""
    content = pieces[selection.piece_of(document)].read(*selection.bytes_of(document))
    return without(content, selection.cuts_in(document))[:limit_bytes].decode(errors="ignore")


# ---------------------------------------------------------------------------------------------------- tokenising


def _held_out(selection: Selection, share: float) -> np.ndarray:
    """Which documents are never trained on, bool: their own content decides, not the rest of the corpus."""
    return selection.digests[:, 0] < np.uint64(share * 2**64)


def _sample(
    corpus: CorpusConfig, pieces: list[Piece], selection: Selection, members: np.ndarray, source_of: np.ndarray
) -> Iterator[str]:
    """Training documents for the tokenizer, in the order of their keys, up to the bytes of the sample or their source's."""
    weights = [source.tokenizer_weight for source in corpus.sources]
    shares = [(members, 1.0)]
    if None not in weights:
        total = sum(filter(None, weights))
        shares = [(members & (source_of == n), (weight or 0) / total) for n, weight in enumerate(weights)]
    for group, share in shares:
        left = round(share * corpus.tokenizer_sample_bytes)
        documents = np.flatnonzero(group)
        for document in documents[np.argsort(selection.digests[documents, 1], kind="stable")]:
            text = _text(pieces, selection, int(document), left)
            yield text
            left -= len(text.encode())
            if left < 4:  # bytes of one character
                break


def _table(pieces: list[Piece], selection: Selection, held_out: np.ndarray, source_of: np.ndarray) -> np.ndarray:
    """One `DOCUMENT` for each document kept."""
    kept = selection.keep
    table = np.zeros(int(kept.sum()), DOCUMENT)
    table["source"], table["held_out"], table["key"] = source_of[kept], held_out[kept], selection.digests[kept, 1]
    filled = 0
    for number, piece in enumerate(pieces):
        lengths = piece.lengths()
        mine = table[filled : filled + len(lengths)]
        mine["block"], mine["tokens"] = number, lengths
        mine["begin"] = np.cumsum(lengths) - lengths
        filled += len(lengths)
    return table
