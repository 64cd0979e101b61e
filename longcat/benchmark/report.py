"""Reports of a utilisation: an HTML page with figures, and Markdown for Prefect.

They show the benchmark's result or the answer of `longcat mfu`; sections without data are left out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from longcat.benchmark import plots
from longcat.benchmark.references import references
from longcat.page import STYLE

PART_DESCRIPTIONS = {
    "compute": "computing: forward and backward pass",
    "exposed_communication": "collectives while nothing is computed",
    "optimizer": "clipping, update of weights and routing bias",
    "data_wait": "waiting for a batch",
    "other": "the rest: Python, kernel launches, waiting without a recorded reason",
}
"""Description of each part of a step (`longcat.benchmark.breakdown.PARTS`)."""

_RUNS = """{% macro runs(rows) %}<div class="scroll"><table><tr><th>run</th><th class="n">MFU</th><th class="n">this run, same<br>convention</th><th class="n">ratio</th><th class="n">FLOP/s<br>ratio</th><th>source</th></tr>
{% for row in rows %}<tr><td class="wrap">{{ row.model }}<br><span class="note">{{ row.activated_parameters|count }} activated, {{ row.devices }} × {{ row.device }}, {{ row.sequence_length }} tokens{{ ", " ~ row.layout if row.layout }}{% if row.reason %}<br>published {{ row.published_mfu|percent }}: {{ row.reason }}{% endif %}{% if row.differences %}<br>{{ row.differences|join(", ") }}{% endif %}</span></td><td class="n">{{ row.mfu|percent }}</td><td class="n">{{ row.own_mfu|percent }}<br><span class="note">{{ row.convention }}</span></td><td class="n">{{ row.ratio|ratio }}</td><td class="n">{{ row.speed_ratio|ratio }}</td><td>[{{ sources.index(row.source ~ ": " ~ row.table) + 1 }}]</td></tr>
{% endfor %}</table></div>{% endmacro %}
"""
_PAGE = (
    _RUNS
    + """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>MFU on {{ r.device_name }}</title><style>{{ style|safe }}</style></head><body><main>
<h1>Model FLOPs utilisation on {{ r.device_name }}</h1>
<p class="lead">{{ lead }}</p>
<div class="cards">
{% for value, label in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}</div>
<p class="verdict">{{ c.verdict[0]|upper }}{{ c.verdict[1:] }}.</p>

<h2>Published runs</h2>
<img alt="MFU of this run among published runs, over activated parameters" src="{{ pictures.published }}">
<h2>{{ "Comparable A100 runs" if c.fair else "The nearest A100 runs, none of them comparable" }}</h2>
{{ runs(c.matches) }}
{% if c.other_devices %}<h2>For orientation: {{ "mixtures" if r.kind == "moe" else "dense models" }} on other devices</h2>
{{ runs(c.other_devices) }}
{% endif %}<p class="note">{% for source in sources %}[{{ loop.index }}] {{ source }}. {% endfor %}</p>
<p class="note">Ratio: MFU of this run, counted by the row's own convention, over the row's MFU. FLOP/s ratio: the same for useful FLOP/s per device, that is for the work done in an hour of one device.</p>

{% if r.breakdown %}<h2>Time of a training step</h2>
<img alt="Parts of a training step" src="{{ pictures.breakdown }}">
<div class="scroll"><table><tr><th>part</th><th class="n">ms per step</th><th class="n">fraction</th><th>description</th></tr>
{% for name, seconds in r.breakdown.parts.items() %}<tr><td>{{ name|words }}</td><td class="n">{{ "%.1f"|format(seconds * 1e3) }}</td><td class="n">{{ (seconds / r.breakdown.step_seconds)|percent }}</td><td>{{ part_descriptions[name] }}</td></tr>
{% endfor %}</table></div>
<p class="note">First process, {{ r.breakdown.steps }} steps under the profiler, which slows them down: {{ "%.0f"|format(r.breakdown.step_seconds * 1e3) }} ms per step with it, {{ "%.0f"|format(step_seconds * 1e3) }} ms without. {{ "%.1f"|format(r.breakdown.hidden_communication * 1e3) }} ms of collectives per step are hidden behind computing. The trace is trace.json.gz.</p>{% endif %}

<h2>FLOPs per training token</h2>
<div class="scroll"><table><tr><th>component</th><th class="n">{{ unit }} per token</th><th class="n">fraction</th></tr>
{% for name, flops in flops %}<tr><td>{{ name|words }}</td><td class="n">{{ (flops / scale)|number }}</td><td class="n">{{ (flops / total)|percent }}</td></tr>
{% endfor %}<tr class="ours"><td>total, forward and backward</td><td class="n">{{ (total / scale)|number }}</td><td class="n">100.0%</td></tr></table></div>

{% if r.mfu_by_convention %}<h2>MFU by other conventions</h2>
<div class="scroll"><table><tr><th>convention</th><th class="n">MFU</th></tr>
{% for name, value in r.mfu_by_convention.items() %}<tr><td>{{ name|words }}</td><td class="n">{{ value|percent }}</td></tr>
{% endfor %}</table></div>{% endif %}

{% if r.operators %}<h2>Speed of the kernels</h2>
<img alt="Roofline of the kernels" src="{{ pictures.roofline }}">
<div class="scroll"><table><tr><th>operator</th><th>shape</th><th class="n">ms</th><th class="n">TFLOP/s</th><th class="n">fraction of {{ kernel_peak_name }}</th></tr>
{% for k in r.operators.kernels %}<tr><td>{{ k.name }}</td><td class="note">{{ k.shape }}</td><td class="n">{{ (k.seconds * 1e3)|number }}</td><td class="n">{{ "%.3g"|format(k.flops_per_second / 1e12) }}</td><td class="n">{{ (k.flops_per_second / kernel_peak)|percent if kernel_peak else "n/a" }}</td></tr>
{% endfor %}</table></div>
<p class="note">One process alone, in {{ r.precision }}. Attention counts the causal half of the scores only.</p>{% endif %}

{% if r.collectives %}<h2>Collectives</h2>
<img alt="Bus bandwidth of collectives over size" src="{{ pictures.collectives }}">
<div class="scroll"><table><tr><th>bus bandwidth, GB/s</th>{% for name in collectives %}<th class="n">{{ name|words }}</th>{% endfor %}</tr>
{% for (scope, ranks, bytes), row in bandwidths.items() %}<tr><td>{{ bytes|size }} {{ scope }}, {{ ranks }} ranks</td>{% for name in collectives %}<td class="n">{{ "%.3g"|format(row[name] / 1e9) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="note">Bus bandwidth as nccl-tests defines it: it does not depend on the number of ranks and can be compared with the bandwidth of the link.</p>{% endif %}

{% if r.memory %}<h2>Memory</h2>
<div class="scroll"><table><tr><th>use</th><th class="n">MB</th><th class="n">fraction</th></tr>
{% for name, bytes in r.memory.items() if name != "peak" %}<tr><td>{{ name }}</td><td class="n">{{ (bytes / 1e6)|number }}</td><td class="n">{{ (bytes / r.memory.peak)|percent }}</td></tr>
{% endfor %}<tr class="ours"><td>peak</td><td class="n">{{ (r.memory.peak / 1e6)|number }}</td><td class="n">100.0%</td></tr></table></div>
<p class="note">First process; rest: activations, buffers{{ " and the libraries themselves" if r.device_kind == "cpu" }}.</p>{% endif %}

{% if r.sweep %}<h2>Sweep of settings</h2>
{% if pictures.sweep %}<img alt="Speed over memory for all settings" src="{{ pictures.sweep }}">{% endif %}
<div class="scroll"><table><tr><th class="n">micro-batch, sequences</th><th class="n">tokens per sequence</th><th>activation checkpointing</th><th class="n">processes</th><th class="n">tokens/s</th><th class="n">MFU</th><th class="n">peak memory per process</th></tr>
{% for row in r.sweep %}<tr{{ ' class="ours"'|safe if row.pareto }}><td class="n">{{ row.micro_batch_sequences or "all" }}</td><td class="n">{{ row.sequence_length_tokens }}</td><td>{{ row.activation_checkpointing }}</td><td class="n">{{ row.processes }}</td>{% if row.error %}<td colspan="3" class="wrap">{{ row.error }}</td>{% else %}<td class="n">{{ "{:,.0f}".format(row.tokens_per_second) }}</td><td class="n">{{ row.mfu|percent }}</td><td class="n">{{ "%.2f"|format(row.peak_memory_bytes / 1e9) }} GB</td>{% endif %}</tr>
{% endfor %}</table></div>
<p class="note">Marked: Pareto front; no other setting is as fast with as little memory.</p>{% endif %}
{% if r.scaling %}<h2>Scaling over processes</h2>
<img alt="Tokens/s over processes" src="{{ pictures.scaling }}">{% endif %}

<footer>Peak: {{ peak }}.{% if r.measured_gemm_flops %} Best measured matrix product: {{ "%.4g"|format(r.measured_gemm_flops / 1e12) }} TFLOP/s per device{{ ", here by one process" if r.operators }}.{% endif %}
MFU counts useful work only: causal attention, routed experts as measured, zero-computation experts as 0.{% if r.window_seconds %}
Timed over {{ r.window_seconds|length }} windows of {{ r.window_steps }} steps after a warm-up, median, spread {{ r.spread|percent }}.{% endif %}
{% for assumption in r.assumptions or [] %}Assumed: {{ assumption }}. {% endfor %}</footer>
</main></body></html>
"""
)


def percent(value: float | None) -> str:
    """Format a fraction as a percentage, None as n/a."""
    return "n/a" if value is None else f"{value:.1%}"


def count(value: float) -> str:
    """Format a number of parameters in millions or billions."""
    return f"{value / 1e9:.3g} B" if value >= 1e9 else f"{value / 1e6:.3g} M"


def number(value: float) -> str:
    """Format a number with three significant digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def flop_unit(total: float) -> tuple[str, float]:
    """Choose the unit in which to show parts of `total` FLOP; returns its name and its size in FLOP."""
    return ("GFLOP", 1e9) if total >= 1e9 else ("MFLOP", 1e6)


def cards(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the headline figures as pairs of value and label."""
    figures = [
        (percent(result["mfu"]), "MFU: useful work, causal attention"),
        (percent(result["mfu_full_attention"]), "MFU, full attention"),
        (percent(result["hfu"]), f"HFU, recomputation {result['recomputation']}"),
        (f"{result['tokens_per_second']:,.0f}", "tokens/s, all devices"),
        (f"{result['tflops_per_device']:.3g}", "TFLOP/s per device"),
    ]
    if "peak_memory_bytes" in result:
        figures.append((f"{result['peak_memory_bytes'] / 1e9:.2f} GB", "peak memory per process"))
    return figures


def peak_text(result: Mapping[str, Any]) -> str:
    """Describe the peak that utilisation is measured against, with its source."""
    if result["peak_flops"] is None:
        return "not known for this device, so no utilisation is given"
    return f"{result['peak_flops'] / 1e12:.4g} TFLOP/s ({result['peak_source']})"


def html(result: Mapping[str, Any]) -> str:
    """Render the self-contained HTML page."""
    environment = Environment(autoescape=True)
    environment.filters.update(
        percent=percent,
        count=count,
        words=lambda name: str(name).replace("_", " "),
        ratio=lambda value: "n/a" if value is None else f"{value:.2f}" if value > 0.1 else f"{value:.1g}",
        size=plots.readable_bytes,
        number=number,
    )
    windows = result.get("window_seconds")
    operators = result.get("operators")
    bandwidths: dict[tuple[str, int, int], dict[str, float]] = {}
    for one in result.get("collectives") or []:
        bandwidths.setdefault((one["scope"], one["ranks"], one["bytes"]), {})[one["name"]] = one["bus_bandwidth"]
    flops = sorted(result["flops_per_token"].items(), key=lambda pair: -pair[1])
    total = sum(value for _, value in flops)
    unit, scale = flop_unit(total)
    return environment.from_string(_PAGE).render(
        r=result,
        c=result["comparison"],
        style=STYLE,
        lead=_lead(result),
        cards=cards(result),
        sources=list(dict.fromkeys(f"{row['source']}: {row['table']}" for row in _shown(result))),
        pictures=_pictures(result),
        flops=flops,
        total=total,
        unit=unit,
        scale=scale,
        bandwidths=bandwidths,
        collectives=list(next(iter(bandwidths.values()), {})),
        part_descriptions=PART_DESCRIPTIONS,
        peak=peak_text(result),
        kernel_peak=_device_peak(result) if operators else None,
        kernel_peak_name="best kernel" if result.get("peak_measured") or result["peak_flops"] is None else "peak",
        step_seconds=sorted(windows)[len(windows) // 2] / result["window_steps"] if windows else None,
    )


def _shown(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the published runs that the page shows in its tables."""
    return [*result["comparison"]["matches"], *result["comparison"]["other_devices"]]


def _lead(result: Mapping[str, Any]) -> str:
    pieces = (
        [f"{result['processes']} process{'es' if result['processes'] > 1 else ''}"] if "processes" in result else []
    )
    if "devices" in result:
        pieces = [f"{result['devices']} device{'s' if result['devices'] > 1 else ''}", str(result["family"])]
    pieces += [
        f"{count(result['activated_parameters'])} parameters activated", result["precision"],
        f"sequences of {result['sequence_length']} tokens",
    ]  # fmt: skip
    if "batch_tokens" in result:
        pieces.append(f"{result['batch_tokens']:,} tokens per step")
    return " · ".join(pieces)


def _device_peak(result: Mapping[str, Any]) -> float | None:
    """Return the peak FLOP/s of one process: the device's peak, or on a CPU the best product of one process alone."""
    if result["peak_flops"] is None or result.get("peak_measured"):
        return max(float(kernel["flops_per_second"]) for kernel in result["operators"]["kernels"])
    return float(result["peak_flops"]) / float(result["processes"])


def _pictures(result: Mapping[str, Any]) -> dict[str, str]:
    figures = {"published": published(result)}
    if result.get("breakdown"):
        figures["breakdown"] = plots.step_breakdown(result["breakdown"]["parts"])
    if result.get("operators"):
        figures["roofline"] = plots.roofline(result["operators"], _device_peak(result))
    if result.get("collectives"):
        figures["collectives"] = plots.bandwidths(result["collectives"])
    if any("error" not in row for row in result.get("sweep") or []):
        figures["sweep"] = plots.sweep(result["sweep"])
    if result.get("scaling"):
        figures["scaling"] = plots.scaling(result["scaling"])
    return {name: plots.svg(figure) for name, figure in figures.items()}


def published(result: Mapping[str, Any]) -> Any:
    """Plot the run among all published runs."""
    return plots.among_published(
        references(),
        result["comparison"]["matches"],
        result["mfu_by_convention"].get("palm"),
        result["activated_parameters"],
    )


def markdown(result: Mapping[str, Any], picture: bytes) -> str:
    """Render the short Markdown report, with `picture` (PNG) embedded."""
    comparison = result["comparison"]
    rows = [
        "# MFU benchmark",
        "",
        f"**{comparison['verdict'][0].upper()}{comparison['verdict'][1:]}.**",
        "",
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {label} | {value} |" for value, label in cards(result)),
        "",
        f"Peak: {peak_text(result)}.",  # too long for a table: Prefect does not wrap table cells
        "",
        f"![MFU](data:image/png;base64,{base64.b64encode(picture).decode()})",
        "",
        "| A100 run | activated | MFU | this run, same convention | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['model']}, {row['devices']} × {row['device']}, {row['sequence_length']} tokens "
            f"| {count(row['activated_parameters'])} | {percent(row['mfu'])} "
            f"| {percent(row['own_mfu'])} ({row['convention']}) | {'n/a' if row['ratio'] is None else format(row['ratio'], '.2f')} |"
            for row in comparison["matches"]
        ),
    ]
    if result.get("breakdown"):
        whole = result["breakdown"]["step_seconds"]
        rows += ["", "| part of a step | fraction |", "| --- | ---: |"]
        rows += [
            f"| {name.replace('_', ' ')} | {seconds / whole:.1%} |"
            for name, seconds in result["breakdown"]["parts"].items()
        ]
    return "\n".join(rows) + "\n"


def write(result: Mapping[str, Any], directory: Path) -> None:
    """Write report.html, report.md and mfu.png to a folder."""
    picture = plots.png(published(result))
    (directory / "mfu.png").write_bytes(picture)
    (directory / "report.html").write_text(html(result), encoding="utf-8")
    (directory / "report.md").write_text(markdown(result, picture), encoding="utf-8")
