"""A scan as an HTML page, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from jinja2 import Environment

from longcat.page import STYLE
from longcat.port.findings import CLASSES, EFFORTS

_COLOURS = {"none": "#868e96", "automatic": "#2b8a3e", "minutes": "#2f6fde", "hours": "#a35c00", "days": "#c92a2a"}
_MOST = 5_000
"""Places that are shown; more are in `--json`."""
_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>From CUDA to Ascend: {{ r.root }}</title><style>{{ style|safe }}
.bar { display: flex; height: 1.1rem; border-radius: .3rem; overflow: hidden; margin: .25rem 0 .5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: #55607a; margin: 0 0 1rem; }
.dot { display: inline-block; width: .7rem; height: .7rem; border-radius: .2rem; margin-right: .35rem; }
.effort { font-weight: 600; white-space: nowrap; } td.place { width: 3.5rem; } td.name { width: 15rem; overflow-wrap: anywhere; white-space: normal; }
td.kind { width: 8rem; } td.advice { white-space: normal; overflow-wrap: anywhere; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; overflow-wrap: anywhere; }
table.fixed { table-layout: fixed; } @media (max-width: 46rem) { table.stack.fixed td { width: auto; } }
</style></head><body><main>
<h1>From CUDA to Ascend</h1>
<p class="lead">{{ r.root }}: {{ "{:,}".format(r.files) }} files, {{ "{:,}".format(r.lines) }} lines</p>
<div class="cards">{% for effort, words in efforts.items() if r.by_effort[effort] %}<div class="card"><b style="color: {{ colours[effort] }}">{{ "{:,}".format(r.by_effort[effort]) }}</b><span>{{ words }}</span></div>{% else %}<div class="card"><b>0</b><span>places that belong to CUDA</span></div>{% endfor %}</div>
{% if r.findings %}<h2>Classes</h2>
<div class="bar">{% for effort in efforts if r.by_effort[effort] %}<div style="flex: {{ r.by_effort[effort] }}; background: {{ colours[effort] }}" title="{{ effort }}"></div>{% endfor %}</div>
<div class="legend">{% for effort in efforts if r.by_effort[effort] %}<span><span class="dot" style="background: {{ colours[effort] }}"></span>{{ effort }}: {{ efforts[effort] }}</span>{% endfor %}</div>
<table class="stack"><thead><tr><th>class</th><th class="n">places</th><th>what it means</th></tr></thead><tbody>
{% for kind, count in r.by_class.items() %}<tr><td>{{ kind }}</td><td class="n" data-label="places">{{ count }}</td><td class="wrap" data-label="what it means">{{ classes[kind] }}</td></tr>
{% endfor %}</tbody></table>
{% if todo %}<h2>What is to be done by hand</h2>
<table class="stack"><thead><tr><th>what</th><th class="n">places</th><th>effort</th><th>on an Ascend</th></tr></thead><tbody>
{% for row in todo %}<tr><td class="name">{{ row.what }}</td><td class="n" data-label="places">{{ row.places }}</td><td data-label="effort"><span class="effort" style="color: {{ colours[row.effort] }}">{{ row.effort }}</span></td><td class="advice" data-label="on an Ascend">{{ row.why }}{% if row.instead %}<br><b>instead:</b> {{ row.instead }}{% endif %}{% if row.source %}<br><span class="note">{{ row.source }}</span>{% endif %}</td></tr>
{% endfor %}</tbody></table>{% endif %}
<h2>By file and line</h2>
{% for file, rows in files %}<h3>{{ file }}</h3>
<table class="stack fixed"><tbody>
{% for row in rows %}<tr><td class="n place" data-label="line">{{ row.line }}</td><td class="name" data-label="what">{{ row.what }}</td><td class="kind" data-label="class">{{ row.kind }}<br><span class="effort" style="color: {{ colours[row.effort] }}">{{ row.effort }}</span></td><td class="advice" data-label="on an Ascend">{{ row.why }}{% if row.instead %}; instead: {{ row.instead }}{% endif %}</td></tr>
{% endfor %}</tbody></table>
{% endfor %}{% if more %}<p class="note">{{ "{:,}".format(more) }} more places are in --json.</p>{% endif %}{% endif %}
{% if r.unread %}<h2>What was not read</h2>
<ul>{% for row in r.unread[:500] %}<li>{{ row.file }}{% if row.line %}, line {{ row.line }}{% endif %}: {{ row.why }}</li>{% endfor %}</ul>{% endif %}
<footer>{% if r.operators %}Operators: {{ r.operators }}.{% else %}Operators were not looked up: {{ r.no_operators }}.{% endif %} Nothing of the repository was run.</footer>
</main></body></html>
""")


def html(result: Mapping[str, Any]) -> str:
    """Render the page of a scan, as `Scan.as_json` gives it."""
    shown = result["findings"][:_MOST]
    page = _PAGE.render(
        r=result,
        style=STYLE,
        classes=CLASSES,
        efforts=EFFORTS,
        colours=_COLOURS,
        todo=_by_hand(result["findings"]),
        files=[(file, list(rows)) for file, rows in groupby(shown, key=lambda row: row["file"])],
        more=len(result["findings"]) - len(shown),
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files need not be UTF-8


def _by_hand(findings: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the rewrite leaves, each name once, the dearest first."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in findings:
        if one["effort"] not in ("none", "automatic"):
            row = rows.setdefault((one["what"], one["why"]), {**one, "places": 0})
            row["places"] += 1
    return sorted(rows.values(), key=lambda row: (-list(EFFORTS).index(row["effort"]), -row["places"], row["what"]))
