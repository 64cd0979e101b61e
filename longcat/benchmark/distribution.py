"""A mixture among all published ones on A100s: where it stands, and what the claim would need."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.benchmark.matching import CLAIM, Match
from longcat.benchmark.verdict import MIN_ROWS
from longcat.printable import percent


@dataclass(frozen=True)
class Distribution:
    """The MFU of all published mixtures on A100s, counted causally, with our run among them."""

    rows: tuple[Match, ...]
    """By MFU, the smallest first."""
    own_mfu: float
    median: float
    """MFU of the median row: of the fair rows where there are any, otherwise of all."""
    median_of: str
    """What the median is of, in words."""
    tokens_per_second: float
    """Our speed, summed over all devices."""

    @property
    def below(self) -> int:
        """Return the number of rows whose MFU is below ours."""
        return sum(row.mfu < self.own_mfu for row in self.rows if row.mfu is not None)

    @property
    def percentile(self) -> float:
        """Return the percentage of rows whose MFU is below ours."""
        return 100 * self.below / len(self.rows)

    @property
    def needed_mfu(self) -> float:
        """Return the MFU that is within the claim of the median."""
        return (1 - CLAIM) * self.median

    @property
    def needed_tokens_per_second(self) -> float:
        """Return the speed that would give that MFU."""
        return self.tokens_per_second * self.needed_mfu / self.own_mfu

    @property
    def low(self) -> float:
        """Return the smallest MFU of the rows."""
        return min(row.mfu for row in self.rows if row.mfu is not None)

    @property
    def high(self) -> float:
        """Return the largest MFU of the rows."""
        return max(row.mfu for row in self.rows if row.mfu is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the distribution as JSON values."""
        rows = [
            {
                "model": one.row.model,
                "mfu": one.mfu,
                "devices": one.row.devices,
                "device": one.row.device,
                "source": one.row.source,
                "fair": not one.differences,
            }
            for one in self.rows
        ]
        figures = ("percentile", "low", "high", "needed_mfu", "needed_tokens_per_second")
        return asdict(self) | {"rows": rows} | {name: getattr(self, name) for name in figures}


def distribution(matches: Sequence[Match], own_mfu: float, tokens_per_second: float) -> Distribution | None:
    """Return our run among the mixtures that can be counted causally; None without such a row."""
    rows = sorted(
        (one for one in matches if one.row.kind == "moe" and one.row.causal_mfu and one.row.task != "fine-tuning"),
        key=lambda one: one.mfu or 0.0,
    )
    if not rows:
        return None
    fair = [one for one in rows if not one.differences]
    of = "the fair rows" if fair else "all of them"
    median = statistics.median(one.mfu for one in (fair or rows) if one.mfu is not None)
    return Distribution(tuple(rows), own_mfu, median, of, tokens_per_second)


def mixture_sentence(among: Distribution, nearest: Match) -> str:
    """Return what can honestly be said of a mixture: its place among the published ones, and what the claim would need.

    Args:
        among: the run among the published mixtures.
        nearest: the row that is most like the run, which is named where none is fair.
    """
    fair = [one for one in among.rows if not one.differences]
    sources = len({one.row.publisher for one in among.rows})
    place = (
        f"no verdict, but a place: the MFU of {percent(among.own_mfu)} is above {among.below} of {len(among.rows)} published "
        f"A100 mixtures (percentile {among.percentile:.0f}; {sources} sources, {percent(among.low)} to {percent(among.high)})"
    )
    size = f"{len(fair)} of them {'is' if len(fair) == 1 else 'are'} like this run"
    if not fair:
        size += f", the nearest, {nearest.row.model} on {nearest.row.devices}, has {percent(nearest.mfu or 0.0)}"
    elif len(fair) > 1:
        size += f", from {percent(fair[0].mfu or 0.0)} to {percent(fair[-1].mfu or 0.0)}"
    need = (
        f"within {CLAIM * 100:.0f} % of the median of {among.median_of}, {percent(among.median)}, would need "
        f"{percent(among.needed_mfu)} or {among.needed_tokens_per_second:,.0f} tokens/s"
    )
    proof = f"to claim it takes {MIN_ROWS} rows like this run, or the same model timed on A100s"
    if len(fair) >= MIN_ROWS:
        proof = "mixtures lie too far apart to claim it, which takes the same model timed on A100s"
    return f"{place}; {size}; {need}; {proof}"
