"""The first half of preprocessing: text in, tokenised documents out.

Four steps, of which the first and the last are done block by block (`block_tasks`) wherever the mapper does them:
read and judge; decide over all documents what stays (`selection`); train the tokenizer; tokenise.

NAME.tokens.npy     uint16 or uint32: tokens of the documents of block NAME, each with end-of-text behind it
documents.npy       see `block_tasks.DOCUMENT`, one for each document in the order they were read
blocks.json         names of the blocks
tokenizer.json, token_bytes.npy, samples.json
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longcat.artifact import write_json
from longcat.config import CorpusConfig
from longcat.config.tokenizer_file import end_of_text
from longcat.corpus.accounting import Account, account, tokenizer_sample
from longcat.corpus.arrays import save
from longcat.corpus.block_tasks import JudgeTask, TokeniseTask, judge_block, tokenise_block, try_block
from longcat.corpus.decontamination import known_runs
from longcat.corpus.judge import SAMPLES, reasons
from longcat.corpus.judged import JudgedBlock, JudgedBlocks
from longcat.corpus.mapping import Mapper
from longcat.corpus.selection import KEPT, KeptDocuments, select
from longcat.corpus.shards import TOKEN_BYTES, TOKENIZER, token_dtype
from longcat.corpus.sources import Source
from longcat.corpus.table import write_table
from longcat.errors import DataError
from longcat.progress import Progress, Reporter
from longcat.unpacking import read_json

DOCUMENTS, BLOCKS, SAMPLES_FILE = "documents.npy", "blocks.json", "samples.json"
SCRATCH = "scratch"
"""Folder of files that only `build_documents` itself needs."""


@dataclass(frozen=True)
class Sample:
    """The beginning of a document, for people to look at."""

    source: int
    reason: str | None
    """Why it was left out; None if it was kept."""
    text: str


_IN_FOLDER = 1000  # blocks
_JUDGED, _SELECTED, _TRAINED, _TOKENISED = 45.0, 55.0, 60.0, 85.0  # percentages of the stage at which the steps end


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

    facts, blocks = judge_all(corpus, sources, scratch, known, mapper, report)

    def tell(what: str, done: float) -> None:
        report(Progress("preprocess", _JUDGED + (_SELECTED - _JUDGED) * done, 100, what))

    selection = select(blocks, corpus, scratch / "selection", mapper, tell)
    found = account(corpus, blocks, selection, mapper, scratch / "account")
    facts |= _facts(corpus, facts, selection, found)
    samples = [Sample(**sample) for sample in facts.pop("samples")]
    for name, left in (("train", found.train), ("held_out", found.held_out)):
        if not left:
            raise DataError(f"no document is left for the {name} split: {describe_losses(facts)}; {MORE[name]}")

    report(Progress("preprocess", _SELECTED, 100, "training the tokenizer"))
    tokenizer = provide_tokenizer(
        directory / TOKENIZER, corpus, tokenizer_sample(corpus, blocks, selection, found.picked)
    )
    save(directory / TOKEN_BYTES, token_bytes(tokenizer))

    end, size = end_of_text(corpus), vocabulary_size(tokenizer)
    tasks = (
        TokeniseTask(
            scratch=scratch,
            name=block.name,
            number=number,
            source=block.source,
            held_out_fraction=corpus.held_out_fraction,
            keep=selection.state[selection.of(number)] == KEPT,
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

    tokens = write_table(directory / DOCUMENTS, (block.rows() for block in blocks), facts["documents"])
    write_json(directory / BLOCKS, blocks.names)
    write_json(directory / SAMPLES_FILE, [asdict(sample) for sample in samples])
    return {
        **facts,
        "tokens": tokens,
        "bytes_per_token": facts["text_bytes"] / tokens,
        "vocabulary_size": size,
        "end_of_text": end,
        "versions": {"python": platform.python_version(), "tokenizers": tokenizers.__version__},
    }


# ---------------------------------------------------------------------------------------------------- judging


def judge_all(
    corpus: CorpusConfig,
    sources: list[Source],
    scratch: Path,
    known: Path,
    mapper: Mapper,
    report: Reporter,
    labelled: bool = False,
) -> tuple[dict[str, Any], JudgedBlocks]:
    """Judge all blocks of all sources; returns the facts about what was read and judged, and the blocks.

    Args:
        corpus: what is asked of documents.
        sources: where they are.
        scratch: folder for what judging leaves.
        known: see `JudgeTask.known`.
        mapper: does the work.
        report: receives progress.
        labelled: see `JudgeTask.labelled`.

    Raises:
        DataError: a file is damaged, or more records than `corpus.max_bad_fraction` cannot be read.
    """
    told, listing = scratch / "judged.json", scratch / "blocks.json"
    if told.exists():
        return read_json(told), JudgedBlocks(scratch, listing)
    blocks: list[tuple[str, int, int]] = []
    described = []
    total = _Counted(corpus)
    for number, (settings, source) in enumerate(zip(corpus.sources, sources, strict=True)):
        of_source = _Counted(corpus)
        most, count = settings.max_documents, len(source.blocks)
        task = partial(_judge_task, corpus, source, number, scratch, known, labelled)
        judge = judge_block if most is None else try_block
        with closing(mapper(judge, (task(place, most) for place in range(count)))) as names:
            for place, judged in enumerate(names):
                left = None if most is None else most - of_source.texts
                # how many documents are left for a block is only known when those before it are done
                if judged is None or (
                    left and of_source.texts and JudgedBlock(scratch, judged, number).counts["texts"] >= left
                ):
                    judged = judge_block(task(place, left, f"-{left}"))
                of_source.add(number, JudgedBlock(scratch, judged, number).counts)
                blocks.append((judged, number, of_source.last_kept))
                done = (number + (place + 1) / count) / len(sources)
                report(
                    Progress("preprocess", _JUDGED * done, 100, f"reading {source.name}: {of_source.texts:,} documents")
                )
                if of_source.texts == most:
                    break
        texts, bad = of_source.texts, of_source.bad
        if of_source.first_bad and not source.tolerant:
            if bad > corpus.max_bad_fraction * (texts + bad):
                raise DataError(
                    f"{bad} of {texts + bad} records of {source.name} cannot be read, more than "
                    f"corpus.max_bad_fraction={corpus.max_bad_fraction}; the first is {of_source.first_bad}"
                )
            total.bad += bad
        total.take(of_source)
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
    saved = JudgedBlocks.save(scratch, listing, blocks)
    facts = {
        "bad_lines": total.bad,
        "sources": described,
        "dropped": total.dropped,
        "languages": total.languages,
        "samples": [asdict(sample) for sample in total.samples],
    }
    write_json(told, facts)
    return facts, saved


def _judge_task(
    corpus: CorpusConfig,
    source: Source,
    number: int,
    scratch: Path,
    known: Path,
    labelled: bool,
    place: int,
    limit: int | None,
    suffix: str = "",
) -> JudgeTask:
    name = f"{number:03d}/{place // _IN_FOLDER:04d}/{place:07d}{suffix}"
    return JudgeTask(corpus, source.blocks[place], source.tolerant, scratch, name, known, limit, labelled)


class _Counted:
    """Counts of judged blocks, added up."""

    def __init__(self, corpus: CorpusConfig) -> None:
        self.texts = self.bad = self.last_kept = 0
        self.first_bad: str | None = None
        self.dropped: Counter[str] = Counter(dict.fromkeys(reasons(corpus), 0))
        self.languages: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self._taken: Counter[str] = Counter()

    def add(self, source: int, counts: Mapping[str, Any]) -> None:
        """Add the counts of a block."""
        self.texts += counts["texts"]
        self.bad += counts["bad"]
        self.last_kept = counts["texts"] - sum(counts["dropped"].values())
        self.first_bad = self.first_bad or counts["first_bad"]
        self.dropped.update(counts["dropped"])
        self.languages.update(counts["languages"])
        for reason, texts in counts["samples"].items():
            for text in texts[: SAMPLES - self._taken[reason]]:
                self._taken[reason] += 1
                self.samples.append(Sample(source, reason, text))

    def take(self, other: _Counted) -> None:
        """Add what was counted of another source, but for its records."""
        self.dropped.update(other.dropped)
        self.languages.update(other.languages)
        self.samples += other.samples


def _facts(corpus: CorpusConfig, judged: Mapping[str, Any], selection: KeptDocuments, found: Account) -> dict[str, Any]:
    """Summarise which documents were kept, and why the others were not, as facts."""
    dropped = Counter(judged["dropped"])
    dropped.update({reason: count for reason, count in selection.count().items() if reason in dropped})
    kinds = len(corpus.mask)
    languages = Counter(judged["languages"])
    languages += Counter(dict(zip(corpus.languages, found.found[kinds:].tolist(), strict=True)))
    kept = [Sample(source, None, text) for source, samples in sorted(found.kept.items()) for _, text in samples]
    left_out = [Sample(source, reason, text) for (source, reason), texts in found.dropped.items() for text in texts]
    judged_out = [Sample(**sample) for sample in judged["samples"]]
    return {
        "documents": found.train + found.held_out,
        "text_bytes": found.text_bytes,
        "dropped": dict(dropped),
        "paragraphs_cut": len(selection.cuts),
        "masked": dict(zip(corpus.mask, found.found[:kinds].tolist(), strict=True)),
        "languages": dict(languages.most_common()),
        "length_log2": {str(power): found.lengths[power] for power in sorted(found.lengths)},
        "samples": [asdict(sample) for sample in [*kept, *_of_corpus(judged_out, left_out, list(dropped))]],
    }


def _of_corpus(judged: list[Sample], selected: list[Sample], order: list[str]) -> list[Sample]:
    """Put samples of what was left out in the order of the questions, and of the sources; `SAMPLES` for each of both."""
    chosen: dict[tuple[str, int], list[Sample]] = {}
    for sample in [*judged, *selected]:
        chosen.setdefault((str(sample.reason), sample.source), []).append(sample)
    return [
        sample
        for place in sorted(chosen, key=lambda place: (order.index(place[0]), place[1]))
        for sample in chosen[place][:SAMPLES]
    ]


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
