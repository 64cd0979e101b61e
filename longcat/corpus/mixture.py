"""The mixture of sources, and of long and shorter documents: which documents are trained on, and how often.

Documents form groups by source, and by length if long ones have a fraction of their own. A group's fraction of the tokens
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
    """Documents that are sampled at the same rate."""

    source: int
    long: bool | None
    """Whether these are the long ones; None if length does not matter."""
    members: np.ndarray
    """Numbers of its documents, int64, in the order in which they are taken."""
    tokens: int
    """Tokens of all members."""
    wanted: float
    """Tokens to train on."""

    @property
    def repeats(self) -> float:
        """How many times the group is repeated, as a fraction."""
        return self.wanted / self.tokens


def groups(table: np.ndarray, corpus: CorpusConfig) -> list[Group]:
    """Divide the training documents of a `documents` table, and settle how many tokens each group gives.

    Raises:
        ConfigError: `mixture_tokens` needs more than `max_repeats`, or a fraction is configured for documents that do not exist.
    """
    train = np.flatnonzero(~table["held_out"])
    members: list[tuple[int, bool | None, np.ndarray, int]] = []
    for number, source in enumerate(corpus.sources):
        own = train[table["source"][train] == number]
        own = own[np.argsort(table["key"][own], kind="stable")]
        if source.max_tokens is not None:
            own = own[np.cumsum(table["tokens"][own]) <= source.max_tokens]
        parts: list[tuple[bool | None, np.ndarray]] = [(None, own)]
        if corpus.long_documents:
            is_long = table["tokens"][own] >= corpus.long_documents.min_tokens
            parts = [(True, own[is_long]), (False, own[~is_long])]
        members += [(number, long, part, int(table["tokens"][part].sum())) for long, part in parts]
    members = [entry for entry in members if entry[3]]
    if not members:  # `max_tokens` is less than any document
        return []
    fractions = _fractions(members, corpus)
    total = corpus.mixture_tokens or min(
        entry[3] / fraction for entry, fraction in zip(members, fractions, strict=True)
    )
    made = [Group(*entry, fraction * total) for entry, fraction in zip(members, fractions, strict=True)]
    for group in made:
        if group.repeats > corpus.max_repeats:
            what = {None: "documents", True: "long documents", False: "shorter documents"}[group.long]
            raise ConfigError(
                f"corpus.mixture_tokens={corpus.mixture_tokens} would repeat the {what} of corpus.sources[{group.source}] "
                f"{group.repeats:.1f} times: they have {group.tokens:,} tokens; lower it, or raise corpus.max_repeats"
            )
    return made


def _fractions(members: list[tuple[int, bool | None, np.ndarray, int]], corpus: CorpusConfig) -> list[float]:
    """Return the fraction of each group in the mixture; they add up to 1."""
    tokens = np.array([entry[3] for entry in members], float)
    source = np.array([entry[0] for entry in members])
    available = np.bincount(source, tokens, len(corpus.sources))
    weights = available / available.sum()
    if all(settings.weight is not None for settings in corpus.sources):
        weights = np.array([settings.weight for settings in corpus.sources], float) * (available > 0)
        weights /= weights.sum()
    if corpus.long_documents is None:
        return list(weights[source])
    long = np.array([bool(entry[1]) for entry in members])
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


def choose(table: np.ndarray, mixture: list[Group]) -> np.ndarray:
    """Return the numbers of the documents to train on, int64: in the order of the table, round after round for repeated ones."""
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
