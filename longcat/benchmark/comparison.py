"""Comparison of a run with published runs: which rows are fair, the ratios, and the verdict.

A row is fair where kind, task and precision are those of the run, its convention is known, its length is not a guess and
the sizes are near (`longcat.benchmark.matching.LIMITS`). Where the number of nodes, recomputation or routing differ, that
is shown; where such rows would turn the verdict, they are not fair. Both runs are counted causally, and in the row's own
convention beside it. Mixtures get no verdict but a place among the published ones, since those lie too far apart.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.benchmark.distribution import Distribution, distribution, mixture_sentence
from longcat.benchmark.matching import BASELINE, CLAIM, Match, Subject, distance, match, width
from longcat.benchmark.references import Reference, references
from longcat.benchmark.verdict import (
    MIN_ROWS,
    PublishedPeak,
    Verdict,
    Word,
    decide,
    overall,
    sentence,
    spread,
    under_each_peak,
)


@dataclass(frozen=True)
class Comparison:
    """The result of comparing a run with published runs."""

    fair: bool
    """Whether `matches` are fair rows; otherwise they are the nearest rows."""
    matches: tuple[Match, ...]
    """A100 rows that the run is compared with."""
    other_devices: tuple[Match, ...]
    """Nearest rows of this kind on other devices, for orientation, where the A100 rows give no verdict."""
    ratio: float | None
    """Median of the ratios of `matches`."""
    ratio_low: float | None
    """Smallest of the ratios."""
    ratio_high: float | None
    """Largest of the ratios."""
    word: Word
    """The verdict in a word; `none` where there is no verdict."""
    verdict: str
    verdicts: tuple[Verdict, ...]
    """The verdict under each published peak of the device; the first is that of the peak used."""
    distribution: Distribution | None
    """A mixture among all published ones on A100s; None for a dense run."""

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values, with each match flattened into its row."""
        return {
            **{name: getattr(self, name) for name in ("fair", "ratio", "ratio_low", "ratio_high", "word", "verdict")},
            "verdicts": [asdict(one) for one in self.verdicts],
            "distribution": None if self.distribution is None else self.distribution.as_dict(),
            "matches": [one.as_dict() for one in self.matches],
            "other_devices": [one.as_dict() for one in self.other_devices],
        }


def compare(
    ours: Subject,
    *,
    accelerator: bool,
    count: int,
    rows: Sequence[Reference] | None = None,
    tokens_per_second: float = 0.0,
    peaks: Sequence[PublishedPeak] = (),
    doubts: Sequence[str] = (),
) -> Comparison:
    """Compare a run with the nearest published A100 runs.

    Args:
        ours: our run.
        accelerator: whether it ran on an accelerator; a run on a CPU is not compared.
        count: rows to compare with at most.
        rows: published runs to choose from; the whole table if None.
        tokens_per_second: our speed, summed over all devices.
        peaks: published peaks of the device; the first is the one that our MFU refers to.
        doubts: reasons why the figures are too uncertain for a verdict.
    """
    if not accelerator:
        reason = "CPU run: utilisation is valid, comparison with A100s is not meaningful"
        return Comparison(False, (), (), None, None, None, "none", reason, (), None)
    near = [match(ours, row) for row in (references() if rows is None else rows) if row.mfu and _sized(row)]
    near.sort(key=lambda one: distance(ours, one))
    near = _one_of_each_run(near)
    elsewhere = [one for one in near if not one.row.device.startswith(BASELINE) and one.row.kind == ours.kind]
    near = [one for one in near if one.row.device.startswith(BASELINE)]
    if ours.kind != "moe":  # a mixture gets no verdict that anything could turn
        near = _without_deciding(near, count)
    fair = [one for one in near if not one.differences]
    # without a fair row, prefer rows whose ratio can be computed, also of the other kind
    chosen = _varied(fair, count) if fair else sorted(near, key=lambda one: one.ratio is None)[:count]
    ratios = [one.ratio for one in chosen if one.ratio is not None]
    mfu = ours.causal_mfu
    verdicts: list[Verdict] = []
    among = None
    if mfu is not None and ours.kind == "moe":
        among = distribution(near, mfu, tokens_per_second)
    elif mfu is not None and fair and not doubts:
        verdicts = under_each_peak(
            chosen, mfu, peaks or [PublishedPeak(1e12 * (ours.peak_tflops or 0.0), "the peak used")]
        )
    word: Word = overall(verdicts) if verdicts else "none"
    return Comparison(
        fair=bool(fair),
        matches=tuple(chosen),
        other_devices=() if word != "none" else tuple(sorted(elsewhere, key=lambda one: one.ratio is None)[:count]),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        word=word,
        verdict=_in_words(ours, chosen, verdicts, among, doubts, fair=bool(fair)),
        verdicts=tuple(verdicts),
        distribution=among,
    )


def _sized(row: Reference) -> bool:
    return row.devices is not None and row.sequence_length is not None and row.precision != ""


def _one_of_each_run(near: Sequence[Match]) -> list[Match]:
    """Leave the nearest of the rows that differ in bf16 and fp16 alone: a run timed in both is one run."""
    timed_in: dict[tuple[object, ...], str] = {}
    left = []
    for one in near:
        row = one.row
        run = (row.source, row.model, row.devices, row.sequence_length, width(row.precision))
        if timed_in.setdefault(run, row.precision) == row.precision:
            left.append(one)
    return left


def _varied(near: Sequence[Match], count: int) -> list[Match]:
    """Take the nearest rows, at most half of them from one source while others have some: a tool's rows are similar."""
    rows_of: Counter[str] = Counter()
    over_quota = []
    for one in near:
        over_quota.append(rows_of[one.row.publisher] >= -(-count // 2))
        rows_of[one.row.publisher] += 1
    ranked = sorted(range(len(near)), key=lambda number: (over_quota[number], number))[:count]
    return [near[number] for number in sorted(ranked)]


def _without_deciding(near: Sequence[Match], count: int) -> list[Match]:
    """Mark rows as unfair where what differs in them would decide: without them the verdict would be another."""

    def word(matches: Sequence[Match]) -> Word:
        fair = _varied([one for one in matches if not one.differences], count)
        return decide(fair, 0.0, PublishedPeak(1.0, "")).word

    near = list(near)
    while True:
        before = word(near)
        subjects = dict.fromkeys(name for one in near if not one.differences for name in one.differing)
        deciding = next(
            (name for name in subjects if word([one for one in near if name not in one.differing]) != before), None
        )
        if deciding is None or before == "none":
            return near
        near = [one.decided_by(deciding) if not one.differences and deciding in one.differing else one for one in near]


def _in_words(
    ours: Subject,
    matches: Sequence[Match],
    verdicts: Sequence[Verdict],
    among: Distribution | None,
    doubts: Sequence[str],
    *,
    fair: bool,
) -> str:
    if not ours.mfu_by_convention:
        return "the peak of this device is not known, so there is no MFU to compare"
    if doubts:
        return f"no verdict, as an input is too uncertain: {'; '.join(doubts)}"
    if among is not None:
        return mixture_sentence(among, min(among.rows, key=lambda one: distance(ours, one)))
    if not any(one.ratio is not None for one in matches):
        return "no published A100 run can be compared with"
    if not fair:
        nearest = matches[0]
        return (
            f"no fair A100 row is published: the nearest, {nearest.row.model} on {nearest.row.devices} x "
            f"{nearest.row.device}, differs: {', '.join(nearest.differences)}. Against rows like it the MFU is {spread(matches)}, which is no evidence"
        )
    if len(matches) < MIN_ROWS:
        each = " and ".join(
            f"{one.ratio:.2f} of that of {one.row.model} on {one.row.devices} x {one.row.device}" for one in matches
        )
        agreeing = sum(one.says == "within" for one in matches)
        return (
            f"too few fair A100 rows for a verdict: the MFU is {each}, counted causally; "
            f"{agreeing} of {len(matches)} would say within {CLAIM * 100:.0f} %"
        )
    return sentence(matches, verdicts)
