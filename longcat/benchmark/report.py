"""Reports of a utilisation: an HTML page with figures, and Markdown for Prefect.

They show the benchmark's result or the answer of `longcat mfu`; sections without data are left out. The template is in
`report_page.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from longcat import figures
from longcat.benchmark import axis_plots, layout_plot, plots
from longcat.benchmark.holdings import Whole
from longcat.benchmark.plots import decimal_bytes
from longcat.benchmark.products import AGREEMENT
from longcat.benchmark.references import references
from longcat.benchmark.report_page import PAGE, TITLES
from longcat.page import STYLE
from longcat.parallel.axes import Degrees
from longcat.printable import markdown_text, percent, ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PART_DESCRIPTIONS = {
    "compute": "computing: forward and backward pass",
    "exposed_communication": "collectives while nothing is computed",
    "optimizer": "clipping, update of weights and routing bias",
    "data_wait": "waiting for a batch",
    "other": "the rest: Python, kernel launches, waiting without a recorded reason",
}
"""Description of each part of a step (`longcat.benchmark.breakdown.PARTS`)."""

SAYS = {
    "within": "within 15 %, or better", "outside": "outside 15 %", "straddles": "depends on the count",
    "undecided": "undecided", "none": "too few rows",
}  # fmt: skip
"""What a published run, or all of them, say about the claim of the comparison, in words."""


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
        ratio=ratio,
        amount=decimal_bytes,
        number=number,
        source=_source,
    )
    operators, comparison = result.get("operators"), result["comparison"]
    found = comparison.get("distribution")
    flops = sorted(result["flops_per_token"].items(), key=lambda pair: -pair[1])
    total = sum(value for _, value in flops)
    unit, scale = flop_unit(total)
    shown = [*comparison["matches"], *comparison["other_devices"]]
    return environment.from_string(PAGE).render(
        r=result,
        c=comparison,
        titles=_titles(result),
        style=STYLE,
        lead=_lead(result),
        cards=cards(result),
        says=SAYS,
        doubts=_doubts(result),
        remarks=_remarks(result),
        sources=list(dict.fromkeys(map(_source, shown))),
        own_conventions=any(row.get("ratio_own_convention") is not None for row in shown),
        on_cpu=on_cpu(result),
        pictures={
            name: {form: figures.svg(figure) for form, figure in forms.items()} for name, forms in pictures(result)
        },
        distribution_text=distribution_text(found) if found else None,
        named=found is not None and len(found["rows"]) <= plots.NAMED_ROWS,
        flops=flops,
        total=total,
        unit=unit,
        scale=scale,
        part_descriptions=PART_DESCRIPTIONS,
        profiler_text=_profiler_text(result) if result.get("breakdown") else None,
        basis=_basis(result),
        kernel_peak=_device_peak(result) if operators else None,
        kernel_peak_name="best product" if result.get("peak_measured") or result["peak_flops"] is None else "peak",
    )


def several(result: Mapping[str, Any]) -> bool:
    """Return whether a layout of several processes is known."""
    return bool(result.get("layout")) and result["layout"]["degrees"]["processes"] > 1


def on_cpu(result: Mapping[str, Any]) -> bool:
    """Return whether the run was on a CPU, where nothing is said beside A100 runs."""
    return result.get("device_kind") == "cpu"


def distribution_text(found: Mapping[str, Any]) -> str:
    """Describe where the run lies in a distribution of published runs, and what "within 15 %" of the median takes."""
    values = sorted(row["mfu"] for row in found["rows"])
    what = "dense runs" if found.get("kind") == "dense" else "mixtures"
    of = f" of {found['median_of']}" if "median_of" in found else ""
    text = (
        f"{len(values)} {what} on A100 or A800 are published with enough detail; their MFU is {percent(values[0])} to "
        f"{percent(values[-1])}, the median{of} {percent(found['median'])}."
    )
    if found["own_mfu"] is not None:
        text += f" This run's {percent(found['own_mfu'])} is at percentile {found['percentile']:.0f}."
    needed = f" Within 15 % of that median takes at least {percent(found['needed_mfu'])}"
    speed = found.get("needed_tokens_per_second")
    return text + needed + (f", that is {speed:,.0f} tokens/s." if speed else ".")


def _titles(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the titles of the sections that this result has, by anchor."""
    comparison = result["comparison"]
    has = {
        "verdict": True, "published": True, "flops": True, "basis": True,
        "distribution": comparison.get("distribution"), "rows": comparison["matches"],
        "other-devices": comparison["other_devices"], "step": result.get("breakdown"),
        "layout": several(result), "timeline": (result.get("breakdown") or {}).get("timelines"),
        "conventions": result["mfu_by_convention"], "kernels": result.get("operators"),
        **{name: result.get(name) for name in ("axes", "memory", "sweep", "scaling")},
    }  # fmt: skip
    mixture = result.get("kind") == "moe"
    titles = TITLES | {
        "other-devices": f"{'Mixtures' if mixture else 'Dense models'} on other devices, for orientation"
    }
    if not comparison["fair"]:
        titles["rows"] = "The nearest A100 runs, none of them comparable"
    return {name: title for name, title in titles.items() if has[name]}


def _source(row: Mapping[str, Any]) -> str:
    return f"{row['source']}: {row['table']}"


def _profiler_text(result: Mapping[str, Any]) -> str:
    """Compare steps with and without the profiler, which took turns, and the timed windows before them."""
    times = result["breakdown"]
    with_it, without = (statistics.median(times[name]) for name in ("profiled_seconds", "plain_seconds"))
    window = statistics.median(result["window_seconds"]) / result["window_steps"]
    text = (
        f"{len(times['profiled_seconds'])} steps under the profiler and {len(times['plain_seconds'])} plain steps took "
        f"turns: {with_it * 1e3:,.1f} ms with it, {without * 1e3:,.1f} ms without, a ratio of {with_it / without:.2f} "
        f"between the medians. The windows that MFU is counted from took {window * 1e3:,.1f} ms per step"
    )
    if not 1 / AGREEMENT <= window / without <= AGREEMENT:
        return f"{text}: more than 25 % apart from the plain steps here, so the machine was not equally busy."
    return f"{text}."


def _basis(result: Mapping[str, Any]) -> list[str]:
    """Return sentences about what the figures rest on: peak, products, windows, log and the count."""
    lines = [f"Peak: {peak_text(result)}."]
    products, best = result.get("products"), result.get("measured_gemm_flops")
    if products:
        seen = []
        if products["alone"]:
            seen.append(f"{_tera(products['alone'])} by one process alone, {products['alone_name']}")
        if products["together"]:
            seen.append(f"{_tera(products['together'])} by {products['processes']} processes at once")
        if seen:
            lines.append(f"Largest products measured: {'; '.join(seen)}.")
        if products["disagreement"]:
            lines.append(f"{products['disagreement'][0].upper()}{products['disagreement'][1:]}.")
    elif best:
        lines.append(f"Largest product that was published for this device: {_tera(best)}.")
    if windows := result.get("window_seconds"):
        lines.append(
            f"Timed over {len(windows)} windows of {result['window_steps']} steps after a warm-up: median, spread "
            f"{percent(result['spread'])}."
        )
    if log := result.get("log"):
        tokens = f"; tokens from {log['tokens_from']}" if log["tokens_from"] else ""
        lines.append(
            f"Speed from a log of {log['kind']}: median of {log['readings']} readings, spread "
            f"{percent(log['spread'])}{tokens}."
        )
    lines.append(
        "MFU counts useful work only: causal attention, routed experts as measured, zero-computation experts as 0."
    )
    return lines


def _tera(flops: float) -> str:
    return f"{flops / 1e12:.4g} TFLOP/s"


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
    """Return the peak FLOP/s of one process: the device's peak, or on a CPU its largest product."""
    if result["peak_flops"] is None or result.get("peak_measured"):
        return result.get("measured_gemm_flops")
    return float(result["peak_flops"]) / float(result["processes"])


def pictures(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Figure]]]:
    """Return the figures of a result by name, each in its wide and its narrow form."""
    drawn: dict[str, Callable[..., Figure]] = {"published": partial(published, result)}
    if several(result):
        layout = result["layout"]
        degrees, whole = Degrees(**layout["degrees"]), Whole(**layout["whole"])
        drawn["layout"] = partial(layout_plot.layout, degrees, whole)
    if found := result["comparison"].get("distribution"):
        drawn["distribution"] = partial(plots.distribution, found)
    if result.get("breakdown"):
        drawn["breakdown"] = partial(plots.step_breakdown, result["breakdown"]["parts"])
        if lines := result["breakdown"].get("timelines"):
            drawn["timeline"] = partial(axis_plots.timelines, lines)
    if result.get("operators"):
        drawn["roofline"] = partial(plots.roofline, result["operators"], _device_peak(result))
    if result.get("axes"):
        drawn["bandwidths"] = partial(axis_plots.bandwidths, result["collectives"])
        drawn["axes"] = partial(axis_plots.axis_times, result["axes"], result["step_seconds"])
    if any("error" not in row for row in result.get("sweep") or []):
        drawn["sweep"] = partial(plots.sweep, result["sweep"])
    if result.get("scaling"):
        drawn["scaling"] = partial(plots.scaling, result["scaling"])
    for name, draw in drawn.items():
        yield name, {"wide": draw(), "narrow": draw(narrow=True)}


def published(result: Mapping[str, Any], *, narrow: bool = False) -> Figure:
    """Plot the run among all published runs; a run on a CPU is left out."""
    return plots.among_published(
        references(),
        result["comparison"]["matches"],
        None if on_cpu(result) else result["mfu"],
        result["activated_parameters"],
        narrow=narrow,
    )


def _doubts(result: Mapping[str, Any]) -> list[str]:
    """Return the reasons for no verdict that the verdict itself does not give."""
    return [doubt for doubt in result.get("doubts") or [] if doubt not in result["comparison"]["verdict"]]


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """Return sentences about what the figures were told, take for granted, and what to look at twice."""
    lines = []
    check = result.get("cross_check")
    if check is not None and check["told"] not in result["comparison"]["verdict"]:
        cause = f" Likely cause: {check['cause']}." if check["cause"] else ""
        lines.append(
            f"The log tells {check['told']}; this count gives {check['own_tflops']:.4g} TFLOP/s a device "
            f"({check['convention'].replace('_', ' ')}), {ratio(check['ratio'])} times as much.{cause}"
        )
    lines += [f"Assumed: {assumption}." for assumption in result.get("assumptions") or []]
    return lines + [f"Note: {remark}." for remark in result.get("remarks") or []]


def _verdict_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the verdict and what it depends on as lines of Markdown."""
    comparison = result["comparison"]
    points = [f"No verdict, since {doubt}." for doubt in _doubts(result)] + _remarks(result)
    verdicts = comparison.get("verdicts") or []
    if len(verdicts) > 1:
        points += [
            f"By a peak of {one['peak_flops'] / 1e12:.4g} TFLOP/s: MFU {percent(one['mfu'])}, {SAYS[one['word']]}."
            for one in verdicts
        ]
    if found := comparison.get("distribution"):
        points.append(distribution_text(found))
    lines = [f"**{markdown_text(comparison['verdict'][0].upper() + comparison['verdict'][1:])}.**"]
    return [*lines, "", *(f"* {markdown_text(point)}" for point in points)] if points else lines


def markdown(result: Mapping[str, Any], picture: bytes) -> str:
    """Render the short Markdown report, with `picture` (PNG) embedded."""
    comparison = result["comparison"]
    rows = [
        "# MFU benchmark",
        "",
        *_verdict_lines(result),
        "",
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {markdown_text(label)} | {value} |" for value, label in cards(result)),
        "",
        f"Peak: {markdown_text(peak_text(result))}.",  # too long for a table: Prefect does not wrap table cells
        "",
        f"![MFU]({figures.png_uri(picture)})",
    ]
    if comparison["matches"]:
        rows += [
            "",
            "| A100 run | activated | MFU | this run, same count | ratio | says |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *(
                f"| {markdown_text(row['model'])}, {row['devices']} × {markdown_text(row['device'])}, {row['sequence_length']} tokens "
                f"| {count(row['activated_parameters'])} | {percent(row['mfu'])} | {percent(row['own_mfu'])} "
                f"| {ratio(row['ratio'])} | {SAYS.get(row.get('says', ''), '')} |"
                for row in comparison["matches"]
            ),
        ]
    if result.get("axes"):
        rows += [
            "",
            markdown_text(result["bottleneck"]),
            "",
            "| axis | processes | sent a step | needed | of a step | waited for |",
        ]
        rows += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        rows += [
            f"| {markdown_text(one['axis'])} | {one['ranks']} | {decimal_bytes(one['link_bytes'])} | {one['seconds'] * 1e3:.3g} ms "
            f"| {percent(one['step_share'])} | {percent(one['exposed_share'])} |"
            for one in result["axes"]
        ]
    if result.get("breakdown"):
        whole = result["breakdown"]["step_seconds"]
        rows += ["", "| part of a step | fraction |", "| --- | ---: |"]
        rows += [
            f"| {markdown_text(name.replace('_', ' '))} | {seconds / whole:.1%} |"
            for name, seconds in result["breakdown"]["parts"].items()
        ]
    return "\n".join(rows) + "\n"


def write(result: Mapping[str, Any], directory: Path) -> None:
    """Write report.html, report.md and mfu.png to a folder."""
    picture = figures.png(published(result))
    (directory / "mfu.png").write_bytes(picture)
    (directory / "report.html").write_text(html(result), encoding="utf-8")
    (directory / "report.md").write_text(markdown(result, picture), encoding="utf-8")
