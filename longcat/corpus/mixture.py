"""Which documents are trained on, and how often: the mixture of sources, and of long documents with the rest.

Documents form groups by source, and by length if long ones have a share of their own. A group's share in the tokens
follows from the weights. The mixture is as large as it can be without repeating a document, or `mixture_tokens`; then
documents are repeated, whole rounds first. Which documents of a group are taken follows from the hash of their content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longcat.config import CorpusConfig
from longcat.errors import ConfigError


@dataclass(frozen=True)
class Group:
    """Documents that are mixed alike."""

    source: int
    long: bool | None
    """Whether these are the long ones; none if length does not count."""
    members: np.ndarray
    """Numbers of its documents, int64, in the order in which they are taken."""
    tokens: int
    """Of the members."""
    wanted: float
    """Tokens to train on."""

    @property
    def repeats(self) -> float:
        """Times that the group is gone through."""
        return self.wanted / self.tokens


def groups(table: np.ndarray, corpus: CorpusConfig) -> list[Group]:
    """Divide the training documents of a `documents` table, and settle how many tokens each group gives.

    Raises:
        ConfigError: `mixture_tokens` needs more than `max_repeats`, or a share is asked of documents that are not there.
    """
    train = np.flatnonzero(~table["held_out"])
    members: list[tuple[int, bool | None, np.ndarray, int]] = []
    for number, source in enumerate(corpus.sources):
        mine = train[table["source"][train] == number]
        mine = mine[np.argsort(table["key"][mine], kind="stable")]
        if source.max_tokens is not None:
            mine = mine[np.cumsum(table["tokens"][mine]) <= source.max_tokens]
        parts: list[tuple[bool | None, np.ndarray]] = [(None, mine)]
        if corpus.long_documents:
            is_long = table["tokens"][mine] >= corpus.long_documents.min_tokens
            parts = [(True, mine[is_long]), (False, mine[~is_long])]
        members += [(number, long, part, int(table["tokens"][part].sum())) for long, part in parts]
    members = [entry for entry in members if entry[3]]
    if not members:  # `max_tokens` is less than any document
        return []
    shares = _shares(members, corpus)
    total = corpus.mixture_tokens or min(entry[3] / share for entry, share in zip(members, shares, strict=True))
    made = [Group(*entry, share * total) for entry, share in zip(members, shares, strict=True)]
    for group in made:
        if group.repeats > corpus.max_repeats:
            what = {None: "documents", True: "long documents", False: "shorter documents"}[group.long]
            raise ConfigError(
                f"corpus.mixture_tokens={corpus.mixture_tokens} would repeat the {what} of corpus.sources[{group.source}] "
                f"{group.repeats:.1f} times: they have {group.tokens:,} tokens; lower it, or raise corpus.max_repeats"
            )
    return made


def _shares(members: list[tuple[int, bool | None, np.ndarray, int]], corpus: CorpusConfig) -> list[float]:
    """Share of each group in the mixture; they add up to 1."""
    tokens = np.array([entry[3] for entry in members], float)
    source = np.array([entry[0] for entry in members])
    own = np.bincount(source, tokens, len(corpus.sources))
    weights = own / own.sum()
    if all(settings.weight is not None for settings in corpus.sources):
        weights = np.array([settings.weight for settings in corpus.sources], float) * (own > 0)
        weights /= weights.sum()
    if corpus.long_documents is None:
        return list(weights[source])
    long = np.array([bool(entry[1]) for entry in members])
    shares = np.zeros(len(members))
    wishes = (("long", long, corpus.long_documents.fraction), ("short", ~long, 1 - corpus.long_documents.fraction))
    for what, wanted, share in wishes:
        if not wanted.any():
            raise ConfigError(
                f"corpus.long_documents.min_tokens={corpus.long_documents.min_tokens}: no document is {what}"
            )
        # within long ones, and within the rest, sources keep their weights as far as they have such documents
        present = weights[source] * wanted
        shares += share * present / present.sum()
    return list(shares)


def choose(table: np.ndarray, mixture: list[Group]) -> np.ndarray:
    """Numbers of the documents to train on, int64: in the order of the table, round after round for repeated ones."""
    rounds: list[np.ndarray] = []
    for group in mixture:
        whole = int(group.repeats + 1e-9)
        left = group.wanted - whole * group.tokens
        ends = np.cumsum(table["tokens"][group.members], dtype=np.int64)
        taken = [group.members] * whole + [group.members[ends <= left]]
        for number, members in enumerate(taken):
            if number == len(rounds):
                rounds.append(members)
            else:
                rounds[number] = np.concatenate([rounds[number], members])
    return np.concatenate([np.empty(0, np.int64), *(np.sort(members) for members in rounds)])
