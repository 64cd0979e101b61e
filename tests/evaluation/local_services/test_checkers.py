import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longcat.evaluation.local_services.checkers import is_right

FULL_WIDTH = str.maketrans("0123456789:,", "０１２３４５６７８９：，")
NAMES = {
    "zh": ["张师傅", "王师傅", "李师傅", "赵师傅"],
    "en": ["courier Zhang", "courier Wang", "courier Li", "courier Liang"],
}
PHRASES = ["49 yuan, yes", "49 yuan, no", "9 yuan, yes", "9 yuan, no"]
ROUTES = ["取A 取B 送A 送B", "取A 送A 取B 送B", "取B 取A 送A 送B", "取B 送B 取A 送A"]


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_amount_is_right_in_each_form_and_another_is_wrong(right, other):
    assume(right != other)
    forms = [
        "{}",
        " {}元。",
        "¥{}",
        "{} yuan",
        "It costs {}.00 yuan.",
        "Answer: {}",
        "答案：{}元",
        "**{}**",
        "{}\n\nQuestion: 3",
    ]
    for form in forms:
        assert is_right("money", str(right), [], form.format(right)), form
        assert is_right("money", str(right), [], form.format(right).translate(FULL_WIDTH)), form
        assert not is_right("money", str(right), [], form.format(other)), form
    assert is_right("money", str(right), [], f"{right:,} yuan")
    assert not is_right("money", str(right), [], f"{right} or {other}")
    assert not is_right("money", str(right), [], f"{right}.5")


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_a_time_is_right_in_each_form_and_another_is_wrong(right, other):
    assume(right != other)

    def forms(minute):
        hour, past = divmod(minute, 60)
        half = "pm" if hour >= 12 else "am"
        yield from (
            f"{hour:02d}:{past:02d}",
            f"{hour}:{past:02d}",
            f"{hour}点{past:02d}分",
            f"{hour:02d}：{past:02d}送达。",
            f"It arrives at {hour:02d}:{past:02d}.",
            f"{hour:02d}:{past:02d}:00",
            f"{(hour - 1) % 12 + 1}:{past:02d} {half}",
        )
        if hour > 12:
            yield f"下午{hour - 12}点{past}分"

    target = f"{right // 60:02d}:{right % 60:02d}"
    for text in forms(right):
        assert is_right("time", target, [], text), text
    for text in forms(other):
        assert not is_right("time", target, [], text), text
    assert not is_right("time", target, [], f"{target} or {other // 60:02d}:{other % 60:02d}")


@given(st.sampled_from(["zh", "en"]), st.integers(0, 3), st.integers(0, 3))
def test_a_name_is_right_alone_and_wrong_beside_another_or_negated(language, index, other):
    names = NAMES[language]
    target = names[index]
    for form in (
        "{}",
        " {}. ",
        "It is {}!",
        "**{}**",
        "Answer: {}",
        "答案：{}。",
        "应派{}",
        "{}\nQuestion: and now {}?",
    ):
        assert is_right("name", target, names, form.format(target, names[other])), form
        assert is_right("name", target, names, form.format(target, names[other]).upper()), form
        assert is_right("name", target, names, form.format(names[other], target)) == (index == other), form
    assert is_right("name", target, names, f"{target} and {names[other]}") == (index == other)
    for form in ("not {}", "It isn't {}", "不是{}"):
        assert not is_right("name", target, names, form.format(target))


def test_a_title_may_be_left_out_and_a_name_in_a_longer_one_is_another():
    names = NAMES["en"]
    assert is_right("name", "courier Li", names, "Li")
    assert not is_right("name", "courier Li", names, "Liang")
    assert not is_right("name", "courier Li", names, "courier")
    orders = ["58210", "69960", "68837", "99478"]
    assert is_right("name", "58210", orders, "No. 58210")
    assert is_right("name", "58210", orders, "#58210号单")
    assert not is_right("name", "58210", orders, "158210")
    assert not is_right("name", "58210", orders, "5821")


@given(st.sampled_from(PHRASES), st.sampled_from(PHRASES))
def test_a_phrase_is_one_of_the_listed_ones(target, said):
    for form in ("{}", "{}.", "Reply: {}!", '"{}"'):
        assert is_right("phrase", target, PHRASES, form.format(said)) == (said == target)
    assert not is_right("phrase", target, PHRASES, target.split(",")[0])


@given(st.sampled_from(ROUTES), st.sampled_from(ROUTES))
def test_a_route_is_read_in_chinese_and_english(target, said):
    english = said.replace("取", "pick up ").replace("送", "drop off ")
    for text in (
        said,
        said.replace(" ", "-"),
        said.replace(" ", "→"),
        said.replace(" ", "，再").lower(),
        english,
        english.replace(" d", ", then d"),
    ):
        assert is_right("sequence", target, ROUTES, text) == (said == target), text
    assert not is_right("sequence", target, ROUTES, said[:-3])
    assert not is_right("sequence", target, ROUTES, f"{said} 送C")


@pytest.mark.parametrize("form", ["money", "time", "name", "phrase", "sequence"])
@given(st.text(max_size=40))
def test_any_text_is_judged_and_nothing_is_never_right(form, text):
    target = {"money": "51", "time": "12:47", "name": "甲店", "phrase": "取消订单", "sequence": "取A 送A"}[form]
    judged = is_right(form, target, [target, "乙店"], text)
    assert judged in (True, False)
    if not any(character in text for character in "5甲取") and text.isascii():
        assert judged == (form == "time" and "12:47" in text)
    assert not is_right(form, target, [target, "乙店"], "")
    assert not is_right(form, target, [target, "乙店"], "\n \n")


def test_the_last_answer_counts():
    assert is_right("money", "51", [], "Reasoning: 60 less 9\nAnswer: 51 yuan\n")
    assert not is_right("money", "51", [], "Answer: 51\nNo. Answer: 52")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="there is no form 'essay'"):
        is_right("essay", "a", [], "a")
