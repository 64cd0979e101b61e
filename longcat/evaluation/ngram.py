"""n-gram baselines: what a model has to beat to have learnt more than local statistics.

Interpolated absolute discounting (Ney, Essen and Kneser 1994, as in Chen and Goodman, "An Empirical Study of Smoothing
Techniques", 1999, section 2.7):

    p_n(w | h) = max(c(h w) - D_n, 0) / c(h)  +  D_n N(h) / c(h)  p_{n-1}(w | h')

with c the counts in the training rows, N(h) the number of different tokens seen after h, h' the history without its
oldest token, and D_n = n_1 / (n_1 + 2 n_2) from the number of n-grams seen once and twice. An unseen history passes
everything down. Unigrams have one added to each count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from longcat.corpus.shards import Batch
from longcat.padding import IGNORE


@dataclass(frozen=True)
class _Order:
    """Counts of one order: n-grams are numbered by their place in `keys`."""

    keys: np.ndarray
    """Sorted `history number * vocabulary + token`."""
    counts: np.ndarray
    totals: np.ndarray
    """c(h) by history number."""
    followers: np.ndarray
    """N(h) by history number."""
    discount: float


class NGram:
    """A model of the given order, counted over rows; histories do not cross rows."""

    def __init__(self, rows: Batch, order: int, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        counts = np.bincount(rows.targets[rows.targets != IGNORE], minlength=vocabulary).astype(np.float64) + 1
        self.unigram = counts / counts.sum()
        self._orders: list[_Order] = []
        numbers, histories = rows.tokens, vocabulary  # the number of the history that ends at each place, -1 for none
        for n in range(2, order + 1):
            grams = self._grams(numbers, rows.targets[:, n - 2 :])
            counted = grams >= 0
            keys, count = np.unique(grams[counted], return_counts=True)
            owners = keys // vocabulary
            once, twice = int((count == 1).sum()), int((count == 2).sum())
            self._orders.append(
                _Order(
                    keys,
                    count,
                    np.bincount(owners, weights=count, minlength=histories),
                    np.bincount(owners, minlength=histories),
                    once / (once + 2 * twice) if once else 0.5,
                )
            )
            numbers = np.where(counted, np.searchsorted(keys, grams), -1)[:, :-1]
            histories = len(keys)

    def _grams(self, numbers: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Histories and what follows them as one number, -1 where either is missing."""
        return np.where((numbers >= 0) & (targets != IGNORE), numbers * self.vocabulary + targets, -1)

    def probabilities(self, rows: Batch) -> Iterator[np.ndarray]:
        """Probability of every target under orders 1, 2, ..., each an array `[n, length]`; 1 where nothing is learnt."""
        learnt = rows.targets != IGNORE
        p = np.where(learnt, self.unigram[rows.targets.clip(min=0)], 1.0)
        yield p
        numbers = rows.tokens
        for depth, order in enumerate(self._orders):
            wanted = self._grams(numbers, rows.targets[:, depth:])
            place = np.searchsorted(order.keys, wanted).clip(0, max(0, len(order.keys) - 1))
            hit = (wanted >= 0) & (order.keys[place] == wanted) if len(order.keys) else np.zeros(wanted.shape, bool)
            known = numbers >= 0
            history = np.where(known, numbers, 0)
            total = np.where(known & learnt[:, depth:], order.totals[history], 0) if len(order.totals) else 0 * history
            seen = np.maximum(np.where(hit, order.counts[place] if len(order.keys) else 0, 0) - order.discount, 0)
            rest = order.discount * (order.followers[history] if len(order.followers) else 0)
            p = p.copy()
            lower = p[:, depth:]
            p[:, depth:] = np.where(total > 0, (seen + rest * lower) / np.maximum(total, 1), lower)
            yield p
            numbers = np.where(hit, place, -1)[:, :-1]
