"""The two steps that work block by block: judging writes cleaned documents, tokenising writes their tokens.

Both are pure functions of their task, run in any process that sees the files, and are done when their last file is
there: a second run finds it and returns. In the scratch folder, for block NAME, which has folders of its own in front:

NAME.text             UTF-8 of the documents that were not left out, one after another
NAME.arrays.npz       see `block_arrays.Arrays`
NAME.signatures.npy   uint32 [documents, minima], where near-duplicates are looked for
NAME.findings.npy     int32 [documents, mask + languages]: personal data masked of each kind, and 1 for the language
NAME.labels.jsonl     of each document its id, url, language and score (only where text is written out)
NAME.dropped.zst      JSON lines of those that were left out, with text and reason (likewise)
NAME.json             counts and samples; the last of these files
NAME.rows.npy         `DOCUMENT` [documents kept]; the last file of all

and in the artifact NAME.tokens.npy, the tokens of the documents kept, one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from longcat.artifact import write_json
from longcat.config import CorpusConfig, NearDuplicateConfig
from longcat.corpus.arrays import save
from longcat.corpus.block_arrays import ArraysBuilder, content_hash
from longcat.corpus.cleaning import Dropped
from longcat.corpus.filters import Document
from longcat.corpus.judge import SAMPLES, Judge, Verdict, reasons
from longcat.corpus.labels import Labels
from longcat.corpus.near_duplicates import shingles, signatures
from longcat.corpus.readers import Oversized, Record, Unreadable
from longcat.corpus.sources import Block
from longcat.disk import replacing
from longcat.errors import DataError, LongcatError

_BATCH_BYTES = 1 << 20
_SIGNED_AT_ONCE = 512
_TOO_LONG = Verdict(Dropped("too_long"))
_DUPLICATE = Verdict(Dropped("duplicate"))
"""Verdict on a text that is kept already: its language and masked data were counted with the first."""


@dataclass(frozen=True)
class JudgeTask:
    """Read and judge a block."""

    corpus: CorpusConfig
    block: Block
    tolerant: bool
    """Whether unreadable records are expected and not counted as errors."""
    scratch: Path
    name: str
    known: Path
    """File of the hashes that must not occur, see `decontamination.known_runs`."""
    limit: int | None = None
    """Stop after this many documents; None reads all."""
    labelled: bool = False
    """Whether to keep what is known of each document, and the text of those left out, for `cleaned_text`."""

    def __str__(self) -> str:
        return f"block {self.name}"


def judge_block(task: JudgeTask) -> str:
    """Write the cleaned documents of a block and the facts about them; returns the task's name.

    Raises:
        DataError: the file is damaged, or a record is unreadable and `corpus.max_bad_fraction` allows none.
    """
    counts = task.scratch / f"{task.name}.json"
    if counts.exists():
        return task.name
    counts.parent.mkdir(parents=True, exist_ok=True)
    corpus = task.corpus
    # one character takes at most 12 bytes, as two \u escapes of JSON; the rest is for other fields
    record_bytes = 12 * corpus.max_characters + 1_000_000
    with ExitStack() as files:
        stream = files.enter_context(replacing(task.scratch / f"{task.name}.text"))
        labels = files.enter_context(Labels(task.scratch, task.name)) if task.labelled else None
        judging = _Judging(task, stream, labels)
        for record in task.block.records(corpus.encodings, record_bytes):
            judging.add(record)
            if judging.texts == task.limit:
                break
    judging.save(task.scratch, task.name)
    write_json(counts, judging.counts())
    return task.name


class _Judging:
    """The state of a block while its records are judged one by one."""

    def __init__(self, task: JudgeTask, stream: IO[bytes], labels: Labels | None) -> None:
        self._labels = labels
        self.texts = 0
        """Records that could be read."""
        self._corpus, self._tolerant, self._stream = task.corpus, task.tolerant, stream
        self._judge = Judge(task.corpus, _known(task.known))
        self._dropped = Counter(dict.fromkeys(reasons(task.corpus), 0))
        self._languages: Counter[str] = Counter()
        self._samples: dict[str, list[str]] = {}
        self._seen: dict[bytes, Verdict] = {}
        self._unreadable = 0
        self._first_unreadable: Unreadable | None = None
        self._arrays = ArraysBuilder(task.corpus.repeated_paragraph_characters)
        self._findings: list[list[int]] = []
        self._shingles: list[np.ndarray] = []
        self._signatures: list[np.ndarray] = []

    def add(self, record: Record) -> None:
        """Judge a record, and write its document if it is not left out.

        Raises:
            DataError: it is unreadable, and none may be.
        """
        if isinstance(record, Unreadable):
            self._count_unreadable(record)
            return
        self.texts += 1
        if isinstance(record, Oversized):
            self._leave_out("too_long", "")
            if self._labels:
                self._labels.leave_out("too_long", record.place, "", _TOO_LONG)
            return
        digest = content_hash(record.encode())
        verdict = self._seen.get(digest) or self._judge.verdict(record)  # the same text again: no need to ask again
        if isinstance(verdict.document, Dropped):
            self._seen[digest] = verdict
            self._leave_out(verdict.document.reason, record, verdict.language)
            if self._labels:
                self._labels.leave_out(verdict.document.reason, record, self._judge.masked(record), verdict)
        else:
            self._seen[digest] = _DUPLICATE
            self._keep(verdict.document, verdict)
            if self._labels:
                self._labels.keep(record, verdict)

    def _count_unreadable(self, record: Unreadable) -> None:
        self._unreadable += 1
        self._first_unreadable = self._first_unreadable or record
        if not self._tolerant and self._corpus.max_bad_fraction == 0:
            raise DataError(
                f"{record.place}: {record.reason}; mend it, or skip such records with corpus.max_bad_fraction"
            )

    def _leave_out(self, reason: str, text: str, language: str | None = None) -> None:
        self._dropped[reason] += 1
        if language is not None:
            self._languages[language] += 1
        if text and len(self._samples.setdefault(reason, [])) < SAMPLES and not text.isspace():
            self._samples[reason].append(self._judge.sample(text))

    def _keep(self, document: Document, verdict: Verdict) -> None:
        corpus = self._corpus
        self._stream.write(self._arrays.add(document.text))
        masked = verdict.masked or Counter()
        languages = [verdict.language == name for name in corpus.languages]
        self._findings.append([*(masked[kind] for kind in corpus.mask), *languages])
        if corpus.near_duplicates:
            self._shingles.append(shingles(document.normal_form, corpus.near_duplicates))
            if len(self._shingles) == _SIGNED_AT_ONCE:
                self._sign(corpus.near_duplicates)

    def _sign(self, config: NearDuplicateConfig) -> None:
        self._signatures.append(signatures(self._shingles, config))
        self._shingles.clear()

    def save(self, scratch: Path, name: str) -> None:
        """Write the arrays of the documents that were not left out."""
        corpus = self._corpus
        if corpus.near_duplicates:
            self._sign(corpus.near_duplicates)
            save(scratch / f"{name}.signatures.npy", np.concatenate(self._signatures))
        arrays = self._arrays.build()
        with replacing(scratch / f"{name}.arrays.npz") as binary:
            np.savez(binary, **vars(arrays))
        columns = len(corpus.mask) + len(corpus.languages)
        save(scratch / f"{name}.findings.npy", np.array(self._findings, np.int32).reshape(len(arrays.ends), columns))

    def counts(self) -> dict[str, Any]:
        """Return what was counted, and samples of what was left out."""
        first = self._first_unreadable
        return {
            "texts": self.texts,
            "bad": self._unreadable,
            "first_bad": None if first is None else f"{first.place}: {first.reason}",
            "dropped": self._dropped,
            "languages": self._languages,  # of those left out; the findings have the others'
            "samples": self._samples,
        }


def try_block(task: JudgeTask) -> str | None:
    """Judge a block that may be wanted in part only; returns None if it fails, as the failing part may not be wanted."""
    try:
        return judge_block(task)
    except LongcatError:
        return None


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Any:
    # kept: every one that is opened costs memory that does not come back
    from longcat.corpus.tokenizer import open_tokenizer

    return open_tokenizer(path)


@lru_cache(maxsize=2)
def _known(path: Path) -> np.ndarray:
    known: np.ndarray = np.load(path)
    return known


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


def is_held_out(digests: np.ndarray, fraction: float) -> np.ndarray:
    """Mark the documents that are never trained on, bool; only the content of each decides, not the rest of the corpus."""
    marked: np.ndarray = digests[:, 0] < np.uint64(fraction * 2**64)
    return marked


@dataclass(frozen=True)
class TokeniseTask:
    """Tokenise the documents of a block that are kept."""

    scratch: Path
    name: str
    number: int
    """Place of the block among all."""
    source: int
    held_out_fraction: float
    keep: np.ndarray
    """Whether each document is kept, bool `[documents]`."""
    cuts: np.ndarray
    """Paragraphs to cut out, int64 `[cuts, 3]`: document, first byte, byte after the last, in order."""
    tokenizer: Path
    tokens: Path
    """The file to write them to."""
    dtype: type[np.generic]
    end_of_text: int
    """Id of the token behind every document."""

    def __str__(self) -> str:
        return f"the tokens of block {self.name}"


def tokenise_block(task: TokeniseTask) -> None:
    """Write the tokens of the documents kept, each with the end-of-text token behind it."""
    done = task.scratch / f"{task.name}.rows.npy"
    if done.exists():
        return
    task.tokens.parent.mkdir(parents=True, exist_ok=True)
    from longcat.corpus.tokenizer import encode, single_threaded

    tokenizer = _tokenizer(task.tokenizer)
    lengths: list[int] = []
    parts: list[np.ndarray] = []
    with single_threaded():
        for batch in _batches(kept_texts(task)):
            for tokens in encode(tokenizer, batch, task.end_of_text):
                lengths.append(len(tokens))
                parts.append(tokens.astype(task.dtype))
    save(task.tokens, np.concatenate([np.empty(0, task.dtype), *parts]))
    with np.load(task.scratch / f"{task.name}.arrays.npz") as arrays:
        digests = arrays["digests"][task.keep]
    rows = np.zeros(len(lengths), DOCUMENT)
    rows["block"], rows["source"], rows["tokens"] = task.number, task.source, lengths
    rows["begin"] = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
    rows["held_out"], rows["key"] = is_held_out(digests, task.held_out_fraction), digests[:, 1]
    save(done, rows)


def kept_texts(task: TokeniseTask) -> Iterator[str]:
    """Yield the documents kept, without the paragraphs to cut out."""
    with np.load(task.scratch / f"{task.name}.arrays.npz") as arrays:
        ends = arrays["ends"]
    first_cut = np.searchsorted(task.cuts[:, 0], np.arange(len(ends) + 1))
    with (task.scratch / f"{task.name}.text").open("rb") as stream:
        for number in np.flatnonzero(task.keep):
            begin = ends[number - 1] if number else 0
            stream.seek(begin)
            content = stream.read(ends[number] - begin)
            yield without(content, task.cuts[first_cut[number] : first_cut[number + 1], 1:]).decode()


def without(content: bytes, cuts: np.ndarray) -> bytes:
    """Remove ranges of bytes from a text.

    Args:
        content: UTF-8.
        cuts: first byte and byte after the last of each range, int64 `[cuts, 2]` in order.
    """
    if not len(cuts):
        return content
    edges = [0, *cuts.ravel().tolist(), len(content)]
    return b"".join(content[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True))


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    filled = 0
    for text in texts:
        batch.append(text)
        filled += len(text)
        if filled >= _BATCH_BYTES:
            yield batch
            batch, filled = [], 0
    if batch:
        yield batch
