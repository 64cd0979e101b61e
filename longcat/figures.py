"""Figures of pages: SVG for HTML, PNG for MLflow and Markdown; every one has a narrow form for a telephone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1c2330", "#b8c1d1", "#eef0f4"
BLUE, ORANGE, GREEN, VIOLET, GREY = "#2f6fde", "#d9480f", "#2b8a3e", "#7048e8", "#868e96"
_WIDTH, NARROW_WIDTH = 8.4, 4.3


def svg(figure: Figure) -> str:
    """Render a figure as a data URI of SVG; equal figures give equal bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "longcat"}):
        return f"data:image/svg+xml;base64,{base64.b64encode(_saved(figure, 'svg', {'Date': None})).decode()}"


def png(figure: Figure) -> bytes:
    """Render a figure as the bytes of a PNG file."""
    return _saved(figure, "png", {"Software": None})


def png_uri(picture: bytes) -> str:
    """Return the bytes of a PNG file as a data URI, for Markdown that stands alone."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _saved(figure: Figure, kind: str, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dict(metadata))
    return buffer.getvalue()


def canvas(height: float, narrow: bool) -> tuple[Figure, Axes]:
    """Make a figure of a page's width, or of a narrow page's, with empty axes."""
    figure = canvas_of(height, narrow)
    axes = figure.add_subplot()
    axes.grid(color=GRID, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def canvas_of(height: float, narrow: bool) -> Figure:
    """Make an empty figure of a page's width, or of a narrow page's."""
    # without pyplot, so there is no global state and nothing to close
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW_WIDTH if narrow else _WIDTH, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend(figure: Figure, columns: int) -> None:
    """Put the legend above the axes; a narrow figure grows by its lines."""
    size = 9
    labels = figure.axes[0].get_legend_handles_labels()[1]
    if figure.get_figwidth() == NARROW_WIDTH:
        columns, size = min(columns, 2 if max(map(len, labels)) < 26 else 1), 8
        figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(labels) // columns) - 1))
    figure.legend(frameon=False, loc="outside upper left", ncols=columns, borderaxespad=0.2, fontsize=size)
