"""Bootstrap over items: of a score, and of the difference between two checkpoints (Efron and Tibshirani 1993, chapters 6, 13, 16)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_AT_ONCE = 1 << 22
"""Counts that are held at a time."""


@dataclass(frozen=True)
class Difference:
    """Score of the second checkpoint minus that of the first one."""

    first: float
    second: float
    low: float
    """Lower end of the interval at the level asked for."""
    high: float
    p: float
    """Two-sided p-value of no difference; never below 1 / (resamples + 1)."""
    items: int

    @property
    def value(self) -> float:
        """Return the difference."""
        return self.second - self.first


def standard_error(
    values: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> float | None:
    """Return the standard error of sum(values) / sum(weights) over items that are drawn together; None for fewer than two.

    Args:
        values: bits of each item, for example a document.
        weights: bytes of each item.
        seed: of the draws.
        resamples: number of draws.
    """
    pairs = np.stack([np.asarray(values, np.float64), np.asarray(weights, np.float64)])
    if pairs.shape[1] < 2:
        return None
    drawn, of = _draws(pairs.shape[1], resamples, seed, pairs)
    some = of > 0  # a draw of items without bytes has no score
    return float((drawn[some] / of[some]).std(ddof=1)) if some.sum() > 1 else None


def paired(
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Compare two scores sum(x) / sum(weights) over the same items, which are drawn together.

    Args:
        first: of each item, by the first checkpoint: right or wrong, or bits.
        second: the same by the second one.
        weights: bytes of each item; 1 for each if None, which makes the scores means.
        seed: of the draws.
        resamples: number of draws.
        level: of the interval, by percentiles.

    Raises:
        ValueError: there are no items, or their numbers differ.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    w = np.ones_like(a) if weights is None else np.asarray(weights, np.float64)
    if not len(a) or not a.shape == b.shape == w.shape:
        raise ValueError(f"{a.shape} and {b.shape} items with {w.shape} weights cannot be compared")
    draws = _draws(len(a), resamples, seed, np.stack([b - a, w]))
    return _difference(a.sum() / w.sum(), b.sum() / w.sum(), draws[0] / draws[1], len(a), level)


def unpaired(
    first: tuple[Sequence[float], Sequence[float]],
    second: tuple[Sequence[float], Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """Compare two scores sum(x) / sum(weights) over different items, which are drawn apart; see `paired`.

    Args:
        first: values and weights of the first checkpoint's items.
        second: those of the second one's.
        seed: of the draws.
        resamples: number of draws.
        level: of the interval, by percentiles.
    """
    pairs = [np.stack([np.asarray(x, np.float64), np.asarray(w, np.float64)]) for x, w in (first, second)]
    if not all(pair.shape[1] for pair in pairs):
        raise ValueError("no items cannot be compared")
    draws = [_draws(pair.shape[1], resamples, seed + number, pair) for number, pair in enumerate(pairs)]
    (before, after) = (pair[0].sum() / pair[1].sum() for pair in pairs)
    drawn = draws[1][0] / draws[1][1] - draws[0][0] / draws[0][1]
    return _difference(before, after, drawn, min(pair.shape[1] for pair in pairs), level)


def sign_test(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of answers that changed in one direction or the other (McNemar 1947).

    With few changes the bootstrap's p-value is too small: it cannot draw a change that was not seen.
    """
    changed, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(changed, number) for number in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 2**changed)))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several comparisons at once (Holm 1979): one below 0.05 is one among all of them."""
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    found, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        found[number] = largest
    return found


def _draws(items: int, resamples: int, seed: int, values: np.ndarray) -> np.ndarray:
    """Sum values `[sums, items]` over items that are drawn with replacement, to `[sums, resamples]`."""
    generator = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // items)
    sums = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = generator.integers(0, items, (count, items))
        sums.append(values[:, drawn].sum(-1))
    return np.concatenate(sums, axis=1)


def _difference(first: float, second: float, drawn: np.ndarray, items: int, level: float) -> Difference:
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    p = min(1.0, 2 * (min(below, above) + 1) / (len(drawn) + 1))
    return Difference(float(first), float(second), float(low), float(high), p, items)
