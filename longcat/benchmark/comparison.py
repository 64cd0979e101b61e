"""Which published runs a run may be compared with, and what the comparison says.

A row is fair where kind, precision and convention are the same and the sizes are near (`LIMITS`). Each ratio is worked
out in the row's own convention: ours counted as theirs, over theirs. A verdict takes several rows, not all of one source.
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
"""LongCat-2.0 is said to reach an MFU within 15 % of comparable A100 clusters."""
LIMITS = {"activated_parameters": 4.0, "devices": 8.0, "sequence_length": 4.0}
"""Largest factor between our size and a row's. Wider, and the table's own rows differ by more than the claim."""
_BASELINE = ("A100 ", "A800 ")
"""An A800 is an A100 with narrower links."""
_AGREED = 0.75
"""Share of the rows that must say the same, or the verdict is that they disagree."""
_FEW = 3
"""Rows that a verdict takes at least: fewer do not tell how far apart such runs are."""


@dataclass(frozen=True)
class Subject:
    """The run that is compared."""

    kind: str
    """dense or moe."""
    activated_parameters: float
    """Weights that a mean token is multiplied by."""
    devices: int
    sequence_length: int
    precision: str
    mfu_by_convention: Mapping[str, float]
    """Empty where no peak is known."""
    tflops_per_device: float
    """Causal attention."""

    @property
    def speed(self) -> float | None:
        """Peak of one device in TFLOP/s, as the utilisations have it."""
        causal = self.mfu_by_convention.get("longcat")
        return self.tflops_per_device / causal if causal else None


@dataclass(frozen=True)
class Match:
    """A row beside our run."""

    row: Reference
    ours: float | None
    """Our MFU in the row's convention; none where that is not known."""
    ratio: float | None
    """Ours over theirs."""
    speed_ratio: float | None
    """The same of FLOP/s a device: what an hour of a device is worth."""
    differences: tuple[str, ...]
    """Why it is not fair; empty where it is."""


@dataclass(frozen=True)
class Comparison:
    """What the rows say."""

    fair: bool
    """Whether `matches` are fair rows; else they are the nearest there are."""
    matches: tuple[Match, ...]
    others: tuple[Match, ...]
    """Where too few A100 rows are fair for a verdict: the nearest of this kind on other devices, for orientation."""
    ratio: float | None
    """To the median of `matches`."""
    ratio_low: float | None
    ratio_high: float | None
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON: each row flat, with what was found of it."""
        return asdict(self) | {
            "matches": [_flat(one) for one in self.matches],
            "others": [_flat(one) for one in self.others],
        }


def _flat(match: Match) -> dict[str, Any]:
    found = asdict(match)
    return found.pop("row") | found | {"mfu": match.row.comparable_mfu}


def subject(workload: Workload, speed: Speed, precision: str) -> Subject:
    """The run that is compared: what was trained, how fast, and in which precision the matrix products were."""
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
    """Set a run against the nearest published A100 runs.

    Args:
        ours: the run.
        accelerator: whether it ran on one; a CPU is compared with nothing.
        count: most rows to compare with.
        rows: to choose from; the table's if none.
    """
    near = [_match(ours, row) for row in (references() if rows is None else rows) if row.mfu and _sized(row)]
    near.sort(key=lambda match: _distance(ours, match.row))
    elsewhere = [match for match in near if not match.row.device.startswith(_BASELINE) and match.row.kind == ours.kind]
    near = [match for match in near if match.row.device.startswith(_BASELINE)]
    fair = [match for match in near if not match.differences]
    lacking = accelerator and len(fair) < _FEW
    # without a fair row, those of the other kind that could be worked out: dense rows say a little of a mixture
    chosen = _varied(fair, count) if fair else sorted(near, key=lambda match: match.ratio is None)[:count]
    ratios = [match.ratio for match in chosen if match.ratio is not None]
    return Comparison(
        fair=bool(fair),
        matches=tuple(chosen),
        others=tuple(sorted(elsewhere, key=lambda match: match.ratio is None)[:count]) if lacking else (),
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        verdict=_verdict(ours, accelerator, bool(fair), chosen, ratios),
    )


def _sized(row: Reference) -> bool:
    return row.devices is not None and row.sequence_length is not None and row.precision != ""


def _varied(near: Sequence[Match], count: int) -> list[Match]:
    """The nearest, at most half of them of one source as long as others have some: one tool's rows are alike."""
    taken: Counter[str] = Counter()
    turns = []
    for match in near:
        turns.append(taken[match.row.source] >= -(-count // 2))
        taken[match.row.source] += 1
    ranked = sorted(range(len(near)), key=lambda number: (turns[number], number))[:count]
    return [near[number] for number in sorted(ranked)]


def _match(ours: Subject, row: Reference) -> Match:
    mine = ours.mfu_by_convention.get(row.convention)
    theirs = row.comparable_mfu
    ratio = mine / theirs if mine is not None and theirs else None
    speed_ratio = ratio * ours.speed / row.peak_tflops if ratio is not None and ours.speed and row.peak_tflops else None
    return Match(row, mine, ratio, speed_ratio, tuple(_differences(ours, row)))


def _differences(ours: Subject, row: Reference) -> list[str]:
    found = []
    if row.kind != ours.kind:
        found.append("a mixture" if row.kind == "moe" else "dense")
    if _width(row.precision) != _width(ours.precision):
        found.append(f"in {row.precision}")
    if ours.mfu_by_convention and row.convention not in ours.mfu_by_convention:
        found.append("counted in a way that is not known")
    for name, limit in LIMITS.items():
        factor = getattr(row, name) / getattr(ours, name)
        if max(factor, 1 / factor) > limit:
            words = name.replace("_", " ")
            found.append(f"{_times(factor)} x the {words}" if factor > 1 else f"1/{_times(1 / factor)} of the {words}")
    return found


def _width(precision: str) -> int:
    """Bits: a product of bf16 takes as long as one of fp16."""
    return int(precision.removeprefix("bf").removeprefix("fp"))


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _distance(ours: Subject, row: Reference) -> float:
    """Logarithms of the ratios of sizes, and a little for what else differs."""
    sizes = sum(math.log(getattr(row, name) / getattr(ours, name)) ** 2 for name in LIMITS)
    return sizes + (row.kind != ours.kind) + (_width(row.precision) != _width(ours.precision))


def _verdict(ours: Subject, accelerator: bool, fair: bool, matches: Sequence[Match], ratios: Sequence[float]) -> str:
    if not ours.mfu_by_convention:
        return "no peak is known for this device, so there is no MFU to compare"
    if not accelerator:
        return "not an accelerator: the figures stand, the comparison with A100s says nothing"
    if not ratios:
        return "no published A100 run can be compared"
    ratio = (
        f"{statistics.median(ratios):.2f} of the median row"
        if len(ratios) == 1
        else f"{statistics.median(ratios):.2f} of the median row, {min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} rows"
    )
    if not fair:
        nearest = matches[0]
        return (
            f"no fair A100 row is published: the nearest, {nearest.row.model} on {nearest.row.devices}, is "
            f"{', '.join(nearest.differences)}. Against rows like it the MFU is {ratio}, which proves nothing"
        )
    agreeing = sum(one >= 1 - CLAIM for one in ratios)
    claim = f"{CLAIM * 100:.0f} % of comparable A100 runs"
    counted = "/".join(sorted({match.row.convention for match in matches}))
    if len(ratios) < _FEW:
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
