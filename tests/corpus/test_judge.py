import json
import sys

import pytest

from longcat.config import CorpusConfig
from longcat.corpus.cleaning import Dropped
from longcat.corpus.decontamination import NO_RUNS, known_runs
from longcat.corpus.judge import SAMPLE_CHARACTERS, Judge, reasons
from longcat.errors import ConfigError, LongcatError

ENGLISH = "The harbour was quiet when the first boats came back with their nets, and nobody had seen the weather turn."
FRENCH = "Le port était calme quand les premiers bateaux sont revenus avec leurs filets, et personne ne l'avait vu."


def judge(known=NO_RUNS, **settings):
    return Judge(CorpusConfig.model_validate({"min_characters": 10, **settings}), known)


def verdict(text, known=NO_RUNS, **settings):
    found = judge(known, **settings).verdict(text)
    return found.document.reason if isinstance(found.document, Dropped) else found.document.text


@pytest.fixture
def scores(tmp_path, monkeypatch):
    """A module of somebody's own scores."""
    (tmp_path / "scores_of_ones_own.py").write_text(
        "def length(text):\n    return len(text)\n"
        "def fails(text):\n    return 1 / 0\n"
        "def nothing(text):\n    return None\n"
        "def not_a_number(text):\n    return float('nan')\n"
        "number = 3\n"
        "class Model:\n    def score(self, text):\n        return 0.5\n"
        "    def __call__(self, text):\n        return 0.5\n"
        "model = Model()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "scores_of_ones_own"
    sys.modules.pop("scores_of_ones_own", None)


def quality(module, name, minimum=0.0):
    return {"function": f"{module}:{name}", "minimum": minimum}


def test_the_first_reason_counts(tmp_path):
    everything = {"languages": ["en"], "filters": ["gopher_word_count"], "max_characters": 200}
    (tmp_path / "set.jsonl").write_text(json.dumps({"text": ENGLISH}))
    known = known_runs([tmp_path / "set.jsonl"])
    assert verdict(" \n\x00", **everything) == "empty"
    assert verdict("x\x00\x01", **everything) == "too_short"
    assert verdict(FRENCH * 2, **everything) == "too_long"
    assert verdict(FRENCH, **everything) == "language"
    assert verdict(ENGLISH, known, **everything) == "gopher_word_count"
    assert verdict(ENGLISH, known, languages=["en"]) == "contaminated"
    assert verdict(ENGLISH.replace("came", "sailed"), known, languages=["en"]).startswith("The harbour")


def test_cutting_lines_is_followed_by_another_look_at_the_length():
    rest = "This line has a full stop and more than five words.\n"
    assert verdict(rest + "menu\n" * 9, filters=["c4_line_punctuation"]) == rest.strip()
    assert verdict(rest + "menu\n" * 90, filters=["c4_line_punctuation"], min_characters=60) == "too_short"
    assert verdict("menu without an end\n" * 9, filters=["c4_line_punctuation"]) == "empty"


def test_masked_text_is_what_rules_and_scores_see(scores):
    text = "Write to somebody@example.org about the boats."
    assert verdict(text, mask=["email"]) == "Write to <email> about the boats."
    found = judge(mask=["email", "phone"]).verdict(text)
    assert found.masked == {"email": 1}
    masked = len("Write to <email> about the boats.")
    assert verdict(text, mask=["email"], quality=quality(scores, "length", masked)).startswith("Write")
    assert verdict(text, mask=["email"], quality=quality(scores, "length", masked + 1)) == "quality"


def test_samples_are_short_and_without_personal_data():
    text = "somebody@example.org " * 99
    assert judge(mask=["email"]).sample(text).startswith("<email> <email>")
    assert len(judge().sample(text)) == SAMPLE_CHARACTERS


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("I donâ€™t know, he said to her.", "I don’t know, he said to her."),
        ("cafÃ© crÃ¨me and a croissant", "café crème and a croissant"),
        ("ç”¨ä¸­æ–‡å†™æ–‡ç« ，è¿™æ˜¯ä¸€å¥è¯", None),
        ("The naïve café — “quoted”, 零专家", "The naïve café — “quoted”, 零专家"),
    ],
)
def test_wrong_decoding_is_mended_where_it_is_asked_for(wrong, right):
    assert verdict(wrong) == (wrong if wrong == right else "mojibake")
    if right is not None:
        assert verdict(wrong, repair_encoding=True) == right


def test_reasons_are_those_of_the_configuration():
    assert reasons(CorpusConfig()) == ["mojibake", "empty", "too_short", "too_long", "duplicate"]
    full = CorpusConfig.model_validate(
        {
            "languages": ["en"],
            "filters": ["c4_sentences"],
            "quality": {"function": "math:sqrt", "minimum": 0},
            "decontaminate": ["data"],
            "near_duplicates": {},
            "repeated_paragraph_characters": 9,
        }
    )
    assert reasons(full) == [
        "mojibake", "empty", "too_short", "too_long", "language", "c4_sentences", "quality", "contaminated",
        "duplicate", "near_duplicate", "repeated_paragraphs",
    ]  # fmt: skip


def test_a_score_of_just_the_minimum_is_enough(scores):
    text = "x" * 20
    assert verdict(text, quality=quality(scores, "length", 20)) == text
    assert verdict(text, quality=quality(scores, "length", 20.1)) == "quality"
    assert verdict(text, quality=quality(scores, "model", 0.5)) == text
    assert verdict(text, quality=quality(scores, "model.score", 0.6)) == "quality"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module_at_all:score", r"corpus\.quality\.function=no_such_module_at_all:score cannot be imported"),
        ("math:no_such_function", r"corpus\.quality\.function=math:no_such_function cannot be imported"),
        ("math:pi", r"corpus\.quality\.function=math:pi is no function"),
    ],
)
def test_a_function_that_is_not_there_is_named(function, message):
    with pytest.raises(ConfigError, match=message):
        judge(quality={"function": function, "minimum": 0})


def test_a_module_that_does_not_run_is_named(tmp_path, monkeypatch):
    (tmp_path / "module_that_fails.py").write_text("raise RuntimeError('no model file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="module_that_fails:score cannot be imported: no model file"):
        judge(quality={"function": "module_that_fails:score", "minimum": 0})


@pytest.mark.parametrize("name", ["fails", "nothing"])
def test_a_function_that_fails_is_named(scores, name):
    with pytest.raises(LongcatError, match=rf"corpus\.quality\.function={scores}:{name}"):
        verdict("x" * 20, quality=quality(scores, name))


def test_a_score_that_is_no_number_is_not_enough(scores):
    try:
        assert verdict("x" * 20, quality=quality(scores, "not_a_number")) == "quality"
    except LongcatError:
        return
