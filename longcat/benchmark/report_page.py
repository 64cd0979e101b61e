"""Template of the HTML page that reports a utilisation; `longcat.benchmark.report` fills it in.

Every section stands under its title in `TITLES`; the table of contents lists the sections that have data.
"""

from __future__ import annotations

TITLES = {
    "verdict": "Verdict",
    "distribution": "Among published A100 runs of this kind",
    "published": "All published runs",
    "rows": "Comparable A100 runs",
    "other-devices": "Other devices, for orientation",
    "step": "Time of a training step",
    "layout": "Layout: which rank holds what",
    "timeline": "Timeline of a step",
    "axes": "Communication by axis",
    "flops": "FLOPs per training token",
    "conventions": "MFU by other conventions",
    "kernels": "Speed of the kernels",
    "memory": "Memory",
    "sweep": "Sweep of settings",
    "scaling": "Scaling over processes",
    "basis": "What the figures rest on",
}
"""Titles of the sections by anchor, in the order of the page."""

_MACROS = """
{%- macro heading(id) %}<h2 id="{{ id }}">{{ titles[id] }}</h2>{% endmacro -%}
{%- macro picture(name, alt) %}<picture><source media="(max-width: 40rem)" srcset="{{ pictures[name].narrow }}"><img alt="{{ alt }}" src="{{ pictures[name].wide }}"></picture>{% endmacro -%}
{%- macro own_count(row, value) %}{% if "ratio_own_convention" in row and row.convention != "longcat" %}<br><span class="own" data-by="{{ "as published" if row.convention == "unknown" else "by " ~ row.convention|words }}">{{ value }}</span>{% endif %}{% endmacro -%}
{%- macro runs(rows, prefix, judged) %}<table class="stack"><thead><tr><th>#</th><th>run</th><th class="n">its MFU</th><th class="n">this run</th><th class="n">ratio</th><th class="n">FLOP/s<br>ratio</th>{% if judged %}<th>says</th>{% endif %}<th>source</th></tr></thead><tbody>
{% for row in rows %}<tr id="{{ prefix }}-{{ loop.index }}"><td class="rank">{{ loop.index }}</td><td class="wrap title">{{ row.model }}<br><span class="note">{{ row.activated_parameters|count }} activated, {{ row.devices or "?" }} × {{ row.device }}, {{ row.sequence_length or "?" }} tokens{{ ", " ~ row.layout if row.layout }}{{ ", recomputation " ~ row.recomputation if row.recomputation }}{{ ", published by " ~ row.convention|words if "ratio_own_convention" in row and row.convention not in ("longcat", "unknown") }}{{ ", " ~ row.task if row.task and row.task != "pre-training" }}</span>
{% if row.differences %}<br><span class="note">Not comparable: {{ row.differences|join("; ") }}.</span>{% endif %}{% if row.notes %}<br><span class="note">Differs: {{ row.notes|join("; ") }}.</span>{% endif %}{% if row.reason %}<br><span class="note">Published {{ row.published_mfu|percent }}: {{ row.reason }}.</span>{% endif %}{% if row.guessed %}<br><span class="note">Not stated by the source: {{ row.guessed|join(", ")|words }}.</span>{% endif %}</td><td class="n" data-label="its MFU">{{ row.mfu|percent }}{{ own_count(row, row.get("row_mfu_own_convention")|percent) }}</td><td class="n" data-label="this run">{{ row.own_mfu|percent }}{% if "ratio_own_convention" not in row %} <span class="note">by {{ row.convention|words }}</span>{% endif %}{{ own_count(row, row.get("own_mfu_own_convention")|percent) }}</td><td class="n" data-label="ratio">{{ row.ratio|ratio }}{{ own_count(row, row.get("ratio_own_convention")|ratio) }}</td><td class="n" data-label="FLOP/s ratio">{{ row.speed_ratio|ratio }}</td>{% if judged %}<td data-label="says" class="wrap {{ row.says }}">{{ says[row.says] if row.says in says }}</td>{% endif %}<td data-label="source"><a href="#source-{{ sources.index(row|source) + 1 }}">[{{ sources.index(row|source) + 1 }}]</a></td></tr>
{% endfor %}</tbody></table>{% endmacro -%}
"""

PAGE = (
    _MACROS
    + """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>MFU on {{ r.device_name }}</title><style>{{ style|safe }}</style></head><body><main>
<h1>Model FLOPs utilisation on {{ r.device_name }}</h1>
<p class="lead">{{ lead }}</p>
<nav class="contents" aria-label="Contents">{% for id, title in titles.items() %}<a href="#{{ id }}">{{ title }}</a>{% endfor %}</nav>
<div class="cards">
{% for value, label in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}</div>

{{ heading("verdict") }}
<div class="verdict"><p>{{ c.verdict[0]|upper }}{{ c.verdict[1:] }}.</p>
{% if doubts %}<p>Why there is no verdict:</p><ul>{% for doubt in doubts %}<li>{{ doubt }}</li>{% endfor %}</ul>
{% endif %}{% for remark in remarks %}<p>{{ remark }}</p>
{% endfor %}{% if c.matches %}<p class="links">Rows: {% for row in c.matches %}<a href="#row-{{ loop.index }}" title="{{ row.model }}, {{ row.devices }} × {{ row.device }}"{% if row.says in says %} class="{{ row.says }}"{% endif %}>{{ loop.index }}{% if row.ratio is not none %} <small>{{ row.ratio|ratio }}</small>{% endif %}</a> {% endfor %}</p>{% endif %}</div>
{% if (c.verdicts or [])|length > 1 %}<p class="note">Several peaks of this device are published, and each gives a verdict of its own; the first is the one used on this page.</p>
<table class="stack"><thead><tr><th class="n">peak, TFLOP/s</th><th class="n">MFU</th><th class="n">ratio</th><th>verdict</th><th>source of the peak</th></tr></thead><tbody>
{% for one in c.verdicts %}<tr{{ ' class="ours"'|safe if loop.first }}><td class="n" data-label="peak, TFLOP/s">{{ "%.4g"|format(one.peak_flops / 1e12) }}</td><td class="n" data-label="MFU">{{ one.mfu|percent }}</td><td class="n" data-label="ratio">{{ one.ratio|ratio }}</td><td class="wrap" data-label="verdict">{{ says[one.word] }}</td><td class="source" data-label="source">{{ one.peak_source }}</td></tr>
{% endfor %}</tbody></table>{% endif %}

{% if titles.distribution %}{{ heading("distribution") }}
{{ picture("distribution", "This run among published A100 runs of its kind, by MFU") }}
<p>{{ distribution_text }}</p>
<p class="note">{{ "Filled: comparable with this run; hollow: not, by size, device or method. " if named }}Every row counted causally, as this run.</p>{% endif %}

{{ heading("published") }}
{{ picture("published", "MFU of published runs, over activated parameters") }}
<p class="note">{{ "This run is left out: an MFU on a CPU says nothing beside one on an A100. " if on_cpu }}All counted causally, also those that were published by another count.</p>
{% if titles.rows %}{{ heading("rows") }}
{{ runs(c.matches, "row", c.matches|selectattr("says", "in", says)|list) }}
{% endif %}{% if c.other_devices %}{{ heading("other-devices") }}
{{ runs(c.other_devices, "other", false) }}
{% endif %}{% if sources %}<p class="note">Ratio: MFU of this run over the row's, both counted in the same way{{ " (causal attention), and in grey as the row's own source counts" if own_conventions }}. FLOP/s ratio: the same for useful FLOP/s per device, that is for the work done in an hour of one device.</p>
<ol class="note sources">{% for source in sources %}<li id="source-{{ loop.index }}">{{ source }}</li>{% endfor %}</ol>{% endif %}

{% if r.breakdown %}{{ heading("step") }}
{{ picture("breakdown", "Parts of a training step") }}
<div class="scroll"><table><tr><th>part</th><th class="n">ms per step</th><th class="n">fraction</th></tr>
{% for name, seconds in r.breakdown.parts.items() %}<tr><td class="wrap">{{ name|words }}<br><span class="note">{{ part_descriptions[name] }}</span></td><td class="n">{{ "%.1f"|format(seconds * 1e3) }}</td><td class="n">{{ (seconds / r.breakdown.step_seconds)|percent }}</td></tr>
{% endfor %}</table></div>
<p>{{ profiler_text }}</p>
<p class="note">Parts: first process, mean of the steps under the profiler. {{ "%.1f"|format(r.breakdown.hidden_communication * 1e3) }} ms of collectives per step are hidden behind computing. The trace is trace.json.gz.</p>{% endif %}

{% if titles.layout %}{{ heading("layout") }}
{{ picture("layout", "What each rank holds of everything that the layout divides") }}
<p class="note">A bar is the whole of a thing, its filled part what a rank holds: of layers, of the rows of a batch, of the tokens of a row, of attention heads and dense networks, of every dense matrix (weights), of the routed experts of a layer, of every expert's matrices (their shard), and of the rows of n-gram tables. What is not shown is whole in every rank.</p>{% endif %}

{% if titles.timeline %}{{ heading("timeline") }}
{{ picture("timeline", "Micro-batches, computing, collectives and waiting of each process in a step") }}
<p class="note">The last step under the profiler; of a pipeline one process of each stage. Numbers are those of micro-batches (with a prime on the second of two stages of a process). A collective is drawn from where it begins to where it ends; orange: the process can do nothing but wait, red: for another stage.{{ " Processes share this machine's cores: gaps are where another one runs." if on_cpu }}</p>{% endif %}

{% if titles.axes %}{{ heading("axes") }}
<p>{{ r.bottleneck }}</p>
{{ picture("axes", "Time that each axis needs, beside that of a step") }}
<table class="stack"><thead><tr><th>axis</th><th class="n">messages<br>a step</th><th class="n">bytes sent<br>a step</th><th class="n">by formula</th><th class="n">bus<br>bandwidth</th><th class="n">needed</th><th class="n">of a<br>step</th><th class="n">waited<br>for</th></tr></thead><tbody>
{% for a in r.axes %}<tr{{ ' class="ours"'|safe if loop.first }}><td class="wrap title">{{ a.axis }}<br><span class="note">{{ a.ranks }} processes, {{ a.scope }}</span></td><td class="n" data-label="messages a step">{{ a.messages }}</td><td class="n" data-label="bytes sent a step">{{ a.link_bytes|amount }}</td><td class="n" data-label="by formula">{{ a.formula_bytes|amount if a.formula_bytes is not none else "–" }}</td><td class="n" data-label="bus bandwidth">{{ a.bus_bandwidth|amount }}/s</td><td class="n" data-label="needed">{{ "%.3g"|format(a.seconds * 1e3) }} ms</td><td class="n" data-label="of a step">{{ a.step_share|percent }}</td><td class="n" data-label="waited for">{{ a.exposed_share|percent }}</td></tr>
{% endfor %}</tbody></table>
<p class="note">Bytes: what leaves a process in a step, counted in one that was watched; by formula: longcat/costs/traffic.py, which leaves out what Muon, norms and losses send. Needed: bytes over the bandwidth of each collective, measured alone at the size of a mean message; part of it runs beside computing. Waited for: fraction of the profiled step in which a process can only wait, as a mean over processes; it includes waiting for slower processes.</p>
{{ picture("bandwidths", "Bus bandwidth over size, for each axis and collective") }}
<p class="note">Bus bandwidth as nccl-tests defines it: it does not depend on the number of processes and can be compared with the bandwidth of the link. All groups of an axis at once. Dots: the mean message of a step; as routed: with as many bytes for each process as in a step.</p>{% endif %}

{{ heading("flops") }}
<div class="scroll"><table><tr><th>component</th><th class="n">{{ unit }} per token</th><th class="n">fraction</th></tr>
{% for name, flops in flops %}<tr><td>{{ name|words }}</td><td class="n">{{ (flops / scale)|number }}</td><td class="n">{{ (flops / total)|percent }}</td></tr>
{% endfor %}<tr class="ours"><td>total, forward and backward</td><td class="n">{{ (total / scale)|number }}</td><td class="n">100.0%</td></tr></table></div>

{% if r.mfu_by_convention %}{{ heading("conventions") }}
<div class="scroll"><table><tr><th>convention</th><th class="n">MFU</th></tr>
{% for name, value in r.mfu_by_convention.items() %}<tr><td>{{ name|words }}</td><td class="n">{{ value|percent }}</td></tr>
{% endfor %}</table></div>{% endif %}

{% if r.operators %}{{ heading("kernels") }}
{{ picture("roofline", "Roofline of the kernels") }}
<div class="scroll"><table><tr><th>operator</th><th>shape</th><th class="n">ms</th><th class="n">TFLOP/s</th><th class="n">fraction of<br>{{ kernel_peak_name }}</th></tr>
{% for k in r.operators.kernels %}<tr><td class="wrap">{{ k.name }}</td><td class="note wrap">{{ k.shape }}</td><td class="n">{{ (k.seconds * 1e3)|number }}</td><td class="n">{{ "%.3g"|format(k.flops_per_second / 1e12) }}</td><td class="n">{{ (k.flops_per_second / kernel_peak)|percent if kernel_peak else "n/a" }}</td></tr>
{% endfor %}</table></div>
<p class="note">One process alone, in {{ r.precision }}. Attention counts the causal half of the scores only.</p>{% endif %}

{% if r.memory %}{{ heading("memory") }}
<div class="scroll"><table><tr><th>use</th><th class="n">MB</th><th class="n">fraction</th></tr>
{% for name, bytes in r.memory.items() if name != "peak" %}<tr><td>{{ name }}</td><td class="n">{{ (bytes / 1e6)|number }}</td><td class="n">{{ (bytes / r.memory.peak)|percent }}</td></tr>
{% endfor %}<tr class="ours"><td>peak</td><td class="n">{{ (r.memory.peak / 1e6)|number }}</td><td class="n">100.0%</td></tr></table></div>
<p class="note">First process; rest: activations, buffers{{ " and the libraries themselves" if on_cpu }}.</p>{% endif %}

{% if r.sweep %}{{ heading("sweep") }}
{% if pictures.sweep %}{{ picture("sweep", "Speed over memory for all settings") }}{% endif %}
<table class="stack"><thead><tr><th class="n">micro-batch,<br>sequences</th><th class="n">tokens per<br>sequence</th><th>activation<br>checkpointing</th><th class="n">processes</th><th class="n">tokens/s</th><th class="n">MFU</th><th class="n">peak memory<br>per process</th></tr></thead><tbody>
{% for row in r.sweep %}<tr{{ ' class="ours"'|safe if row.pareto }}><td class="n" data-label="micro-batch, sequences">{{ row.micro_batch_sequences or "all" }}</td><td class="n" data-label="tokens per sequence">{{ row.sequence_length_tokens }}</td><td data-label="activation checkpointing">{{ row.activation_checkpointing }}</td><td class="n" data-label="processes">{{ row.processes }}</td>{% if row.error %}<td colspan="3" class="wrap" data-label="error">{{ row.error }}</td>{% else %}<td class="n" data-label="tokens/s">{{ "{:,.0f}".format(row.tokens_per_second) }}</td><td class="n" data-label="MFU">{{ row.mfu|percent }}</td><td class="n" data-label="peak memory per process">{{ "%.2f"|format(row.peak_memory_bytes / 1e9) }} GB</td>{% endif %}</tr>
{% endfor %}</tbody></table>
<p class="note">Marked: Pareto front; no other setting is as fast with as little memory.</p>{% endif %}
{% if r.scaling %}{{ heading("scaling") }}
{{ picture("scaling", "Tokens/s over processes") }}{% endif %}

{{ heading("basis") }}
<ul>
{% for line in basis %}<li>{{ line }}</li>
{% endfor %}</ul>
</main></body></html>
"""
)
