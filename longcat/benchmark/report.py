"""The benchmark as a page: HTML with a picture for people, Markdown for Prefect."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Template

from longcat.page import STYLE

_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>MFU report</title><style>{{ style|safe }}</style></head><body><main>
<h1>Model FLOPs utilisation on {{ r.device_name }}</h1>
<p class="lead">{{ r.processes }} process{{ "es" if r.processes > 1 }} · {{ r.precision }} · sequences of {{ r.sequence_length }} tokens · {{ "{:,}".format(r.batch_tokens) }} tokens a step</p>
<div class="cards">
{% for value, label in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}</div>
<p class="verdict">{{ r.verdict[0]|upper }}{{ r.verdict[1:] }}.</p>
<h2>Among published A100 runs</h2>
<img alt="MFU of this run among published A100 runs" src="data:image/png;base64,{{ picture }}">
<h2>The nearest published rows</h2>
<div class="scroll"><table><tr><th>run</th><th class="n">activated parameters</th><th class="n">devices</th><th class="n">sequence</th><th class="n">MFU</th><th>source</th></tr>
<tr class="ours"><td>this run</td><td class="n">{{ count(r.activated_parameters) }}</td><td class="n">{{ r.processes }} × {{ r.device_kind }}</td><td class="n">{{ r.sequence_length }}</td><td class="n">{{ percent(r.mfu_full_attention) }}</td><td class="source">this measurement, full-attention convention</td></tr>
{% for row in r.nearest %}<tr><td>{{ row.model }}</td><td class="n">{{ count(row.activated_parameters) }}</td><td class="n">{{ row.devices }} × {{ row.device }}</td><td class="n">{{ row.sequence_length }}</td><td class="n">{{ percent(row.mfu) }}</td><td class="source">{{ row.source }}</td></tr>
{% endfor %}</table></div>
<h2>Where the FLOPs go</h2>
<div class="scroll"><table><tr><th>component</th><th class="n">MFLOP a token</th><th class="n">share</th></tr>
{% for name, flops in r.flops_per_token.items() %}<tr><td>{{ name|replace("_", " ") }}</td><td class="n">{{ "%.3f"|format(flops / 1e6) }}</td><td class="n">{{ percent(flops / total) }}</td></tr>
{% endfor %}</table></div>
<footer>Peak: {{ peak }}. MFU counts useful work only: causal attention, {{ "%.2f"|format(r.ffn_experts_per_token) }} routed experts a token as measured, zero-computation experts as nothing.
The published rows count attention over the whole square; so does the value compared with them. Timed over {{ r.window_seconds|length }} windows of {{ r.window_steps }} steps, median, spread {{ percent(r.spread) }}.</footer>
</main></body></html>
"""
)


def percent(value: float | None) -> str:
    """A fraction as people read it."""
    return "n/a" if value is None else f"{value:.1%}"


def count(value: float) -> str:
    """A number of parameters as people read it."""
    return f"{value / 1e9:.3g} B" if value >= 1e9 else f"{value / 1e6:.3g} M"


def cards(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The headline figures, value and label."""
    return [
        (percent(result["mfu"]), "MFU (causal, useful work)"),
        (percent(result["mfu_full_attention"]), "MFU, full attention"),
        (f"{result['tokens_per_second']:,.0f}", "tokens/s, all devices"),
        (f"{result['tflops_per_device']:.3g}", "TFLOP/s per device"),
        (f"{result['peak_memory_bytes'] / 1e9:.2f} GB", "peak memory of a process"),
    ]


def peak_text(result: Mapping[str, Any]) -> str:
    """The peak used, with its source."""
    if result["peak_flops"] is None:
        return "not known for this device, so no utilisation is given"
    return f"{result['peak_flops'] / 1e12:.4g} TFLOP/s for the whole job ({result['peak_source']})"


def html(result: Mapping[str, Any], picture: bytes) -> str:
    """A page that needs nothing but itself."""
    return _PAGE.render(
        r=result,
        style=STYLE,
        cards=cards(result),
        percent=percent,
        count=count,
        total=sum(result["flops_per_token"].values()),
        peak=peak_text(result),
        picture=base64.b64encode(picture).decode(),
    )


def markdown(result: Mapping[str, Any], picture: bytes | None = None) -> str:
    """The same, shorter."""
    rows = [
        "# MFU benchmark",
        "",
        f"**{result['verdict']}**",
        "",
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {label} | {value} |" for value, label in cards(result)),
        f"| peak | {peak_text(result)} |",
        "",
        "| run | activated | devices | sequence | MFU (full attention) |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| **this run** | {count(result['activated_parameters'])} | {result['processes']} × {result['device_kind']} "
        f"| {result['sequence_length']} | **{percent(result['mfu_full_attention'])}** |",
        *(
            f"| {row['model']} | {count(row['activated_parameters'])} | {row['devices']} × {row['device']} "
            f"| {row['sequence_length']} | {percent(row['mfu'])} |"
            for row in result["nearest"]
        ),
    ]
    if picture:
        rows += ["", f"![MFU](data:image/png;base64,{base64.b64encode(picture).decode()})"]
    return "\n".join(rows) + "\n"


def plot(result: Mapping[str, Any], everything: list[Mapping[str, Any]]) -> bytes:
    """A PNG: this run among all published rows, MFU over activated parameters."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.2), dpi=130, layout="constrained")
    near = {(row["model"], row["devices"], row["sequence_length"], row["mfu"]) for row in result["nearest"]}
    for chosen, colour, label in ((False, "#b8c1d1", "published A100 runs"), (True, "#2f6fde", "nearest rows")):
        points = [
            (row["activated_parameters"] / 1e9, 100 * row["mfu"])
            for row in everything
            if ((row["model"], row["devices"], row["sequence_length"], row["mfu"]) in near) is chosen
        ]
        axes.scatter(
            *zip(*points, strict=True), s=26, color=colour, label=f"{label} ({len(points)})", zorder=2 + chosen
        )
    ours = result["mfu_full_attention"]
    if ours is not None:
        x = result["activated_parameters"] / 1e9
        axes.scatter([x], [100 * ours], s=110, marker="*", color="#d9480f", label="this run", zorder=5)
        axes.annotate(
            f"{100 * ours:.1f} %", (x, 100 * ours), textcoords="offset points", xytext=(10, 6), color="#d9480f"
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("activated parameters (billions)")
    axes.set_ylabel("MFU, full attention (%)")
    axes.grid(color="#eef0f4", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=3, borderaxespad=0)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


def write(result: Mapping[str, Any], everything: list[Mapping[str, Any]], directory: Path) -> None:
    """Write report.html, report.md and mfu.png."""
    picture = plot(result, everything)
    (directory / "mfu.png").write_bytes(picture)
    (directory / "report.html").write_text(html(result, picture), encoding="utf-8")
    (directory / "report.md").write_text(markdown(result), encoding="utf-8")
