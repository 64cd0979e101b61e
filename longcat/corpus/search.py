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
from longcat.corpus.judged import Batch, Blocks, batches
from longcat.corpus.mapping import Mapper
from longcat.corpus.near_duplicates import PAIR, alike, band_keys, distinct, pairs

_CALLS = 4
"""Calls among which small parts are divided at least."""
_COMPARED = 1 << 16
"""Pairs whose signatures are in memory at once."""
DIGESTED = np.dtype([("high", np.uint64), ("low", np.uint64), ("document", np.uint64)])
BANDED = np.dtype([("key", np.uint64), ("document", np.uint64)])
PARAGRAPH = np.dtype([("hash", np.uint64), *((name, np.int64) for name in ("document", "begin", "end", "characters"))])


@dataclass(frozen=True)
class BatchTask:
    """Work on the documents of a batch."""

    blocks: Blocks
    batch: Batch
    keep: np.ndarray
    """Which of its documents are looked at, bool `[documents]`."""
    buckets: Buckets
    """Where to write, or for `compare`, what to read."""
    config: NearDuplicateConfig | None = None

    def __str__(self) -> str:
        return f"batch {self.batch.number} of the search for duplicates"

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return _name(self.batch.number)

    @property
    def numbers(self) -> np.ndarray:
        """Return the numbers of the documents that are looked at, uint64."""
        return (np.flatnonzero(self.keep) + self.batch.documents.start).astype(np.uint64)


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

    pairs: Buckets
    """Where to write, in parts by the batch of the later document."""
    batch_ends: np.ndarray
    """Document after the last of each batch, uint64."""

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
        batch_documents: int | None = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._blocks, self._folder, self._mapper, self._tell = blocks, folder, mapper, tell
        self._batches = batches(blocks.begins) if batch_documents is None else batches(blocks.begins, batch_documents)
        self._documents = int(blocks.begins[-1])
        self._part_bytes = part_bytes

    def equal(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the documents whose text an earlier one of those kept has, int64."""
        if not self._documents:
            return
        buckets = self._buckets("equal", parts_for(self._documents, DIGESTED.itemsize, self._part_bytes))
        yield from self._find(write_digests, find_equal, buckets, keep, "equal documents")

    def near(self, keep: np.ndarray, config: NearDuplicateConfig) -> Iterator[np.ndarray]:
        """Yield the documents that are like an earlier one of those kept, int64; may name one twice."""
        if not self._documents:
            return
        ranges = parts_for(self._documents, BANDED.itemsize, self._part_bytes)
        banded = self._buckets("bands", config.bands * ranges)
        together = self._part_bytes * ranges // max(1, self._documents * BANDED.itemsize)
        work = shares(banded.parts, max(1, min(together, banded.parts // _CALLS)))
        found = Buckets(self._folder / "pairs", tuple(_name(part.start) for part in work), len(self._batches))
        if found.missing():
            self._scatter(write_bands, banded, keep, config)
            ends = np.array([batch.documents.stop for batch in self._batches], np.uint64)
            missing = {*found.missing()}
            tasks = [PairTask(banded, part, found, ends) for part in work if _name(part.start) in missing]
            for done, _ in enumerate(self._mapper(find_pairs, tasks), start=1):
                self._tell("near-duplicates: looking through buckets", done / len(tasks))
            banded.remove()
        compared = (BatchTask(self._blocks, batch, keep[batch.documents], found, config) for batch in self._batches)
        for done, result in enumerate(self._mapper(compare, compared), start=1):
            self._tell("near-duplicates: comparing", done / len(self._batches))
            yield np.load(result)

    def repeated_paragraphs(self, keep: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the paragraphs of documents kept whose text comes more than once, `PARAGRAPH`."""
        if not self._documents:
            return
        buckets = self._buckets("paragraphs", parts_for(self._documents, PARAGRAPH.itemsize, self._part_bytes))
        yield from self._find(write_paragraphs, find_repeated, buckets, keep, "repeated paragraphs")

    def clear(self) -> None:
        """Remove the files of the search."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _buckets(self, name: str, parts: int) -> Buckets:
        return Buckets(self._folder / name, tuple(_name(batch.number) for batch in self._batches), parts)

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
    records["high"], records["low"], records["document"] = digests[:, 0], digests[:, 1], task.numbers
    task.buckets.write(task.name, records, part_of(records["high"], task.buckets.parts))


def write_bands(task: BatchTask) -> None:
    """Write the keys of all bands of a batch."""
    assert task.config
    signed = np.concatenate([task.blocks[number].signatures() for number in task.batch.blocks])
    keys = band_keys(signed if task.keep.all() else signed[task.keep], task.config)
    ranges = task.buckets.parts // len(keys)
    records = np.empty(keys.size, BANDED)
    records["key"] = keys.ravel()
    records["document"] = np.tile(task.numbers, len(keys))
    part = np.repeat(np.arange(len(keys)) * ranges, keys.shape[1]) + part_of(records["key"], ranges)
    task.buckets.write(task.name, records, part)


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


def compare(task: BatchTask) -> Path:
    """Compare the pairs whose later document is in a batch; returns the file of the documents to leave out."""
    assert task.config
    result = task.buckets.folder / f"found-{task.batch.number:07d}.npy"
    if result.exists():
        return result
    found = distinct(task.buckets.read(task.batch.number))
    alike_ones = [np.empty(0, np.int64)]
    while len(found):
        part, found = found[:_COMPARED], found[_COMPARED:]
        is_alike = alike(
            _signatures(task.blocks, part["later"]), _signatures(task.blocks, part["earlier"]), task.config.threshold
        )
        taken = np.unique(part["later"][is_alike].astype(np.int64))
        alike_ones.append(taken)
        if len(taken) and len(found):
            found = found[found["later"] != taken[-1]]
    save(result, np.concatenate(alike_ones))
    return result


def _signatures(blocks: Blocks, documents: np.ndarray) -> np.ndarray:
    """Read the signatures of documents, uint32 `[documents, minima]`."""
    wanted, place = np.unique(documents.astype(np.int64), return_inverse=True)
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
        records = task.buckets.read(part)
        records = records[_shared(records["high"])]
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
        records = task.buckets.read(part)
        found.append(pairs(records["key"], records["document"]))
    different = distinct(np.concatenate(found))
    batch = np.searchsorted(task.batch_ends, different["later"], side="right")
    task.pairs.write(task.name, different, batch)


def find_repeated(task: PartTask) -> Path:
    """Find the paragraphs whose hash comes more than once; returns the file of them."""
    if task.result.exists():
        return task.result
    found = [np.empty(0, PARAGRAPH)]
    for part in task.parts:
        records = task.buckets.read(part)
        found.append(records[_shared(records["hash"])])
    save(task.result, np.concatenate(found))
    return task.result


def _shared(keys: np.ndarray) -> np.ndarray:
    """Mark the keys that come more than once, bool."""
    order = np.argsort(keys)
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    marked = np.zeros(len(keys), bool)
    marked[order[1:][same]] = True
    marked[order[:-1][same]] = True
    return marked
