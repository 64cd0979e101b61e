"""What judging left of the corpus: its blocks in order, and the documents of each, read from disk when they are asked for.

Only their number is held in memory, whatever is asked of them, so a corpus may be larger than any memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from longcat.artifact import write_json
from longcat.corpus.block_arrays import Arrays
from longcat.unpacking import read_json

BATCH_DOCUMENTS = 1 << 17


@dataclass(frozen=True)
class JudgedBlock:
    """The files that judging left of a block (`block_tasks`)."""

    scratch: Path
    name: str
    source: int
    """Number of its source."""

    @property
    def counts(self) -> dict[str, Any]:
        """Read what was counted, and samples of what was left out."""
        counts: dict[str, Any] = read_json(self.file("json"))
        return counts

    def arrays(self) -> Arrays:
        """Read the arrays of its documents."""
        with np.load(self.file("arrays.npz")) as arrays:
            return Arrays(**arrays)

    def ends(self) -> np.ndarray:
        """Read the byte after each of its documents, int64."""
        with np.load(self.file("arrays.npz")) as arrays:
            ends: np.ndarray = arrays["ends"]
        return ends

    def rows(self) -> np.ndarray:
        """Read its part of the table of documents; there is none before `block_tasks.tokenise_block`."""
        rows: np.ndarray = np.load(self.file("rows.npy"))
        return rows

    def signatures(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Read the MinHash signatures of all its documents, or of those numbered, uint32 `[documents, minima]`."""
        signed: np.ndarray = np.load(self.file("signatures.npy"), mmap_mode=None if documents is None else "r")
        return signed if documents is None else signed[documents]

    def findings(self) -> np.ndarray:
        """Read how much personal data was masked in its documents and their languages, int32 `[documents, mask + languages]`."""
        findings: np.ndarray = np.load(self.file("findings.npy"))
        return findings

    def read(self, begin: int, end: int) -> bytes:
        """Read a range of bytes of its text."""
        with self.file("text").open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)

    def file(self, suffix: str) -> Path:
        """Return the file of the block that ends so."""
        return self.scratch / f"{self.name}.{suffix}"


class Searched(Protocol):
    """What the search for duplicates asks of a block."""

    def arrays(self) -> Arrays:
        """Read the arrays of its documents."""

    def signatures(self, documents: np.ndarray | None = None) -> np.ndarray:
        """Read the signatures of all its documents, or of those numbered."""


class Blocks(Protocol):
    """The blocks of a corpus, to be sent to any process."""

    @property
    def begins(self) -> np.ndarray:
        """Number of the first document of each block, and of all documents, int64 `[blocks + 1]`."""

    def __getitem__(self, number: int, /) -> Searched:
        """Return a block."""


@dataclass(frozen=True)
class JudgedBlocks:
    """All judged blocks; the list of them is a file, which each process reads once."""

    scratch: Path
    listing: Path

    @classmethod
    def save(cls, scratch: Path, listing: Path, blocks: Sequence[tuple[str, int, int]]) -> JudgedBlocks:
        """Write the list: name, number of the source and documents of each block."""
        names, sources, documents = zip(*blocks, strict=True) if blocks else ((), (), ())
        write_json(listing, {"names": names, "sources": sources, "documents": documents})
        return cls(scratch, listing)

    @property
    def names(self) -> list[str]:
        """Names of all blocks."""
        return self._listed().names

    @property
    def sources(self) -> np.ndarray:
        """Number of the source of each block, uint16 `[blocks]`."""
        return self._listed().sources

    @property
    def begins(self) -> np.ndarray:
        """Number of the first document of each block, and of all documents, int64 `[blocks + 1]`."""
        return self._listed().begins

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> JudgedBlock:
        listed = self._listed()
        return JudgedBlock(self.scratch, listed.names[number], int(listed.sources[number]))

    def __iter__(self) -> Iterator[JudgedBlock]:
        return (self[number] for number in range(len(self)))

    def _listed(self) -> _Listed:
        return _read_listing(self.listing, self.listing.stat().st_mtime_ns)


@dataclass(frozen=True)
class _Listed:
    names: list[str]
    sources: np.ndarray
    begins: np.ndarray


@lru_cache(maxsize=2)
def _read_listing(path: Path, changed_ns: int) -> _Listed:
    listed = read_json(path)
    begins = np.cumsum([0, *listed["documents"]], dtype=np.int64)
    return _Listed(listed["names"], np.array(listed["sources"], np.uint16), begins)


@dataclass(frozen=True)
class Batch:
    """Consecutive blocks that one call works on."""

    number: int
    blocks: range
    documents: slice
    """Numbers of their documents in the corpus."""


def batches(begins: np.ndarray, documents: int = BATCH_DOCUMENTS) -> list[Batch]:
    """Divide the blocks of a corpus, by their `begins`, into batches of about so many documents."""
    made: list[Batch] = []
    first = 0
    while first < len(begins) - 1:
        last = max(first + 1, int(np.searchsorted(begins, begins[first] + documents, side="right")) - 1)
        made.append(Batch(len(made), range(first, last), slice(int(begins[first]), int(begins[last]))))
        first = last
    return made
