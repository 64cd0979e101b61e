"""The verdict of published rows on the claim, under each peak that is published for the device."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longcat.benchmark.matching import CLAIM, Match, says
from longcat.costs.hardware import find_hardware

Word = Literal["within", "outside", "undecided", "none"]
MIN_ROWS = 3
"""Rows that a verdict takes at least: fewer do not show how far apart such runs are."""
_AGREED = 0.75
"""Fraction of the rows that must agree; otherwise the verdict is that they disagree."""


@dataclass(frozen=True)
class PublishedPeak:
    """A peak that is published for one device."""

    flops: float
    """FLOP/s of one device."""
    source: str


def other_peaks(device: str, precision: str) -> list[PublishedPeak]:
    """Return the peaks of a device that are published beside the one of the table."""
    row = find_hardware(device)
    return (
        []
        if row is None or precision != "bf16"
        else [PublishedPeak(flops, what) for flops, what in row.other_bf16_flops]
    )


@dataclass(frozen=True)
class Verdict:
    """What the rows say of the claim under one peak."""

    peak_flops: float
    """Of one device, FLOP/s."""
    peak_source: str
    mfu: float
    """Our MFU under this peak."""
    ratio: float | None
    """Our MFU over that of the median row."""
    word: Word
    """`none` where fewer than `MIN_ROWS` rows are fair."""
    within: int
    """Rows that say within by every reading."""
    straddling: int
    """Rows whose readings disagree."""


def decide(matches: Sequence[Match], mfu: float, peak: PublishedPeak, scale: float = 1.0) -> Verdict:
    """Decide what rows say under one peak.

    Args:
        matches: fair rows.
        mfu: our MFU under the first peak.
        peak: a peak of the device.
        scale: the first peak over this one.
    """
    said = Counter(says(one.ratios, scale) for one in matches)
    ratios = [scale * one.ratio for one in matches if one.ratio is not None]
    rows = len(matches)
    word: Word = "undecided"
    if rows < MIN_ROWS:
        word = "none"
    elif said["within"] >= _AGREED * rows:
        word = "within"
    elif said["outside"] >= _AGREED * rows:
        word = "outside"
    return Verdict(
        peak.flops, peak.source, scale * mfu, statistics.median(ratios) if ratios else None,
        word, said["within"], said["straddles"],
    )  # fmt: skip


def under_each_peak(matches: Sequence[Match], mfu: float, peaks: Sequence[PublishedPeak]) -> list[Verdict]:
    """Decide under each published peak; the first is the one that `mfu` refers to."""
    return [decide(matches, mfu, peak, peaks[0].flops / peak.flops) for peak in peaks]


def overall(verdicts: Sequence[Verdict]) -> Word:
    """Return the word that all peaks agree on; `undecided` where they do not."""
    words = {one.word for one in verdicts}
    return words.pop() if len(words) == 1 else "undecided"


def sentence(matches: Sequence[Match], verdicts: Sequence[Verdict]) -> str:
    """Return the verdict of at least `MIN_ROWS` rows in words."""
    word, first = overall(verdicts), verdicts[0]
    claim = f"{CLAIM * 100:.0f} % of comparable A100 runs"
    disagreement = "as the rows disagree" if len({one.word for one in verdicts}) == 1 else "as it depends on the peak"
    words = {
        "within": f"within {claim}, or better",
        "outside": f"outside {claim}",
        "undecided": f"undecided whether within {claim}, {disagreement}",
    }
    said = f"{first.within} of {len(matches)} say within"
    if first.straddling:
        said += f", {first.straddling} {'straddle' if first.straddling > 1 else 'straddles'} the claim, as the row's own convention or figure says otherwise"
    parts = [f"{words[word]}: {spread(matches)}", said]
    if len(verdicts) > 1:
        each = ", ".join(f"{one.word} with {one.peak_flops / 1e12:.4g} TFLOP/s" for one in verdicts)
        agreed = f"the same with each of the {len(verdicts)} published peaks of this device"
        parts.append(agreed if len({one.word for one in verdicts}) == 1 else f"of the device's published peaks: {each}")
    sources = len({match.row.publisher for match in matches})
    parts.append(
        f"rests on {len(matches)} {matches[0].row.kind} rows of {sources} source{'s' if sources > 1 else ''}, all counted causally"
    )
    return "; ".join(parts)


def spread(matches: Sequence[Match]) -> str:
    """Return the median and the extremes of the ratios in words."""
    ratios = [match.ratio for match in matches if match.ratio is not None]
    median = f"{statistics.median(ratios):.2f} of the median row"
    return median if len(ratios) == 1 else f"{median}, {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rows"
