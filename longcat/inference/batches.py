"""Which likelihoods are computed together: a context once for all its continuations, a common beginning once for many contexts.

Contexts of like length go together, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from longcat.errors import ConfigError
from longcat.inference.requests import Continuation

Tokens = tuple[int, ...]
Fitted = tuple[Tokens, Tokens, int]
"""Context, continuation and the number of tokens cut off at the left, see `fit`."""
FEWEST_SAVED = 512
"""Tokens that a common beginning has to save: it takes a forward pass of its own, and a copy for each context."""


@dataclass(frozen=True)
class Context:
    """A context with all that is asked of it."""

    tokens: Tokens
    """At least one."""
    continuations: dict[Tokens, list[int]]
    """Each with the numbers of the requests that ask for it; not empty ones."""

    @property
    def input(self) -> Tokens:
        """Return the tokens that go through the model in the first pass.

        A single continuation goes along; several are computed in a second pass, after the context, where they are longer
        than a token.
        """
        if len(self.continuations) > 1:
            return self.tokens
        [only] = self.continuations
        return self.tokens + only[:-1]


@dataclass(frozen=True)
class Batch:
    """Contexts that go through the model together."""

    stem: Tokens
    """What all of them begin with, computed before; shorter than each context."""
    contexts: tuple[Context, ...]

    @property
    def requests(self) -> int:
        """Return the number of requests that it answers."""
        return sum(len(numbers) for context in self.contexts for numbers in context.continuations.values())


def fit(request: Continuation, end_of_text: int, window: int) -> Fitted:
    """Cut a context at the left so that it goes through the model with its continuation, whose last token does not have to.

    Returns:
        Context, continuation and the number of tokens cut off.

    Raises:
        ConfigError: the continuation alone is longer than what the model reads.
    """
    context, tokens = tuple(request.context) or (end_of_text,), tuple(request.tokens)
    if len(tokens) > window:
        raise ConfigError(f"a continuation has {len(tokens)} tokens, more than the {window} that the model reads")
    dropped = max(0, len(context) + len(tokens) - window - 1)
    return context[dropped:], tokens, dropped


def plan(fitted: Sequence[Fitted], most_rows: int, most_tokens: int, alone_from: int) -> list[Batch]:
    """Put requests that are not empty into batches; see `make_batches` for the limits."""
    contexts: dict[Tokens, dict[Tokens, list[int]]] = {}
    for number, (context, tokens, _) in enumerate(fitted):
        if tokens:
            contexts.setdefault(context, {}).setdefault(tokens, []).append(number)
    asked = [Context(tokens, continuations) for tokens, continuations in contexts.items()]
    return make_batches(asked, most_rows, most_tokens, alone_from)


def make_batches(contexts: Sequence[Context], most_rows: int, most_tokens: int, alone_from: int) -> list[Batch]:
    """Put contexts into batches.

    Args:
        contexts: each of its own tokens.
        most_rows: contexts of a batch.
        most_tokens: of a batch, with padding; a single context may have more.
        alone_from: tokens from which on a context has to be alone.
    """
    families, others = _families([context for context in contexts if len(context.input) < alone_from])
    batches = [Batch((), (context,)) for context in contexts if len(context.input) >= alone_from]
    for stem, members in ((), others), *families:
        ordered = sorted(members, key=lambda context: (-len(context.input), context.input))
        batches += [Batch(stem, part) for part in _parts(ordered, len(stem), most_rows, most_tokens)]
    return batches


def _parts(ordered: Sequence[Context], stem: int, most_rows: int, most_tokens: int) -> Iterator[tuple[Context, ...]]:
    """Cut contexts, the longest one first, into batches."""
    start = 0
    while start < len(ordered):
        rows = max(1, min(most_rows, most_tokens // (len(ordered[start].input) - stem)))
        yield tuple(ordered[start : start + rows])
        start += rows


@dataclass
class _Interval:
    """Contexts in a row of sorted ones, with what all of them begin with, and smaller intervals that have more in common."""

    shared: int
    start: int
    saved: int = 0
    """Tokens that the families save."""
    families: list[tuple[int, int, int]] = field(default_factory=list)
    """The best ones found: start, end and the tokens that are shared."""

    def take(self, inner: _Interval) -> None:
        """Add what a smaller interval has found."""
        self.saved += inner.saved
        self.families += inner.families

    def close(self, end: int, total: int) -> None:
        """Become one family if that saves more than the smaller ones; `total` is the sum of the contexts' tokens."""
        saved = (end - self.start - 1) * self.shared
        if saved >= max(FEWEST_SAVED, total // 4, self.saved):
            self.saved, self.families = saved, [(self.start, end, self.shared)]


def _families(contexts: Sequence[Context]) -> tuple[list[tuple[Tokens, list[Context]]], list[Context]]:
    """Find contexts that are better computed after a common beginning; returns them with it, and those that are not."""
    ordered = sorted(contexts, key=lambda context: context.tokens)
    sums = [0, *accumulate(len(context.input) for context in ordered)]
    # a beginning is shorter than each of its contexts: the last token of a context predicts
    shared = [_common(one.tokens[:-1], other.tokens[:-1]) for one, other in pairwise(ordered)]
    open_: list[_Interval] = [_Interval(0, 0)]
    for end, common in enumerate([*shared, 0], 1):
        start, inner = end - 1, None
        while common < open_[-1].shared:
            inner = open_.pop()
            inner.close(end, sums[end] - sums[inner.start])
            start = inner.start
            if common <= open_[-1].shared:
                open_[-1].take(inner)
                inner = None
        if common > open_[-1].shared:
            open_.append(_Interval(common, start))
            if inner is not None:
                open_[-1].take(inner)
    families, others, at = [], [], 0
    for start, end, size in sorted(open_[0].families):
        families.append((ordered[start].tokens[:size], ordered[start:end]))
        others += ordered[at:start]
        at = end
    return families, others + ordered[at:]


def _common(one: Tokens, other: Tokens) -> int:
    """Count the tokens at the beginning of both."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
