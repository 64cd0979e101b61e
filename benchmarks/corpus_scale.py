"""How the search for duplicates grows: synthetic documents, searched as `longcat preprocess` searches them.

    python benchmarks/corpus_scale.py --documents 100000000 --workers 2 --json

Digests and MinHash signatures are made up when they are asked for, block by block, so none lie on disk: a document in
ten is the copy of an earlier one, and one in ten differs from an earlier one in a tenth of its minima. Printed are the
peak memory of the process that gives out the work, that of the largest worker, seconds, and the bytes that lay on disk
at most.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from longcat.config import NearDuplicateConfig
from longcat.corpus.block_arrays import Arrays
from longcat.corpus.mapping import Mapper, processes
from longcat.corpus.search import Search
from longcat.corpus.selection import DUPLICATE, KEPT, NEAR_DUPLICATE
from longcat.corpus.words import mix

CONFIG = NearDuplicateConfig()
BLOCK = 10_000
COPY, NEAR = 10, 10  # of so many documents, one is a copy; and one a near one
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
    looking = Search(blocks, folder / "search", mapper)
    for found in looking.equal(state == KEPT):
        state[found] = DUPLICATE
    equal_s = time.monotonic() - began
    for found in looking.near(state == KEPT, CONFIG):
        state[found] = NEAR_DUPLICATE
    return {
        "documents": documents,
        "duplicate": int((state == DUPLICATE).sum()),
        "near_duplicate": int((state == NEAR_DUPLICATE).sum()),
        "equal_s": round(equal_s, 1),
        "near_s": round(time.monotonic() - began - equal_s, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=None, help="Folder for buckets (default: of temporary files).")
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="corpus-scale-", dir=options.scratch))
    before = psutil.Process().memory_info().rss
    disk = Disk(folder)
    try:
        with processes(options.workers) as mapper:
            result = search(options.documents, folder, mapper)
    finally:
        most = disk.close()
        shutil.rmtree(folder)
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result |= {
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
        print(f"{name:26} {value:,}")


if __name__ == "__main__":
    main()
