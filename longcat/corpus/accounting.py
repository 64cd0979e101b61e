"""What became of the documents: counted batch by batch, with samples to look at and those the tokenizer is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from longcat.artifact import write_json
from longcat.config import CorpusConfig
from longcat.corpus.arrays import save
from longcat.corpus.block_tasks import is_held_out, without
from longcat.corpus.decontamination import NO_RUNS
from longcat.corpus.judge import SAMPLE_CHARACTERS, SAMPLES, Judge
from longcat.corpus.judged import Batch, JudgedBlock, JudgedBlocks, batches
from longcat.corpus.mapping import Mapper
from longcat.corpus.selection import DUPLICATE, KEPT, REASONS, KeptDocuments
from longcat.unpacking import read_json

_SAMPLE_BYTES = 8 * SAMPLE_CHARACTERS
_LAST_KEY = 2**64 - 1
_COUNTED = "counted.json"
"""The last of the files that an account is saved in."""
PICK = np.dtype([("key", np.uint64), ("document", np.int64), ("bytes", np.int64)])
"""A document that may be picked: its place in an arbitrary but fixed order, its number, and its size."""


@dataclass(frozen=True)
class TokenizerShare:
    """How much text of which sources the tokenizer is trained on."""

    source: int | None
    """None for all of them together."""
    bytes: int


@dataclass(frozen=True)
class AccountTask:
    """Count the documents of a batch."""

    corpus: CorpusConfig
    blocks: JudgedBlocks
    batch: Batch
    state: np.ndarray
    """Of its documents, see `KeptDocuments.state`."""
    cuts: np.ndarray
    """Of its documents, numbered from its beginning, see `KeptDocuments.cuts`."""
    shares: tuple[TokenizerShare, ...]
    last_keys: tuple[int, ...]
    """For each share, the last key that can still be picked."""

    def __str__(self) -> str:
        return f"the account of batch {self.batch.number}"


@dataclass
class Account:
    """What was counted of some documents, and picked from them."""

    train: int = 0
    held_out: int = 0
    text_bytes: int = 0
    found: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Personal data masked of each kind, and documents of each language, int64 `[mask + languages]`."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by the logarithm to base 2 of their characters, rounded down."""
    picked: list[np.ndarray] = field(default_factory=list)
    """For each share of the tokenizer's sample, `PICK` in order."""
    kept: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    """By source, keys and beginnings of the documents kept that come first in the order of keys."""
    dropped: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    """By source and reason, beginnings of the first documents left out over the whole corpus."""


def account(
    corpus: CorpusConfig, blocks: JudgedBlocks, selection: KeptDocuments, mapper: Mapper, folder: Path
) -> Account:
    """Count all documents; the outcome does not depend on how they are divided among calls.

    Args:
        corpus: what is counted, and how much is picked for the tokenizer.
        blocks: the documents.
        selection: which of them are kept.
        mapper: does the work.
        folder: for the outcome; what is there is read.
    """
    if (folder / _COUNTED).exists():
        return _load(folder)
    shares = _shares(corpus)
    total = Account(
        found=np.zeros(len(corpus.mask) + len(corpus.languages), np.int64),
        picked=[np.empty(0, PICK) for _ in shares],
    )

    def tasks() -> Iterator[AccountTask]:
        for batch in batches(blocks.begins):
            # what has been picked until now tells what later ones need not send
            last = tuple(
                int(picked["key"][-1]) if picked["bytes"].sum() >= share.bytes else _LAST_KEY
                for picked, share in zip(total.picked, shares, strict=True)
            )
            documents = batch.documents
            yield AccountTask(
                corpus, blocks, batch, selection.state[documents], selection.cuts_in(documents), shares, last
            )

    for one in mapper(account_batch, tasks()):
        total.train += one.train
        total.held_out += one.held_out
        total.text_bytes += one.text_bytes
        total.found += one.found
        total.lengths.update(one.lengths)
        total.picked = [
            _first(np.concatenate(both), share.bytes)
            for share, *both in zip(shares, total.picked, one.picked, strict=True)
        ]
        for source, samples in one.kept.items():
            total.kept[source] = sorted([*total.kept.get(source, []), *samples])[:SAMPLES]
        for place, texts in one.dropped.items():
            total.dropped[place] = [*total.dropped.get(place, []), *texts][:SAMPLES]
    _save(folder, total)
    return total


def _save(folder: Path, counted: Account) -> None:
    folder.mkdir(exist_ok=True)
    for number, picked in enumerate(counted.picked):
        save(folder / f"picked-{number}.npy", picked)
    values = {
        **vars(counted),
        "found": counted.found.tolist(),
        "picked": len(counted.picked),
        "kept": [*counted.kept.items()],
        "dropped": [*counted.dropped.items()],
    }
    write_json(folder / _COUNTED, values)


def _load(folder: Path) -> Account:
    values = read_json(folder / _COUNTED)
    return Account(
        train=values["train"],
        held_out=values["held_out"],
        text_bytes=values["text_bytes"],
        found=np.array(values["found"], np.int64),
        lengths=Counter({int(power): count for power, count in values["lengths"].items()}),
        picked=[np.load(folder / f"picked-{number}.npy") for number in range(values["picked"])],
        kept={source: [(key, text) for key, text in samples] for source, samples in values["kept"]},
        dropped={(source, reason): texts for (source, reason), texts in values["dropped"]},
    )


def account_batch(task: AccountTask) -> Account:
    """Count the documents of a batch."""
    corpus, begins, first = task.corpus, task.blocks.begins, task.batch.documents.start
    judge = Judge(corpus, NO_RUNS)
    result = Account(found=np.zeros(len(corpus.mask) + len(corpus.languages), np.int64))
    picks: list[list[np.ndarray]] = [[np.empty(0, PICK)] for _ in task.shares]
    for number in task.batch.blocks:
        block, begin = task.blocks[number], int(begins[number]) - first
        arrays = block.arrays()
        count = len(arrays.ends)
        state = task.state[begin : begin + count]
        keep, held_out = state == KEPT, is_held_out(arrays.digests, corpus.held_out_fraction)
        cuts = task.cuts[slice(*np.searchsorted(task.cuts[:, 0], [begin, begin + count]))] - np.array([begin, 0, 0, 0])
        sizes, characters = np.diff(arrays.ends, prepend=0), arrays.characters.copy()
        np.subtract.at(sizes, cuts[:, 0], cuts[:, 2] - cuts[:, 1])
        np.subtract.at(characters, cuts[:, 0], cuts[:, 3])
        result.train += int((keep & ~held_out).sum())
        result.held_out += int((keep & held_out).sum())
        result.text_bytes += int(sizes[keep].sum())
        result.found += block.findings()[state != DUPLICATE].sum(axis=0, dtype=np.int64)
        result.lengths.update((np.frexp(characters[keep].astype(float))[1] - 1).tolist())
        pick = np.empty(count, PICK)
        pick["key"], pick["document"] = arrays.digests[:, 1], np.arange(count) + begin + first
        pick["bytes"] = sizes
        for share, last, found in zip(task.shares, task.last_keys, picks, strict=True):
            if share.source in (None, block.source):
                found.append(pick[keep & ~held_out & (pick["key"] <= np.uint64(last))])
        read = partial(_beginning, block, arrays.ends, cuts)
        for one in np.sort(pick[keep], order=["key", "document"])[:SAMPLES]:
            text = read(int(one["document"]) - begin - first)[:SAMPLE_CHARACTERS]
            result.kept.setdefault(block.source, []).append((int(one["key"]), text))
        for reason, name in REASONS.items():
            texts = result.dropped.setdefault((block.source, name), [])
            left_out = np.flatnonzero(state == reason)[: SAMPLES - len(texts)]
            texts += [judge.sample(read(document)) for document in left_out.tolist()]
    result.picked = [
        _first(np.concatenate(found), share.bytes) for share, found in zip(task.shares, picks, strict=True)
    ]
    result.kept = {source: sorted(samples)[:SAMPLES] for source, samples in result.kept.items()}
    return result


def tokenizer_sample(
    corpus: CorpusConfig, blocks: JudgedBlocks, selection: KeptDocuments, picked: list[np.ndarray]
) -> Iterator[str]:
    """Yield training documents for the tokenizer in the order of their keys, up to the bytes of each share."""
    ends_of = lru_cache(maxsize=256)(lambda number: blocks[number].ends())
    for share, documents in zip(_shares(corpus), picked, strict=True):
        left = share.bytes
        for document in documents["document"].tolist():
            number = int(np.searchsorted(selection.begins, document, side="right")) - 1
            place = document - int(selection.begins[number])
            text = _read(blocks[number], ends_of(number), selection.cuts_of(number), place, left)
            yield text
            left -= len(text.encode())
            if left < 4:  # bytes of one character
                break


def _beginning(block: JudgedBlock, ends: np.ndarray, cuts: np.ndarray, document: int) -> str:
    return _read(block, ends, cuts, document, _SAMPLE_BYTES)


def _read(block: JudgedBlock, ends: np.ndarray, cuts: np.ndarray, document: int, limit_bytes: int) -> str:
    """Read the beginning of a document, by its place in the block, without the paragraphs that are cut out of it."""
    content = block.read(int(ends[document - 1]) if document else 0, int(ends[document]))
    own = cuts[slice(*np.searchsorted(cuts[:, 0], [document, document + 1]))]
    return without(content, own[:, 1:3])[:limit_bytes].decode(errors="ignore")


def _shares(corpus: CorpusConfig) -> tuple[TokenizerShare, ...]:
    weights = [source.tokenizer_weight for source in corpus.sources]
    if None in weights:
        return (TokenizerShare(None, corpus.tokenizer_sample_bytes),)
    total = sum(filter(None, weights))
    return tuple(
        TokenizerShare(number, round((weight or 0) / total * corpus.tokenizer_sample_bytes))
        for number, weight in enumerate(weights)
    )


def _first(picks: np.ndarray, wanted_bytes: int) -> np.ndarray:
    """Return the documents that come first in the order of keys, until they have so many bytes."""
    ordered = np.sort(picks, order=["key", "document"])
    enough = int(np.searchsorted(np.cumsum(ordered["bytes"]), wanted_bytes)) + 1
    return ordered[:enough]
