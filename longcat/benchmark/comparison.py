"""Comparison of a run with published runs: which rows are fair, the ratios, and the verdict.

A row is fair where kind and precision are those of the run, its convention is known and the sizes are near (`LIMITS`).
Each ratio is our MFU, counted by the row's own convention, over the row's MFU. A verdict takes at least `_MIN_ROWS`
rows, not all of one source.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longcat.benchmark.references import Reference, references
from longcat.costs.conventions import side_by_side
from longcat.costs.mfu import Speed
from longcat.costs.workload import Workload

CLAIM = 0.15
"""LongCat-2.0 is claimed to reach an MFU within 15 % of comparable A100 clusters."""
LIMITS = {"activated_parameters": 4.0, "devices": 8.0, "sequence_length": 4.0}
"""Largest factor between our size and a row's; with wider limits the table's own rows differ by more than the claim."""
_BASELINE = ("A100 ", "A800 ")
"""Devices that count as A100: an A800 is an A100 with narrower links."""
_AGREED = 0.75
"""Fraction of the rows that must agree; otherwise the verdict is that they disagree."""
_MIN_ROWS = 3
"""Rows that a verdict takes at least: fewer do not show how far apart such runs are."""


@dataclass(frozen=True)
class Subject:
    """Our run as a subject of comparison: kind, sizes, precision and MFU by convention."""

    kind: str
    """dense or moe."""
    activated_parameters: float
    """Weights that a mean token is multiplied by, without embedding and other look-ups."""
    devices: int
    sequence_length: int
    precision: str
    mfu_by_convention: Mapping[str, float]
    """MFU as a fraction, by convention (`longcat.costs.conventions`); empty where the device's peak is not known."""
    tflops_per_device: float
    """Useful TFLOP/s of one device, with causal attention."""

    @property
    def peak_tflops(self) -> float | None:
        """Return the peak of one device in TFLOP/s that the utilisations refer to; None where it is not known."""
        causal = self.mfu_by_convention.get("longcat")
        return self.tflops_per_device / causal if causal else None


@dataclass(frozen=True)
class Match:
    """A published run beside our run."""

    row: Reference
    own_mfu: float | None
    """Our MFU in the row's convention, as a fraction; None where that is not known."""
    ratio: float | None
    """Our MFU over the row's."""
    speed_ratio: float | None
    """Our useful FLOP/s per device over the row's: the ratio of what an hour of a device is worth."""
    differences: tuple[str, ...]
    """Reasons why the row is not fair; empty where it is."""


@dataclass(frozen=True)
class Comparison:
    """The result of comparing a run with published runs."""

    fair: bool
    """Whether `matches` are fair rows; otherwise they are the nearest rows."""
    matches: tuple[Match, ...]
    """A100 rows that the run is compared with."""
    other_devices: tuple[Match, ...]
    """Nearest rows of this kind on other devices, for orientation, where too few A100 rows are fair for a verdict."""
    ratio: float | None
    """Median of the ratios of `matches`."""
    ratio_low: float | None
    """Smallest of the ratios."""
    ratio_high: float | None
    """Largest of the ratios."""
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values, with each match flattened into its row."""
        return asdict(self) | {
            "matches": [_flat(one) for one in self.matches],
            "other_devices": [_flat(one) for one in self.other_devices],
        }


def _flat(match: Match) -> dict[str, Any]:
    values = asdict(match)
    return values.pop("row") | values | {"mfu": match.row.comparable_mfu}


def subject(workload: Workload, speed: Speed, precision: str) -> Subject:
    """Make the subject of a comparison from the workload, its speed and the precision of its matrix products."""
    conventions = side_by_side(workload, speed.sequence_length)
    achieved = {name: flops * speed.tokens_per_second for name, flops in conventions.items()}
    peak = speed.peak_flops
    return Subject(
        kind="moe" if workload.mixture else "dense",
        activated_parameters=workload.activated_parameters,
        devices=speed.devices,
        sequence_length=speed.sequence_length,
        precision=precision,
        mfu_by_convention={} if peak is None else {name: flops / peak for name, flops in achieved.items()},
        tflops_per_device=achieved["longcat"] / speed.devices / 1e12,
    )


def compare(ours: Subject, *, accelerator: bool, count: int, rows: Sequence[Reference] | None = None) -> Comparison:
    """Compare a run with the nearest published A100 runs.

    Args:
        ours: our run.
        accelerator: whether it ran on an accelerator; a run on a CPU gets no verdict.
        count: rows to compare with at most.
        rows: published runs to choose from; the whole table if None.
    """
    near = [_match(ours, row) for row in (references() if rows is None else rows) if row.mfu and _sized(row)]
    near.sort(key=lambda match: _distance(ours, match.row))
    other_devices = [
        match for match in near if not match.row.device.startswith(_BASELINE) and match.row.kind == ours.kind
    ]
    near = [match for match in near if match.row.device.startswith(_BASELINE)]
    fair = [match for match in near if not match.differences]
    too_few = accelerator and len(fair) < _MIN_ROWS
    # without a fair row, prefer rows whose ratio can be computed, also of the other kind
    chosen = _varied(fair, count) if fair else sorted(near, key=lambda match: match.ratio is None)[:count]
    ratios = [match.ratio for match in chosen if match.ratio is not None]
    return Comparison(
        fair=bool(fair),
        matches=tuple(chosen),
        other_devices=tuple(sorted(other_devices, key=lambda match: match.ratio is None)[:count]) if too_few else (),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        verdict=_verdict(ours, accelerator, bool(fair), chosen, ratios),
    )


def _sized(row: Reference) -> bool:
    return row.devices is not None and row.sequence_length is not None and row.precision != ""


def _varied(near: Sequence[Match], count: int) -> list[Match]:
    """Take the nearest rows, at most half of them from one source while others have some: a tool's rows are similar."""
    rows_of: Counter[str] = Counter()
    over_quota = []
    for match in near:
        over_quota.append(rows_of[match.row.source] >= -(-count // 2))
        rows_of[match.row.source] += 1
    ranked = sorted(range(len(near)), key=lambda number: (over_quota[number], number))[:count]
    return [near[number] for number in sorted(ranked)]


def _match(ours: Subject, row: Reference) -> Match:
    our_mfu, row_mfu = ours.mfu_by_convention.get(row.convention), row.comparable_mfu
    ratio = our_mfu / row_mfu if our_mfu is not None and row_mfu else None
    our_peak, row_peak = ours.peak_tflops, row.peak_tflops
    speed_ratio = ratio * our_peak / row_peak if ratio is not None and our_peak and row_peak else None
    return Match(row, our_mfu, ratio, speed_ratio, tuple(_differences(ours, row)))


def _differences(ours: Subject, row: Reference) -> list[str]:
    reasons = []
    if row.kind != ours.kind:
        reasons.append("a mixture" if row.kind == "moe" else "dense")
    if _width(row.precision) != _width(ours.precision):
        reasons.append(f"in {row.precision}")
    if ours.mfu_by_convention and row.convention not in ours.mfu_by_convention:
        reasons.append("counted by an unknown convention")
    for name, limit in LIMITS.items():
        factor = getattr(row, name) / getattr(ours, name)
        if max(factor, 1 / factor) > limit:
            words = name.replace("_", " ")
            reasons.append(
                f"{_times(factor)} x the {words}" if factor > 1 else f"1/{_times(1 / factor)} of the {words}"
            )
    return reasons


def _width(precision: str) -> int:
    """Return the bits of a precision: matrix products in bf16 and fp16 are equally fast."""
    return int(precision.removeprefix("bf").removeprefix("fp"))


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _distance(ours: Subject, row: Reference) -> float:
    """Return the sum of the squared logarithms of the size ratios, plus 1 each for another kind or precision."""
    sizes = sum(math.log(getattr(row, name) / getattr(ours, name)) ** 2 for name in LIMITS)
    return sizes + (row.kind != ours.kind) + (_width(row.precision) != _width(ours.precision))


def _verdict(ours: Subject, accelerator: bool, fair: bool, matches: Sequence[Match], ratios: Sequence[float]) -> str:
    if not ours.mfu_by_convention:
        return "the peak of this device is not known, so there is no MFU to compare"
    if not accelerator:
        return "CPU run: utilisation is valid, comparison with A100s is not meaningful"
    if not ratios:
        return "no published A100 run can be compared with"
    ratio = (
        f"{statistics.median(ratios):.2f} of the median row"
        if len(ratios) == 1
        else f"{statistics.median(ratios):.2f} of the median row, {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rows"
    )
    if not fair:
        nearest = matches[0]
        return (
            f"no fair A100 row is published: the nearest, {nearest.row.model} on {nearest.row.devices}, is "
            f"{', '.join(nearest.differences)}. Against rows like it the MFU is {ratio}, which is no evidence"
        )
    agreeing = sum(one >= 1 - CLAIM for one in ratios)
    claim = f"{CLAIM * 100:.0f} % of comparable A100 runs"
    counted = "/".join(sorted({match.row.convention for match in matches}))
    if len(ratios) < _MIN_ROWS:
        each = " and ".join(
            f"{one:.2f} of that of {match.row.model} on {match.row.devices} x {match.row.device}"
            for one, match in zip(ratios, matches, strict=True)
        )
        return (
            f"too few fair A100 rows for a verdict: the MFU is {each}, counted as {counted}; "
            f"{agreeing} of {len(ratios)} would say within {CLAIM * 100:.0f} %"
        )
    if agreeing >= _AGREED * len(ratios):
        word = f"within {claim}, or better"
    elif agreeing <= (1 - _AGREED) * len(ratios):
        word = f"outside {claim}"
    else:
        word = f"undecided whether within {claim}, as the rows disagree"
    sources = len({match.row.source for match in matches})
    rests = (
        f"rests on {len(ratios)} {ours.kind} rows of {sources} source{'s' if sources > 1 else ''}, counted as {counted}"
    )
    return f"{word}: {ratio}; {agreeing} of {len(ratios)} say within; {rests}"
