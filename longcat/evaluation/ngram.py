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
    """A model of the given order, counted over rows `[n, length]`; histories do not cross rows."""

    def __init__(self, rows: np.ndarray, order: int, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        counts = np.bincount(rows[:, 1:].ravel(), minlength=vocabulary).astype(np.float64) + 1
        self.unigram = counts / counts.sum()
        self._orders: list[_Order] = []
        numbers = rows.astype(np.int64)  # the number of the history that ends at each place
        histories = vocabulary
        for n in range(2, order + 1):
            grams = numbers[:, :-1] * vocabulary + rows[:, n - 1 :]
            keys, count = np.unique(grams, return_counts=True)
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
            numbers, histories = np.searchsorted(keys, grams), len(keys)

    def probabilities(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Probability of every target `rows[:, 1:]` under orders 1, 2, ..., each an array `[n, length - 1]`."""
        rows = rows.astype(np.int64)
        p = self.unigram[rows[:, 1:]]
        yield p
        numbers = rows  # -1 stands for a history never seen
        for depth, order in enumerate(self._orders):
            known, target = numbers[:, :-1] >= 0, rows[:, depth + 1 :]
            wanted = np.where(known, numbers[:, :-1] * self.vocabulary + target, -1)
            place = np.searchsorted(order.keys, wanted).clip(0, len(order.keys) - 1)
            hit = order.keys[place] == wanted
            history = np.where(known, numbers[:, :-1], 0)
            total = np.where(known, order.totals[history], 0)
            seen = np.maximum(np.where(hit, order.counts[place], 0) - order.discount, 0)
            rest = order.discount * order.followers[history]
            p = p.copy()
            lower = p[:, depth:]
            p[:, depth:] = np.where(total > 0, (seen + rest * lower) / np.maximum(total, 1), lower)
            yield p
            numbers = np.where(hit, place, -1)
