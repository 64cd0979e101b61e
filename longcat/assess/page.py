"""An assessment as an HTML page, which needs no other file, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from longcat.figures import svg
from longcat.page import STYLE
from longcat.plan.page import pareto_picture
from longcat.printable import counted, large_bytes, markdown_text, percent

GRADES = {"blocks": "solve first", "costs": "costs time or money", "watch": "watch"}
"""What the grade of a risk is called on the page."""
_MOST_FINDINGS = 12


def cards(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the figures that answer first, each with what it is and the name of the formula that it comes from."""
    found = []
    if today := result.get("today"):
        mfu = today["mfu"]
        what = f"MFU today, {today['devices']:,} x {today['device']}"
        found.append((percent(mfu) if mfu is not None else "not known", what, "today"))
    if plan := result.get("plan"):
        best = plan["best"][0]
        between = f"{percent(best['mfu_low'])} to {percent(best['mfu_high'])}"
        found.append((percent(best["mfu"]), f"MFU planned ({between}), {plan['devices']:,} x {plan['device']}", "plan"))
        room = large_bytes(best["memory_bytes"] - best["reserve_bytes"])
        found.append((large_bytes(best["peak_bytes"]), f"of {room} of a device: fits", "plan"))
    if target := result.get("cost", {}).get("target"):
        low, days, high = target["days"]
        found.append((f"{days:,.3g} days", f"for {target['tokens']:.3g} tokens ({low:,.3g} to {high:,.3g})", "cost"))
        if target["money"] is not None:
            low, money, high = target["money"]
            hours = f"{target['device_hours'][1]:,.0f} device-hours"
            found.append(
                (f"{money:,.0f} {target['currency']}".strip(), f"({low:,.0f} to {high:,.0f}), {hours}", "cost")
            )
    if code := result.get("code"):
        found.append((f"{len(code['findings']):,}", "places of the code that belong to CUDA", "code"))
    for which, stack in result["sovereignty"].items():
        found.append((stack["verdict"], f"sovereignty {_where(which)}", "sovereignty"))
    return found


def _where(which: str) -> str:
    return "today" if which == "today" else "on the target"


def _three(values: Any, digits: str = ",.3g") -> str:
    low, expected, high = values
    if low == high:
        return format(expected, digits)
    return f"{format(expected, digits)} ({format(low, digits)} to {format(high, digits)})"


def _whole_options(text: str) -> Markup:
    """Keep each option of a command in one line: browsers break behind hyphens."""
    marked = re.sub(r"--[\w-]+", r'<span class="option">\g<0></span>', str(escape(text)))
    return Markup(marked)  # nosec B704 # escaped above


_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters |= {"figure": format, "where": _where, "options": _whole_options}
_PAGE = _ENVIRONMENT.from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Assessment: {{ r.name }}</title><style>{{ style|safe }}
.blocks { color: #c92a2a; } .costs { color: #a35c00; } .foreign { color: #c92a2a; } .domestic { color: #2b8a3e; } .option { white-space: nowrap; }</style></head><body><main>
<h1>{{ r.name }}</h1>
<p class="lead">Can it move{% if r.plan %} to {{ "{:,}".format(r.plan.devices) }} x {{ r.plan.device }}{% endif %}: what has to change, how fast it would run, what it costs, and whose stack it is.</p>
<nav class="contents" aria-label="Contents">{% for id, title in titles %}<a href="#{{ id }}">{{ title }}</a>{% endfor %}</nav>
<div class="cards">{% for value, label, formula in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }} <a href="#formula-{{ formula }}">[{{ formula }}]</a></span></div>
{% endfor %}</div>
<h2 id="risks">Risks, the gravest first</h2>
{% if r.risks %}<table class="stack"><thead><tr><th>risk</th><th>rests on</th><th>what to do</th></tr></thead><tbody>
{% for risk in r.risks %}<tr><td class="wrap title"><b class="{{ risk.grade }}">{{ grades[risk.grade] }}</b><br>{{ risk.what }}</td><td class="wrap" data-label="rests on">{{ risk.why }}</td><td class="wrap" data-label="what to do">{{ risk.instead|options }}</td></tr>
{% endfor %}</tbody></table>{% else %}<p>None is known from what was given; see what could not be known.</p>{% endif %}
{% if r.today %}<h2 id="today">Today</h2>
<div class="verdict"><p>{{ r.today.comparison.verdict }}.</p></div>
<p>MFU {{ "%.1f %%"|format(100 * r.today.mfu) if r.today.mfu is not none else "not known" }} at {{ "{:,.0f}".format(r.today.tokens_per_second) }} tokens a second on {{ r.today.devices }} x {{ r.today.device }}; peak: {{ r.today.peak_source }}. {{ read }}. <a href="#formula-today">[today]</a></p>{% if r.today.cross_check %}<p>The log itself tells {{ r.today.cross_check.told }}; counted the same way here it is {{ "%.4g"|format(r.today.cross_check.own_tflops) }} TFLOP/s a device.</p>{% endif %}{% if r.today.planner %}<p>The planner gives {{ "{:,.0f}".format(r.today.planner.tokens_per_second) }} tokens a second for the same devices ({{ r.today.planner.layout }}); this run reaches {{ "%.0f %%"|format(100 * r.today.planner.reached) }} of that.</p>{% endif %}{% if r.today.doubts %}<ul>{% for one in r.today.doubts %}<li>{{ one }}</li>{% endfor %}</ul>{% endif %}{% endif %}
{% if r.plan %}<h2 id="plan">The plan on {{ "{:,}".format(r.plan.devices) }} x {{ r.plan.device }}</h2>
<picture><source media="(max-width: 40rem)" srcset="{{ pictures[1] }}"><img alt="Time of a step and memory of the layouts that fit" src="{{ pictures[0] }}"></picture>
<table class="stack"><thead><tr><th>layout</th><th class="n">step, s</th><th class="n">GB</th><th class="n">MFU</th><th>why not the first</th></tr></thead><tbody>
{% for row in r.plan.best %}<tr{% if loop.first %} class="ours"{% endif %}><td class="wrap title">{{ row.sentence }}</td><td class="n" data-label="step, s">{{ "%.2f"|format(row.step_seconds) }} <br><span class="note">({{ "%.2f"|format(row.step_seconds_low) }} to {{ "%.2f"|format(row.step_seconds_high) }})</span></td><td class="n" data-label="GB">{{ "%.1f"|format(row.peak_bytes / 1e9) }}</td><td class="n" data-label="MFU">{{ "%.1f %%"|format(100 * row.mfu) }}</td><td class="wrap" data-label="why not the first">{{ row.reason or "the fastest" }}</td></tr>
{% endfor %}</tbody></table>
<p class="note">Efficiencies of {{ r.plan.efficiency }} (confidence {{ r.plan.confidence }}): {{ r.plan.fitted_on }}. <a href="#formula-plan">[plan]</a></p><ul>{% for one in r.plan.assumptions %}<li>Assumed: {{ one }}.</li>{% endfor %}</ul>{% endif %}
{% if r.cost %}<h2 id="cost">Days, device-hours and money</h2>
<table class="stack"><thead><tr><th>where</th><th class="n">tokens a second</th><th class="n">days</th><th class="n">device-hours</th><th class="n">money</th></tr></thead><tbody>
{% for which, c in r.cost.items() %}<tr><td class="title">{{ which|where }}<br><span class="note">{{ "{:,}".format(c.devices) }} x {{ c.device }}, {{ "%.4g"|format(c.tokens) }} tokens{{ "" if c.tokens_stated else " (not stated: a billion)" }}</span></td>{% for label, value, digits in (("tokens a second", c.tokens_per_second, ",.0f"), ("days", c.days, ",.3g"), ("device-hours", c.device_hours, ",.0f"), ("money", c.money, ",.0f")) %}<td class="n" data-label="{{ label }}">{% if value %}{{ value[1]|figure(digits) }}{% if label == "money" %} {{ c.currency }}{% endif %}{% if value[0] != value[2] %} <br><span class="note">({{ value[0]|figure(digits) }} to {{ value[2]|figure(digits) }})</span>{% endif %}{% else %}no price given{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table><p class="note">Prices are those that were given; none is assumed. <a href="#formula-cost">[cost]</a></p>{% endif %}
{% if r.code %}<h2 id="code">What has to be changed in the code</h2>
<p>{{ "{:,}".format(r.code.findings|length) }} places; effort: {% for name, count in efforts.items() %}{{ count }} {{ name }}{{ ", " if not loop.last }}{% endfor %}. <a href="#formula-code">[code]</a></p>
{% if findings %}<table class="stack"><thead><tr><th>place</th><th>what</th><th>why</th><th>instead</th></tr></thead><tbody>
{% for row in findings %}<tr><td class="wrap title">{{ row.file }}:{{ row.line }}<br><span class="note">{{ row.kind }}, {{ row.effort }}</span></td><td class="wrap" data-label="what">{{ row.what }}</td><td class="wrap" data-label="why">{{ row.why }}</td><td class="wrap" data-label="instead">{{ row.instead }}</td></tr>
{% endfor %}</tbody></table><p class="note">The hardest ones; all: longcat port scan.</p>{% endif %}{% endif %}
{% for which, stack in r.sovereignty.items() %}<h2 id="stack-{{ which }}">Whose stack it is {{ which|where }}: {{ stack.verdict }}</h2>
<div class="verdict"><p>{{ stack.reason }}. <a href="#formula-sovereignty">[sovereignty]</a></p></div>
<table class="stack"><thead><tr><th>layer</th><th>component</th><th>origin</th><th>maker</th><th>needs</th><th>source</th></tr></thead><tbody>
{% for part in stack.parts %}<tr><td class="title">{{ part.layer }}</td><td class="wrap" data-label="component">{{ part.called or "not stated" }}</td><td class="wrap" data-label="origin"><span class="{{ part.origin }}">{{ part.origin }}</span>{% if part.through %}, needs {{ part.through }}{% endif %}</td><td class="wrap" data-label="maker">{{ part.maker or "" }}{% if part.country %}, {{ part.country }}{% endif %}{% if part.supply %}<br><span class="note">Supply: {{ part.supply }}</span>{% endif %}</td><td class="wrap" data-label="needs">{{ part.needs|join(", ") }}</td><td class="source" data-label="source">{{ part.source or "" }}</td></tr>
{% endfor %}</tbody></table>{% endfor %}
{% if r.known %}<h2 id="known">What is published</h2><ul>{% for one in r.known %}<li>{{ one.what }} <span class="note">({{ one.source }})</span></li>{% endfor %}</ul>{% endif %}
<h2 id="not-known">What could not be known</h2>
{% if r.not_known %}<ul>{% for one in r.not_known %}<li>{{ one }}</li>{% endfor %}</ul>{% else %}<p>Nothing that was asked for.</p>{% endif %}
<h2 id="formulas">Where the figures come from</h2><ul>{% for name, text in r.formulas.items() %}<li id="formula-{{ name }}">[{{ name }}] {{ text }}.</li>{% endfor %}</ul>
</main></body></html>
""")
_MARKDOWN_ENVIRONMENT = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # nosec B701 # Markdown: `md` escapes
_MARKDOWN_ENVIRONMENT.filters |= {"md": markdown_text, "three": _three, "where": _where}
_MARKDOWN = _MARKDOWN_ENVIRONMENT.from_string("""# {{ r.name|md }}

| figure | what it is | from |
| --- | --- | --- |
{% for value, label, formula in cards %}
| **{{ value|md }}** | {{ label|md }} | {{ formula }} |
{% endfor %}

## Risks, the gravest first

{% for risk in r.risks %}
* **{{ grades[risk.grade] }}**: {{ risk.what|md }}. {{ risk.why|md }}. What to do: {{ risk.instead|md }}.
{% else %}
None is known from what was given.
{% endfor %}

{% if r.today %}
## Today

{{ r.today.comparison.verdict|md }}.

MFU {{ "%.1f %%"|format(100 * r.today.mfu) if r.today.mfu is not none else "not known" }} at {{ "{:,.0f}".format(r.today.tokens_per_second) }} tokens a second on {{ r.today.devices }} x {{ r.today.device|md }}; peak: {{ r.today.peak_source|md }}. {{ read|md }}.

{% if r.today.cross_check %}
The log itself tells {{ r.today.cross_check.told|md }}; counted the same way here it is {{ "%.4g"|format(r.today.cross_check.own_tflops) }} TFLOP/s a device.

{% endif %}
{% if r.today.planner %}
The planner gives {{ "{:,.0f}".format(r.today.planner.tokens_per_second) }} tokens a second for the same devices ({{ r.today.planner.layout|md }}); this run reaches {{ "%.0f %%"|format(100 * r.today.planner.reached) }} of that.

{% endif %}
{% for one in r.today.doubts %}
* {{ one|md }}
{% endfor %}

{% endif %}
{% if r.plan %}
## The plan on {{ "{:,}".format(r.plan.devices) }} x {{ r.plan.device|md }}

| layout | step, s | GB | MFU | why not the first |
| --- | --- | --- | --- | --- |
{% for row in r.plan.best %}
| {{ row.sentence|md }} | {{ "%.2f"|format(row.step_seconds) }} ({{ "%.2f"|format(row.step_seconds_low) }} to {{ "%.2f"|format(row.step_seconds_high) }}) | {{ "%.1f"|format(row.peak_bytes / 1e9) }} | {{ "%.1f %%"|format(100 * row.mfu) }} | {{ (row.reason or "the fastest")|md }} |
{% endfor %}

Efficiencies of {{ r.plan.efficiency|md }} (confidence {{ r.plan.confidence }}): {{ r.plan.fitted_on|md }}.

{% for one in r.plan.assumptions %}
* Assumed: {{ one|md }}.
{% endfor %}

{% endif %}
{% if r.cost %}
## Days, device-hours and money

| where | tokens | tokens a second | days | device-hours | money |
| --- | --- | --- | --- | --- | --- |
{% for which, c in r.cost.items() %}
| {{ which|where }}, {{ "{:,}".format(c.devices) }} x {{ c.device|md }} | {{ "%.4g"|format(c.tokens) }}{{ "" if c.tokens_stated else " (not stated: a billion)" }} | {{ c.tokens_per_second|three(",.0f") }} | {{ c.days|three }} | {{ c.device_hours|three(",.0f") }} | {{ (c.money|three(",.0f") ~ " " ~ c.currency)|md if c.money else "no price given" }} |
{% endfor %}

{% endif %}
{% if r.code %}
## What has to be changed in the code

{{ "{:,}".format(r.code.findings|length) }} places; effort: {% for name, count in efforts.items() %}{{ count }} {{ name }}{{ ", " if not loop.last }}{% endfor %}.

{% for row in findings %}
* {{ row.file|md }}:{{ row.line }}: {{ row.what|md }} ({{ row.kind }}, {{ row.effort }}). {{ row.why|md }}. Instead: {{ row.instead|md }}.
{% endfor %}

{% endif %}
{% for which, stack in r.sovereignty.items() %}
## Whose stack it is {{ which|where }}: {{ stack.verdict }}

{{ stack.reason|md }}.

| layer | component | origin | maker | needs | source |
| --- | --- | --- | --- | --- | --- |
{% for part in stack.parts %}
| {{ part.layer }} | {{ (part.called or "not stated")|md }} | {{ part.origin }}{{ (", needs " ~ part.through)|md if part.through }} | {{ ([part.maker, part.country]|select|join(", "))|md }}{{ ("; supply: " ~ part.supply)|md if part.supply }} | {{ part.needs|join(", ")|md }} | {{ (part.source or "")|md }} |
{% endfor %}

{% endfor %}
{% if r.known %}
## What is published

{% for one in r.known %}
* {{ one.what|md }} ({{ one.source|md }})
{% endfor %}

{% endif %}
## What could not be known

{% for one in r.not_known %}
* {{ one|md }}
{% else %}
Nothing that was asked for.
{% endfor %}

## Where the figures come from

{% for name, text in r.formulas.items() %}
* {{ name }}: {{ text|md }}.
{% endfor %}
""")


def html(result: Mapping[str, Any]) -> str:
    """Render the page."""
    plan = result.get("plan")
    pictures = [svg(pareto_picture(plan, narrow=narrow)) for narrow in (False, True)] if plan else []
    titles = [("risks", "Risks")]
    titles += [
        (name, title)
        for name, title in (("today", "Today"), ("plan", "Plan"), ("cost", "Cost"), ("code", "Code"))
        if result.get(name)
    ]
    titles += [(f"stack-{which}", f"Stack {which}") for which in result["sovereignty"]]
    titles += [("not-known", "Not known"), ("formulas", "Sources")]
    return _PAGE.render(r=result, style=STYLE, pictures=pictures, titles=titles, **_shared(result))


def markdown(result: Mapping[str, Any]) -> str:
    """Render the same as Markdown."""
    return _MARKDOWN.render(r=result, **_shared(result))


def _shared(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cards": cards(result),
        "grades": GRADES,
        "findings": hardest(result),
        "efforts": _efforts(result),
        "read": _read_from(result.get("today")),
    }


def _read_from(today: Mapping[str, Any] | None) -> str:
    """Say what today's speed was read from."""
    if today is None:
        return ""
    log = today["log"]
    return f"Speed: the median of {counted(log['readings'], 'reading')} of a log of {log['kind']}, tokens from {log['tokens_from']}"


def hardest(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the findings in the code that take most effort."""
    from longcat.port.findings import EFFORTS

    order = list(EFFORTS)
    rows = result.get("code", {}).get("findings", ())
    hard = [row for row in rows if row["effort"] not in order[:2]]
    return sorted(hard, key=lambda row: -order.index(row["effort"]))[:_MOST_FINDINGS]


def _efforts(result: Mapping[str, Any]) -> dict[str, int]:
    from longcat.port.findings import EFFORTS

    rows = result.get("code", {}).get("findings", ())
    counts = {EFFORTS[name]: sum(row["effort"] == name for row in rows) for name in EFFORTS}
    return {name: count for name, count in counts.items() if count}
