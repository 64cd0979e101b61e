"""Selection over the whole corpus: duplicates, near-duplicates and repeated paragraphs are left out.

The driver holds one byte per document for this, and the paragraphs that come more than once; `search` finds all of them
on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.arrays import save
from longcat.corpus.judged import Blocks
from longcat.corpus.mapping import Mapper
from longcat.corpus.search import PARAGRAPH, Search

KEPT = 0
REASONS = {1: "duplicate", 2: "near_duplicate", 3: "repeated_paragraphs"}
"""Why a document is left out here, by the number in `KeptDocuments.state`."""
DUPLICATE, NEAR_DUPLICATE, REPEATED_PARAGRAPHS = REASONS


@dataclass
class KeptDocuments:
    """All documents that judging did not leave out, in their order, and which of them are kept."""

    begins: np.ndarray
    """Number of the first document of each block, and of all documents, int64 `[blocks + 1]`."""
    state: np.ndarray
    """`KEPT` or the reason, a number of `REASONS`, uint8 `[documents]`."""
    cuts: np.ndarray = field(default_factory=lambda: np.empty((0, 4), np.int64))
    """Paragraphs to cut out of the documents kept, int64 `[cuts, 4]`: document, first byte, byte after the last, characters."""

    def of(self, block: int) -> slice:
        """Return the documents of a block."""
        return slice(int(self.begins[block]), int(self.begins[block + 1]))

    def cuts_of(self, block: int) -> np.ndarray:
        """Return the cuts of a block, with documents counted from its beginning, int64 `[cuts, 3]`."""
        return self.cuts_in(self.of(block))[:, :3]

    def cuts_in(self, documents: slice) -> np.ndarray:
        """Return the cuts of consecutive documents, counted from the first of them, int64 `[cuts, 4]`."""
        first, last = np.searchsorted(self.cuts[:, 0], [documents.start, documents.stop])
        return self.cuts[first:last] - np.array([documents.start, 0, 0, 0])

    def count(self) -> dict[str, int]:
        """Count the documents left out, by reason."""
        counts = np.bincount(self.state, minlength=len(REASONS) + 1)
        return {name: int(counts[number]) for number, name in REASONS.items()}

    def leave_out(self, reason: int, documents: np.ndarray) -> None:
        """Leave out documents that were kept until now."""
        self.state[documents] = reason


def select(
    blocks: Blocks,
    corpus: CorpusConfig,
    folder: Path,
    mapper: Mapper,
    tell: Callable[[str, float], None] = lambda what, done: None,
) -> KeptDocuments:
    """Select the documents to keep; the first of several equal ones stays.

    Args:
        blocks: the corpus.
        corpus: what is looked for.
        folder: for the outcome, and for the files of the search, which are removed; an outcome that is there is read.
        mapper: does the work.
        tell: is told what is being done, and the fraction that is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    states, cut_out = folder / "state.npy", folder / "cuts.npy"
    if states.exists():
        return KeptDocuments(blocks.begins, np.load(states), np.load(cut_out))
    selection = KeptDocuments(blocks.begins, np.zeros(int(blocks.begins[-1]), np.uint8))
    search = Search(blocks, folder / "search", mapper, tell)
    for documents in search.equal(selection.state == KEPT):
        selection.leave_out(DUPLICATE, documents)
    if corpus.near_duplicates:
        for documents in search.near(selection.state == KEPT, corpus.near_duplicates):
            selection.leave_out(NEAR_DUPLICATE, documents)
    if corpus.repeated_paragraph_characters:
        repeated = [*search.repeated_paragraphs(selection.state == KEPT)]
        _cut_paragraphs(selection, np.concatenate([np.empty(0, PARAGRAPH), *repeated]), blocks, corpus.min_characters)
    save(cut_out, selection.cuts)
    save(states, selection.state)
    search.clear()
    return selection


# ---------------------------------------------------------------------------------------------------- paragraphs


def _cut_paragraphs(selection: KeptDocuments, paragraphs: np.ndarray, blocks: Blocks, min_characters: int) -> None:
    paragraphs = paragraphs[np.lexsort((paragraphs["begin"], paragraphs["document"]))]
    cuts = paragraphs[_repeated(paragraphs["hash"])]
    touched, place = np.unique(cuts["document"], return_inverse=True)
    whole = _characters(blocks, touched)
    left = whole.copy()
    np.subtract.at(left, place, cuts["characters"])
    least = max(1, min_characters)
    doubtful = left < least
    empty = _emptied(paragraphs, touched[doubtful], whole[doubtful], least)
    selection.leave_out(REPEATED_PARAGRAPHS, empty)
    if len(empty):
        paragraphs = paragraphs[selection.state[paragraphs["document"]] == KEPT]
        cuts = paragraphs[_repeated(paragraphs["hash"])]
    columns = [cuts[name] for name in ("document", "begin", "end", "characters")]
    selection.cuts = np.stack(columns, axis=1).reshape(-1, 4)


def _characters(blocks: Blocks, documents: np.ndarray) -> np.ndarray:
    """Read how many characters documents have, int64; they are in order."""
    owners = np.searchsorted(blocks.begins, documents, side="right") - 1
    read = [np.empty(0, np.int64)]
    for owner in np.unique(owners).tolist():
        read.append(blocks[owner].arrays().characters[documents[owners == owner] - blocks.begins[owner]])
    return np.concatenate(read)


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Return the places whose keys all occurred before, int64 in order."""
    order = np.argsort(keys, kind="stable")  # among equal ones the first comes first
    ordered = keys[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def _emptied(paragraphs: np.ndarray, doubtful: np.ndarray, characters: np.ndarray, least: int) -> np.ndarray:
    """Return the documents that are too short without the paragraphs that earlier ones keep, int64 in order.

    If a document is left out, its paragraphs no longer count as first occurrences, so the next document that has them
    keeps them and may become long enough. Only documents in `doubtful`, which are too short without the paragraphs of
    all earlier ones, can change this way; `characters` are theirs.
    """
    of_doubtful = np.isin(paragraphs["document"], doubtful)
    others = paragraphs[~of_doubtful & np.isin(paragraphs["hash"], paragraphs["hash"][of_doubtful])]
    hashes, first = np.unique(others["hash"], return_index=True)
    owner = dict(zip(hashes.tolist(), others["document"][first].tolist(), strict=True))  # the first that keeps each
    begins, ends = (np.searchsorted(paragraphs["document"], doubtful, side) for side in ("left", "right"))
    empty = []
    for document, whole, begin, end in zip(
        doubtful.tolist(), characters.tolist(), begins.tolist(), ends.tolist(), strict=True
    ):
        left = whole
        own: set[int] = set()
        for hashed, size in paragraphs[["hash", "characters"]][begin:end].tolist():
            if hashed in own or owner.get(hashed, document) < document:
                left -= size
            own.add(hashed)
        if left < min(least, whole):  # something was cut
            empty.append(document)
        else:
            owner.update((hashed, min(document, owner.get(hashed, document))) for hashed in own)
    return np.array(empty, np.int64)
