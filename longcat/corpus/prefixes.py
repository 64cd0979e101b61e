"""How many documents fit into a number of tokens, when they are taken in the order of their keys.

The documents of a kind are never sorted. Tokens are counted by ranges of keys, the range where the limit is reached is
divided again until few documents are in it, and those are looked at one by one: a few passes over the table, and memory
that does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from longcat.corpus.table import DocumentsTable, Piece

_RANGE_BITS = 18
"""Ranges of all kinds together, as a power of 2."""
_FEW = 1 << 17
"""Documents of one range that are held in memory."""
_LAST_KEY, _LAST_DOCUMENT = 2**64 - 1, 2**63 - 1


@dataclass(frozen=True)
class Prefix:
    """The documents of a kind that come first in the order of keys, and of numbers where keys are equal."""

    key: int
    document: int
    """Key and number of the last of them."""
    documents: int
    """How many they are."""
    tokens: int
    """Tokens of them."""


def within(prefixes: Mapping[int, Prefix], kinds: np.ndarray, piece: Piece) -> np.ndarray:
    """Tell which documents of a piece are in the prefix of their kind, bool; where a kind has none, all are.

    Args:
        prefixes: by kind.
        kinds: of each document, int64.
        piece: the documents.
    """
    if not prefixes:
        return np.ones(len(piece.rows), bool)
    size = 1 + max(*prefixes, int(kinds.max(initial=0)))
    last_keys, last_documents = np.full(size, _LAST_KEY, np.uint64), np.full(size, _LAST_DOCUMENT, np.int64)
    for kind, prefix in prefixes.items():
        last_keys[kind], last_documents[kind] = prefix.key, prefix.document
    keys, last = piece.rows["key"], last_keys[kinds]
    inside: np.ndarray = (keys < last) | ((keys == last) & (piece.numbers <= last_documents[kinds]))
    return inside


@dataclass
class _Looking:
    """What is known of the prefix of a kind: it ends in a range of keys."""

    limit: float
    lowest: int = 0
    """First key of the range."""
    bits: int = 64
    """The range has 2^bits keys."""
    documents: int = 0
    tokens: int = 0
    """Documents and tokens before the range."""
    inside: int = _FEW + 1
    """Documents in it."""

    @property
    def is_narrow(self) -> bool:
        """Whether its documents can be looked at one by one."""
        return self.inside <= _FEW or self.bits == 0

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Tell which keys are in the range, bool."""
        if self.bits == 64:
            return np.ones(len(keys), bool)
        inside: np.ndarray = keys >> np.uint64(self.bits) == np.uint64(self.lowest >> self.bits)
        return inside


def find_prefixes(
    table: DocumentsTable, kinds: Callable[[Piece], np.ndarray], limits: Mapping[int, float]
) -> dict[int, Prefix]:
    """Find the most documents of each kind, in the order of keys, whose tokens are not above its limit.

    Args:
        table: the documents.
        kinds: tells the kind of each document of a piece, int64; negative for documents of none.
        limits: in tokens, by kind.
    """
    looking = {kind: _Looking(limit) for kind, limit in limits.items()}
    prefixes: dict[int, Prefix] = {}
    while wide := {kind: one for kind, one in looking.items() if not one.is_narrow}:
        for kind, (documents, tokens) in _count(table, kinds, wide).items():
            one = wide[kind]
            reached = np.flatnonzero(one.tokens + np.cumsum(tokens) > one.limit)
            place = int(reached[0]) if len(reached) else len(tokens)
            one.documents += int(documents[:place].sum())
            one.tokens += int(tokens[:place].sum())
            if len(reached):
                one.bits -= len(tokens).bit_length() - 1
                one.lowest += place << one.bits
                one.inside = int(documents[place])
            else:  # which happens in the first pass only
                prefixes[kind] = Prefix(_LAST_KEY, _LAST_DOCUMENT, one.documents, one.tokens)
                del looking[kind]
    for kind, found in _gather(table, kinds, looking).items():
        one = looking[kind]
        ends = one.tokens + np.cumsum(found["tokens"])
        taken = int((ends <= one.limit).sum())
        if taken:
            last = found[taken - 1]
            prefixes[kind] = Prefix(
                int(last["key"]), int(last["document"]), one.documents + taken, int(ends[taken - 1])
            )
        else:  # the documents before the range
            prefixes[kind] = Prefix(one.lowest, -1, one.documents, one.tokens)
    return prefixes


def _count(
    table: DocumentsTable, kinds: Callable[[Piece], np.ndarray], wide: dict[int, _Looking]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Count documents and tokens in equal parts of each range, int64 `[parts]` each."""
    most = max(1, _RANGE_BITS - (len(wide) - 1).bit_length())
    counted = {}
    for kind, one in wide.items():
        parts = 1 << min(most, one.bits)
        counted[kind] = np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    for piece in table.pieces():
        kind_of = kinds(piece)
        for kind, one in wide.items():
            own = kind_of == kind
            rows = piece.rows[own & one.holds(piece.rows["key"])]
            documents, tokens = counted[kind]
            shift = one.bits - (len(tokens).bit_length() - 1)
            part = ((rows["key"] - np.uint64(one.lowest)) >> np.uint64(shift)).astype(np.int64)
            np.add.at(documents, part, 1)
            np.add.at(tokens, part, rows["tokens"].astype(np.int64))
    return counted


_FOUND = np.dtype([("key", np.uint64), ("document", np.int64), ("tokens", np.int64)])


def _gather(
    table: DocumentsTable, kinds: Callable[[Piece], np.ndarray], narrow: dict[int, _Looking]
) -> dict[int, np.ndarray]:
    """Read the documents in each range, in the order of keys."""
    if not narrow:
        return {}
    parts: dict[int, list[np.ndarray]] = {kind: [np.empty(0, _FOUND)] for kind in narrow}
    for piece in table.pieces():
        kind_of = kinds(piece)
        for kind, one in narrow.items():
            places = np.flatnonzero((kind_of == kind) & one.holds(piece.rows["key"]))
            found = np.empty(len(places), _FOUND)
            found["key"], found["tokens"] = piece.rows["key"][places], piece.rows["tokens"][places]
            found["document"] = piece.first + places
            parts[kind].append(found)
    joined = {kind: np.concatenate(found) for kind, found in parts.items()}
    return {kind: found[np.argsort(found["key"], kind="stable")] for kind, found in joined.items()}
