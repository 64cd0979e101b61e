"""Page of an evaluation: scores with chance lines and standard errors, answers right and wrong, and held-out text from inside."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from jinja2 import Environment

from longcat import figures
from longcat.disk import write_text
from longcat.evaluation.gates import is_score, lower_is_better
from longcat.figures import BLUE, GREY, INK, ORANGE, canvas
from longcat.page import STYLE
from longcat.unpacking import parse_json, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
CLEAR = 3
"""Standard errors by which a score is clearly better than chance."""
_SHOWN, _LETTERS = 2, 600
"""Answers of a task that are shown of each kind, and characters of a prompt, its end."""

_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters["number"] = lambda value: (
    "–" if value is None else f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3e}"
)
_ENVIRONMENT.filters["count"] = lambda value: "–" if value is None else f"{value:,.0f}"
_TEMPLATE = _ENVIRONMENT.from_string("""
{%- macro picture(name, alt) %}<picture><source media="(max-width: 40rem)" srcset="{{ pictures[name].narrow }}"><img alt="{{ alt }}" src="{{ pictures[name].wide }}"></picture>{% endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Checkpoint evaluation</title><style>{{ style|safe }}
blockquote { margin: .4rem 0; padding: .4rem .8rem; background: #fff; border: 1px solid #e1e5ec; border-left: 4px solid #b8c1d1; border-radius: .35rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .8rem/1.45 ui-monospace, monospace; }
blockquote.right { border-left-color: #2b8a3e; } blockquote.wrong { border-left-color: #d9480f; } h3 { font-size: .95rem; margin: 1rem 0 .25rem; }
</style></head><body><main>
<h1>Checkpoint evaluation</h1>
<p class="lead">{{ lead }}</p>
<h2>Scores</h2>
<table class="stack"><thead><tr><th>score</th><th class="n">value</th><th class="n">± standard error</th><th class="n">chance</th><th class="n">items</th>{% if of_tasks %}<th class="n">few-shot</th><th class="n">version</th><th class="n">truncated</th>{% endif %}</tr></thead><tbody>
{% for row in rows %}<tr><td class="wrap title">{{ row.subject }}<br><span class="note">{{ row.metric }}</span></td><td class="n" data-label="value">{% if row.beats_chance %}<b>{{ row.value|number }}</b>{% else %}{{ row.value|number }}{% endif %}</td><td class="n" data-label="± standard error">{{ row.stderr|number }}</td><td class="n" data-label="chance">{{ row.chance|number }}</td><td class="n" data-label="items">{{ row["items"]|count }}</td>{% if of_tasks %}<td class="n" data-label="few-shot">{{ row.few_shot|count }}</td><td class="n" data-label="version">{{ row.version or "–" }}</td><td class="n" data-label="truncated">{{ row.truncated|count }}</td>{% endif %}</tr>
{% endfor %}</tbody></table>
<p class="note">Chance: what guessing gets; for held-out text, what a unigram model of the training text gets. – where it is not known. Bold: better than chance by more than {{ clear }} standard errors.{% if of_tasks %} Truncated: prompts that lost their beginning, because the model does not read so much.{% endif %}</p>
{% if failures %}<h2>Tasks that failed</h2><ul>{% for name, reason in failures.items() %}<li>{{ name }}: {{ reason }}</li>{% endfor %}</ul>{% endif %}
{% if pictures.position %}<h2>Held-out text, from inside</h2>
{{ picture("position", "Bits per byte by position in the sequence") }}
{{ picture("kinds", "Bits per byte by source, language and kind of token") }}
<p class="note">From above: by source (black), by language (grey), by kind of token (blue), ± standard errors (orange).</p>
<table class="stack"><thead><tr><th>held-out text</th><th class="n">bits per byte</th><th class="n">± standard error</th><th class="n">documents</th></tr></thead><tbody>
{% for name, one in groups %}<tr><td class="wrap title">{{ name }}</td><td class="n" data-label="bits per byte">{{ one.bits_per_byte|number }}</td><td class="n" data-label="± standard error">{{ one.stderr|number }}</td><td class="n" data-label="documents">{{ "{:,.0f}".format(one.documents) }}</td></tr>
{% endfor %}</tbody></table>
<p class="note">Standard errors are those of a bootstrap over documents; one that goes on in another row of tokens is another one there.</p>
<h2>Can its probabilities be believed?</h2>
{{ picture("calibration", "How often the likeliest token is right, over its probability") }}
<p class="note">On the line the model is right as often as it says. Mean distance (expected calibration error): {{ ece|number }}.</p>
<h2>Use of experts</h2>
{{ picture("experts", "Fraction of slots that go to zero-computation experts, by layer and kind of token") }}{% endif %}
{% for task, some in answers.items() %}{% if loop.first %}<h2>Answers</h2>{% endif %}<h3>{{ task }}</h3>
{% for one in some %}<blockquote class="{{ "right" if one.right else "wrong" }}">{{ one.prompt }}

<b>{{ "right" if one.right else "wrong" }}</b>: {{ one.answer }}{% if not one.right %}
wanted: {{ one.target }}{% endif %}</blockquote>
{% endfor %}{% endfor %}
</main></body></html>
""")


def write(
    directory: Path,
    scores: Mapping[str, Mapping[str, float]],
    lead: str,
    versions: Mapping[str, str] = MappingProxyType({}),
    failures: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write the page of an evaluation from its scores and from what suites have left in its folder.

    Args:
        directory: of the evaluation.
        scores: metrics by subject.
        lead: what was scored, and the result in a sentence.
        versions: of the subjects that have one.
        failures: why a subject has no scores.
    """
    inside: Any = read_json(directory / "intrinsic.json") if (directory / "intrinsic.json").is_file() else None
    drawn = {} if inside is None else {"position": _position, "kinds": _kinds, "calibration": _calibration}
    if inside is not None and inside["experts"]["layers"]:
        drawn["experts"] = _experts
    pictures = {
        name: {form: figures.svg(draw(inside, form == "narrow")) for form in ("wide", "narrow")}
        for name, draw in drawn.items()
    }
    page = _TEMPLATE.render(
        style=STYLE,
        lead=lead,
        rows=table(scores, versions),
        of_tasks=bool(versions),
        failures=failures,
        clear=CLEAR,
        pictures=pictures,
        groups=[] if inside is None else [of for group in ("by source", "by language") for of in inside[group].items()],
        ece=None if inside is None else inside["calibration"]["ece"],
        answers=answers(directory / "samples"),
    )
    write_text(directory / PAGE, page)


def table(
    scores: Mapping[str, Mapping[str, float]], versions: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, Any]]:
    """Return each score with its standard error, its chance line, whether it is clearly better, and what it stands on."""
    rows = []
    for subject, metrics in scores.items():
        for metric, value in metrics.items():
            if not is_score(f"{subject}/{metric}"):
                continue
            stderr = metrics.get(f"{metric}_stderr")
            chance = metrics.get(f"{metric}_chance", metrics.get(f"unigram_{metric}"))
            better = (
                0.0 if chance is None else chance - value if lower_is_better(f"{subject}/{metric}") else value - chance
            )
            rows.append(
                {
                    "subject": subject,
                    "metric": metric,
                    "value": value,
                    "items": metrics.get("documents", metrics.get("held_out_documents")),
                    "few_shot": metrics.get("few_shot"),
                    "version": versions.get(subject),
                    "truncated": metrics.get("truncated"),
                    "stderr": stderr,
                    "chance": chance,
                    "beats_chance": stderr is not None and better > CLEAR * stderr,
                }
            )
    return rows


def answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return some right and some wrong answers of each task whose answers are one or the other."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        shown: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        with path.open("rb") as stream:
            for line in stream:
                sample = parse_json(line)
                right = sample.get("right")
                if right is None or len(shown[right]) == _SHOWN:
                    continue
                choices, answer, target = sample.get("choices"), sample.get("answer"), sample.get("target")
                if choices:
                    answer, target = (_chosen(choices, one) for one in (answer, target))
                prompt = sample.get("prompt") or ""
                shown[right].append(
                    {
                        "right": right,
                        "prompt": prompt if len(prompt) <= _LETTERS else f"…{prompt[-_LETTERS:]}",
                        "answer": _text(answer),
                        "target": _text(target),
                    }
                )
                if all(len(some) == _SHOWN for some in shown.values()):
                    break
        if any(shown.values()):
            found[unquote(path.name.removesuffix(".jsonl"))] = list(itertools.chain(*shown.values()))
    return found


def _chosen(choices: list[Any], which: Any) -> Any:
    number = int(which) if isinstance(which, int) or (isinstance(which, str) and which.isdecimal()) else -1
    return choices[number] if 0 <= number < len(choices) else which


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _position(inside: Mapping[str, Any], narrow: bool) -> Figure:
    figure, axes = canvas(2.8, narrow)
    rows = [row for row in inside["by position"] if row["bits_per_byte"] is not None]
    axes.plot([1 + row["first"] for row in rows], [row["bits_per_byte"] for row in rows], "o-", color=BLUE)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("position in the sequence, from")
    axes.set_ylabel("bits per byte")
    return figure


def _kinds(inside: Mapping[str, Any], narrow: bool) -> Figure:
    groups = [
        (name, one["bits_per_byte"], one["stderr"] or 0, colour)
        for group, colour in (("by source", INK), ("by language", GREY), ("by kind of token", BLUE))
        for name, one in list(inside[group].items())[:12]
        if one["bits_per_byte"] is not None
    ]
    figure, axes = canvas(0.9 + 0.27 * len(groups), narrow)
    values, errors = [value for _, value, *_ in groups], [error for *_, error, _ in groups]
    colours = [colour for *_, colour in groups]
    axes.barh(range(len(groups)), values, xerr=errors, color=colours, ecolor=ORANGE)
    axes.set_yticks(range(len(groups)), [name[:24] for name, *_ in groups], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte")
    return figure


def _calibration(inside: Mapping[str, Any], narrow: bool) -> Figure:
    figure, axes = canvas(3.2, narrow)
    bins = [row for row in inside["calibration"]["bins"] if row["tokens"]]
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    axes.plot([row["probability"] for row in bins], [row["right"] for row in bins], "o-", color=ORANGE)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the likeliest token")
    axes.set_ylabel("it is right")
    return figure


def _experts(inside: Mapping[str, Any], narrow: bool) -> Figure:
    layers = inside["experts"]["layers"]
    kinds = sorted({kind for layer in layers for kind in layer["by kind of token"]})
    figure, axes = canvas(1.2 + 0.3 * len(kinds), narrow)
    values = [
        [
            100 * layer["by kind of token"].get(kind, {"zero_fraction": float("nan")})["zero_fraction"]
            for layer in layers
        ]
        for kind in kinds
    ]
    shown = axes.imshow(values, aspect="auto", cmap="Blues", vmin=0, vmax=100)
    axes.grid(visible=False)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.set_xticks(range(0, len(layers), max(1, len(layers) // 12)))
    axes.set_xlabel("layer")
    figure.colorbar(shown, ax=axes, label="zero-expert slots (%)")
    return figure
