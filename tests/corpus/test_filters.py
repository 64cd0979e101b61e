"""Every rule at its threshold, and the n-gram rules against plain loops."""

import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.corpus.filters import DOCUMENT_RULES, LINE_RULES, Document, Filter, rule_groups
from longcat.errors import ConfigError

PROSE = (
    "The harbour was quiet when the first boats came back with their nets, and nobody on the long pier seemed to have "
    "noticed that the weather had turned. A woman with a red scarf counted baskets of herring while two boys argued "
    "about whose turn it was to wash the deck. Behind them the old clock of the customs house struck seven, as it did "
    "every morning, four minutes late."
)
CHINESE = "清晨的码头很安静，第一批渔船已经带着渔网回来了。没有人注意到天气正在变化，一位围着红围巾的妇女在数鲱鱼的筐子，两个男孩在争论轮到谁洗甲板。海关大楼的老钟敲了七下，和每天早上一样晚了四分钟。"


@pytest.mark.parametrize("text", [PROSE, CHINESE])
def test_good_prose_passes_every_rule(text):
    rules = Filter([*LINE_RULES, *DOCUMENT_RULES])
    assert rules.verdict(Document(rules.lines(text))) is None


def words(count, word="word"):
    return " ".join(f"{word}{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}" for i in range(count))


FAILS = {  # a text just beyond the threshold, and one on it
    "gopher_word_count": (words(49), words(50)),
    "gopher_word_length": ("ab " * 60, "abc " * 60),
    "gopher_symbols": ("# " * 7 + "word " * 59, "# " * 6 + "word " * 59),
    "gopher_bullets": ("- a\n" * 91 + "b\n" * 9, "- a\n" * 90 + "b\n" * 10),
    "gopher_ellipses": ("a...\n" * 31 + "b\n" * 69, "a…\n" * 30 + "b\n" * 70),
    "gopher_alphabetic": ("12 " * 21 + "word " * 79, "12 " * 20 + "word " * 80),
    "gopher_stop_words": ("The cat sat. " * 3, "The cat and dog sat. " * 3),
    "gopher_duplicate_lines": (
        "same\n" * 32 + "\n".join(f"another line {i}" for i in range(68)),
        "same\n" * 31 + "\n".join(f"another line {i}" for i in range(69)),
    ),
    "gopher_duplicate_paragraphs": (
        "same\n\n" * 32 + "\n\n".join(f"another text {i}" for i in range(68)),
        "same\n\n" * 31 + "\n\n".join(f"another text {i}" for i in range(69)),
    ),
    "c4_sentences": ("One. Two.", "One. Two. Three."),
    "c4_lorem_ipsum": ("Lorem Ipsum dolor", "Lorem dolor"),
    "c4_curly_bracket": ("if (x) {", "if (x)"),
}


@pytest.mark.parametrize("rule", FAILS)
def test_documents_beyond_a_threshold_are_left_out(rule):
    beyond, on = FAILS[rule]
    assert Filter([rule]).verdict(Document(beyond)) == rule
    assert Filter([rule]).verdict(Document(on)) is None
    assert Filter([]).verdict(Document(beyond)) is None


def top_by_hand(text):
    parts = text.split()
    total = sum(map(len, parts))
    for n, share in ((2, 0.2), (3, 0.18), (4, 0.16)):
        grams = [tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)]
        if not grams:
            return False
        best = max(grams.count(gram) for gram in grams)
        sizes = {best * sum(map(len, gram)) for gram in grams if grams.count(gram) == best}
        if best > 1 and max(sizes) > share * total and min(sizes) > share * total:
            return True
        if best > 1 and max(sizes) > share * total:
            return None  # a tie, either is right
    return False


def duplicates_by_hand(text):
    parts = text.split()
    for n, share in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        seen, covered = set(), set()
        for i in range(len(parts) - n + 1):
            gram = tuple(parts[i : i + n])
            if gram in seen:
                covered.update(range(i, i + n))
            seen.add(gram)
        if sum(len(parts[i]) for i in covered) > share * sum(map(len, parts)):
            return True
    return False


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), vocabulary=st.integers(2, 40), length=st.integers(3, 80))
def test_ngram_rules_equal_plain_loops(seed, vocabulary, length):
    chooser = random.Random(seed)
    text = " ".join(f"w{chooser.randrange(vocabulary)}" for _ in range(length))
    expected = top_by_hand(text)
    if expected is not None:
        assert DOCUMENT_RULES["gopher_top_ngrams"](Document(text)) == expected
    assert DOCUMENT_RULES["gopher_duplicate_ngrams"](Document(text)) == duplicates_by_hand(text)


def test_lines_are_cut_where_asked():
    text = "A full sentence stands here.\nMenu\nThis line needs javascript to be on.\nSee our privacy policy for it.\n"
    assert Filter(["c4_line_punctuation"]).lines(text).count("\n") == 2
    assert Filter(["c4_line_words"]).lines("One two three four\nOne two three four five") == "One two three four five"
    assert "javascript" not in Filter(["c4_line_javascript"]).lines(text)
    assert "policy" not in Filter(["c4_line_policy"]).lines(text)
    assert Filter([]).lines(text) is text


def test_groups_are_the_prefixes_of_the_rules():
    groups = rule_groups()
    assert {group: len(rules) for group, rules in groups.items()} == {"c4": 7, "gopher": 11}
    chosen = Filter(["c4_lorem_ipsum", "gopher"])
    assert (chosen.line_rules, chosen.document_rules) == ([], ["c4_lorem_ipsum", *groups["gopher"]])
    assert Filter(["c4"]).line_rules == list(LINE_RULES)


def test_a_rule_takes_an_entry_in_the_table(monkeypatch):
    monkeypatch.setitem(DOCUMENT_RULES, "mine_shouting", lambda document: document.text.isupper())
    for name in ("mine_shouting", "mine"):
        assert Filter([name]).verdict(Document("LOUD")) == "mine_shouting"
        assert Filter([name]).verdict(Document("quiet")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gofer", r"no rule 'gofer'; did you mean 'gopher'\?; groups are c4, gopher"),
        ("gopher_bulets", r"did you mean 'gopher_bullets'\?"),
        ("xyz", r"no rule 'xyz'; groups are c4, gopher, .* package\.module:function"),
        ("no_such_module:keep", r"corpus\.filters=no_such_module:keep cannot be imported"),
        ("math:pi", r"corpus\.filters=math:pi is no function"),
    ],
)
def test_an_unknown_filter_is_refused_with_the_nearest_and_the_groups(name, message):
    with pytest.raises(ConfigError, match=message):
        Filter(["gopher", name])


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of somebody's own filters."""
    (tmp_path / "filters_of_ones_own.py").write_text(
        "def short(text):\n    return len(text) < 10\n"
        "def fails(text):\n    return 1 / 0\n"
        "def forgets(text):\n    len(text)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "filters_of_ones_own"
    sys.modules.pop("filters_of_ones_own", None)


def test_a_function_of_ones_own_says_what_is_kept(own):
    chosen = Filter([f"{own}:short", "c4_curly_bracket"])
    assert chosen.reasons == ["c4_curly_bracket", f"{own}:short"]
    assert chosen.verdict(Document("short")) is None
    assert chosen.verdict(Document("longer than ten")) == f"{own}:short"
    assert chosen.verdict(Document("a { longer than ten")) == "c4_curly_bracket"
    assert chosen.own[0].source.name == "filters_of_ones_own.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [("fails", "failed: ZeroDivisionError: division by zero"), ("forgets", "failed: it returned None; expected True")],
)
def test_a_function_of_ones_own_that_fails_is_named(own, name, message):
    with pytest.raises(ConfigError, match=rf"corpus\.filters={own}:{name} {message}"):
        Filter([f"{own}:{name}"]).verdict(Document("text"))
