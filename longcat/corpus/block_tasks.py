"""What becomes of a block of the corpus: first its cleaned documents, then their tokens, each written by one call.

The calls are pure functions of their task, run in any process that sees the files, and are done when their last file is
there: a second run finds it and leaves. In the scratch folder, for block NAME:

NAME.text             UTF-8 of the documents that were not left out, one after another
NAME.arrays.npz       see `Arrays`
NAME.signatures.npy   uint32 [documents, minima], where near-duplicates are looked for
NAME.findings.npy     int32 [documents, mask + languages]: personal data masked of each kind, and 1 for the language
NAME.json             counts and samples; the last of these files
NAME.lengths.npy      int64 [documents kept]: tokens of each; the last file of all

and in the artifact NAME.tokens.npy, the tokens of the documents kept, one after another.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from longcat.artifact import write_json
from longcat.config import CorpusConfig
from longcat.corpus.arrays import save
from longcat.corpus.cleaning import Dropped
from longcat.corpus.judge import SAMPLES, Judge, Verdict, reasons
from longcat.corpus.near_duplicates import shingles, signatures
from longcat.corpus.readers import Oversized, Unreadable
from longcat.corpus.sources import Block
from longcat.errors import DataError, LongcatError

_BATCH_BYTES = 1 << 20
_SIGNED_AT_ONCE = 512
_BLANK_LINES = re.compile(rb"\n(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Arrays:
    """What the driver has to know of the documents of a block that were not left out; arrays are `[documents]`."""

    ends: np.ndarray
    """Byte after each document in the text, int64."""
    digests: np.ndarray
    """The beginning of the SHA-256 of each, uint64 `[documents, 2]`."""
    characters: np.ndarray
    """int64."""
    paragraphs: np.ndarray
    """int64 `[paragraphs, 5]`: hash, document, first byte, byte after the last, characters; empty if nobody asks."""


@dataclass
class _Collected:
    ends: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    paragraphs: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    findings: list[list[int]] = field(default_factory=list)
    shingles: list[np.ndarray] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class JudgeTask:
    """Read and judge a block."""

    corpus: CorpusConfig
    block: Block
    tolerant: bool
    """Whether unreadable records are nobody's mistake."""
    scratch: Path
    name: str
    known: Path
    """Hashes of what may not occur, see `decontamination`."""
    limit: int | None = None
    """Read no more documents."""


def judge_block(task: JudgeTask) -> str:
    """Write the cleaned documents of a block and what is known of them; returns the task's name.

    Raises:
        DataError: the file is damaged, or a record is unreadable and `corpus.max_bad_fraction` allows none.
    """
    counts = task.scratch / f"{task.name}.json"
    if counts.exists():
        return task.name
    corpus = task.corpus
    judge = Judge(corpus, _known(task.known))
    dropped = Counter(dict.fromkeys(reasons(corpus), 0))
    languages: Counter[str] = Counter()
    samples: dict[str, list[str]] = {}
    seen: dict[bytes, Verdict] = {}
    duplicate = Verdict(Dropped("duplicate"))  # its language and masks are those of the first, and counted there
    found = _Collected()
    texts = bad = 0
    first_bad: Unreadable | None = None

    def leave_out(reason: str, text: str, spoken: str | None = None) -> None:
        dropped[reason] += 1
        if spoken is not None:
            languages[spoken] += 1
        if text and len(samples.setdefault(reason, [])) < SAMPLES and not text.isspace():
            samples[reason].append(judge.sample(text))

    with (task.scratch / f"{task.name}.text").open("wb") as stream:
        # one character takes at most 12 bytes, as two \u escapes of JSON; the rest is for other fields
        record_bytes = 12 * corpus.max_characters + 1_000_000
        for record in task.block.records(corpus.encodings, record_bytes):
            if isinstance(record, Unreadable):
                bad += 1
                first_bad = first_bad or record
                if not task.tolerant and corpus.max_bad_fraction == 0:
                    raise DataError(
                        f"{record.place}: {record.reason}; mend it, or skip such records with corpus.max_bad_fraction"
                    )
                continue
            texts += 1
            if isinstance(record, Oversized):
                leave_out("too_long", "")
            else:
                digest = content_hash(record.encode())
                verdict = seen.get(digest) or judge.verdict(record)  # the same text again: no need to ask again
                if isinstance(verdict.document, Dropped):
                    seen[digest] = verdict
                    leave_out(verdict.document.reason, record, verdict.language)
                else:
                    seen[digest] = duplicate
                    content = verdict.document.text.encode()
                    stream.write(content)
                    _collect(found, content, len(verdict.document.text), corpus)
                    masked = verdict.masked or Counter()
                    spoken = [verdict.language == name for name in corpus.languages]
                    found.findings.append([*(masked[kind] for kind in corpus.mask), *spoken])
                    if corpus.near_duplicates:
                        found.shingles.append(shingles(verdict.document.words, corpus.near_duplicates))
                        _sign(found, corpus, _SIGNED_AT_ONCE)
            if texts == task.limit:
                break
        stream.flush()
        os.fsync(stream.fileno())
    if corpus.near_duplicates:
        _sign(found, corpus, 1)
        empty = signatures([], corpus.near_duplicates)
        save(task.scratch / f"{task.name}.signatures.npy", np.concatenate([empty, *found.signatures]))
    with (task.scratch / f"{task.name}.arrays.npz").open("wb") as binary:
        np.savez(
            binary,
            ends=np.array(found.ends, np.int64),
            digests=np.frombuffer(b"".join(found.digests), ">u8").astype(np.uint64).reshape(-1, 2),
            characters=np.array(found.characters, np.int64),
            paragraphs=np.array(found.paragraphs, np.int64).reshape(-1, 5),
        )
        binary.flush()
        os.fsync(binary.fileno())
    columns = len(corpus.mask) + len(corpus.languages)
    findings = np.array(found.findings, np.int32).reshape(len(found.ends), columns)
    save(task.scratch / f"{task.name}.findings.npy", findings)
    write_json(
        counts,
        {
            "texts": texts,
            "bad": bad,
            "first_bad": None if first_bad is None else f"{first_bad.place}: {first_bad.reason}",
            "dropped": dropped,
            "languages": languages,  # of those left out; `findings` has the others'
            "samples": samples,
        },
    )
    return task.name


def try_block(task: JudgeTask) -> str | None:
    """`judge_block`, or none if that fails: where not all of the block may be wanted, what fails may not be either."""
    try:
        return judge_block(task)
    except LongcatError:
        return None


def _collect(found: _Collected, content: bytes, characters: int, corpus: CorpusConfig) -> None:
    number = len(found.ends)
    found.ends.append((found.ends[-1] if found.ends else 0) + len(content))
    found.digests.append(content_hash(content))
    found.characters.append(characters)
    if corpus.repeated_paragraph_characters:
        begin = 0
        for end in [*(blank.end() for blank in _BLANK_LINES.finditer(content)), len(content)]:
            whole = content[begin:end]  # with the white space round it, which is cut out too
            text = whole.strip()
            if len(text.decode()) >= corpus.repeated_paragraph_characters:
                hashed = int.from_bytes(content_hash(text)[:8], "little", signed=True)
                found.paragraphs.append((hashed, number, begin, end, len(whole.decode())))
            begin = end


def _sign(found: _Collected, corpus: CorpusConfig, at_least: int) -> None:
    if corpus.near_duplicates and len(found.shingles) >= at_least:
        found.signatures.append(signatures(found.shingles, corpus.near_duplicates))
        found.shingles.clear()


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Any:
    # kept: every one that is opened costs memory that does not come back
    from longcat.corpus.tokenizer import open_tokenizer

    return open_tokenizer(path)


@lru_cache(maxsize=2)
def _known(path: Path) -> np.ndarray:
    known: np.ndarray = np.load(path)
    return known


def content_hash(content: bytes) -> bytes:
    """128 bits that stand for a text: the beginning of its SHA-256."""
    return hashlib.sha256(content).digest()[:16]


class JudgedBlock:
    """A block that was judged."""

    def __init__(self, scratch: Path, name: str, source: int) -> None:
        self.name, self.source = name, source
        self._scratch = scratch
        self.counts: dict[str, Any] = json.loads((scratch / f"{name}.json").read_text(encoding="utf-8"))

    def arrays(self) -> Arrays:
        """What is known of its documents."""
        with np.load(self._scratch / f"{self.name}.arrays.npz") as arrays:
            return Arrays(**arrays)

    def signatures(self) -> np.ndarray:
        """Of its documents, uint32 `[documents, minima]`."""
        signed: np.ndarray = np.load(self._scratch / f"{self.name}.signatures.npy")
        return signed

    def findings(self) -> np.ndarray:
        """Personal data masked in its documents and their languages, int32 `[documents, mask + languages]`."""
        findings: np.ndarray = np.load(self._scratch / f"{self.name}.findings.npy")
        return findings

    def read(self, begin: int, end: int) -> bytes:
        """Bytes of its text."""
        with (self._scratch / f"{self.name}.text").open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)

    def lengths(self) -> np.ndarray:
        """Tokens of the documents kept, int64, after `tokenise_block`."""
        lengths: np.ndarray = np.load(self._scratch / f"{self.name}.lengths.npy")
        return lengths


@dataclass(frozen=True)
class TokeniseTask:
    """Tokenise what is kept of a block."""

    scratch: Path
    name: str
    keep: np.ndarray
    """Which documents, bool `[documents]`."""
    cuts: np.ndarray
    """Paragraphs to cut out, int64 `[cuts, 3]`: document, first byte, byte after the last, in order."""
    tokenizer: Path
    tokens: Path
    """The file to write."""
    dtype: type[np.generic]
    end_of_text: int


def tokenise_block(task: TokeniseTask) -> None:
    """Write the tokens of the documents kept, each with the end-of-text token behind it."""
    done = task.scratch / f"{task.name}.lengths.npy"
    if done.exists():
        return
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
    save(done, np.array(lengths, np.int64))


def kept_texts(task: TokeniseTask) -> Iterator[str]:
    """The documents kept, without the paragraphs to cut out."""
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
    """A text without some pieces of it, `[cuts, 2]` bytes in order."""
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
