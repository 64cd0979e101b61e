"""How much of a run's life went into steps that count, told from its events and its records.

A run lives from its first start to its last record. Lost is what lies between two neighbouring records if training began
again or went back in between: the steps that were done twice, and the time in which none was done; one step of the usual length
of it counts. The time between a stop that was asked for and the next start is no part of the life.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from longcat.training.metrics import Records

_BACK = ("start", "rewind")
"""Events after which steps are done that were done before."""


@dataclass(frozen=True)
class Interval:
    """A part of a life, in Unix seconds, in which nothing was trained that counts."""

    kind: Literal["lost", "paused"]
    begin: float
    end: float


@dataclass(frozen=True)
class Life:
    """What became of a run's time."""

    begin: float
    end: float
    intervals: tuple[Interval, ...]
    counts: dict[str, int]
    """Events of each kind."""

    @property
    def seconds(self) -> float:
        """Length without pauses."""
        return max(0.0, self.end - self.begin - self._sum("paused"))

    @property
    def lost_seconds(self) -> float:
        """Time that went into nothing that counts."""
        return self._sum("lost")

    @property
    def availability_percent(self) -> float:
        """Share of the life that went into steps that count."""
        return 100.0 * (1 - self.lost_seconds / self.seconds) if self.seconds else 100.0

    @property
    def figures(self) -> dict[str, float]:
        """Availability, time and events, for MLflow."""
        names = {kind: f"life/{kind.replace(' ', '_')}_events" for kind in sorted(self.counts)}
        return {
            "life/availability_percent": self.availability_percent,
            "life/seconds": self.seconds,
            "life/lost_seconds": self.lost_seconds,
            **{name: float(self.counts[kind]) for kind, name in names.items()},
        }

    def _sum(self, kind: str) -> float:
        return sum(of.end - of.begin for of in self.intervals if of.kind == kind)


def life_of(events: list[dict[str, Any]], records: Records) -> Life | None:
    """Work out the life of a run; none if it has no start or no record.

    Args:
        events: as `longcat.training.life.read_events` returns them.
        records: of metrics.jsonl.
    """
    starts = [event["time"] for event in events if event["kind"] == "start"]
    begin = min(starts, default=0.0)
    # a run that goes on from another one has its records, too
    times = [float(record["time"]) for record in records if record["time"] >= begin]
    if not starts or not times:
        return None
    end = max(times)
    usual = statistics.median([later - earlier for earlier, later in itertools.pairwise(times)] or [0.0])
    again = sorted(event["time"] for event in events if event["kind"] in _BACK)
    stops = sorted(event["time"] for event in events if event["kind"] == "stop")
    intervals: list[Interval] = []
    for earlier, later in itertools.pairwise([begin, *times]):
        inside = [time for time in again if earlier < time <= later]
        if not inside:
            continue
        since = min(earlier + usual, later)
        for stop in [time for time in stops if earlier <= time <= later]:
            begun = min((time for time in inside if time > stop), default=None)
            if begun is not None and begun > since:
                paused = max(stop, since)
                intervals += [Interval("lost", since, paused), Interval("paused", paused, begun)]
                since = begun
        intervals.append(Interval("lost", since, later))
    kept = tuple(of for of in intervals if of.end > of.begin)
    return Life(begin, end, kept, dict(Counter(event["kind"] for event in events)))
