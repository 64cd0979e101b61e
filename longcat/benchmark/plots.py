"""Figures of the benchmark's reports: SVG for HTML pages, PNG for MLflow and Markdown.

Every figure has a narrow form for a telephone, whose text stays as large as the page's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat.benchmark.breakdown import PARTS
from longcat.benchmark.references import Reference
from longcat.figures import BLUE, FAINT, GREEN, GREY, INK, ORANGE, VIOLET, canvas, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SOURCE_COLOURS = (BLUE, VIOLET, "#0c8599", "#c2255c", "#5c940d", "#795548")
_OTHERS = "other sources"
NAMED_ROWS = 30
"""Most rows that get a line each in a distribution."""
_IDENTITY = ("source", "table", "model", "device", "devices", "sequence_length", "layout")
"""Columns that identify a published row."""
_COLOURS = dict(zip(PARTS, (BLUE, ORANGE, GREEN, "#f08c00", FAINT), strict=True))


def among_published(
    rows: Sequence[Reference],
    near: Sequence[Mapping[str, Any]],
    own_mfu: float | None,
    activated_parameters: float,
    *,
    narrow: bool = False,
) -> Figure:
    """Plot MFU over activated parameters: all published rows, the rows compared with, and this run.

    Args:
        rows: all published runs.
        near: those that the run is compared with.
        own_mfu: MFU of this run; None leaves it out.
        activated_parameters: of this run.
        narrow: draw the form for a narrow page.
    """
    figure, axes = canvas(4.2, narrow)
    chosen = {tuple(row[name] for name in _IDENTITY) for row in near}
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.causal_mfu is None:
            continue
        if tuple(getattr(row, name) for name in _IDENTITY) in chosen:
            group = ("compared with", BLUE, "o" if row.kind == "dense" else "D")
        elif row.device.startswith(("A100", "A800")):
            group = ("A100 or A800", FAINT, "o") if row.kind == "dense" else ("A100 or A800, mixture", VIOLET, "D")
        else:
            group = ("other devices", "#e3d3c2", "o") if row.kind == "dense" else ("others, mixture", "#c9a27a", "D")
        groups.setdefault(group, []).append((row.activated_parameters / 1e9, 100 * row.causal_mfu))
    for (label, colour, marker), points in sorted(groups.items(), key=lambda pair: pair[0][0] == "compared with"):
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=26, color=colour, marker=marker, label=f"{label} ({len(points)})", zorder=2)
    if own_mfu is not None:
        place = (activated_parameters / 1e9, 100 * own_mfu)
        axes.scatter(*place, s=150, marker="*", color=ORANGE, label="this run", zorder=5)
        _note(axes, f"{100 * own_mfu:.1f} %", place)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("activated parameters (billions)")
    axes.set_ylabel("MFU, causal attention (%)")
    legend(figure, 3)
    return figure


def distribution(found: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Plot where this run lies among published runs of its kind, with the band of "within 15 %" of their median.

    Few rows get a line each, with their names; of many the histogram is drawn.

    Args:
        found: `distribution` of a comparison: `rows` with `model`, `mfu`, `devices`, `device`, `source` and `fair`;
            `own_mfu`, `percentile`, `median` and `needed_mfu`.
        narrow: draw the form for a narrow page.
    """
    rows = sorted(found["rows"], key=lambda row: (row["mfu"], row["model"]))
    few = len(rows) <= NAMED_ROWS
    figure, axes = canvas(1.5 + (0.4 if narrow else 0.3) * (len(rows) + 2) if few else 3.6, narrow)
    colours = _source_colours(rows)
    median = f"median of {found['median_of']}" if "median_of" in found else "median"
    band = 100 * found["needed_mfu"], 100 * (2 * found["median"] - found["needed_mfu"])
    axes.axvspan(*band, color=GREEN, alpha=0.12, linewidth=0, label="within 15 % of the median")
    axes.axvline(100 * found["median"], color=GREEN, linewidth=1.2, label=f"{median} {100 * found['median']:.1f} %")
    if few:
        _named_rows(axes, rows, found, colours, narrow)
    else:
        _histogram(axes, rows, found, colours)
    top = max([*(row["mfu"] for row in rows), found["own_mfu"] or 0.0, band[1] / 100])
    axes.set_xlim(0, 100 * top * 1.08)
    axes.set_xlabel("MFU, causal attention (%)")
    legend(figure, 3)
    return figure


def _named_rows(
    axes: Axes, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], colours: Mapping[str, str], narrow: bool
) -> None:
    """Draw a line with a name for each row and for this run, ordered by MFU, above a box from quartile to quartile."""
    own = found["own_mfu"]
    lines: list[tuple[float, Mapping[str, Any] | None]] = [(row["mfu"], row) for row in rows]
    if own is not None:
        lines.append((own, None))
    lines.sort(key=lambda line: line[0])
    width = max(value for value, _ in lines)
    axes.boxplot(
        [[100 * row["mfu"] for row in rows]], positions=[-1.2], widths=0.5, orientation="horizontal", whis=(0, 100),
        manage_ticks=False, medianprops={"color": GREY}, boxprops={"color": GREY}, whiskerprops={"color": GREY},
        capprops={"color": GREY},
    )  # fmt: skip
    labelled = set()
    for place, (value, row) in enumerate(lines):
        if row is None:
            axes.scatter(100 * value, place, s=150, marker="*", color=ORANGE, zorder=5)
            name, colour = f"this run, {100 * value:.1f} %", ORANGE
        else:
            source = short_source(row["source"])
            colour = colours.get(source, GREY)
            label = source if source in colours else _OTHERS
            if label not in labelled:
                axes.scatter([], [], s=44, color=colour, label=label)
            labelled.add(label)
            axes.scatter(
                100 * value, place, s=44, zorder=4, edgecolors=colour, color=colour if row["fair"] else "white"
            )
            devices = f"{row['devices']} × " if row["devices"] else ""
            name, colour = f"{row['model']}, {devices}{row['device'].split()[0].rstrip(',')}", INK
        if narrow:  # above the point, since neither side has room for a name
            side, offset = ("left", "center", "right")[min(2, int(3 * value / width))], (0, 9)
        else:
            side, offset = ("right", (-8, 0)) if value > 0.5 * width else ("left", (8, 0))
        axes.annotate(
            name, (100 * value, place), textcoords="offset points", xytext=offset, va="center", ha=side, fontsize=8,
            color=colour, zorder=6,
        )  # fmt: skip
    axes.set_ylim(-1.8, len(lines) - 0.4)
    axes.set_yticks([-1.2], ["quartiles"], fontsize=8)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _histogram(
    axes: Axes, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], colours: Mapping[str, str]
) -> None:
    """Draw how many rows have which MFU, stacked by source, and this run as a line."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        source = short_source(row["source"])
        groups.setdefault(source if source in colours else _OTHERS, []).append(100 * row["mfu"])
    names = sorted(groups, key=lambda name: (name == _OTHERS, -len(groups[name])))
    edges = [2.5 * number for number in range(int(100 * max(row["mfu"] for row in rows) / 2.5) + 2)]
    axes.hist(
        [groups[name] for name in names], bins=edges, stacked=True, color=[colours.get(name, GREY) for name in names],
        label=[f"{name} ({len(groups[name])})" for name in names], rwidth=0.9, zorder=2,
    )  # fmt: skip
    axes.set_ylabel("published runs")
    axes.locator_params(axis="y", integer=True)
    if found["own_mfu"] is not None:
        own, top = 100 * found["own_mfu"], axes.get_ylim()[1]
        axes.axvline(own, color=ORANGE, linewidth=1.2, linestyle="--", zorder=4)
        axes.scatter(own, top, s=150, marker="*", color=ORANGE, zorder=5, clip_on=False, label=f"this run {own:.1f} %")
        axes.set_ylim(0, top)


def _source_colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a colour for each of the commonest sources, by their short names."""
    names = Counter(short_source(row["source"]) for row in rows).most_common(len(_SOURCE_COLOURS))
    return {name: colour for (name, _), colour in zip(names, _SOURCE_COLOURS, strict=False)}


def short_source(source: str) -> str:
    """Return the first part of a source: authors and year, or the repository."""
    return source.split(" (")[0].split(",")[0]


def step_breakdown(parts: Mapping[str, float], *, narrow: bool = False) -> Figure:
    """Plot the parts of a training step as one stacked bar, in percent."""
    figure, axes = canvas(1.5, narrow)
    left, total = 0.0, sum(parts.values())
    for name, seconds in parts.items():
        percent = 100 * seconds / total
        axes.barh(0, percent, left=left, color=_COLOURS[name], label=f"{name.replace('_', ' ')} {percent:.1f} %")
        left += percent
    axes.set_xlim(0, 100)
    axes.set_yticks([])
    axes.set_xlabel("fraction of a step (%)")
    axes.spines["left"].set_visible(False)
    legend(figure, 3)
    return figure


def roofline(operators: Mapping[str, Any], peak_flops: float | None, *, narrow: bool = False) -> Figure:
    """Plot the kernels' FLOP/s over intensity (FLOP per byte), below the roof of memory bandwidth and peak."""
    figure, axes = canvas(4.2, narrow)
    kernels = operators["kernels"]
    best = max(kernel["flops_per_second"] for kernel in kernels)
    roof = max(best, peak_flops or 0.0)
    knee = roof / operators["bandwidth"]
    low = min(knee, *(kernel["intensity"] for kernel in kernels)) / 2
    high = max(knee, *(kernel["intensity"] for kernel in kernels)) * 2
    axes.plot(
        [low, knee, high], [low * operators["bandwidth"] / 1e12, roof / 1e12, roof / 1e12],
        color=INK, linewidth=1.4, zorder=1,
        label=f"roof: {operators['bandwidth'] / 1e9:.3g} GB/s copied, {roof / 1e12:.3g} TFLOP/s peak",
    )  # fmt: skip
    if peak_flops and best < peak_flops:
        axes.axhline(best / 1e12, color=GREY, linestyle=":", zorder=1, label=f"best measured {best / 1e12:.3g} TFLOP/s")
    kinds = {"GEMM": (GREY, "s"), "grouped": (VIOLET, "D"), "attention,": (ORANGE, "^")}
    labelled = set()
    for kernel in kernels:
        first = kernel["name"].split()[0]
        colour, marker = kinds.get(first, (BLUE, "o"))
        label = {"GEMM": "square GEMM", "grouped": "grouped GEMM", "attention,": "attention"}.get(
            first, "the model's products"
        )
        axes.scatter(
            kernel["intensity"], kernel["flops_per_second"] / 1e12, s=44, color=colour, marker=marker, zorder=3,
            label=None if label in labelled else label,
        )  # fmt: skip
        labelled.add(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("intensity (FLOP per byte of least traffic)")
    axes.set_ylabel("TFLOP/s")
    legend(figure, 3)
    return figure


def sweep(rows: Sequence[Mapping[str, Any]], *, narrow: bool = False) -> Figure:
    """Plot speed over memory for every setting of a sweep, and the Pareto front."""
    figure, axes = canvas(3.8, narrow)
    timed = [row for row in rows if "error" not in row]
    for row in timed:
        axes.scatter(
            row["peak_memory_bytes"] / 1e9, row["tokens_per_second"], s=46, zorder=3,
            color=BLUE if row["pareto"] else FAINT,
        )  # fmt: skip
    front = sorted((row for row in timed if row["pareto"]), key=lambda row: row["peak_memory_bytes"])
    axes.step(
        [row["peak_memory_bytes"] / 1e9 for row in front], [row["tokens_per_second"] for row in front],
        where="post", color=BLUE, label="Pareto front: no setting is faster with as little memory",
    )  # fmt: skip
    for number, row in enumerate(front):
        above = number % 2 == 0
        _note(
            axes, point_label(row), (row["peak_memory_bytes"] / 1e9, row["tokens_per_second"]), INK,
            (6, 8) if above else (6, -14),
        )  # fmt: skip
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel("peak memory per process (GB)")
    axes.set_ylabel("tokens/s, all devices")
    legend(figure, 1)
    return figure


def scaling(rows: Sequence[Mapping[str, float]], *, narrow: bool = False) -> Figure:
    """Plot tokens/s over processes, beside linear scaling from the fewest processes."""
    figure, axes = canvas(3.4, narrow)
    counts, speeds = [row["processes"] for row in rows], [row["tokens_per_second"] for row in rows]
    ideal = [speeds[0] / counts[0] * count for count in counts]
    axes.plot(counts, ideal, color=FAINT, linestyle="--", label="linear scaling")
    axes.plot(counts, speeds, color=BLUE, marker="o", label="measured at the same global batch")
    for row in rows:
        _note(axes, f"{row['efficiency']:.0%}", (row["processes"], row["tokens_per_second"]), INK)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("processes")
    axes.set_ylabel("tokens/s, all devices")
    legend(figure, 2)
    return figure


def point_label(row: Mapping[str, Any]) -> str:
    """Return a short label for a point of a sweep."""
    micro = row["micro_batch_sequences"] or "all"
    recomputed = {"none": "", "selective": ", partly recomputed", "full": ", recomputed"}[
        row["activation_checkpointing"]
    ]
    return f"{micro} x {row['sequence_length_tokens']}{recomputed}, {row['processes']} proc."


def _note(
    axes: Axes, text: str, place: tuple[float, float], colour: str = ORANGE, offset: tuple[int, int] = (9, 6)
) -> None:
    axes.annotate(text, place, textcoords="offset points", xytext=offset, color=colour, fontsize=9)


def readable_bytes(size: float) -> str:
    """Format a size with a binary unit (B, KiB, MiB or GiB)."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.3g} {unit}"
        size /= 1024
    raise AssertionError


def decimal_bytes(size: float) -> str:
    """Format a number of bytes, or of bytes per second, with a decimal unit (B, kB, MB or GB)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"
