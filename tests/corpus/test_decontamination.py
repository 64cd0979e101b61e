import json

import pytest

from longcat.corpus.decontamination import KnownRuns, evaluation_files, known_runs
from longcat.corpus.normal_form import normal_form
from longcat.corpus.words import Words
from longcat.errors import DataError

QUESTION = "What is the name of the river that flows through the old town before it reaches the sea?"
CHINESE = "一位顾客在晚上八点订了两份宫保鸡丁和一份米饭，要求送到河边的写字楼，骑手要多久才能送到？"


def evaluation(tmp_path, *values):
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def found(tmp_path):
    """Whether a text has something of an evaluation set."""

    def search(text, *values):
        known = KnownRuns(known_runs([evaluation(tmp_path, *values)]))
        return known.are_in(Words.of(normal_form(text)))

    return search


def test_a_run_of_thirteen_words_is_found(found):
    item = {"question": QUESTION, "choices": ["a", {"text": "b"}]}
    thirteen = "is the name of the river that flows through the old town before"
    assert len(thirteen.split()) == 13
    assert found(f"Somebody asked: {QUESTION} Nobody knew.", item)
    assert found(thirteen.upper(), item)
    assert not found(thirteen.rsplit(" ", 1)[0], item)
    assert not found("the river that flows through another town before it reaches the sea, and so on and on", item)


@pytest.mark.parametrize(
    "variant",
    [
        CHINESE,
        CHINESE.replace("，", ",").replace("？", "?"),
        CHINESE.replace("，", " "),
        CHINESE.replace("，", "").replace("？", ""),
        "\u3000".join(CHINESE),
        CHINESE[5:32],
        f"问：{CHINESE}答：四十分钟。",
    ],
)
def test_chinese_is_found_whatever_its_marks(found, variant):
    assert found(variant, {"question": CHINESE})


def test_thirteen_characters_of_chinese_are_no_run_of_thirteen_words(found):
    assert not found(CHINESE[:13] + "再打电话给商家", {"question": CHINESE})


@pytest.mark.parametrize(
    "variant", [QUESTION.replace(" ", "\u3000"), QUESTION.replace("town", "TOWN,"), QUESTION[:-1] + "…"]
)
def test_marks_and_width_hide_nothing(found, variant):
    assert found(
        "".join(chr(ord(one) + 0xFEE0) if "a" <= one <= "z" else one for one in variant), {"question": QUESTION}
    )


@pytest.mark.parametrize(
    ("known", "text", "expected"),
    [
        ("What is the capital of France?", "Q: what is the capital of France? A: Paris", True),
        ("What is the capital of France?", "what is the capital of Frances", False),
        ("法国的首都是哪座城市？", "问题是：法国的首都是哪座城市?答案是巴黎。", True),
        ("この店は何時に閉まりますか？", "客が「この店は何時に閉まりますか」と聞いた", True),
        (
            "the old clock of the customs house struck seven",
            "Then the old clock of the customs house struck seven, late.",
            True,
        ),
        ("the old clock of the customs", "Then the old clock of the customs house struck seven, late.", False),
        ("two words", "two words", False),
        ("Who knows?", "Who knows? Nobody.", False),
        ("22元，不行", "他说22元，不行。", False),
        ("订单83693最少付多少元？", "订单83693最少付多少元？121元。", True),
        ("订单83693最少付多少元？", "订单83694最少付多少元？121元。", False),
    ],
)
def test_short_texts_are_looked_for_as_a_whole(found, known, text, expected):
    assert found(text, {"question": known}) == expected


@pytest.mark.parametrize("path", evaluation_files(["data"]), ids=lambda path: path.stem)
def test_every_long_question_of_our_own_is_found_in_other_marks(path):
    known = KnownRuns(known_runs([path]))
    items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:20]]
    questions = [item.get("question") or item["prompt"] for item in items]
    long = [question for question in questions if Words.of(normal_form(question)).count >= 13]
    assert long
    for question in long:
        other = "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in question)
        assert known.are_in(Words.of(normal_form(f"他问 {other} 等等")))


def test_files_are_named(tmp_path):
    assert [path.suffix for path in evaluation_files(["data"])] == [".jsonl"] * len(evaluation_files(["data"]))
    assert evaluation_files(["data"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        evaluation_files([str(tmp_path / "nowhere.jsonl")])
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{')
    with pytest.raises(DataError, match=r"broken\.jsonl:2"):
        known_runs([tmp_path / "broken.jsonl"])
