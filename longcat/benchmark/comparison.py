"""Which published runs a run may be compared with, and what the comparison says."""

from __future__ import annotations

import math
import statistics

from longcat.benchmark.references import Reference, references

CLAIM = 0.15
"""LongCat-2.0 is said to reach an MFU within 15 % of comparable A100 clusters."""


def nearest(activated_parameters: float, devices: int, sequence_length: int, count: int) -> list[Reference]:
    """Rows nearest in activated parameters, devices and sequence length, by sums of squared log ratios."""

    def distance(row: Reference) -> float:
        pairs = (
            (row.activated_parameters, activated_parameters),
            (row.devices, devices),
            (row.sequence_length, sequence_length),
        )
        return sum(math.log(theirs / ours) ** 2 for theirs, ours in pairs)

    return sorted(references(), key=distance)[:count]


def verdict(kind: str, mfu: float | None, rows: list[Reference]) -> tuple[str, float | None]:
    """What the comparison says, and the ratio to the median of the rows.

    Args:
        kind: accelerator kind.
        mfu: of the run, in the rows' convention (full attention).
        rows: the rows to compare with.
    """
    if mfu is None:
        return "no peak is known for this device, so there is no MFU to compare", None
    ratio = mfu / statistics.median(row.mfu for row in rows)
    if kind == "cpu":
        return "not an accelerator: the figures stand, the comparison with A100s says nothing", ratio
    low, high = (mfu / bound for bound in (max(r.mfu for r in rows), min(r.mfu for r in rows)))
    word = "within" if ratio >= 1 - CLAIM else "outside"
    return (
        f"{word} 15 % of comparable A100 runs: {ratio:.2f} of the median row ({low:.2f} of the best, {high:.2f} of the "
        f"weakest of {len(rows)}); dense rows, as no published A100 run of a mixture is in the table",
        ratio,
    )
