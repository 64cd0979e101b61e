"""The answer of `longcat plan` as an HTML page, with the Pareto picture: time of a step against memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from longcat.figures import BLUE, FAINT, INK, ORANGE, canvas, legend, svg
from longcat.page import STYLE
from longcat.plan.answer import by_kind
from longcat.plan.printed import CLOSE, layout_text, memory_remark
from longcat.printable import large_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLOWEST = 5
"""Times the fastest step beyond which a layout is not drawn."""
_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Plan: {{ a.model }} on {{ a.devices }} x {{ a.device }}</title><style>{{ style|safe }}</style></head><body><main>
<h1>{{ a.model }} on {{ "{:,}".format(a.devices) }} x {{ a.device }}</h1>
<p class="lead">{{ parameters }} parameters; {{ "{:,}".format(a.global_batch) }} sequences of {{ "{:,}".format(a.sequence_length) }} tokens in a step</p>
<div class="cards">
<div class="card"><b>{{ "%.2f s"|format(best.step_seconds) }}</b><span>a step ({{ "%.2f"|format(best.step_seconds_low) }} to {{ "%.2f"|format(best.step_seconds_high) }})</span></div>
<div class="card"><b>{{ "%.1f %%"|format(100 * best.mfu) }}</b><span>MFU ({{ "%.1f"|format(100 * best.mfu_low) }} to {{ "%.1f"|format(100 * best.mfu_high) }})</span></div>
<div class="card"><b>{{ "%.1f GB"|format(best.peak_bytes / 1e9) }}</b><span>of {{ "%.1f"|format((best.memory_bytes - best.reserve_bytes) / 1e9) }}: {{ "fits" if best.fits else "does not fit" }}</span></div>
{% if best.days is defined %}<div class="card"><b>{{ "{:,.1f} days".format(best.days) }}</b><span>for {{ "%.4g"|format(best.tokens) }} tokens ({{ "{:,.1f}".format(best.days_low) }} to {{ "{:,.1f}".format(best.days_high) }}); {{ "{:,.0f}".format(best.device_hours) }} device-hours</span></div>{% endif %}
</div>
<div class="verdict"><p>{{ layout }}</p>{% if best.close %}<p>{{ close }}</p>{% endif %}</div>
{% if pictures.pareto %}<h2>Time against memory</h2>
<picture><source media="(max-width: 40rem)" srcset="{{ pictures.pareto[1] }}"><img alt="Time of a step and memory of the layouts that fit" src="{{ pictures.pareto[0] }}"></picture>
<p class="note">Each point is a way to divide the devices, with its fastest micro-batch, schedule and recomputation. No other layout beats those on the line in both; those more than {{ slowest }} times as slow as the fastest are not shown.</p>
{% endif %}<h2>A step</h2>
<picture><source media="(max-width: 40rem)" srcset="{{ pictures.step[1] }}"><img alt="Time of a step by part" src="{{ pictures.step[0] }}"></picture>
{% if a.best %}<h2>The best layouts</h2>
<table class="stack"><thead><tr><th>layout</th><th class="n">step, s</th><th class="n">GB</th><th class="n">MFU</th><th class="wrap">why not the first</th></tr></thead><tbody>
{% for row in a.best %}<tr{% if loop.first %} class="ours"{% endif %}><td class="wrap title">{{ row.sentence }}</td><td class="n" data-label="step, s">{{ "%.2f"|format(row.step_seconds) }}</td><td class="n" data-label="GB">{{ "%.1f"|format(row.peak_bytes / 1e9) }}</td><td class="n" data-label="MFU">{{ "%.1f %%"|format(100 * row.mfu) }}</td><td class="wrap" data-label="why not the first">{{ row.reason or "the fastest" }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if a.mixed %}<h2>With {{ a.mixed.also.devices }} x {{ a.mixed.also.device }}</h2>
<table class="stack"><thead><tr><th>way</th><th class="n">step, s</th><th class="wrap">share and layout</th></tr></thead><tbody>
{% for row in a.mixed.ways %}<tr><td class="title">{{ row.way }}</td><td class="n" data-label="step, s">{{ "%.2f"|format(row.step_seconds) }}</td><td class="wrap" data-label="share and layout">{{ row.text }}</td></tr>
{% endfor %}</tbody></table><div class="verdict"><p>{{ a.mixed.verdict }}</p></div>{% endif %}
<h2>Memory of a device</h2>
<div class="scroll"><table><thead><tr><th>part</th><th class="n">GB</th></tr></thead><tbody>
{% for name, size in memory %}<tr><td>{{ name }}</td><td class="n">{{ "%.2f"|format(size / 1e9) }}</td></tr>
{% endfor %}</tbody></table></div>
{% if remark %}<p class="note">{{ remark }}</p>{% endif %}
<h2>Products</h2>
<div class="scroll"><table><thead><tr><th>component</th><th class="n">m x k x n</th><th class="n">of the peak</th></tr></thead><tbody>
{% for row in a.products %}<tr><td>{{ row.component|replace("_", " ") }}{% if row.grouped %}, grouped{% endif %}</td><td class="n">{{ "{:,} x {:,} x {:,}".format(row.m, row.k, row.n) }}</td><td class="n">{{ "%.1f %%"|format(100 * row.share_of_peak) }}</td></tr>
{% endfor %}</tbody></table></div>
<h2>Where the numbers come from</h2>
<ul><li>Efficiencies of {{ a.efficiency }} (confidence {{ a.confidence }}): {{ a.fitted_on }}.</li><li>Software: {{ a.stack }}.</li>
{% for line in a.assumptions %}<li>{{ line }}</li>{% endfor %}</ul>
</main></body></html>
""")


def page(answer: Mapping[str, Any]) -> str:
    """Return the page of an answer, which needs no other file."""
    best = answer["best"][0] if "best" in answer else answer
    pictures = {"step": [svg(step_picture(best, narrow=narrow)) for narrow in (False, True)]}
    if "layouts" in answer:
        pictures["pareto"] = [svg(pareto_picture(answer, narrow=narrow)) for narrow in (False, True)]
    memory = sorted(
        ((name.replace("_", " "), size) for name, size in best["memory"].items() if size), key=lambda pair: -pair[1]
    )
    return _PAGE.render(
        a=answer,
        parameters=large_count(answer["total_parameters"]),
        best=best,
        style=STYLE,
        pictures=pictures,
        layout=layout_text(best["layout"]),
        memory=memory,
        remark=memory_remark(best),
        slowest=_SLOWEST,
        close=CLOSE,
    )


def pareto_picture(answer: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Plot time of a step against memory of all layouts that fit."""
    figure, axes = canvas(3.6 if not narrow else 3.2, narrow)
    points = [
        one for one in answer["layouts"] if one["step_seconds"] <= _SLOWEST * answer["layouts"][0]["step_seconds"]
    ]
    front = [one for one in points if one["pareto"]]
    inner = [one for one in points if not one["pareto"]]
    xy = lambda some: ([one["peak_bytes"] / 1e9 for one in some], [one["step_seconds"] for one in some])  # noqa: E731
    axes.scatter(*xy(inner), s=14, color=FAINT, label="fits", zorder=2)
    front = sorted(front, key=lambda one: one["peak_bytes"])
    axes.plot(*xy(front), color=BLUE, marker="o", markersize=5, label="no other is better in both", zorder=3)
    axes.scatter(*xy(points[:1]), s=70, color=ORANGE, label="the fastest", zorder=4)
    axes.set_xlabel("GB of a device")
    axes.set_ylabel("s a step")
    legend(figure, 3)
    return figure


def step_picture(best: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Plot the parts of a step as bars, coloured by kind."""
    parts = sorted(
        (part for part in best["parts"] if part["seconds"] > 0.002 * best["step_seconds"]), key=lambda p: p["seconds"]
    )
    colours = {
        "compute": BLUE,
        "communication": ORANGE,
        "bubble": "#c92a2a",
        "optimizer": "#7048e8",
        "overhead": "#868e96",
    }
    figure, axes = canvas(0.9 + 0.27 * len(parts), narrow)
    axes.grid(visible=False, axis="y")
    seen = set()
    for row, part in enumerate(parts):
        kind = part["kind"]
        label = f"{kind} {by_kind(best['parts'])[kind] / best['step_seconds']:.0%}" if kind not in seen else None
        seen.add(kind)
        axes.barh(row, part["seconds"], color=colours[kind], label=label, height=0.7)
        axes.text(part["seconds"], row, f" {part['seconds']:.2f}", va="center", fontsize=8, color=INK)
    names = [
        part["part"].replace("_", " ")
        + (f"\n{part['level']}" if part["level"] and narrow else f", {part['level']}" if part["level"] else "")
        for part in parts
    ]
    axes.set_yticks(range(len(parts)), names, fontsize=8)
    axes.set_xlabel("s")
    axes.margins(x=0.12)
    legend(figure, 3)
    return figure
