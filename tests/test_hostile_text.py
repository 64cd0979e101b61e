"""Text of documents, file names, logs and configurations is shown as text, on every page and on a terminal."""

import copy
import io
import json
import logging
import sys
from unittest.mock import Mock

import pytest
from lxml import html as parser

from longcat import cli
from longcat.benchmark.report import html, markdown
from longcat.corpus import card
from longcat.errors import DataError
from longcat.evaluation import tasks
from longcat.evaluation.harness import Metric, TaskResult
from longcat.printable import markdown_text, printable
from longcat.tables import print_mfu, print_pairs, print_summary
from longcat.terminal import Display, redirected_output
from tests.benchmark.test_mfu_report import given_run, judged, measured  # noqa: F401  (fixtures)

MARK = "Zxq"
HTML = [
    f"<script>alert('{MARK}')</script>",
    f'"><img src=x onerror=alert(1)>{MARK}',
    f"</title></style></table><svg onload=alert(1)>{MARK}</svg>",
    f"' onmouseover='{MARK}",
    f"{{{{ 7 * 7 }}}}{MARK}{{% raw %}}",
    f"&lt;b&gt;{MARK}",
]
TERMINAL = f"\x1b[31m\x1b]0;{MARK}\x07\r\x9b2J\u202e[bold]{MARK}[/bold][/]"


def texts(value, path=()):
    """Where in JSON-like values a text stands, keys of free names included."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from texts(item, (*path, number))


def replaced(value, path, text):
    changed = copy.deepcopy(value)
    place = changed
    for part in path[:-1]:
        place = place[part]
    if isinstance(place, tuple):
        return None
    place[path[-1]] = text
    return changed


def elements(page):
    """The elements of a page with what could run in them."""
    found = []
    for element in parser.document_fromstring(page).iter():
        if isinstance(element.tag, str):
            risky = {
                name: value for name, value in element.attrib.items() if name.startswith("on") or "javascript:" in value
            }
            assert not risky, risky
            found.append(element.tag)
    assert not {"script", "iframe", "object", "embed", "form", "svg", "base"} & set(found)
    return found


CARD = {
    "documents": 3, "sources": [{"name": "N", "licence": "MIT", "documents": 4, "skipped": 1, "sha256": "ab" * 32}],
    "mixture": [{"source": "N", "long": None, "documents": 3, "tokens": 9, "wanted_tokens": 9, "repeats": 1.0}],
    "padding_fraction": 0.0, "extra_cuts_fraction": 0.0, "dropped": {"too_short": 1}, "paragraphs_cut": 1,
    "masked": {"email": 1}, "languages": {"en": 3}, "length_log2": {"5": 3}, "train_tokens": 9, "held_out_tokens": 1,
    "text_bytes": 100, "bytes_per_token": 2.0, "vocabulary_size": 300,
}  # fmt: skip


def written_card(tmp_path, facts, samples):
    card.write(facts, samples, tmp_path)
    return [(tmp_path / name).read_text() for name in (card.CARD_HTML, card.CARD_MARKDOWN)]


def sample(reason, text):
    return {"source": 0, "reason": reason, "text": text}


@pytest.mark.parametrize("text", HTML)
def test_a_data_card_shows_text_as_text(text, tmp_path):
    plain, _ = written_card(tmp_path, CARD, [sample(None, "a text"), sample("too_short", "a text")])
    facts = copy.deepcopy(CARD)
    facts["sources"][0] |= {"name": text, "licence": text, "sha256": text}
    facts["mixture"][0]["source"] = text
    for name in ("dropped", "masked", "languages"):
        facts[name] = {text: 1}
    page, short = written_card(tmp_path, facts, [sample(None, text), sample(text, text)])
    assert elements(page) == elements(plain)
    assert parser.document_fromstring(page).text_content().count(MARK) >= 11
    check_markdown(short)


def check_markdown(text):
    assert MARK in text
    assert "<" not in text.replace("<br>", "")
    assert (
        len({line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|") and MARK in line})
        >= 1
    )


@pytest.mark.parametrize("kind", ["given_run", "measured", "judged"])
def test_the_mfu_report_shows_text_as_text(kind, request, monkeypatch):
    names = (
        "published",
        "layout",
        "distribution",
        "breakdown",
        "timeline",
        "roofline",
        "bandwidths",
        "axes",
        "scaling",
    )
    monkeypatch.setattr(
        "longcat.benchmark.report.pictures", lambda _: ((name, {"wide": 0, "narrow": 0}) for name in names)
    )
    monkeypatch.setattr("longcat.figures.svg", lambda _: "data:,")
    result = json.loads(json.dumps(request.getfixturevalue(kind)))
    plain, text, shown = elements(html(result)), "".join(HTML), 0
    for path in texts(result):
        try:
            page, short = html(changed := replaced(result, path, text)), markdown(changed, b"")
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            continue  # a choice out of a list, which longcat makes itself
        assert set(elements(page)) <= {*plain, "br", "span"}, path
        assert "<img" not in short and "<script" not in short, path
        shown += MARK in parser.document_fromstring(page).text_content()
    assert shown >= 5


@pytest.mark.parametrize(
    "text",
    [*HTML, f"a | b {MARK}", f"[{MARK}](javascript:alert(1))", f"{MARK}\n# x\n| a |", f"`{MARK}` **x** __y__ ~z~ $1$"],
)
def test_text_in_markdown_is_one_line_of_itself(text):
    line = markdown_text(text)
    assert "\n" not in line
    for sign in "<>":
        assert sign not in line
    for sign in "|[]`*":
        assert line.count(sign) == line.count(f"\\{sign}")
    plain = line
    for sign, entity in (("<", "&lt;"), (">", "&gt;"), ("&", "&amp;")):
        plain = plain.replace(entity, sign)
    assert plain.replace("\\", "") == " ".join(text.split()).replace("\\", "")


def test_names_stay_readable_in_markdown():
    assert markdown_text("held_out bits_per_byte, 3.5 % (A100-80GB)") == "held_out bits_per_byte, 3.5 % (A100-80GB)"


def test_scores_of_tasks():
    metric = Metric(HTML[1], 0.5, None, None)
    result = TaskResult(HTML[0], [metric], documents=3, few_shot=0, version=HTML[2], truncated=0)
    check_markdown(tasks._markdown([result], {HTML[0]: HTML[1]}, window=64))


def test_what_cannot_be_seen_is_spelled_out():
    assert printable("a\tb\nc\x1b[0m\r\x7f\x9b\u202e é 文 ع") == "a\tb\nc\\x1b[0m\\x0d\\x7f\\x9b\\u202e é 文 ع"


def is_harmless(text):
    return not {
        character for character in text if ord(character) < 32 or 0x7F <= ord(character) < 0xA0 or character == "\u202e"
    } - {"\n"}


def test_nothing_on_a_terminal_obeys_text(capsys, given_run, judged):  # noqa: F811
    row = {
        "stage": "pretrain", "seconds": 1.0, "status": "run", "headline": TERMINAL, "mlflow_run_id": None, "remarks": [TERMINAL],
        "artifact": {"kind": "checkpoint", "path": TERMINAL},
    }  # fmt: skip
    print_summary({"flow": "run", "preset": "smoke", "seconds": 1.0, "stages": [row], "workspace": TERMINAL})
    print_pairs("title", {TERMINAL: TERMINAL})
    answer = json.loads(
        json.dumps(
            given_run | {"assumptions": [TERMINAL], "remarks": [TERMINAL], "device": TERMINAL, "family": TERMINAL}
        )
    )
    for match in answer["comparison"]["matches"]:
        match["model"] = TERMINAL
    answer["comparison"]["verdict"] = TERMINAL
    print_mfu(answer)
    Display(quiet=False).warn(TERMINAL)
    said = "".join(capsys.readouterr())
    assert is_harmless(said)
    assert said.replace("\n", "").count("[bold]") >= 8


def test_neither_do_error_lines_and_logs(tmp_path, monkeypatch, capsys):
    for debug in ("", "1"):
        monkeypatch.setenv("LONGCAT_DEBUG", debug)
        for error in (DataError(TERMINAL), RuntimeError(TERMINAL)):
            monkeypatch.setattr(cli, "app", Mock(side_effect=error))
            with pytest.raises(SystemExit):
                cli.main()
    said = capsys.readouterr().err
    assert is_harmless(said) and said.count(MARK) >= 6
    with redirected_output(tmp_path / "run.log", lambda _: None):
        logging.getLogger("x").error("%s", TERMINAL)
        print(TERMINAL)
    assert is_harmless((tmp_path / "run.log").read_text())


def test_generated_text_on_a_terminal(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    from longcat.commands import models

    class Opened:
        def encode(self, text):
            return [1]

    class Runner:
        def __init__(self, opened):
            pass

        def stream(self, prompt):
            yield from ["\x1b[31m", "\x1b[31m"]

    monkeypatch.setattr("longcat.inference.opening.open_checkpoint", lambda *_: Opened())
    monkeypatch.setattr("longcat.inference.runner.Runner", Runner)
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    models.generate(str(tmp_path), ["p\x1b[1m"], max_tokens=2, workspace=tmp_path)
    assert out.getvalue() == "p\\x1b[1m\\x1b[31m\\x1b[31m\n"
