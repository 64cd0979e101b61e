"""Risks of a move, the gravest first: each with what it rests on and what would make it smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from longcat.assess.sovereignty import Audit
from longcat.printable import counted, large_bytes

Grade = Literal["blocks", "costs", "watch"]
GRADES: tuple[Grade, ...] = ("blocks", "costs", "watch")
"""What a risk does: nothing runs before it is solved, or it costs time or money, or it has to be measured."""
_TIGHT = 0.9
"""Share of the memory above which a layout is called tight."""
_WIDE = 1.5
"""Ratio of the slowest to the fastest expected step above which an interval is called wide."""
_SLOWER = 1.0
_TOLD = 0.05
"""Difference from what a log tells of itself up to which it is the same."""
_AS_PLANNED = 0.1
"""Difference from the planner's speed up to which a run is as planned."""


@dataclass(frozen=True)
class Risk:
    """Something that may go wrong."""

    grade: Grade
    what: str
    why: str
    """The figures that it rests on."""
    instead: str
    """What to do about it."""

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)


def risks_of(sections: Mapping[str, Any], stacks: Mapping[str, Audit]) -> list[Risk]:
    """List the risks of an assessment, the gravest first."""
    found = [
        *_of_code(sections.get("code")),
        *_of_plan(sections.get("plan")),
        *_of_speed(sections),
        *_of_the_comparison(sections),
    ]
    found += [*_of_today(sections.get("today")), *_of_stack(stacks.get("target"))]
    return sorted(found, key=lambda risk: GRADES.index(risk.grade))


def _of_code(code: Mapping[str, Any] | None) -> Iterator[Risk]:
    if code is None:
        return
    rows = code["findings"]
    kernels = [row for row in rows if row["kind"] == "none"]
    if kernels:
        yield Risk(
            "blocks",
            f"{counted(len(kernels), 'place')} of the code without an equivalent on an Ascend",
            "; ".join(sorted({f"{row['what']} ({row['file']}:{row['line']})" for row in kernels})[:5]),
            "replace them first: longcat port scan names what with",
        )
    slow = [row for row in rows if row["kind"] in ("operator", "shapes")]
    if slow:
        yield Risk(
            "costs",
            f"{counted(len(slow), 'place')} that will be slower there: operators without a kernel, or shapes that depend on data",
            "; ".join(sorted({f"{row['what']} ({row['file']}:{row['line']})" for row in slow})[:5]),
            "measure them with longcat port check, then rewrite",
        )
    numbers = [row for row in rows if row["kind"] == "precision"]
    if numbers:
        yield Risk(
            "watch",
            f"{counted(len(numbers), 'setting')} of precision or determinism with another meaning there",
            "; ".join(sorted({f"{row['what']} ({row['file']}:{row['line']})" for row in numbers})[:5]),
            "compare losses with longcat port check before the first long run",
        )


def _of_plan(plan: Mapping[str, Any] | None) -> Iterator[Risk]:
    if plan is None:
        return
    best = plan["best"][0]
    room = best["memory_bytes"] - best["reserve_bytes"]
    if best["peak_bytes"] > _TIGHT * room:
        yield Risk(
            "costs",
            f"memory is tight: {large_bytes(best['peak_bytes'])} of {large_bytes(room)}",
            f"the fastest layout that fits: {best['sentence']}",
            "longcat pretrain --dry-run on the real code, before devices are ordered"
            if plan["family"] == "longcat"
            else "run one step of this layout on a few devices of that memory before all are ordered",
        )
    ratio = best["step_seconds_high"] / best["step_seconds_low"]
    if ratio > _WIDE:
        yield Risk(
            "watch",
            f"the time of a step is known to a factor of {ratio:.1f} only",
            f"efficiencies of {plan['efficiency']}, confidence {plan['confidence']}: {plan['fitted_on']}",
            "longcat benchmark on one node of the target, then longcat plan --calibration RUN",
        )
    moving = sum(part["seconds"] for part in best["parts"] if part["kind"] == "communication") / best["step_seconds"]
    if moving > 0.25:
        yield Risk(
            "costs",
            f"{moving:.0%} of a step is waiting for the network",
            best["sentence"],
            "faster links between nodes, or a larger batch; longcat plan --link shows what they would give",
        )


def _of_speed(sections: Mapping[str, Any]) -> Iterator[Risk]:
    costs = sections.get("cost", {})
    if not {"today", "target"} <= set(costs):
        return
    now, then = costs["today"]["tokens_per_second"][1], costs["target"]["tokens_per_second"]
    if then[0] < _SLOWER * now:
        yield Risk(
            "costs",
            f"training may be slower than today: {then[1] / now:.2f} times its speed ({then[0] / now:.2f} to {then[2] / now:.2f})",
            f"{then[1]:,.0f} tokens a second on {costs['target']['devices']} devices, {now:,.0f} today on {costs['today']['devices']}",
            "more devices: longcat plan tells how many",
        )


def _of_the_comparison(sections: Mapping[str, Any]) -> Iterator[Risk]:
    """Say how far today's run stays behind the planner's best layout, with which the target is compared."""
    planner = sections.get("today", {}).get("planner")
    target = sections.get("cost", {}).get("target")
    if planner is None or target is None or abs(planner["reached"] - 1) <= _AS_PLANNED:
        return
    reached = planner["reached"]
    what = f"today's run reaches {reached:.0%} of what the planner gives for the same devices"
    why = f"planner: {planner['tokens_per_second']:,.0f} tokens a second with {planner['layout']}"
    if reached > 1:
        yield Risk(
            "watch",
            f"{what}: it is faster than the plan says that it can be",
            why,
            "make sure of the inputs (model, devices, sequence length); if they are right, the plan of the target is too slow, too",
        )
        return
    days = target["days"][1] / reached
    yield Risk(
        "costs",
        f"{what}; the plan is for the best layout",
        why,
        f"if the target is run as today's devices are, expect {days:,.3g} days instead of {target['days'][1]:,.3g}; find "
        "out what holds today's run back, as it will be there, too",
    )


def _of_today(today: Mapping[str, Any] | None) -> Iterator[Risk]:
    check = None if today is None else today.get("cross_check")
    if check is not None and abs(check["ratio"] - 1) > _TOLD:
        yield Risk(
            "watch",
            "the log tells another utilisation than this count gives",
            f"{check['told']} in the log, {check['own_tflops']:.4g} TFLOP/s a device here "
            f"({check['convention'].replace('_', ' ')})" + (f"; {check['cause']}" if check["cause"] else ""),
            "find out which FLOPs each counts: longcat mfu prints them; MFU today is off by as much",
        )
    if today is not None and today["doubts"]:
        yield Risk(
            "watch",
            "today's figures are not sure, and so is any comparison with them",
            "; ".join(today["doubts"]),
            "mend the inputs: longcat mfu says what each of them does",
        )


def _of_stack(target: Audit | None) -> Iterator[Risk]:
    if target is None:
        return
    if target.verdict != "Full":
        yield Risk(
            "watch",
            "the target's stack is not all domestic or open source",
            target.reason,
            "see the table of components",
        )
    supply = [part.component.supply for part in target.parts if part.component and part.component.supply]
    if supply:
        yield Risk(
            "watch",
            "makers of the target buy parts abroad",
            "; ".join(dict.fromkeys(supply)),
            "ask the vendor what is delivered, and from when on",
        )
