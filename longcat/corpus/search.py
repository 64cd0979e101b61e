"""The search for duplicates over the whole corpus, on disk and in parallel.

Each step is a call for each batch of blocks or each part of the buckets, which writes its results and is not done again
when they are there. Of a document, the process that gives out the work holds nothing but its number among the results.

    equal texts        batch -> (digest, document), in parts by digest -> documents whose digest came before
    near-duplicates    batch -> (key of a band, document), in parts by band and key -> pairs to compare, in parts by the
                       batch of the later one -> documents that are like one of theirs (`near_duplicates` states the law)
    paragraphs         batch -> (hash, document, place), in parts by hash -> those whose hash comes more than once
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longcat.config import NearDuplicateConfig
from longcat.corpus.arrays import save
from longcat.corpus.buckets import PART_BYTES, Buckets, part_of, parts_for, shares
from longcat.corpus.equal_keys import shared
from longcat.corpus.judged import BATCH_DOCUMENTS, Batch, Blocks, batches
from longcat.corpus.mapping import Mapper
from longcat.corpus.near_duplicates import alike, band_keys, distinct, pairs

_CALLS = 4
"""Calls among which small parts are divided at least."""
_COMPARED = 1 << 16
"""Pairs whose signatures are in memory at once."""
_COMPARED_BATCHES = 4
"""Batches whose pairs are compared in one call: earlier documents lie anywhere, and each of their blocks is opened once."""
DIGESTED = np.dtype([("high", np.uint64), ("low", np.uint64), ("document", np.uint64)])
BANDED = np.dtype([("key", np.uint64), ("document", np.uint32)])
"""The document is counted from the beginning of its batch."""
PAIR = np.dtype((np.int64, 2))
"""A document and an earlier one to compare it with."""
PARAGRAPH = np.dtype([("hash", np.uint64), *((name, np.int64) for name in ("document", "begin", "end", "characters"))])


@dataclass(frozen=True)
class BatchTask:
    """Work on the documents of a batch."""

    blocks: Blocks
    batch: Batch
    keep: np.ndarray
    """Which of its documents are looked at, bool `[documents]`."""
    buckets: Buckets
    """Where to write."""
    config: NearDuplicateConfig | None = None

    def __str__(self) -> str:
        return f"batch {self.batch.number} of the search for duplicates"

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return _name(self.batch.number)


@dataclass(frozen=True)
class CompareTask:
    """Compare the pairs whose later document is in a batch."""

    blocks: Blocks
    batch: Batch
    buckets: Buckets
    config: NearDuplicateConfig

    def __str__(self) -> str:
        return f"comparing the documents of batch {self.batch.number}"


@dataclass(frozen=True)
class PartTask:
    """Work on some parts of buckets."""

    buckets: Buckets
    parts: range

    def __str__(self) -> str:
        return f"parts {self.parts.start} to {self.parts.stop} of {self.buckets.folder.name}"

    @property
    def result(self) -> Path:
        """Return the file for what is found."""
        return self.buckets.folder / f"found-{self.parts.start:07d}.npy"


@dataclass(frozen=True)
class PairTask(PartTask):
    """Find the pairs in some parts of the bands' buckets."""

    begins: np.ndarray
    """Number of the first document of each batch that wrote buckets, int64."""
    pairs: Buckets
    """Where to write, in parts by the batch of the later document."""
    ends: np.ndarray
    """Document after the last of each batch that is compared, int64."""

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return _name(self.parts.start)


class Search:
    """The three searches over the blocks of a corpus.

    Args:
        blocks: the corpus.
        folder: for files that only the search needs; what is there is not made again.
        mapper: does the work.
        tell: is told what is being done, and the fraction that is done.
        batch_documents: of one call.
        part_bytes: of a part of the buckets. Neither number changes the outcome.
    """

    def __init__(
        self,
        blocks: Blocks,
        folder: Path,
        mapper: Mapper,
        tell: Callable[[str, float], None] = lambda what, done: None,
        batch_documents: int = BATCH_DOCUMENTS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._blocks, self._folder, self._mapper, self._tell = blocks, folder, mapper, tell
        self._batches = batches(blocks.begins, batch_documents)
        self._compared = batches(blocks.begins, _COMPARED_BATCHES * batch_documents)
        self._documents = int(blocks.begins[-1])
        self._part_bytes = part_bytes

    def equal(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the documents whose text an earlier one of those kept has, int64."""
        if not self._documents:
            return
        buckets = self._buckets("equal", parts_for(self._documents, DIGESTED.itemsize, self._part_bytes), DIGESTED)
        yield from self._find(write_digests, find_equal, buckets, keep, "equal documents")

    def near(self, keep: np.ndarray, config: NearDuplicateConfig) -> Iterator[np.ndarray]:
        """Yield the documents that are like an earlier one of those kept, int64; may name one twice."""
        if not self._documents:
            return
        ranges = parts_for(self._documents, BANDED.itemsize, self._part_bytes)
        banded = self._buckets("bands", config.bands * ranges, BANDED)
        together = self._part_bytes * ranges // max(1, self._documents * BANDED.itemsize)
        work = shares(banded.parts, max(1, min(together, banded.parts // _CALLS)))
        found = Buckets(self._folder / "pairs", tuple(_name(part.start) for part in work), len(self._compared), PAIR)
        if found.missing():
            self._scatter(write_bands, banded, keep, config)
            begins, ends = (
                [batch.documents.start for batch in self._batches],
                [batch.documents.stop for batch in self._compared],
            )
            missing = {*found.missing()}
            tasks = [
                PairTask(banded, part, np.array(begins), found, np.array(ends))
                for part in work
                if _name(part.start) in missing
            ]
            for done, _ in enumerate(self._mapper(find_pairs, tasks), start=1):
                self._tell("near-duplicates: looking through buckets", done / len(tasks))
            banded.remove()
        compared = [CompareTask(self._blocks, batch, found, config) for batch in self._compared]
        for done, result in enumerate(self._mapper(compare, compared), start=1):
            self._tell("near-duplicates: comparing", done / len(compared))
            yield np.load(result)

    def repeated_paragraphs(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the paragraphs of documents kept whose text comes more than once, `PARAGRAPH`."""
        if not self._documents:
            return
        buckets = self._buckets(
            "paragraphs", parts_for(self._documents, PARAGRAPH.itemsize, self._part_bytes), PARAGRAPH
        )
        yield from self._find(write_paragraphs, find_repeated, buckets, keep, "repeated paragraphs")

    def clear(self) -> None:
        """Remove the files of the search."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _buckets(self, name: str, parts: int, dtype: np.dtype) -> Buckets:
        return Buckets(self._folder / name, tuple(_name(batch.number) for batch in self._batches), parts, dtype)

    def _scatter(
        self,
        function: Callable[[BatchTask], None],
        buckets: Buckets,
        keep: np.ndarray,
        config: NearDuplicateConfig | None = None,
    ) -> None:
        missing = {*buckets.missing()}
        tasks = (
            BatchTask(self._blocks, batch, keep[batch.documents], buckets, config)
            for batch in self._batches
            if _name(batch.number) in missing
        )
        for done, _ in enumerate(self._mapper(function, tasks), start=1):
            self._tell(f"sorting documents into buckets: {buckets.folder.name}", done / len(missing))

    def _find(
        self,
        write: Callable[[BatchTask], None],
        find: Callable[[PartTask], Path],
        buckets: Buckets,
        keep: np.ndarray,
        what: str,
    ) -> Iterator[np.ndarray]:
        tasks = [PartTask(buckets, part) for part in shares(buckets.parts, 1)]
        if not all(task.result.exists() for task in tasks):
            self._scatter(write, buckets, keep)
        for done, result in enumerate(self._mapper(find, tasks), start=1):
            self._tell(f"looking for {what}", done / len(tasks))
            yield np.load(result)
        buckets.remove()


def _name(number: int) -> str:
    return f"{number // 1000:04d}/{number:07d}"


# ---------------------------------------------------------------------------------------------------- batches


def write_digests(task: BatchTask) -> None:
    """Write the digests of a batch."""
    digests = np.concatenate([task.blocks[number].arrays().digests for number in task.batch.blocks])[task.keep]
    records = np.empty(len(digests), DIGESTED)
    records["high"], records["low"] = digests.T
    records["document"] = np.flatnonzero(task.keep) + task.batch.documents.start
    task.buckets.write(task.name, records, part_of(records["high"], task.buckets.parts))


def write_bands(task: BatchTask) -> None:
    """Write the keys of all bands of a batch."""
    assert task.config
    documents = np.flatnonzero(task.keep).astype(np.uint32)
    keys = np.empty((task.config.bands, len(documents)), np.uint64)
    done = 0
    for number in task.batch.blocks:
        begin, end = task.blocks.begins[number : number + 2] - task.batch.documents.start
        signed = task.blocks[number].signatures()
        keep = task.keep[begin:end]
        signed = signed if keep.all() else signed[keep]
        keys[:, done : done + len(signed)] = band_keys(signed, task.config)
        done += len(signed)
    ranges = task.buckets.parts // len(keys)
    records = np.empty(keys.shape, BANDED)
    counts = np.empty((len(keys), ranges), np.int64)
    for band, of_band in enumerate(keys):
        part = part_of(of_band, ranges)
        order = task.buckets.order(part)
        records["key"][band], records["document"][band] = of_band[order], documents[order]
        counts[band] = np.bincount(part, minlength=ranges)
    task.buckets.write_ordered(task.name, records.ravel(), counts)


def write_paragraphs(task: BatchTask) -> None:
    """Write the paragraphs of a batch."""
    begins = task.blocks.begins
    of_blocks = [
        task.blocks[number].arrays().paragraphs + np.array([0, begins[number], 0, 0, 0]) for number in task.batch.blocks
    ]
    rows = np.concatenate(of_blocks)
    rows = rows[task.keep[rows[:, 1] - task.batch.documents.start]]
    records = np.empty(len(rows), PARAGRAPH)
    records["hash"] = rows[:, 0].view(np.uint64)
    for column, name in enumerate(("document", "begin", "end", "characters"), start=1):
        records[name] = rows[:, column]
    task.buckets.write(task.name, records, part_of(records["hash"], task.buckets.parts))


def compare(task: CompareTask) -> Path:
    """Compare the pairs of a batch; returns the file of the documents to leave out."""
    result = task.buckets.folder / f"found-{task.batch.number:07d}.npy"
    if result.exists():
        return result
    found = distinct(task.buckets.read(task.batch.number)[0])
    alike_ones = [np.empty(0, np.int64)]
    while len(found):
        (later, earlier), found = found[:_COMPARED].T, found[_COMPARED:]
        is_alike = alike(_signatures(task.blocks, later), _signatures(task.blocks, earlier), task.config.threshold)
        taken = np.unique(later[is_alike])
        alike_ones.append(taken)
        if len(taken) and len(found):
            found = found[found[:, 0] != taken[-1]]
    save(result, np.concatenate(alike_ones))
    return result


def _signatures(blocks: Blocks, documents: np.ndarray) -> np.ndarray:
    """Read the signatures of documents, uint32 `[documents, minima]`."""
    wanted, place = np.unique(documents, return_inverse=True)
    begins = blocks.begins
    owners = np.searchsorted(begins, wanted, side="right") - 1
    edges = [*np.flatnonzero(np.diff(owners, prepend=-1)).tolist(), len(wanted)]
    read = [
        blocks[owner].signatures(wanted[begin:end] - begins[owner])
        for owner, begin, end in zip(owners[edges[:-1]].tolist(), edges[:-1], edges[1:], strict=True)
    ]
    return np.concatenate(read)[place]


# ---------------------------------------------------------------------------------------------------- parts


def find_equal(task: PartTask) -> Path:
    """Find the documents whose digest an earlier one has; returns the file of their numbers."""
    if task.result.exists():
        return task.result
    found = [np.empty(0, np.int64)]
    for part in task.parts:
        records, _ = task.buckets.read(part)
        records = records[shared(records["high"])[0]]
        order = np.lexsort((records["document"], records["low"], records["high"]))
        records = records[order]
        same = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
        found.append(records["document"][1:][same].astype(np.int64))
    save(task.result, np.concatenate(found))
    return task.result


def find_pairs(task: PairTask) -> None:
    """Find the pairs to compare, and write them in parts by the batch of the later document."""
    found = [np.empty(0, PAIR)]
    for part in task.parts:
        records, ends = task.buckets.read(part)
        places = pairs(records["key"])
        found.append(records["document"][places] + task.begins[np.searchsorted(ends, places, side="right")])
    both = np.concatenate(found)
    task.pairs.write(task.name, both, np.searchsorted(task.ends, both[:, 0], side="right"))


def find_repeated(task: PartTask) -> Path:
    """Find the paragraphs whose hash comes more than once; returns the file of them."""
    if task.result.exists():
        return task.result
    found = [np.empty(0, PARAGRAPH)]
    for part in task.parts:
        records, _ = task.buckets.read(part)
        found.append(records[np.sort(shared(records["hash"])[0])])
    save(task.result, np.concatenate(found))
    return task.result
