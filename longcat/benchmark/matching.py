"""Our run beside a published one: both counted in the same way, what differs, and what the row says of the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from longcat.benchmark.references import Reference
from longcat.costs.conventions import side_by_side
from longcat.costs.hardware import find_hardware
from longcat.costs.mfu import Recomputation, Speed
from longcat.costs.workload import Workload

CLAIM = 0.15
"""LongCat-2.0 is claimed to reach an MFU within 15 % of comparable A100 clusters."""
LIMITS = {"activated_parameters": 4.0, "devices": 8.0, "sequence_length": 4.0}
"""Largest factor between our size and a row's; with wider limits the table's own rows differ by more than the claim."""
BASELINE = ("A100 ", "A100,", "A800 ", "A800,")
"""Devices that count as A100: an A800 is an A100 with narrower links."""
Routing = Literal["", "dropless", "drops", "forced balance"]
"""What a mixture does with the tokens of a crowded expert; empty where it is not known."""
Says = Literal["within", "outside", "straddles"]
_NODE = 8
"""Devices of a node where the table of hardware does not say."""


@dataclass(frozen=True)
class Subject:
    """Our run as a subject of comparison: what it is, its sizes, and its MFU by convention."""

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
    recomputation: Recomputation = "none"
    several_nodes: bool | None = None
    """Whether it runs on more than one node; None where that is not known."""
    routing: Routing = ""
    fine_tuning: bool = False

    @property
    def peak_tflops(self) -> float | None:
        """Return the peak of one device in TFLOP/s that the utilisations refer to; None where it is not known."""
        causal = self.mfu_by_convention.get("longcat")
        return self.tflops_per_device / causal if causal else None

    @property
    def causal_mfu(self) -> float | None:
        """Return the MFU by our own count; None where the peak is not known."""
        return self.mfu_by_convention.get("longcat")


@dataclass(frozen=True)
class Match:
    """A published run beside our run."""

    row: Reference
    mfu: float | None
    """The row's MFU as we count it: causal attention, matrices only. As published where it cannot be counted so."""
    own_mfu: float | None
    """Our MFU in the same count."""
    ratio: float | None
    """Our MFU over the row's."""
    row_mfu_own_convention: float | None
    """The row's MFU as its source counts it."""
    own_mfu_own_convention: float | None
    """Our MFU as the row's source counts it."""
    ratio_own_convention: float | None
    speed_ratio: float | None
    """Our useful FLOP/s per device over the row's: the ratio of what an hour of a device is worth."""
    ratios: tuple[float, ...]
    """Every reading of the row: causal and its own convention, from the published MFU and from the published speed."""
    differences: tuple[str, ...]
    """Reasons why the row is not fair; empty where it is."""
    differing: Mapping[str, str]
    """What differs but does not make the row unfair by itself: `nodes`, `recomputation` or `routing`, with its words."""

    @property
    def says(self) -> Says | None:
        """Return what the row says of the claim; it straddles the claim where its readings disagree."""
        return says(self.ratios)

    def decided_by(self, subject: str) -> Match:
        """Return this match as unfair, since what differs in `subject` would decide the verdict."""
        reason = f"{self.differing[subject]}, which would decide"
        rest = {name: words for name, words in self.differing.items() if name != subject}
        return replace(self, differences=(*self.differences, reason), differing=rest)

    def as_dict(self) -> dict[str, Any]:
        """Return the columns of the row and what was found about it as JSON values."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("row", "differing")}
        columns = {name: getattr(self.row, name) for name in self.row.__dataclass_fields__}
        return columns | found | {"says": self.says, "notes": list(self.differing.values())}


def says(ratios: tuple[float, ...], scale: float = 1.0) -> Says | None:
    """Return what the readings of a row say of the claim, with our MFU multiplied by `scale`; None without readings."""
    if not ratios:
        return None
    within = [scale * ratio >= 1 - CLAIM for ratio in ratios]
    return "within" if all(within) else "straddles" if any(within) else "outside"


def several_nodes(device: str, devices: int) -> bool | None:
    """Return whether so many devices are more than one node of their usual kind; None where that is not known."""
    row = find_hardware(device)
    if row is not None and row.devices_per_node is None:
        return None
    return devices > (_NODE if row is None or row.devices_per_node is None else row.devices_per_node)


def subject(workload: Workload, speed: Speed, precision: str, **facts: Any) -> Subject:
    """Make the subject of a comparison from the workload, its speed and the precision of its matrix products.

    Args:
        workload: model that is trained.
        speed: its speed, and the peak.
        precision: of the matrix products.
        facts: further fields of `Subject`.
    """
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
        **facts,
    )


def match(ours: Subject, row: Reference) -> Match:
    """Set a published run beside ours."""
    own, own_convention = ours.causal_mfu, ours.mfu_by_convention.get(row.convention)
    published, rederived = row.mfu, row.rederived_mfu if row.reason else None
    pairs = [(own, row.causal_mfu), (own_convention, published), (own_convention, rederived)]
    if row.reason:
        pairs += [(own, row.carried_over_mfu), (own, row.rederived_causal_mfu)]
    readings = tuple(ratio for ratio in (_ratio(*pair) for pair in pairs) if ratio is not None)
    causal = row.causal_mfu is not None
    mfu, own_mfu = (row.causal_mfu, own) if causal else (published, own_convention)
    ratio = _ratio(own_mfu, mfu)
    our_peak, row_peak = ours.peak_tflops, row.peak_tflops
    return Match(
        row=row,
        mfu=mfu,
        own_mfu=own_mfu,
        ratio=ratio,
        row_mfu_own_convention=published,
        own_mfu_own_convention=own_convention,
        ratio_own_convention=_ratio(own_convention, published),
        speed_ratio=ratio * our_peak / row_peak if ratio is not None and our_peak and row_peak else None,
        ratios=readings,
        differences=tuple(_differences(ours, row)),
        differing=_differing(ours, row),
    )


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _differences(ours: Subject, row: Reference) -> list[str]:
    reasons = []
    if row.kind != ours.kind:
        reasons.append("a mixture" if row.kind == "moe" else "dense")
    if ours.fine_tuning != (row.task == "fine-tuning"):
        reasons.append("fine-tuning" if row.task == "fine-tuning" else "pre-training, not fine-tuning")
    if width(row.precision) != width(ours.precision):
        reasons.append(f"in {row.precision}")
    if ours.mfu_by_convention and row.causal_mfu is None and row.convention not in ours.mfu_by_convention:
        reasons.append("counted by an unknown convention")
    if "sequence_length" in row.guessed:
        reasons.append("of a sequence length that is only guessed")
    for name, limit in LIMITS.items():
        factor = getattr(row, name) / getattr(ours, name)
        if max(factor, 1 / factor) > limit:
            words = name.replace("_", " ")
            reasons.append(
                f"{_times(factor)} x the {words}" if factor > 1 else f"1/{_times(1 / factor)} of the {words}"
            )
    return reasons


def _differing(ours: Subject, row: Reference) -> dict[str, str]:
    """What differs and may decide, by subject."""
    found = {}
    nodes = several_nodes(row.device, row.devices or 1)
    if None not in (nodes, ours.several_nodes) and nodes != ours.several_nodes:
        found["nodes"] = "on several nodes" if nodes else "on one node"
    if row.recomputation and row.recomputation != ours.recomputation:
        found["recomputation"] = f"recomputation {row.recomputation}"
    if row.routing and row.routing != ours.routing:
        found["routing"] = {"drops": "drops tokens", "forced balance": "experts balanced by force"}.get(
            row.routing, row.routing
        )
    return found


def width(precision: str) -> int:
    """Return the bits of a precision: matrix products in bf16 and fp16 are equally fast."""
    return int(precision.removeprefix("bf").removeprefix("fp"))


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def distance(ours: Subject, one: Match) -> float:
    """Return how unlike a row is: squared logarithms of the size ratios, 1 for another kind or precision, and
    a half for each of the other differences.
    """
    row = one.row
    sizes = sum(math.log(getattr(row, name) / getattr(ours, name)) ** 2 for name in LIMITS)
    return sizes + (row.kind != ours.kind) + (width(row.precision) != width(ours.precision)) + len(one.differing) / 2
