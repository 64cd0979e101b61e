"""The mixture of sources, and of long and shorter documents: which documents are trained on, and how often.

Documents form groups by source, and by length if long ones have a fraction of their own. A group's fraction of the tokens
follows from the weights. The mixture is as large as it can be without repeating a document, or `mixture_tokens`; then
documents are repeated, whole rounds first. Which documents of a group are taken follows from the hash of their content.

Nothing is held of a document: the table is read once for each question that is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from longcat.config import CorpusConfig
from longcat.corpus.prefixes import Prefix, find_prefixes, within
from longcat.corpus.table import DocumentsTable, Piece
from longcat.errors import ConfigError


class _Members(NamedTuple):
    """Documents that are sampled at the same rate."""

    source: int
    long: bool | None
    documents: int
    tokens: int


@dataclass(frozen=True)
class Group:
    """Documents that are sampled at the same rate."""

    source: int
    long: bool | None
    """Whether these are the long ones; None if length does not matter."""
    documents: int
    tokens: int
    """Tokens of all its documents."""
    wanted: float
    """Tokens to train on."""

    @property
    def repeats(self) -> float:
        """How many times the group is repeated, as a fraction."""
        return self.wanted / self.tokens

    @property
    def whole_rounds(self) -> int:
        """Rounds in which all its documents are taken."""
        return int(self.repeats + 1e-9)


@dataclass(frozen=True)
class Mixture:
    """What is trained on, and what never is."""

    table: DocumentsTable
    groups: list[Group]
    caps: dict[int, Prefix]
    """By source, the documents that `max_tokens` leaves."""
    last: dict[int, Prefix]
    """By group, the documents taken in the round after the whole ones."""
    available: dict[str, int]
    """Tokens in the table, by split."""
    held_out_documents: int
    long_tokens: int | None
    """Tokens from which on a document is long."""

    @property
    def documents(self) -> dict[str, int]:
        """Documents that are chosen, by split; repeated ones count each time."""
        chosen = sum(group.whole_rounds * group.documents for group in self.groups)
        return {
            "train": chosen + sum(prefix.documents for prefix in self.last.values()),
            "held_out": self.held_out_documents,
        }

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens that are chosen, by split."""
        chosen = sum(group.whole_rounds * group.tokens for group in self.groups)
        return {
            "train": chosen + sum(prefix.tokens for prefix in self.last.values()),
            "held_out": self.available["held_out"],
        }

    def chosen(self, split: str) -> Iterator[np.ndarray]:
        """Yield the documents of a split, `DOCUMENT`: in the order of the table, round after round for repeated ones."""
        return held_out(self.table) if split == "held_out" else self._train()

    def _train(self) -> Iterator[np.ndarray]:
        whole = np.array([group.whole_rounds for group in self.groups], np.int64)
        partial = np.isin(np.arange(len(whole)), list(self.last))
        for number in range(int((whole + partial).max(initial=0))):
            for piece in self.table.pieces():
                group = self._group_of(piece)
                of_round = whole[group]
                taken = (of_round > number) | ((of_round == number) & partial[group] & within(self.last, group, piece))
                yield piece.rows[taken & (group >= 0)]

    def _group_of(self, piece: Piece) -> np.ndarray:
        """Return the group of each document, int64; -1 for those of none."""
        return _group_of(piece, [(group.source, group.long) for group in self.groups], self.caps, self.long_tokens)


def held_out(table: DocumentsTable) -> Iterator[np.ndarray]:
    """Yield the documents that are never trained on, `DOCUMENT`."""
    for piece in table.pieces():
        yield piece.rows[piece.rows["held_out"]]


def mix(table: DocumentsTable, corpus: CorpusConfig) -> Mixture:
    """Settle which documents are trained on.

    Raises:
        ConfigError: `mixture_tokens` needs more than `max_repeats`, or a fraction is configured for documents that do not exist.
        ArtifactError: the table cannot be read.
    """
    long_tokens = corpus.long_documents.min_tokens if corpus.long_documents else None
    limits = {
        number: source.max_tokens for number, source in enumerate(corpus.sources) if source.max_tokens is not None
    }
    caps = find_prefixes(table, _training_source, limits) if limits else {}
    kinds: list[tuple[int, bool | None]] = [
        (number, long)
        for number in range(len(corpus.sources))
        for long in ((None,) if long_tokens is None else (True, False))
    ]
    documents, tokens = np.zeros(len(kinds), np.int64), np.zeros(len(kinds), np.int64)
    available, held_out_documents = {"train": 0, "held_out": 0}, 0
    for piece in table.pieces():
        is_held_out, of_piece = piece.rows["held_out"], piece.rows["tokens"].astype(np.int64)
        available["held_out"] += int(of_piece[is_held_out].sum())
        available["train"] += int(of_piece[~is_held_out].sum())
        held_out_documents += int(is_held_out.sum())
        kind = _group_of(piece, kinds, caps, long_tokens)
        documents += np.bincount(kind[kind >= 0], minlength=len(kinds))
        np.add.at(tokens, kind[kind >= 0], of_piece[kind >= 0])
    members = [
        _Members(*kind, *counted)
        for kind, *counted in zip(kinds, documents.tolist(), tokens.tolist(), strict=True)
        if counted[1]
    ]
    groups = _groups(members, corpus)
    settled = Mixture(table, groups, caps, {}, available, held_out_documents, long_tokens)
    left = {number: group.wanted - group.whole_rounds * group.tokens for number, group in enumerate(groups)}
    left = {number: tokens for number, tokens in left.items() if tokens >= 1}
    return replace(settled, last=find_prefixes(table, settled._group_of, left) if left else {})


def _training_source(piece: Piece) -> np.ndarray:
    """Return the source of each document that may be trained on, int64; -1 for the others."""
    return np.where(piece.rows["held_out"], -1, piece.rows["source"].astype(np.int64))


def _group_of(
    piece: Piece, groups: list[tuple[int, bool | None]], caps: dict[int, Prefix], long_tokens: int | None
) -> np.ndarray:
    """Return the place among `groups`, of a source and whether long, of each document that may be trained on; else -1."""
    source = _training_source(piece)
    long = np.zeros(len(source), np.int64) if long_tokens is None else (piece.rows["tokens"] >= long_tokens).astype(int)
    place = np.full((1 + max([int(source.max(initial=0)), *(one for one, _ in groups)]), 2), -1, np.int64)
    for number, (of_group, is_long) in enumerate(groups):
        place[of_group, int(bool(is_long))] = number
    return np.where((source >= 0) & within(caps, source, piece), place[source, long], -1)


def _groups(members: list[_Members], corpus: CorpusConfig) -> list[Group]:
    """Settle how many tokens each group gives."""
    if not members:  # `max_tokens` is less than any document
        return []
    fractions = _fractions(members, corpus)
    total = corpus.mixture_tokens or min(
        one.tokens / fraction for one, fraction in zip(members, fractions, strict=True)
    )
    made = [Group(*one, fraction * total) for one, fraction in zip(members, fractions, strict=True)]
    for group in made:
        if group.repeats > corpus.max_repeats:
            what = {None: "documents", True: "long documents", False: "shorter documents"}[group.long]
            raise ConfigError(
                f"corpus.mixture_tokens={corpus.mixture_tokens} would repeat the {what} of corpus.sources[{group.source}] "
                f"{group.repeats:.1f} times: they have {group.tokens:,} tokens; lower it, or raise corpus.max_repeats"
            )
    return made


def _fractions(members: list[_Members], corpus: CorpusConfig) -> list[float]:
    """Return the fraction of each group in the mixture; they add up to 1."""
    tokens = np.array([one.tokens for one in members], float)
    source = np.array([one.source for one in members])
    available = np.bincount(source, tokens, len(corpus.sources))
    weights = available / available.sum()
    if all(settings.weight is not None for settings in corpus.sources):
        weights = np.array([settings.weight for settings in corpus.sources], float) * (available > 0)
        weights /= weights.sum()
    if corpus.long_documents is None:
        return list(weights[source])
    long = np.array([bool(one.long) for one in members])
    fractions = np.zeros(len(members))
    parts = (("long", long, corpus.long_documents.fraction), ("short", ~long, 1 - corpus.long_documents.fraction))
    for name, of_part, fraction in parts:
        if not of_part.any():
            raise ConfigError(
                f"corpus.long_documents.min_tokens={corpus.long_documents.min_tokens}: no document is {name}"
            )
        # within long ones, and within the rest, sources keep their weights as far as they have such documents
        present = weights[source] * of_part
        fractions += fraction * present / present.sum()
    return list(fractions)
