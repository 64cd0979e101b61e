"""Hold `longcat plan` against published measurements: time, rank of layouts, memory, and who runs out of it.

`python benchmarks/plan_validation.py [--rows FOLDER] [--picture FILE.png] [--json]`. Without the A100 tables (see plan_rows.py)
the B200 rows are reported alone. Every figure is of rows as they were run, and once more of the command without a word on
kernels and on dividing tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plan_rows
from plan_rows import Row

from longcat.errors import UserError
from longcat.figures import BLUE, GREY, ORANGE, canvas, legend, png
from longcat.plan.device import find_device
from longcat.plan.judge import Judged, judge, setting


@dataclass(frozen=True)
class Held:
    """A row and what is predicted of it."""

    row: Row
    judged: Judged

    @property
    def error(self) -> float:
        """Predicted over measured step time, less one."""
        return self.judged.step.seconds / self.row.seconds - 1 if self.row.seconds else math.nan

    @property
    def covered(self) -> bool:
        """Whether the measured time lies in the interval."""
        low, high = self.judged.bounds
        return low <= (self.row.seconds or 0.0) <= high


def predicted(rows: Iterable[Row], device: str, as_run: bool = True) -> list[Held]:
    kind, found = find_device(device), []
    for row in rows:
        of = setting(row.model, kind, kernels=row.kernels if as_run else "auto")
        if as_run:
            of = replace(of, stack=replace(of.stack, tokens_divided=row.tokens_divided))
        found.append(Held(row, judge(of, row.layout)))
    return found


def usual_kernels(row: Row) -> str:
    """The kernels that the command takes where it is not told: those of the sweep's stack."""
    return setting(row.model, find_device("a100-80gb")).kernels_of(row.layout.recompute).name


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, equal values their mean."""
    return [sum(other < one for other in values) + (sum(other == one for other in values) - 1) / 2 for one in values]


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's correlation; nan of fewer than three rows."""
    return statistics.correlation(ranks(one), ranks(other)) if len(one) > 2 else math.nan


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    return ordered[below] + (place - below) * (ordered[min(below + 1, len(ordered) - 1)] - ordered[below])


def times(held: Sequence[Held]) -> dict[str, float]:
    timed = [one for one in held if one.row.seconds]
    errors = [abs(one.error) for one in timed]
    return {
        "rows": len(timed),
        "median_error": statistics.median(errors),
        "p90_error": quantile(errors, 0.9),
        "largest_error": max(errors),
        "bias": statistics.fmean(one.error for one in timed),
        "rank": rank_correlation([one.judged.step.seconds for one in timed], [one.row.seconds or 0.0 for one in timed]),
        "covered": statistics.fmean(one.covered for one in timed),
    }


def memory_calls(held: Sequence[Held]) -> dict[str, float]:
    ran, failed = ([one for one in held if bool(one.row.seconds) is ok] for ok in (True, False))
    false_fits, false_full = sum(one.judged.fits for one in failed), sum(not one.judged.fits for one in ran)
    return {
        "ran": len(ran),
        "out_of_memory": len(failed),
        "right": 1 - (false_fits + false_full) / len(held),
        "false_fits": false_fits / max(1, len(failed)),
        "false_full": false_full / max(1, len(ran)),
    }


def peaks(held: Sequence[Held]) -> dict[str, float]:
    errors = [abs(one.judged.memory.peak_bytes / one.row.peak_bytes - 1) for one in held if one.row.peak_bytes]
    return {"rows": len(errors), "median_error": statistics.median(errors), "largest_error": max(errors)}


def report(rows: Path | None) -> tuple[dict[str, Any], dict[str, list[Held]]]:
    b200 = predicted(plan_rows.b200_rows(), "b200")
    found: dict[str, Any] = {
        "b200": {
            "time": _parts(b200, times, plan_rows.FITTED_B200),
            "memory": peaks(b200),
        }
    }
    everything = {"b200": b200}
    if rows is not None:
        loaded = plan_rows.a100_rows(rows)
        ours = [row for row in loaded if row.kernels == usual_kernels(row)]
        for name, as_run, some in (
            ("a100", True, loaded),
            ("a100, the stack's kernels, no word on them", False, ours),
            ("a100, all kernels, no word on them", False, loaded),
        ):
            held = predicted(some, "a100-80gb", as_run)
            found[name] = {
                "time": _parts([one for one in held if one.row.seconds], times, plan_rows.FITTED),
                "memory": _parts(held, memory_calls, plan_rows.FITTED),
            }
            everything.setdefault(name, held)
    return found, everything


def _parts(held: list[Held], measure: Callable[[Sequence[Held]], dict[str, float]], fitted: set[str]) -> dict[str, Any]:
    groups = {f"fitted: {', '.join(sorted(fitted))}": [one for one in held if one.row.fitted]}
    groups["held out"] = [one for one in held if not one.row.fitted]
    groups["all"] = held
    for group in sorted({one.row.group for one in held}):
        groups[group] = [one for one in held if one.row.group == group]
    return {name: measure(some) for name, some in groups.items() if some}


def show(found: dict[str, Any]) -> None:
    for name, parts in found.items():
        print(f"\n{name}: step time")
        print(f"{'rows':<28}{'n':>5}{'median':>9}{'90th':>8}{'largest':>9}{'bias':>8}{'rank':>7}{'covered':>9}")
        for group, one in parts["time"].items():
            print(
                f"{group:<28}{one['rows']:>5}{one['median_error']:>9.1%}{one['p90_error']:>8.1%}"
                f"{one['largest_error']:>9.1%}{one['bias']:>8.1%}{one['rank']:>7.3f}{one['covered']:>9.0%}"
            )
        if "median_error" in parts["memory"]:
            one = parts["memory"]
            print(
                f"peak memory of {one['rows']} rows: median error {one['median_error']:.1%}, largest {one['largest_error']:.1%}"
            )
            continue
        print(f"{'who runs out of memory':<28}{'ran':>5}{'failed':>8}{'right':>8}{'false fits':>12}{'false full':>12}")
        for group, one in parts["memory"].items():
            print(
                f"{group:<28}{one['ran']:>5}{one['out_of_memory']:>8}{one['right']:>8.1%}{one['false_fits']:>12.1%}"
                f"{one['false_full']:>12.1%}"
            )


def picture(everything: dict[str, list[Held]]) -> bytes:
    """Plot predicted against measured step times, those that were fitted in grey."""
    figure, axes = canvas(5.2, narrow=False)
    for name, colour in (("a100", BLUE), ("b200", ORANGE)):
        for fitted in (True, False):
            some = [one for one in everything.get(name, []) if one.row.seconds and one.row.fitted is fitted]
            if some:
                axes.scatter(
                    [one.row.seconds for one in some], [one.judged.step.seconds for one in some], s=16, alpha=0.75,
                    color=GREY if fitted else colour, marker="o" if name == "a100" else "^",
                    label=f"{name.upper()}, {'fitted' if fitted else 'held out'}", zorder=2 if fitted else 3,
                )  # fmt: skip
    every = [one.row.seconds for some in everything.values() for one in some if one.row.seconds]
    ends = [0.8 * min(every), 1.25 * max(every)]
    axes.plot(ends, ends, color="#1c2330", linewidth=1)
    for factor in (0.8, 1.25):
        axes.plot(ends, [factor * one for one in ends], color="#1c2330", linewidth=0.6, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured step, s")
    axes.set_ylabel("predicted step, s")
    legend(figure, 4)
    return png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=Path, help="folder with the tables of the A100 sweep, as CSV")
    parser.add_argument("--picture", type=Path, help="draw predicted against measured into this PNG")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        found, everything = report(options.rows)
    except UserError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    if options.picture:
        try:
            options.picture.write_bytes(picture(everything))
        except OSError as error:
            parser.error(f"--picture {options.picture}: {error.strerror}")


if __name__ == "__main__":
    main()
