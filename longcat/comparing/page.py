"""A comparison as an HTML page, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from longcat import figures
from longcat.comparing.differences import CURVES
from longcat.comparing.printed import at_common_tokens, change, in_results, number, same_files, summary, value
from longcat.figures import BLUE, ORANGE, canvas_of
from longcat.page import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRACTIONS = ("perf/mfu",)
"""Curves that are shown in percent."""
_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters |= {"number": number, "change": change, "value": value, "files": same_files, "results": in_results}
_PAGE = _ENVIRONMENT.from_string("""
{%- macro pair(title, rows, what, kind="wrap") %}{% if rows %}<h2>{{ title }}</h2>
<table class="stack"><thead><tr><th>{{ what }}</th><th class="{{ kind }}">first</th><th class="{{ kind }}">second</th></tr></thead><tbody>
{% for name, note, one, other in rows %}<tr><td class="wrap title">{{ name }}{% if note %}<br><span class="note">{{ note }}</span>{% endif %}</td><td class="{{ kind }}" data-label="first">{{ one }}</td><td class="{{ kind }}" data-label="second">{{ other }}</td></tr>
{% endfor %}</tbody></table>{% endif %}{% endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison of two runs</title><style>{{ style|safe }}
.better { color: #2b8a3e; } .worse { color: #c92a2a; } .first { color: {{ blue }}; } .second { color: {{ orange }}; } td.wrap { overflow-wrap: anywhere; }</style></head><body><main>
<h1><span class="first">{{ r.first.label }}</span> and <span class="second">{{ r.second.label }}</span></h1>
<div class="verdict">{% for line in summary %}<p>{{ line }}</p>{% endfor %}</div>
{% if r.notes %}<ul>{% for note in r.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
{{ pair("Settings that differ", settings, "setting") }}
{% if pictures %}<h2>Curves</h2>
<picture><source media="(max-width: 40rem)" srcset="{{ pictures.narrow }}"><img alt="Curves of both over the tokens trained on" src="{{ pictures.wide }}"></picture>
<p class="note">Over {{ unit }} tokens trained on. <span class="first">Blue: the first</span>; <span class="second">orange, dashed: the second</span>.</p>
{% if common %}<table class="stack"><thead><tr><th>at tokens that both have come to</th><th class="n">first</th><th class="n">second</th><th class="n">difference</th></tr></thead><tbody>
{% for name, one, other, apart in common %}<tr><td class="wrap title">{{ name }}</td><td class="n" data-label="first">{{ one }}</td><td class="n" data-label="second">{{ other }}</td><td class="n" data-label="difference">{{ apart }}</td></tr>
{% endfor %}</tbody></table>{% endif %}{% endif %}
{% if r.figures %}<h2>Figures</h2>
<table class="stack"><thead><tr><th>figure</th><th class="n">first</th><th class="n">second</th><th class="n">difference</th></tr></thead><tbody>
{% for row in r.figures %}<tr><td class="wrap title">{{ row.name }}</td><td class="n" data-label="first">{{ row.first|number(row.name) }}</td><td class="n" data-label="second">{{ row.second|number(row.name) }}</td><td class="n" data-label="difference">{{ row|change }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if r.scores %}<h2>Scores</h2>
<table class="stack"><thead><tr><th>score</th><th class="n">first</th><th class="n">second</th><th>second is</th></tr></thead><tbody>
{% for row in r.scores %}<tr><td class="wrap title">{{ row.score }}{% if row.lower_is_better %}<br><span class="note">lower is better</span>{% endif %}</td><td class="n" data-label="first">{{ row.first|number }}</td><td class="n" data-label="second">{{ row.second|number }}</td><td class="wrap" data-label="second is"><span class="{{ row.verdict }}">{{ row.verdict }}</span><br><span class="note">{{ row.effect }}</span></td></tr>
{% endfor %}</tbody></table>
<p class="note">Intervals and tests: longcat evaluate --compare.</p>{% endif %}
{{ pair("Cost", cost, "cost", "n") }}
{% if r.bytes %}<h2>Bytes</h2>
<table class="stack"><thead><tr><th>result</th><th>files</th></tr></thead><tbody>
{% for row in r.bytes %}<tr><td class="title">{{ row.kind }}</td><td class="wrap" data-label="files">{{ row|files }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{{ pair("Surroundings that differ", surroundings, "what") }}
<h2>What was compared</h2>
<ul>{% for which in ("first", "second") %}<li><span class="{{ which }}">{{ r[which].label }}</span>: {{ r[which]|results }} in {{ r[which].workspace }}</li>{% endfor %}</ul>
</main></body></html>
""")


def html(result: Mapping[str, Any]) -> str:
    """Render the page."""
    pictures = {}
    if result["curves"]:
        pictures = {
            form: figures.svg(_curves(result, narrow=narrow)) for form, narrow in (("wide", False), ("narrow", True))
        }
    return _PAGE.render(
        r=result,
        style=STYLE,
        blue=BLUE,
        orange=ORANGE,
        summary=summary(result),
        pictures=pictures,
        unit=_unit(result)[0],
        common=list(at_common_tokens(result)),
        settings=[(row["setting"], row["of"], value(row["first"]), value(row["second"])) for row in result["settings"]],
        cost=[(row["what"], "", number(row["first"]), number(row["second"])) for row in result["cost"]],
        surroundings=[
            (row["what"], value(row["of"]), value(row["first"]), value(row["second"])) for row in result["surroundings"]
        ],
    )


def _curves(result: Mapping[str, Any], *, narrow: bool) -> Figure:
    """Plot both runs over each other, a panel for each curve."""
    shown = list(result["curves"].items())
    columns = 1 if narrow else min(2, len(shown))
    lines = -(-len(shown) // columns)
    figure = canvas_of((1.9 if narrow else 2.3) * lines, narrow)
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    _, scale = _unit(result)
    for axes, (name, both) in zip(grid, shown, strict=False):
        for which, colour, style in (("first", BLUE, "-"), ("second", ORANGE, "--")):
            if both[which]:
                tokens, values = zip(*both[which], strict=True)
                mark = "o" if len(tokens) < 3 else None
                heights = [100 * one for one in values] if name in _FRACTIONS else values
                axes.plot([one / scale for one in tokens], heights, style, color=colour, linewidth=1.3, marker=mark)
        axes.set_title(f"{CURVES[name]}{', %' if name in _FRACTIONS else ''}", fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _unit(result: Mapping[str, Any]) -> tuple[str, float]:
    """Return the unit that tokens are counted in, and how many it has."""
    most = max((points[-1][0] for both in result["curves"].values() for points in both.values() if points), default=0.0)
    return ("million", 1e6) if most >= 2e6 else ("thousand", 1e3)
