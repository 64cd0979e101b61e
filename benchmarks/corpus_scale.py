"""How preprocessing grows with the number of documents: synthetic ones, handled as `longcat preprocess` handles them.

    python benchmarks/corpus_scale.py --documents 100000000 --workers 2 --json
    python benchmarks/corpus_scale.py --part mixture --documents 100000000
    python benchmarks/corpus_scale.py --runner dask

search   equal documents and near-duplicates. Digests and MinHash signatures are made up when they are asked for, block by
         block, so none lie on disk: a document in ten is the copy of an earlier one, and one in ten differs from an earlier
         one in a tenth of its minima
mixture  a table of documents of 8 to 71 tokens from two sources is written, and a fifth of their tokens is chosen by weight
         and length and packed into shards, whose tokens are those of one block again and again

Printed are the peak memory of the process that gives out the work, that of the largest worker, seconds, the bytes that lay
on disk at most, and a hash of the outcome, which is the same whatever does the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from longcat.config import CorpusConfig, NearDuplicateConfig
from longcat.corpus.block_arrays import Arrays
from longcat.corpus.block_tasks import DOCUMENT
from longcat.corpus.mapping import Mapper, in_order, processes
from longcat.corpus.mixture import mix as mix_documents
from longcat.corpus.search import Search
from longcat.corpus.selection import DUPLICATE, KEPT, NEAR_DUPLICATE
from longcat.corpus.sharding import ShardTarget, write_split
from longcat.corpus.table import DocumentsTable, write_table
from longcat.corpus.words import mix

CONFIG = NearDuplicateConfig()
BLOCK = 10_000
COPY, NEAR = 10, 10  # of so many documents, one is a copy; and one a near one
_MOST_TOKENS = 72
_AT_ONCE = 1 << 10  # documents whose signatures are made together, few enough for a processor's cache
_FACTORS = mix(np.arange(CONFIG.bands * CONFIG.rows, dtype=np.uint64)).astype(np.uint32) | np.uint32(1)


@dataclass(frozen=True)
class SyntheticBlock:
    """Documents whose digests and signatures follow from their numbers."""

    first: int
    count: int

    def arrays(self) -> Arrays:
        """Make the digests up."""
        high = mix(_originals(self._numbers(), near=False))
        digests = np.stack([high, mix(high)], axis=1)
        none = np.empty(0, np.int64)
        return Arrays(ends=none, digests=digests, characters=none, paragraphs=none.reshape(0, 5))

    def signatures(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Make the signatures up, uint32 `[documents, minima]`."""
        numbers = self._numbers() if documents is None else documents.astype(np.uint64) + np.uint64(self.first)
        made = np.empty((len(numbers), len(_FACTORS)), np.uint32)
        for begin in range(0, len(numbers), _AT_ONCE):
            part = numbers[begin : begin + _AT_ONCE]
            minima = made[begin : begin + _AT_ONCE]
            originals = _originals(_originals(part, near=False), near=True)
            # a cheap generator: a sequence of its own for each document
            np.multiply(mix(originals).astype(np.uint32)[:, None], _FACTORS, out=minima)
            minima ^= minima >> np.uint32(15)
            differs = np.flatnonzero(originals != part)
            minima[differs, : len(_FACTORS) // 10] ^= part[differs, None].astype(np.uint32)
        return made

    def _numbers(self) -> np.ndarray:
        return np.arange(self.first, self.first + self.count, dtype=np.uint64)


def _originals(numbers: np.ndarray, near: bool) -> np.ndarray:
    """Return the document that each is made from: itself, or one at half its number."""
    chosen = mix(numbers + np.uint64(1 + near)) % np.uint64(NEAR if near else COPY) == 0
    return np.where(chosen, numbers // np.uint64(2), numbers)


@dataclass(frozen=True)
class SyntheticBlocks:
    """So many documents in blocks."""

    documents: int

    @property
    def begins(self) -> np.ndarray:
        """Number of the first document of each block, and of all documents."""
        return np.append(np.arange(0, self.documents, BLOCK, dtype=np.int64), self.documents)

    def __getitem__(self, number: int) -> SyntheticBlock:
        return SyntheticBlock(number * BLOCK, min(BLOCK, self.documents - number * BLOCK))


class Disk:
    """Watches how much lies in a folder."""

    def __init__(self, folder: Path) -> None:
        self.most = 0
        self._folder, self._over = folder, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(2):
            total = 0
            for path in self._folder.rglob("*"):
                try:
                    total += path.stat().st_size
                except OSError:  # removed meanwhile
                    continue
            self.most = max(self.most, total)

    def close(self) -> int:
        """Stop; returns the bytes that lay there at most."""
        self._over.set()
        self._thread.join()
        return self.most


def search(documents: int, folder: Path, mapper: Mapper) -> dict[str, Any]:
    """Search synthetic documents for equal and similar ones."""
    blocks = SyntheticBlocks(documents)
    state = np.zeros(documents, np.uint8)
    began = time.monotonic()
    looking = Search(blocks, folder / "search", mapper, tell)
    for found in looking.equal(state == KEPT):
        state[found] = DUPLICATE
    equal_s = time.monotonic() - began
    for found in looking.near(state == KEPT, CONFIG):
        state[found] = NEAR_DUPLICATE
    return {
        "duplicate": int((state == DUPLICATE).sum()),
        "near_duplicate": int((state == NEAR_DUPLICATE).sum()),
        "equal_s": round(equal_s, 1),
        "near_s": round(time.monotonic() - began - equal_s, 1),
        "outcome": hashlib.sha256(state.data).hexdigest()[:16],
    }


def rows(documents: int) -> Iterator[np.ndarray]:
    """Make up the table of documents, `DOCUMENT`, block by block."""
    for first in range(0, documents, BLOCK):
        numbers = np.arange(first, min(first + BLOCK, documents), dtype=np.uint64)
        made = np.zeros(len(numbers), DOCUMENT)
        made["block"], made["begin"] = first // BLOCK, np.arange(len(numbers)) * _MOST_TOKENS
        made["key"] = mix(numbers)
        made["tokens"] = 8 + made["key"] % 64
        made["source"] = numbers >= documents // 2
        made["held_out"] = mix(made["key"]) < np.uint64(2**64 // 200)
        yield made


def mixture(documents: int, folder: Path, mapper: Mapper) -> dict[str, Any]:
    """Mix synthetic documents and pack them into shards."""
    corpus = CorpusConfig.model_validate(
        {
            "sources": [{"kind": "files", "path": name, "weight": weight} for name, weight in (("a", 2), ("b", 1))],
            "long_documents": {"min_tokens": 60, "fraction": 0.3},
            "sequence_length_tokens": 1024,
            "mixture_tokens": max(4096, 8 * documents),
        }
    )
    np.save(folder / "block.tokens.npy", np.zeros(BLOCK * _MOST_TOKENS, np.uint16))
    names = ["block"] * -(-documents // BLOCK)
    target = ShardTarget(folder, names, vocabulary_size=1000, end_of_text=0, directory=folder)
    write_table(folder / "documents.npy", rows(documents), documents)
    began = time.monotonic()
    mixed = mix_documents(DocumentsTable(folder / "documents.npy"), corpus)
    mix_s = time.monotonic() - began
    splits = [write_split(mixed, corpus, target, name, mapper, partial(tell, name)) for name in mixed.tokens]
    pack_s = time.monotonic() - began - mix_s
    outcome = hashlib.sha256()
    for split in splits:
        for shard in split.shards:
            outcome.update((folder / shard.spans_file).read_bytes())
    return {
        "chosen": sum(split.documents for split in splits),
        "shards": sum(len(split.shards) for split in splits),
        "mix_s": round(mix_s, 1),
        "pack_s": round(pack_s, 1),
        "outcome": outcome.hexdigest()[:16],
    }


def tell(what: str, done: float) -> None:
    """Say on a terminal how far the work is."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:.0%}   ", end="", file=sys.stderr)


@contextmanager
def dask(workers: int) -> Iterator[Mapper]:
    """Provide a mapper over a cluster of Dask on this machine."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def mapper(function: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any, None, None]:
            # as one callable: Dask would take an item apart
            return in_order(lambda item: client.submit(partial(function, item), pure=False), items, 4 * workers)

        yield mapper


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["search", "mixture"], default="search")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runner", choices=["processes", "dask"], default="processes")
    parser.add_argument("--scratch", type=Path, default=None, help="Folder for buckets (default: of temporary files).")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="corpus-scale-", dir=options.scratch))
    before = psutil.Process().memory_info().rss
    disk = Disk(folder)
    try:
        with (dask if options.runner == "dask" else processes)(options.workers) as mapper:
            result = {"search": search, "mixture": mixture}[options.part](options.documents, folder, mapper)
    finally:
        most = disk.close()
        shutil.rmtree(folder)
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "documents": options.documents,
        **result,
        "workers": options.workers,
        "driver_peak_bytes": driver,
        "driver_bytes_per_document": round((driver - before) / options.documents, 2),
        "worker_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "disk_peak_bytes": most,
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:26} {value if isinstance(value, str) else f'{value:,}'}")


if __name__ == "__main__":
    main()
