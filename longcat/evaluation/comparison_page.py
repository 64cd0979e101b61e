"""Page and Markdown of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from longcat import figures
from longcat.disk import write_text
from longcat.figures import BLUE, GREEN, GREY, INK, ORANGE, canvas, canvas_of
from longcat.page import STYLE
from longcat.printable import markdown_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"better": GREEN, "worse": ORANGE}
_MOST_CURVES = 24
_SHORT, _SHORT_NARROW = 44, 22

_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters |= {
    "number": lambda value: f"{value:.4g}",
    "signed": lambda value: f"{value:+.3g}",
    "p": lambda value: _p(value),
}
_PAGE = _ENVIRONMENT.from_string("""
{%- macro picture(name, alt) %}<picture><source media="(max-width: 40rem)" srcset="{{ pictures[name].narrow }}"><img alt="{{ alt }}" src="{{ pictures[name].wide }}"></picture>{% endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of two checkpoints</title><style>{{ style|safe }}
.better { color: #2b8a3e; } .worse { color: #c92a2a; }</style></head><body><main>
<h1>Is {{ r.second.checkpoint[:12] }} better than {{ r.first.checkpoint[:12] }}?</h1>
<p class="lead">{{ verdict }}</p>
<div class="cards">
{% for value, label in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}</div>
<h2>Differences</h2>
{{ picture("differences", "Difference of each score, with its 95 % interval") }}
<p class="note">Second minus first, with 95 % intervals. Right of the line the second checkpoint is better. Grey: no clear difference.</p>
<table class="stack"><thead><tr><th>score</th><th class="n">first</th><th class="n">second</th><th class="n">difference</th><th class="n">95 % interval</th><th class="n">p</th><th class="n">items</th><th>second is</th></tr></thead><tbody>
{% for row in r.rows %}<tr><td class="wrap title">{{ row.subject }}<br><span class="note">{{ row.metric }}{{ ", lower is better" if row.lower_is_better }}</span></td><td class="n" data-label="first">{{ row.first|number }}</td><td class="n" data-label="second">{{ row.second|number }}</td><td class="n" data-label="difference">{{ (row.second - row.first)|signed }}</td><td class="n" data-label="95 % interval">{{ row.low|signed }} to {{ row.high|signed }}</td><td class="n" data-label="p">{{ row.adjusted_p|p }}</td><td class="n" data-label="items">{{ row["items"] }}</td><td class="wrap" data-label="second is"><span class="{{ row.verdict }}">{{ row.verdict }}</span><br><span class="note">{{ row.effect }}</span></td></tr>
{% endfor %}</tbody></table>
<p class="note">Paired bootstrap over items (held-out text: over sequences, {{ "with the same tokens" if paired else "drawn apart, as the tokens differ" }}), {{ "{:,}".format(r.resamples) }} draws, percentile intervals. p: two-sided, of no difference, among all rows at once (Holm); of right and wrong answers not below that of the exact sign test (McNemar).</p>
{% if r.notes %}<h2>Not compared, or not quite</h2><ul>{% for note in r.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{% if r.curves %}<h2>Over training</h2>
{{ picture("curves", "Scores over the tokens trained on") }}
{% if left_out %}<p class="note">{{ left_out }} more scores are in result.json.</p>{% endif %}{% endif %}
<h2>What was compared</h2>
<div class="scroll"><table><tr><th></th><th>checkpoint</th><th>evaluation</th><th class="n">tokens trained on</th></tr>
{% for name in ("first", "second") %}<tr><td>{{ name }}</td><td class="wrap">{{ r[name].checkpoint[:12] }}<br><span class="note">{{ r[name].headline }}</span></td><td>{{ r[name].evaluation[:12] }}</td><td class="n">{{ "{:,}".format(r[name].tokens) if r[name].tokens else "not known" }}</td></tr>
{% endfor %}</table></div>
</main></body></html>
""")


def write(result: Mapping[str, Any], directory: Path) -> None:
    """Write report.html and report.md to a folder."""
    write_text(directory / "report.html", html(result))
    write_text(directory / "report.md", markdown(result))


def html(result: Mapping[str, Any]) -> str:
    """Render the page, which needs no other file."""
    rows = result["rows"]
    drawn = {"differences": _differences, **({"curves": _curves} if result["curves"] else {})}
    pictures = {
        name: {form: figures.svg(draw(result, narrow=narrow)) for form, narrow in (("wide", False), ("narrow", True))}
        for name, draw in drawn.items()
    }
    counts = {word: sum(row["verdict"] == word for row in rows) for word in ("better", "worse", "no clear difference")}
    return _PAGE.render(
        r=result,
        style=STYLE,
        pictures=pictures,
        verdict=verdict(rows),
        cards=[(count, word) for word, count in counts.items()],
        paired=all(row["paired"] for row in rows),
        left_out=max(0, len(result["curves"]) - _MOST_CURVES),
    )


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the rows say together, in a sentence."""
    named = {word: [f"{row['subject']}/{row['metric']}" for row in rows if row["verdict"] == word] for word in _COLOURS}
    parts = [f"{word} in {_listed(names)}" for word, names in named.items() if names]
    if not parts:
        return "No score shows a clear difference."
    rest = len(rows) - sum(map(len, named.values()))
    return f"The second is {' and '.join(parts)}" + (f"; {rest} without clear difference." if rest else ".")


def markdown(result: Mapping[str, Any]) -> str:
    """Render the table for a terminal and for MLflow."""
    lines = [
        "# Comparison of two checkpoints",
        "",
        markdown_text(verdict(result["rows"])),
        "",
        "| score | first | second | difference | 95 % interval | p | items | second is |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {markdown_text(row['subject'])}/{markdown_text(row['metric'])} | {row['first']:.4g} | {row['second']:.4g} "
        f"| {row['second'] - row['first']:+.3g} | {row['low']:+.3g} to {row['high']:+.3g} | {_p(row['adjusted_p'])} "
        f"| {row['items']} | {row['verdict']}: {row['effect']} |"
        for row in result["rows"]
    ]
    lines += ["", *(f"* {markdown_text(note)}" for note in result["notes"])]
    return "\n".join(lines).rstrip("\n") + "\n"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _differences(result: Mapping[str, Any], *, narrow: bool) -> Figure:
    """Plot each difference with its interval: points of right answers, and other scores in percent of the first."""
    rows = [row for row in result["rows"] if row["gained"] is not None or row["first"]]
    panels = [
        ("percentage points", [row for row in rows if row["gained"] is not None]),
        ("% of the first score", [row for row in rows if row["gained"] is None]),
    ]
    panels = [(unit, some) for unit, some in panels if some]
    count = sum(len(some) for _, some in panels)
    figure = canvas_of(1.1 + 0.34 * count + 0.6 * len(panels), narrow)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(some) + 1 for _, some in panels])
    for axes, (unit, some) in zip(grid[:, 0], panels, strict=True):
        for place, row in enumerate(reversed(some)):
            scale = (-1 if row["lower_is_better"] else 1) * (
                100 if row["gained"] is not None else 100 / abs(row["first"])
            )
            ends = sorted((scale * row["low"], scale * row["high"]))
            colour = _COLOURS.get(row["verdict"], GREY)
            axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([scale * (row["second"] - row["first"])], [place], "o", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        names = [_short(f"{row['subject']}/{row['metric']}", narrow) for row in reversed(some)]
        axes.set_yticks(range(len(some)), names, fontsize=8)
        axes.set_ylim(-0.6, len(some) - 0.4)
        axes.set_xlabel(f"better by, {unit}", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _curves(result: Mapping[str, Any], *, narrow: bool) -> Figure:
    """Plot each score over the tokens trained on, in a panel of its own."""
    shown = list(result["curves"].items())[:_MOST_CURVES]
    columns = 1 if narrow else min(3, len(shown))
    lines = -(-len(shown) // columns)
    if len(shown) == 1:
        figure, axes = canvas(3.2, narrow)
        grid = [axes]
    else:
        figure = canvas_of(2.1 * lines, narrow)
        grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    for axes, (name, points) in zip(grid, shown, strict=False):
        tokens, values = zip(*points, strict=True)
        axes.plot([one / 1e6 for one in tokens], values, "o-", color=BLUE, markersize=4)
        axes.set_title(_short(name, narrow), fontsize=8, loc="left")
        axes.set_xlabel("million tokens", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _short(name: str, narrow: bool) -> str:
    most = _SHORT_NARROW if narrow else _SHORT
    return name if len(name) <= most else f"…{name[1 - most :]}"
