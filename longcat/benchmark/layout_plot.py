"""The picture of a layout: which rank holds what, a box for each of few ranks, and one unit of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longcat.benchmark.axis_plots import PALETTE
from longcat.benchmark.holdings import Holding, Whole, holdings
from longcat.figures import GRID, INK, canvas_of
from longcat.parallel.axes import BATCH, COPIES, VIEWS, Axis, Degrees, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BOXES = 16
"""Ranks that get a box each."""
MOST_CELLS = 9
"""Groups of an axis that are drawn, with dots for what is left out."""
_LEAST = 0.012
"""Of a bar, so that a part can be seen at all."""
_THINGS = ("layers", "rows", "tokens", "heads", "weights", "experts", "their shard", "tables")
_COLOURS = dict(zip(_THINGS, ("#2f6fde", *PALETTE), strict=False))
_SEEN: dict[View, str] = {
    "tokens": "by the tokens that they compute",
    "dense": "by the parameters outside experts",
    "expert": "by the routed experts",
    "table": "by the n-gram tables",
}


def layout(degrees: Degrees, whole: Whole, *, narrow: bool = False) -> Figure:
    """Plot which rank holds what.

    Args:
        degrees: the layout.
        whole: what it divides.
        narrow: draw the form for a narrow page.
    """
    if degrees.processes <= MOST_BOXES // (2 if narrow else 1):
        return _boxes(degrees, whole, narrow)
    return _units(degrees, whole, narrow)


def _boxes(degrees: Degrees, whole: Whole, narrow: bool) -> Figure:
    """Draw every rank, a column for each stage of the pipeline or, without one, as many as the page has room for."""
    ranks = range(degrees.processes)
    held = [holdings(degrees, rank, whole) for rank in ranks]
    columns = min(degrees.processes, 2 if narrow else 4)
    if degrees.pipeline <= columns:  # stages beside each other
        columns -= columns % degrees.pipeline
        each = min(columns // degrees.pipeline, degrees.stage)
        columns = each * degrees.pipeline
        placed = [
            (rank // degrees.stage * each + rank % degrees.stage % each, rank % degrees.stage // each) for rank in ranks
        ]
    else:
        placed = [(rank % columns, rank // columns) for rank in ranks]
    lines = max(map(len, held))
    rows = 1 + max(row for _, row in placed)
    figure = canvas_of(0.35 + rows * (0.5 + 0.26 * max(1, lines)), narrow)
    axes = _empty(figure, columns, rows)
    for rank, (column, row) in zip(ranks, placed, strict=True):
        stage = f", stage {rank // degrees.stage}" if degrees.pipeline > 1 else ""
        _box(axes, (column, row), f"rank {rank}{stage}", held[rank], lines)
    return figure


def _box(
    axes: Axes, place: tuple[int, int], title: str, held: Sequence[Holding], lines: int, wide: float = 1.0
) -> None:
    """Draw a rank: a bar for the whole of each thing, with this rank's part filled."""
    from matplotlib.patches import FancyBboxPatch

    column, row = place
    axes.add_patch(
        FancyBboxPatch(
            (column + 0.05, row + 0.06), wide - 0.1, 0.88, boxstyle="round,pad=0,rounding_size=0.03", facecolor="#fbfcfe",
            edgecolor="#c9d2e0", linewidth=1, mutation_aspect=0.8,
        )
    )  # fmt: skip
    height = 0.8 / (lines + 1)
    axes.text(column + 0.09, row + 0.1 + height / 2, title, va="center", fontsize=9, fontweight="bold", color=INK)
    for line, one in enumerate(held, 1):
        middle = row + 0.1 + height * (line + 0.5)
        axes.text(column + 0.09, middle, one.thing, va="center", fontsize=7.5, color="#55607a")
        begin, width = column + 0.4, wide - 0.77
        axes.barh(middle, width, left=begin, height=0.5 * height, color="#e6eaf1", linewidth=0)
        for lower, upper in one.spans:
            axes.barh(
                middle, width * max(upper - lower, _LEAST), left=begin + width * lower, height=0.5 * height,
                color=_COLOURS[one.thing], linewidth=0,
            )  # fmt: skip
        wraps = len(one.text) > 12 * wide  # two chunks of tokens
        axes.text(
            column + wide - 0.35, middle, one.text.replace(", ", "\n") if wraps else one.text, va="center",
            fontsize=6 if wraps else 7.5, linespacing=0.95, color=INK,
        )  # fmt: skip


def _units(degrees: Degrees, whole: Whole, narrow: bool) -> Figure:
    """Draw for every view how the ranks divide, axis by axis, following the first one of each; then what rank 0 holds."""
    views = {view: [axis for axis in axes if getattr(degrees, axis.name) > 1] for view, axes in VIEWS.items()}
    views = {view: axes for view, axes in views.items() if axes and (view != "table" or whole.table_rows)}
    held = holdings(degrees, 0, whole)
    columns = 1 if narrow else 2
    names = list(views)
    panels = [names[start : start + columns] for start in range(0, len(names), columns)]
    heights = [0.6 * max(len(views[view]) for view in row) + 0.45 for row in panels]
    box = 0.5 + 0.24 * len(held)
    figure = canvas_of(sum(heights) + box + 0.2, narrow)
    grid = figure.add_gridspec(len(panels) + 1, columns, height_ratios=[*heights, box])
    for row, of in enumerate(panels):
        for column, view in enumerate(of):
            axes = figure.add_subplot(grid[row, column] if len(of) > 1 or narrow else grid[row, :])
            _levels(axes, view, views[view], degrees, whole, heights[row])
    axes = figure.add_subplot(grid[-1, :])
    _clear(axes, 1.0 if narrow else 2.0, 1)
    _box(axes, (0, 0), f"rank 0 of {degrees.processes:,} holds", held, len(held), wide=1.0 if narrow else 2.0)
    return figure


def _levels(axes: Axes, view: View, divided: Sequence[Axis], degrees: Degrees, whole: Whole, height: float) -> None:
    """Draw a bar for each axis, cut into its groups; the first group is the whole of the next bar."""
    _clear(axes, 1, height)
    axes.text(
        0, 0.16, f"{degrees.processes:,} ranks, {_SEEN[view]}", va="center", fontsize=9, fontweight="bold", color=INK
    )
    ranks, top = degrees.processes, 0.38
    for axis in divided:
        degree = getattr(degrees, axis.name)
        ranks //= degree
        cells = min(degree, MOST_CELLS)
        colour = _COLOURS[_thing(view, axis)]
        for cell in range(cells):
            dots = degree > MOST_CELLS and cell == cells - 2
            axes.barh(
                top + 0.13, 1 / cells - 0.006, left=cell / cells, height=0.24, align="center", linewidth=0,
                color=colour if cell == 0 else GRID if dots else f"{colour}40", zorder=3,
            )  # fmt: skip
            number = degree - 1 if cell == cells - 1 else cell
            text = "…" if dots else f"{number}"
            axes.text(
                (cell + 0.5) / cells - 0.003, top + 0.135, text, ha="center", va="center", fontsize=7, zorder=4,
                color="white" if cell == 0 else INK,
            )  # fmt: skip
        each = "1 rank" if ranks == 1 else f"{ranks:,} ranks"
        text = f"{axis.name} × {degree:,}: {each} each, {_shared(view, axis, degrees, whole)}"
        axes.text(0.01, top + 0.37, text, va="center", fontsize=7.5, color="#55607a", zorder=4)
        if ranks > 1:
            axes.fill(
                [0, 1 / cells - 0.006, 1, 0],
                [top + 0.25, top + 0.25, top + 0.6, top + 0.6],
                color=f"{colour}14",
                linewidth=0,
            )
        top += 0.6


def _thing(view: View, axis: Axis) -> str:
    """Return what an axis divides in a view, by the name of a holding."""
    if view == "table" and axis.divides == "weights":
        return "tables"
    if view == "expert" and axis.divides == "weights":
        return "their shard"
    return axis.divides


def _shared(view: View, axis: Axis, degrees: Degrees, whole: Whole) -> str:
    """Say what part of the whole a group of an axis has."""
    degree = getattr(degrees, axis.name)
    if axis.name in COPIES.values() and view != "tokens":
        return "copies of one another"
    number = {
        "layers": whole.layers, "rows": whole.rows, "tokens": whole.tokens, "heads": whole.heads,
        "experts": whole.experts, "tables": whole.table_rows,
    }.get(_thing(view, axis))  # fmt: skip
    if axis.divides == "rows":
        world = degrees.batch_world if axis.name == BATCH[-1] else degree
        return f"{whole.rows // world:,} of {whole.rows:,} rows"
    if number is None:
        return f"1/{degree:,} of every matrix"
    if axis.divides == "heads" and view != "tokens":
        return f"1/{degree:,} of heads and dense networks"
    if _thing(view, axis) == "tables":
        return f"1/{degree:,} of their rows"
    least, most = number // degree, -(-number // degree)
    amount = f"{most:,}" if least == most else f"{least:,} or {most:,}"
    what = {"tokens": "tokens of a row", "experts": "experts of a layer"}.get(_thing(view, axis), _thing(view, axis))
    return f"{amount} of {number:,} {what}"


def _empty(figure: Figure, width: float, height: float) -> Axes:
    axes = figure.add_subplot()
    _clear(axes, width, height)
    return axes


def _clear(axes: Axes, width: float, height: float) -> None:
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
