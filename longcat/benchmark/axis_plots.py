"""Figures of the layout's axes: what each one takes of a step, its bandwidth, and the timeline of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat.benchmark.breakdown import intersection
from longcat.benchmark.plots import decimal_bytes, readable_bytes
from longcat.benchmark.timeline import HIDDEN_STATES
from longcat.figures import BLUE, FAINT, GREEN, GREY, INK, ORANGE, VIOLET, canvas, canvas_of, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = (VIOLET, GREEN, "#0c8599", "#c2255c", "#b08900", "#795548", "#5c940d", "#364fc7")
"""Colours of axes, and of what they divide."""
_LINES = {
    "all_reduce": "-",
    "all_gather": "--",
    "reduce_scatter": "-.",
    "all_to_all": ":",
    "send": "-",
    "broadcast": "--",
}
_SHOWN = 0.01
"""Least share of an axis' bytes for a collective to get a line, and of a step for an axis to get a lane."""
MOST_PROCESSES = 4
"""Processes with lanes in a timeline."""
_OPTIMIZER, _WAITING = "#74a5f2", "#f2a65a"
_PASSES = {
    "forward": ("forward pass of a micro-batch", "#4c6ef5"),
    "backward": ("backward pass", "#1b3a8f"),
    "weights": ("gradients of weights", "#5f3dc4"),
}
"""Label and colour of each kind of pass."""


def colours(axes: Iterable[str]) -> dict[str, str]:
    """Give each axis a colour, the same in all figures of a run."""
    return {axis: PALETTE[number % len(PALETTE)] for number, axis in enumerate(sorted(set(axes)))}


def axis_times(loads: Sequence[Mapping[str, Any]], step_seconds: float, *, narrow: bool = False) -> Figure:
    """Plot the time that each axis takes at its bandwidth, and how much of it a step waits for, beside the step.

    Args:
        loads: axes, see `longcat.benchmark.bottleneck.AxisLoad`.
        step_seconds: of a whole step.
        narrow: draw the form for a narrow page.
    """
    figure, axes = canvas(1.2 + (0.62 if narrow else 0.5) * len(loads), narrow)
    scale, unit = (1, "s") if step_seconds >= 1 else (1e3, "ms")
    widest = scale * max([step_seconds, *(one["seconds"] for one in loads)])
    given = colours(one["axis"] for one in loads)
    axes.axvspan(0, scale * step_seconds, color=FAINT, alpha=0.25, linewidth=0, label="the whole step")
    for place, one in enumerate(reversed(loads)):
        taken = scale * one["seconds"]
        axes.barh(place, taken, height=0.56, color=given[one["axis"]], zorder=3)
        if one["exposed_share"] is not None:
            waited = scale * one["exposed_share"] * step_seconds
            axes.barh(
                place - 0.36, waited, height=0.14, color=ORANGE, zorder=4,
                label=None if place else "a process only waits for it",
            )  # fmt: skip
        text = (
            f"{one['step_share']:.1%}"
            if narrow
            else f"{one['step_share']:.1%} of a step, {decimal_bytes(one['link_bytes'])} at {decimal_bytes(one['bus_bandwidth'])}/s"
        )
        inside = taken > 0.45 * widest
        axes.annotate(
            text, (taken, place), textcoords="offset points", xytext=(-6 if inside else 6, 0), va="center",
            ha="right" if inside else "left", fontsize=8, color="white" if inside else INK, zorder=5,
        )  # fmt: skip
    axes.barh([0], [0], color=GREY, label="needed at the bandwidth measured")
    axes.set_yticks(range(len(loads)), [f"{one['axis']} ({one['ranks']})" for one in reversed(loads)])
    axes.set_xlim(0, 1.04 * widest)
    axes.set_ylim(-0.7, len(loads) - 0.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"time in a step ({unit})")
    legend(figure, 3)
    return figure


def exposed(ways: Mapping[str, Mapping[str, float]], title: str, *, narrow: bool = False) -> Figure:
    """Plot a step of each way to send tokens to experts: what only waits for them, and the rest.

    Args:
        ways: `step_s`, `waiting_s`, `waiting_share` and `exchange_bytes` by name, as `benchmarks/slow_link.py` prints them.
        title: where it was measured.
        narrow: draw the form for a narrow page.
    """
    figure, axes = canvas(1.3 + 0.45 * len(ways), narrow)
    upwards = list(ways.items())[::-1]
    longest = max(way["step_s"] for _, way in upwards)
    for place, (_, way) in enumerate(upwards):
        rest = way["step_s"] - way["waiting_s"]
        axes.barh(place, rest, height=0.6, color=BLUE, label=None if place else "computing, and all other work")
        axes.barh(
            place, way["waiting_s"], left=rest, height=0.6, color=ORANGE,
            label=None if place else "only waiting for tokens",
        )  # fmt: skip
        text = f"{way['waiting_share']:.1%}" if narrow else f"{way['waiting_share']:.1%} of the step waits"
        axes.annotate(
            text, (way["step_s"], place), textcoords="offset points", xytext=(6, 5), va="center", fontsize=8,
            color=ORANGE,
        )  # fmt: skip
        axes.annotate(
            decimal_bytes(way["exchange_bytes"]) + ("" if narrow else " over the link"), (way["step_s"], place),
            textcoords="offset points", xytext=(6, -6), va="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(ways)), [name.replace("_", " ") for name, _ in upwards])
    axes.set_xlim(0, longest * (1.25 if narrow else 1.3))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"seconds of a training step{'' if narrow else ': ' + title}")
    legend(figure, 2)
    return figure


def bandwidths(found: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Plot the bus bandwidth over size, a line per axis and collective; dots are the sizes of a step's mean messages.

    Args:
        found: `measured` and `needs`, see `longcat.benchmark.measuring.collectives`.
        narrow: draw the form for a narrow page.
    """
    from matplotlib.ticker import LogLocator

    figure, axes = canvas(3.8, narrow)
    given = colours(need["axis"] for need in found["needs"])
    whole: dict[str, float] = {}
    for need in found["needs"]:
        whole[need["axis"]] = whole.get(need["axis"], 0.0) + need["link_bytes"]
    for need in found["needs"]:
        if need["link_bytes"] < max(_SHOWN * whole[need["axis"]], _SHOWN**2 * sum(whole.values())):
            continue
        of = [one for one in found["measured"] if all(one[key] == need[key] for key in ("axis", "name", "splits"))]
        points = sorted((one["bytes"], one["bus_bandwidth"] / 1e9) for one in of)
        name, colour = need["name"].replace("_", "-"), given[need["axis"]]
        sizes, speeds = zip(*points, strict=True)
        if need["splits"] == "uneven":
            label = f"{need['axis']}: {name} as routed"
            axes.scatter(sizes, speeds, s=60, marker="D", color=colour, zorder=4, label=label)
            continue
        axes.plot(
            sizes, speeds, marker="o", markersize=3, color=colour, linestyle=_LINES[need["name"]],
            label=f"{need['axis']}: {name}",
        )  # fmt: skip
        mean = min(points, key=lambda point: abs(point[0] - need["bytes"] / need["messages"]))
        axes.scatter(mean[0], mean[1], s=60, color=colour, zorder=4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=5 if narrow else 9))
    axes.xaxis.set_major_formatter(lambda size, _: readable_bytes(size))
    axes.set_yscale("log")
    axes.set_xlabel("size of a message")
    axes.set_ylabel("bus bandwidth (GB/s)")
    legend(figure, 3)
    return figure


def timelines(lines: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Plot a step of several processes, of a pipeline one of each stage, whole and in detail.

    Each has lanes: micro-batches with their numbers, computing, each axis' collectives, and waiting. The detail is the
    part round the collective that runs longest beside computing.

    Args:
        lines: see `longcat.benchmark.timeline.Timeline`.
        narrow: draw the form for a narrow page.
    """
    shown = _shown(lines)
    step = max(line["seconds"] for line in shown)
    lanes = [
        axis
        for axis in sorted({axis for line in shown for axis in line["sending"]})
        if max(_length(line["sending"].get(axis, [])) for line in shown) >= _SHOWN * step
    ]
    given = colours({axis for line in lines for axis in line["sending"]})
    detail = _detail(shown, step)
    inches = 0.15 if narrow else 0.155
    heights = [inches * (len(_names(lanes)) + 1.6) * len(shown)]
    if detail is not None:
        line, window = detail
        present = [axis for axis in lanes if _within(line["sending"].get(axis, []), window)]
        heights.append(0.2 * len(_names(present)))
    figure = canvas_of(1.7 + sum(heights) + 0.5 * len(heights), narrow)
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _lanes(panels[0], shown, lanes, given, (0.0, step), narrow)
    panels[0].set_xlabel("ms of the whole step" if detail is None else "ms of the whole step; grey: the part below")
    if detail is not None:
        _lanes(panels[1], [line], present, given, window, narrow)
        panels[1].set_xlabel(
            f"ms of rank {line['rank']}" + ("" if narrow else ", where a collective runs longest beside computing")
        )
        panels[0].axvspan(1e3 * window[0], 1e3 * window[1], color=FAINT, alpha=0.35, linewidth=0, zorder=0)
    kinds = {one["kind"] for line in shown for one in line.get("passes", ())}
    bubble = any(HIDDEN_STATES in line["waiting"] for line in shown)
    for label, colour in {
        **{_PASSES[kind][0]: _PASSES[kind][1] for kind in _PASSES if kind in kinds}, "computing": BLUE,
        "optimizer": _OPTIMIZER, **{axis: given[axis] for axis in lanes},
        **({"waiting for another stage": ORANGE, "other waiting": _WAITING} if bubble else {"waiting": _WAITING}),
    }.items():  # fmt: skip
        panels[0].barh([-9], [0], color=colour, label=label)
    legend(figure, 2 if narrow else 3)
    return figure


def _shown(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the processes of a picture: of a pipeline the first one of each stage, and not too many."""
    of_stage: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        of_stage.setdefault(line["stage"], line)
    chosen = list(of_stage.values()) if len(of_stage) > 1 else list(lines)
    return chosen[:: -(-len(chosen) // MOST_PROCESSES)]


def _names(lanes: Sequence[str]) -> list[str]:
    return ["micro-batch", "computing", *lanes, "waiting"]


def _lanes(
    axes: Axes,
    lines: Sequence[Mapping[str, Any]],
    lanes: Sequence[str],
    given: Mapping[str, str],
    window: tuple[float, float],
    narrow: bool,
) -> None:
    names = _names(lanes)
    each = len(names) + 1.6
    ticks = []
    for number, line in enumerate(lines):
        top = -number * each
        stage = f"stage {line['stage']}, " if any(other["stage"] for other in lines) else ""
        if len(lines) > 1:
            axes.annotate(
                f"{stage}rank {line['rank']}", (0, top + 0.62), xycoords=("axes fraction", "data"), fontsize=8,
                fontweight="bold", color=INK, va="bottom",
            )  # fmt: skip
        waiting = line["waiting"]
        rows = [[], [(line["computing"], BLUE), (line["updating"], _OPTIMIZER)]]
        rows += [[(line["sending"].get(axis, []), given[axis])] for axis in lanes]
        others = [one for axis, of in waiting.items() if axis != HIDDEN_STATES for one in of]
        rows += [[(others, _WAITING), (waiting.get(HIDDEN_STATES, []), ORANGE)]]
        ticks += [(top - lane, name) for lane, name in enumerate(names)]
        for lane, parts in enumerate(rows):
            for intervals, colour in parts:
                bars = [(1e3 * begin, 1e3 * (end - begin)) for begin, end in _within(intervals, window)]
                axes.broken_barh(bars, (top - lane - 0.42, 0.84), color=colour, linewidth=0.3, zorder=3)
        _boxes(axes, line, top, window, narrow)
        axes.axhspan(top - len(rows) + 0.5, top + 0.5, color="#f5f6f8", linewidth=0, zorder=0)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.tick_params(axis="y", length=0, labelsize=6 if narrow else 7)
    axes.set_xlim(1e3 * window[0], 1e3 * window[1])
    axes.set_ylim(-len(lines) * each + 2.1, 1.9 if len(lines) > 1 else 0.7)
    axes.grid(visible=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _boxes(axes: Axes, line: Mapping[str, Any], top: float, window: tuple[float, float], narrow: bool) -> None:
    """Draw a box for each pass, with its micro-batch's number, and one for the optimizer."""
    first = min((one["part"] for one in line.get("passes", ())), default=0)
    boxes = [
        (
            (one["begin"], one["end"]),
            f"{one['micro_batch']}{'′' if one['part'] != first else ''}",
            _PASSES[one["kind"]][1],
        )
        for one in line.get("passes", ())
    ]
    if line["updating"]:
        boxes.append(((line["updating"][0][0], line["updating"][-1][1]), "optimizer", _OPTIMIZER))
    inches = 2.7 if narrow else 7.0
    for of, text, colour in boxes:
        for begin, end in _within([of], window):
            axes.broken_barh(
                [(1e3 * begin, 1e3 * (end - begin))], (top - 0.46, 0.92), facecolor=colour, edgecolor="white",
                linewidth=0.6, zorder=3,
            )  # fmt: skip
            if (end - begin) / (window[1] - window[0]) * inches > 0.055 * len(text):
                axes.annotate(
                    text, (500 * (begin + end), top - 0.04), ha="center", va="center", fontsize=6.5, color="white",
                    zorder=4,
                )  # fmt: skip


def _detail(lines: Sequence[Mapping[str, Any]], step: float) -> tuple[Mapping[str, Any], tuple[float, float]] | None:
    """Choose the process and the window round the collective that runs longest beside computing; None without any."""
    most, found = 0.0, None
    for line in lines:
        computing = [(begin, end) for begin, end in line["computing"]]
        collectives = (of for axis, of in line["sending"].items() if not axis.startswith(HIDDEN_STATES))
        for begin, end in (one for of in collectives for one in of):
            if (hidden := _length(intersection([(begin, end)], computing))) > most:
                margin = max(0.75 * (end - begin), 0.03 * step)
                most, found = hidden, (line, (max(0.0, begin - margin), min(step, end + margin)))
    return found


def _within(intervals: Iterable[Sequence[float]], window: tuple[float, float]) -> list[tuple[float, float]]:
    inside = ((max(begin, window[0]), min(end, window[1])) for begin, end in intervals)
    return [(begin, end) for begin, end in inside if end > begin]


def _length(intervals: Iterable[Sequence[float]]) -> float:
    return sum(end - begin for begin, end in intervals)
