"""The data card, as a page and as Markdown: sources of a corpus, dropped documents with reasons, and the mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment

from longcat.disk import write_text
from longcat.page import STYLE
from longcat.printable import markdown_text, short_count

CARD_HTML, CARD_MARKDOWN = "card.html", "card.md"

_Samples = list[tuple[str, list[tuple[str, list[str]]]]]
"""Titles, under each headings, under each texts."""
_ENVIRONMENT = Environment(autoescape=True)
_ENVIRONMENT.filters["number"] = lambda value: f"{value:,}"
_PAGE = _ENVIRONMENT.from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data card</title><style>{{ style|safe }}
.bar { background: #2f6fde; height: .6rem; border-radius: .2rem; } .whole { background: #e8ebf2; border-radius: .2rem; } h3 { font-size: .95rem; color: #55607a; margin: 1rem 0 .25rem; } td.wide { width: 45%; }
blockquote { margin: .4rem 0; padding: .4rem .8rem; background: #fff; border: 1px solid #e1e5ec; border-radius: .35rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .8rem/1.45 ui-monospace, monospace; }
</style></head><body><main>
<h1>Data card</h1>
<p class="lead">{{ f.documents|number }} documents kept of {{ read|number }} read from {{ f.sources|length }} source{{ "s" if f.sources|length > 1 }}</p>
<div class="cards">
{% for value, label in cards %}<div class="card"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}</div>
<h2>Sources</h2>
<div class="scroll"><table><tr><th>name</th><th>licence</th><th class="n">documents read</th><th class="n">unreadable</th><th>pinned to</th></tr>
{% for s in f.sources %}<tr><td>{{ s.name }}</td><td style="white-space: normal">{{ s.licence or "not stated" }}</td><td class="n">{{ s.documents|number }}</td><td class="n">{{ s.skipped|number }}</td><td>{{ (s.sha256 or s.revision)[:12] }}…</td></tr>
{% endfor %}</table></div>
{% for s in f.sources if s.left_out %}<p>Files of {{ s.name }} that were not read: {{ left_out(s.left_out) }}.</p>
{% endfor %}<h2>Mixture of the training split</h2>
<table class="stack"><thead><tr><th>source</th><th>part</th><th class="n">documents</th><th class="n">tokens available</th><th class="n">tokens sampled</th><th class="n">fraction</th><th class="n">repeats</th></tr></thead><tbody>
{% for g in f.mixture %}<tr><td class="title">{{ g.source }}</td><td data-label="part">{{ parts[g.long] }}</td><td class="n" data-label="documents">{{ g.documents|number }}</td><td class="n" data-label="tokens available">{{ g.tokens|number }}</td><td class="n" data-label="tokens sampled">{{ g.wanted_tokens|number }}</td><td class="n" data-label="fraction">{{ "%.1f %%"|format(100 * g.wanted_tokens / mixed) }}</td><td class="n" data-label="repeats">{{ "%.2f"|format(g.repeats) }}</td></tr>
{% endfor %}</tbody></table>
<p>Of each sequence {{ "%.2f %%"|format(100 * f.padding_fraction) }} is padding; {{ "%.2f %%"|format(100 * f.extra_cuts_fraction) }} of the documents were cut to fill sequences, in addition to those longer than a sequence.</p>
<h2>Dropped documents</h2>
<div class="scroll"><table><tr><th>reason</th><th class="n">documents</th><th class="n">fraction</th><th></th></tr>
{% for reason, count in f.dropped.items() %}<tr><td>{{ reason|replace("_", " ") }}</td><td class="n">{{ count|number }}</td><td class="n">{{ "%.1f %%"|format(100 * count / read) }}</td><td class="wide"><div class="whole"><div class="bar" style="width: {{ 100 * count / read }}%"></div></div></td></tr>
{% endfor %}</table></div>
{% if f.paragraphs_cut %}<p>{{ f.paragraphs_cut|number }} paragraphs that also occur in an earlier document were removed.</p>{% endif %}
{% if f.masked %}<h2>Masked personal data</h2>
<div class="scroll"><table><tr><th>kind</th><th class="n">occurrences</th></tr>
{% for kind, count in f.masked.items() %}<tr><td>{{ kind|replace("_", " ") }}</td><td class="n">{{ count|number }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if f.languages %}<h2>Languages</h2>
<div class="scroll"><table><tr><th>language</th><th class="n">documents</th><th></th></tr>
{% for name, count in languages %}<tr><td>{{ name }}</td><td class="n">{{ count|number }}</td><td class="wide"><div class="whole"><div class="bar" style="width: {{ 100 * count / languages|sum(attribute=1) }}%"></div></div></td></tr>
{% endfor %}</table></div>{% endif %}
<h2>Length of kept documents</h2>
<div class="scroll"><table><tr><th>characters</th><th class="n">documents</th><th></th></tr>
{% for low, high, count in lengths %}<tr><td>{{ low|number }} to {{ high|number }}</td><td class="n">{{ count|number }}</td><td class="wide"><div class="bar" style="width: {{ 100 * count / longest }}%"></div></td></tr>
{% endfor %}</table></div>
{% for title, groups in samples %}<h2>{{ title }}</h2>
{% for heading, texts in groups %}<h3>{{ heading }}</h3>
{% for text in texts %}<blockquote dir="auto">{{ text }}</blockquote>
{% endfor %}{% endfor %}{% endfor %}
<footer>Personal data is masked in these samples as in the corpus. Fractions of documents refer to all that could be read.</footer>
</main></body></html>
"""
)


def write(facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Write card.html and card.md.

    Args:
        facts: of a tokens artifact.
        samples: beginnings of documents, see `documents.Sample`.
        directory: of the artifact.
    """
    values = _values(facts)
    grouped = _grouped(facts, samples)
    page = _PAGE.render(f=facts, samples=grouped, style=STYLE, left_out=_left_out, **values)
    write_text(directory / CARD_HTML, page)
    write_text(directory / CARD_MARKDOWN, _markdown(facts, values, grouped))


def _grouped(facts: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> _Samples:
    """Arrange samples under titles, and by source, or by reason and source, under headings."""
    kept: dict[str, list[str]] = {}
    dropped: dict[str, list[str]] = {}
    for sample in samples:
        source, reason = facts["sources"][sample["source"]]["name"], sample["reason"]
        if reason is None:
            kept.setdefault(source, []).append(sample["text"])
        else:
            dropped.setdefault(f"{reason.replace('_', ' ')} · {source}", []).append(sample["text"])
    titled = (("Samples of kept documents", kept), ("Samples of dropped documents", dropped))
    return [(title, list(groups.items())) for title, groups in titled if groups]


def _values(facts: Mapping[str, Any]) -> dict[str, Any]:
    lengths = [(2 ** int(power), 2 ** (int(power) + 1) - 1, count) for power, count in facts["length_log2"].items()]
    return {
        "read": facts["documents"] + sum(facts["dropped"].values()),
        "cards": [
            (short_count(facts["train_tokens"]), "training tokens"),
            (short_count(facts["held_out_tokens"]), "held-out tokens"),
            (f"{facts['text_bytes'] / 1e6:,.1f} MB", "of kept text"),
            (f"{facts['bytes_per_token']:.2f}", "bytes per token"),
            (f"{facts['vocabulary_size']:,}", "vocabulary size (largest token id + 1)"),
        ],
        "parts": {None: "all", True: "long documents", False: "shorter documents"},
        "mixed": max(1, sum(group["wanted_tokens"] for group in facts["mixture"])),
        "languages": sorted(facts["languages"].items(), key=lambda item: -item[1])[:12],
        "lengths": lengths,
        "longest": max([1, *facts["length_log2"].values()]),
    }


def _left_out(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {suffix}" for suffix, count in counts.items())


def _markdown(facts: Mapping[str, Any], values: Mapping[str, Any], samples: _Samples) -> str:
    rows = [
        "# Data card",
        "",
        f"{facts['documents']:,} documents kept of {values['read']:,} read.",
        "",
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {label} | {value} |" for value, label in values["cards"]),
        "",
        "| source | licence | documents | unreadable | pinned to |",
        "| --- | --- | ---: | ---: | --- |",
        *(
            f"| {markdown_text(source['name'])} | {markdown_text(source['licence'] or 'not stated')} | {source['documents']:,} | {source['skipped']:,} "
            f"| {markdown_text(source.get('sha256') or source.get('revision'))} |"
            for source in facts["sources"]
        ),
        "",
        *(
            f"Files of {markdown_text(source['name'])} that were not read: {markdown_text(_left_out(source['left_out']))}.\n"
            for source in facts["sources"]
            if source.get("left_out")
        ),
        "| mixture: source | part | tokens available | tokens sampled | repeats |",
        "| --- | --- | ---: | ---: | ---: |",
        *(
            f"| {markdown_text(group['source'])} | {values['parts'][group['long']]} | {group['tokens']:,} | {group['wanted_tokens']:,} "
            f"| {group['repeats']:.2f} |"
            for group in facts["mixture"]
        ),
        "",
        "| reason for dropping | documents |",
        "| --- | ---: |",
        *(f"| {markdown_text(reason.replace('_', ' '))} | {count:,} |" for reason, count in facts["dropped"].items()),
    ]
    for title, counts in (("masked personal data", facts["masked"]), ("language", dict(values["languages"]))):
        if counts:
            rows += [
                "",
                f"| {title} | |",
                "| --- | ---: |",
                *(f"| {markdown_text(name)} | {count:,} |" for name, count in counts.items()),
            ]
    for title, groups in samples:
        rows += ["", f"## {title}"]
        for heading, texts in groups:
            rows += ["", f"### {markdown_text(heading)}"]
            for text in texts:
                rows += ["", f"> “{markdown_text(text)}”"]  # whose first sign could be one of Markdown's
    return "\n".join(rows) + "\n"
