"""Log-likelihoods of continuations, a batch at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch

from longcat.inference.batches import Batch, Context, Tokens
from longcat.inference.opening import OpenCheckpoint
from longcat.inference.rows import padded
from longcat.inference.scoring import score_tokens
from longcat.model.cache import Cache

Score = tuple[float, bool]
"""Log-likelihood in nats, and whether each token is the likeliest one."""
_CACHED = 4
"""Columns of the cache, of all rows together, for each token of a batch: they are much smaller than what is computed."""


class Scorer:
    """Computes batches; the cache of a beginning is kept for those that follow with the same one."""

    def __init__(self, checkpoint: OpenCheckpoint, most_tokens: int) -> None:
        self._model, self._device = checkpoint.model, checkpoint.device
        self._most_tokens = most_tokens
        self._stem: tuple[Tokens, Cache] | None = None

    def scores(self, batch: Batch) -> dict[int, Score]:
        """Compute the score of each request of a batch, by its number."""
        nats: dict[int, float] = defaultdict(float)
        greedy: dict[int, bool] = defaultdict(lambda: True)
        with torch.inference_mode():
            for numbers, value, likeliest in self._tokens(batch):
                for number in numbers:
                    nats[number] += value
                    greedy[number] = greedy[number] and likeliest
        return {number: (nats[number], greedy[number]) for number in nats}

    def _tokens(self, batch: Batch) -> Iterator[tuple[list[int], float, bool]]:
        """Score each token: the requests that ask for it, log p, and whether it is the likeliest one."""
        stem, contexts = len(batch.stem), batch.contexts
        long = [(row, tokens) for row, one in enumerate(contexts) for tokens in _second_pass(one)]
        inputs = [context.input[stem:] for context in contexts]
        tokens, padding = padded(inputs, self._device)
        width = tokens.shape[1]
        cache = None
        if stem:
            cache = self._cache_of(batch.stem).select([0] * len(contexts), room=width)
        elif long:
            cache = self._model.new_cache()
        states = self._model.states(tokens, cache=cache, padding=padding)

        places: list[int] = []  # in the rows of the batch, one after the other
        at, targets, asking = [], [], []  # of each token: number of its place, itself, and its requests
        for row, context in enumerate(contexts):
            first = row * width + len(context.tokens) - stem - 1
            single = len(context.continuations) == 1
            for continuation, numbers in context.continuations.items():
                for place, token in enumerate(continuation if single else continuation[:1]):
                    if not places or places[-1] != first + place:
                        places.append(first + place)
                    at.append(len(places) - 1)
                    targets.append(token)
                    asking.append(numbers)
        found = score_tokens(self._model, states.flatten(0, 1)[places], at, targets)
        yield from zip(asking, found.nats, found.greedy, strict=True)
        if long:
            assert cache is not None
            long.sort(key=lambda one: -len(one[1]))
            each = max(len(context.tokens) for context in contexts) + len(long[0][1])
            rows = max(1, _CACHED * self._most_tokens // each)
            for start in range(0, len(long), rows):
                yield from self._rest(contexts, cache, long[start : start + rows])

    def _rest(
        self, contexts: tuple[Context, ...], cache: Cache, long: list[tuple[int, Tokens]]
    ) -> Iterator[tuple[list[int], float, bool]]:
        """Score what follows the first token of continuations of the cached contexts."""
        rows = [row for row, _ in long]
        lengths = [len(contexts[row].tokens) for row in rows]
        tokens, padding = padded([continuation[:-1] for _, continuation in long], self._device)
        width = tokens.shape[1]
        states = self._model.states(tokens, cache=cache.select(rows, lengths, room=width), padding=padding)
        places = [row * width + place for row, (_, of) in enumerate(long) for place in range(len(of) - 1)]
        targets = [token for _, continuation in long for token in continuation[1:]]
        asking = [contexts[row].continuations[of] for row, of in long for _ in of[1:]]
        found = score_tokens(self._model, states.flatten(0, 1)[places], range(len(places)), targets)
        yield from zip(asking, found.nats, found.greedy, strict=True)

    def _cache_of(self, stem: Tokens) -> Cache:
        if self._stem is None or self._stem[0] != stem:
            cache = self._model.new_cache()
            self._model.states(torch.tensor([stem], device=self._device), cache=cache)
            self._stem = stem, cache
        return self._stem[1]


def _second_pass(context: Context) -> list[Tokens]:
    """Return the continuations of a context that need a pass of their own."""
    return [of for of in context.continuations if len(of) > 1] if len(context.continuations) > 1 else []
