"""Selection over the whole corpus: duplicates, near-duplicates and repeated paragraphs are left out.

The driver holds 24 bytes per document for this, and the signatures if near-duplicates are looked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.block_tasks import JudgedBlock
from longcat.corpus.near_duplicates import near_duplicates


@dataclass
class KeptDocuments:
    """All documents that judging did not leave out, in their order, and which of them are kept."""

    begins: np.ndarray
    """Number of the first document of each block, and of all documents, int64 `[blocks + 1]`."""
    keep: np.ndarray
    """Whether each is kept, bool `[documents]`."""
    digests: np.ndarray
    """`content_hash` of each, uint64 `[documents, 2]`."""
    ends: np.ndarray
    """Byte after each document in the text of its block, int64."""
    sizes: np.ndarray
    """UTF-8 bytes of each without the paragraphs that are cut out, int64."""
    characters: np.ndarray
    """Characters of each without those paragraphs, int64."""
    dropped: dict[str, np.ndarray] = field(default_factory=dict)
    """Numbers of documents left out, by reason."""
    cuts: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))
    """Paragraphs to cut out of the documents kept, int64 `[cuts, 3]`: document, first byte, byte after the last."""

    def of(self, block: int) -> slice:
        """Return the documents of a block."""
        return slice(int(self.begins[block]), int(self.begins[block + 1]))

    def cuts_of(self, block: int) -> np.ndarray:
        """Return the cuts of a block, with documents counted from its beginning."""
        documents = self.of(block)
        first, last = np.searchsorted(self.cuts[:, 0], [documents.start, documents.stop])
        return self.cuts[first:last] - np.array([documents.start, 0, 0])

    def cuts_in(self, document: int) -> np.ndarray:
        """Return the ranges cut out of a document, int64 `[cuts, 2]`: first byte, byte after the last."""
        first, last = np.searchsorted(self.cuts[:, 0], [document, document + 1])
        return self.cuts[first:last, 1:]

    def block_of(self, document: int) -> int:
        """Return the number of the block that holds a document."""
        return int(np.searchsorted(self.begins, document, side="right")) - 1

    def bytes_of(self, document: int) -> tuple[int, int]:
        """Return the first byte of a document in the text of its block, and the byte after the last."""
        first = document in self.begins
        return (0 if first else int(self.ends[document - 1])), int(self.ends[document])

    def leave_out(self, reason: str, documents: np.ndarray) -> None:
        """Leave out documents that were kept until now."""
        self.keep[documents] = False
        self.dropped[reason] = documents


def select(blocks: list[JudgedBlock], corpus: CorpusConfig) -> KeptDocuments:
    """Select the documents to keep; the first of several equal ones stays."""
    arrays = [block.arrays() for block in blocks]
    begins = np.cumsum([0, *(len(one.ends) for one in arrays)])
    selection = KeptDocuments(
        begins=begins,
        keep=np.ones(begins[-1], bool),
        digests=np.concatenate([np.empty((0, 2), np.uint64), *(one.digests for one in arrays)]),
        ends=np.concatenate([np.empty(0, np.int64), *(one.ends for one in arrays)]),
        sizes=np.concatenate([np.empty(0, np.int64), *(np.diff(one.ends, prepend=0) for one in arrays)]),
        characters=np.concatenate([np.empty(0, np.int64), *(one.characters for one in arrays)]),
    )
    selection.leave_out("duplicate", _repeated(selection.digests[:, 0], selection.digests[:, 1]))
    if corpus.near_duplicates and blocks:
        kept = np.flatnonzero(selection.keep)
        signed = np.concatenate(
            [block.signatures()[selection.keep[selection.of(number)]] for number, block in enumerate(blocks)]
        )
        selection.leave_out("near_duplicate", kept[near_duplicates(signed, corpus.near_duplicates)])
    if corpus.repeated_paragraph_characters:
        paragraphs = [
            one.paragraphs + np.array([0, begin, 0, 0, 0]) for one, begin in zip(arrays, begins, strict=False)
        ]
        _cut_paragraphs(selection, np.concatenate([np.empty((0, 5), np.int64), *paragraphs]), corpus.min_characters)
    return selection


def _repeated(*keys: np.ndarray) -> np.ndarray:
    """Return the places whose keys all occurred before, int64 in order."""
    order = np.lexsort(keys)  # stable: among equal ones the first comes first
    same = np.ones(max(0, len(order) - 1), bool)
    for key in keys:
        ordered = key[order]
        same &= ordered[1:] == ordered[:-1]
    return np.sort(order[1:][same])


def _cut_paragraphs(selection: KeptDocuments, paragraphs: np.ndarray, min_characters: int) -> None:
    paragraphs = paragraphs[selection.keep[paragraphs[:, 1]]]
    cuts = paragraphs[_repeated(paragraphs[:, 0])]
    touched, place = np.unique(cuts[:, 1], return_inverse=True)
    left = selection.characters[touched]
    np.subtract.at(left, place, cuts[:, 4])
    least = max(1, min_characters)
    empty = _emptied(paragraphs, touched[left < least], selection.characters, least)
    selection.leave_out("repeated_paragraphs", empty)
    if len(empty):
        paragraphs = paragraphs[selection.keep[paragraphs[:, 1]]]
        cuts = paragraphs[_repeated(paragraphs[:, 0])]
    np.subtract.at(selection.characters, cuts[:, 1], cuts[:, 4])
    np.subtract.at(selection.sizes, cuts[:, 1], cuts[:, 3] - cuts[:, 2])
    selection.cuts = cuts[:, 1:4]


def _emptied(paragraphs: np.ndarray, doubtful: np.ndarray, characters: np.ndarray, least: int) -> np.ndarray:
    """Return the documents that are too short without the paragraphs that earlier ones keep, int64 in order.

    If a document is left out, its paragraphs no longer count as first occurrences, so the next document that has them
    keeps them and may become long enough. Only documents in `doubtful`, which are too short without the paragraphs of
    all earlier ones, can change this way.
    """
    of_doubtful = np.isin(paragraphs[:, 1], doubtful)
    others = paragraphs[~of_doubtful & np.isin(paragraphs[:, 0], paragraphs[of_doubtful, 0])]
    hashes, first = np.unique(others[:, 0], return_index=True)
    owner = dict(zip(hashes.tolist(), others[first, 1].tolist(), strict=True))  # the first document that keeps each
    begins, ends = (np.searchsorted(paragraphs[:, 1], doubtful, side) for side in ("left", "right"))
    empty = []
    for document, begin, end in zip(doubtful.tolist(), begins.tolist(), ends.tolist(), strict=True):
        whole = left = int(characters[document])
        own: set[int] = set()
        for hashed, size in paragraphs[begin:end, [0, 4]].tolist():
            if hashed in own or owner.get(hashed, document) < document:
                left -= size
            own.add(hashed)
        if left < min(least, whole):  # something was cut
            empty.append(document)
        else:
            owner.update((hashed, min(document, owner.get(hashed, document))) for hashed in own)
    return np.array(empty, np.int64)
