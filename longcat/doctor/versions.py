"""Which torch, torch_npu and CANN belong together, by the table that their makers publish."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from longcat.provenance import DATA

TABLE = DATA / "reference" / "ascend_versions.csv"


@dataclass(frozen=True)
class Pair:
    """A row of the table: a release of torch_npu with what it was published for."""

    torch_npu: str
    torch: str
    cann: str
    source: str


@lru_cache(maxsize=1)
def published() -> tuple[Pair, ...]:
    """Read the table of documented pairs, newest first."""
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return tuple(Pair(**row) for row in csv.DictReader(stream))


def judge(torch: str | None, torch_npu: str | None, cann: str | None) -> tuple[str, str | None]:
    """Say whether three versions belong together.

    Args:
        torch: installed version, with or without a local label such as `+cpu`.
        torch_npu: installed version.
        cann: version of the toolkit; a folder if it could not be read.

    Returns:
        A line for people, and the problem if the documented table contradicts the versions.
    """
    if torch_npu is None:
        return "no torch_npu: torch alone, for CPU or CUDA", None
    if torch is None:
        return "torch is not installed", None
    plain = torch.partition("+")[0]
    if plain.split(".")[:2] != torch_npu.split(".")[:2]:
        return (
            f"torch {torch} and torch_npu {torch_npu} do not pair",
            f"torch {torch} and torch_npu {torch_npu} do not belong together: install torch_npu {plain}",
        )
    if cann is None:
        return "CANN is not set up", None
    rows = [row for row in published() if row.torch_npu == torch_npu]
    if not rows:
        near = [row for row in published() if row.torch_npu.startswith(f"{plain}rc")] or [
            row for row in published() if row.torch == plain
        ]
        known = f"; {near[0].torch_npu} was published for CANN {near[0].cann}" if near else ""
        return f"no published table names torch_npu {torch_npu}{known}", None
    if any(_same_release(row.cann, cann) for row in rows):
        return f"torch_npu {torch_npu} with CANN {cann}: a published pair", None
    wanted = _or([row.cann for row in rows])
    return (
        f"torch_npu {torch_npu} was published for CANN {wanted}, here is {cann}",
        f"torch_npu {torch_npu} was published for CANN {wanted}, CANN {cann} is set up: {_remedy(plain, cann, wanted)}",
    )


def _remedy(torch: str, cann: str, wanted: str) -> str:
    fitting = [row.torch_npu for row in published() if row.torch == torch and _same_release(row.cann, cann)]
    return f"install CANN {wanted}" + (f", or torch_npu {fitting[0]}" if fitting else "")


def _same_release(published_for: str, found: str) -> bool:
    """Whether CANN's version is of a release; 9.1.X stands for all of 9.1, and found may be longer (8.3.RC1.alpha001)."""
    asked, has = published_for.upper().split("."), found.upper().split(".")
    return len(has) >= len(asked) and all(one in ("X", other) for one, other in zip(asked, has, strict=False))


def _or(names: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(names))
