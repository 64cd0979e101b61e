"""Figures of the benchmark's reports: SVG for HTML pages, PNG for MLflow and Markdown."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat.benchmark.breakdown import PARTS
from longcat.benchmark.references import Reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1c2330", "#b8c1d1", "#eef0f4"
BLUE, ORANGE, GREEN, VIOLET, GREY = "#2f6fde", "#d9480f", "#2b8a3e", "#7048e8", "#868e96"
_WIDTH = 8.4
_IDENTITY = ("source", "table", "model", "device", "devices", "sequence_length", "layout")
"""Columns that identify a published row."""
_COLOURS = dict(zip(PARTS, (BLUE, ORANGE, GREEN, "#f08c00", FAINT), strict=True))


def among_published(
    rows: Sequence[Reference], near: Sequence[Mapping[str, Any]], own_mfu: float | None, activated_parameters: float
) -> Figure:
    """Plot MFU over activated parameters: all published rows, the rows compared with, and this run."""
    figure, axes = _figure(4.2)
    chosen = {tuple(row[name] for name in _IDENTITY) for row in near}
    groups: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.mfu is None:
            continue
        if tuple(getattr(row, name) for name in _IDENTITY) in chosen:
            group = ("compared with", BLUE, "o" if row.kind == "dense" else "D")
        elif row.device.startswith(("A100", "A800")):
            group = ("A100 or A800", FAINT, "o") if row.kind == "dense" else ("A100 or A800, mixture", VIOLET, "D")
        else:
            group = ("other devices", "#e3d3c2", "o") if row.kind == "dense" else ("others, mixture", "#c9a27a", "D")
        groups.setdefault(group, []).append((row.activated_parameters / 1e9, 100 * row.mfu))
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
    axes.set_ylabel("MFU as published; this run by PaLM's formula (%)")
    _legend(axes, 3)
    return figure


def step_breakdown(parts: Mapping[str, float]) -> Figure:
    """Plot the parts of a training step as one stacked bar, in percent."""
    figure, axes = _figure(1.5)
    left, total = 0.0, sum(parts.values())
    for name, seconds in parts.items():
        percent = 100 * seconds / total
        axes.barh(0, percent, left=left, color=_COLOURS[name], label=f"{name.replace('_', ' ')} {percent:.1f} %")
        left += percent
    axes.set_xlim(0, 100)
    axes.set_yticks([])
    axes.set_xlabel("fraction of a step (%)")
    axes.spines["left"].set_visible(False)
    _legend(axes, 3)
    return figure


def roofline(operators: Mapping[str, Any], peak_flops: float | None) -> Figure:
    """Plot the kernels' FLOP/s over intensity (FLOP per byte), below the roof of memory bandwidth and peak."""
    figure, axes = _figure(4.2)
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
    _legend(axes, 3)
    return figure


def bandwidths(collectives: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot the bus bandwidth over size, one line per collective and scope."""
    figure, axes = _figure(3.6)
    colours = dict(
        zip(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), (BLUE, GREEN, ORANGE, VIOLET), strict=True)
    )
    for name, scope in dict.fromkeys((one["name"], one["scope"]) for one in collectives):
        points = [
            (one["bytes"], one["bus_bandwidth"] / 1e9)
            for one in collectives
            if (one["name"], one["scope"]) == (name, scope)
        ]
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=4, color=colours[name],
            linestyle="-" if scope.startswith("inside") else "--", label=f"{name.replace('_', '-')}, {scope}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: readable_bytes(size))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("size")
    axes.set_ylabel("bus bandwidth (GB/s)")
    _legend(axes, 2)
    return figure


def sweep(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot speed over memory for every setting of a sweep, and the Pareto front."""
    figure, axes = _figure(3.8)
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
    _legend(axes, 1)
    return figure


def scaling(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Plot tokens/s over processes, beside linear scaling from the fewest processes."""
    figure, axes = _figure(3.4)
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
    _legend(axes, 2)
    return figure


def point_label(row: Mapping[str, Any]) -> str:
    """Return a short label for a point of a sweep."""
    micro = row["micro_batch_sequences"] or "all"
    recomputed = ", recomputed" if row["activation_checkpointing"] == "full" else ""
    return f"{micro} x {row['sequence_length_tokens']}{recomputed}, {row['processes']} proc."


def svg(figure: Figure) -> str:
    """Render a figure as a data URI of SVG; equal figures give equal bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "longcat"}):
        return f"data:image/svg+xml;base64,{base64.b64encode(_saved(figure, 'svg', {'Date': None})).decode()}"


def png(figure: Figure) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    return _saved(figure, "png", {"Software": None})


def _saved(figure: Figure, kind: str, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dict(metadata))
    return buffer.getvalue()


def _figure(height: float) -> tuple[Figure, Axes]:
    # without pyplot, so there is no global state and nothing to close
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color=GRID, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0, fontsize=9)


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
