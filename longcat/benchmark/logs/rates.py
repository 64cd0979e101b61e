"""Rates of readings: what is left of them after the warm-up, and their median."""

from __future__ import annotations

import itertools
import math
import statistics
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from longcat.benchmark.logs.collected import Collected

WARM_UP = 0.1
"""Fraction of the readings at the start that is left out; at least one reading, if there are more than two."""
_MANY = 100_000


@dataclass
class Found:
    """Tokens/s by one source: of each reading, or of the whole run."""

    rates: Sequence[float]
    tokens_from: str
    assumptions: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    of_readings: bool = True
    mean_length: float | None = None
    """Tokens of a mean sequence, where the log counts fewer than --sequence-length."""


def per_second(tokens: Iterable[float] | float, seconds: Sequence[float]) -> array[float]:
    """Return tokens over seconds, reading by reading; not a number where either is missing."""
    if isinstance(tokens, float | int):
        tokens = itertools.repeat(tokens, len(seconds))
    pairs = zip(tokens, seconds, strict=True)
    return array("d", (number / time if time > 0 else math.nan for number, time in pairs))


def sequences_of(log: Collected) -> Sequence[float] | None:
    """Return the sequences of each step: as its line states them, by the log's counter, or by its header."""
    found = log.column("sequences")
    if found is not None:
        return found
    grown, stated = log.column("counted_sequences"), log.stated("sequences in a step")
    if grown is not None and last(grown):
        return grown
    return array("d", [stated]) * log.count if stated else None


def last(values: Sequence[float] | None) -> float:
    """Return the last positive number; 0 if there is none."""
    return next((value for value in reversed(values or ()) if value > 0), 0.0)


def known(values: Iterable[float] | None) -> array[float]:
    """Return the positive numbers."""
    return array("d", (value for value in values or () if value > 0))


def steady(rates: Sequence[float], starts: Sequence[int]) -> array[float]:
    """Return the rates without the first tenth after each start of the run, and without readings that have none.

    Of a run without breaks the array itself is shortened: a log of 1 GB has millions of readings.
    """
    if len(starts) == 1 and isinstance(rates, array) and all(rate > 0 for rate in rates):
        if len(rates) > 2:
            del rates[: max(1, int(WARM_UP * len(rates)))]
        return rates
    steady = array("d")
    for start, end in zip(starts or [0], [*starts[1:], len(rates)], strict=True):
        readings = itertools.islice(rates, start, end)
        if start == 0:
            count = sum(1 for rate in itertools.islice(rates, end) if rate > 0)
            left_out = max(1, int(WARM_UP * count)) if count > 2 else 0
            readings = itertools.islice((rate for rate in readings if rate > 0), left_out, None)
        else:
            readings = itertools.islice(readings, max(1, int(WARM_UP * (end - start))), None)
        steady.extend(rate for rate in readings if rate > 0)
    return steady or known(rates)


def median(values: array[float]) -> float:
    """Return the median, in place where there are many numbers."""
    if len(values) > _MANY:
        import numpy as np  # sorts many numbers in a fifth of the memory

        return float(np.median(np.frombuffer(values, dtype=values.typecode), overwrite_input=True))
    return statistics.median(values)
