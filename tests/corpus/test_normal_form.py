import pytest

from longcat.corpus.normal_form import normal_form, without_numbers
from longcat.corpus.words import Words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("宫保鸡丁，３８元／份（微辣）", "宫保鸡丁,38元/份(微辣)"),
        ("ﾃﾞｰﾀを保存", "データを保存"),
        ("“Hello” — don’t!", '"hello" - don\'t?'),
        ("well-known, e.g. here", "Well known e g here"),
        ("2024-01-31 18:30", "2024/01/31 18：30"),
        ("到\u200b了\ufeff", "到了"),
        ("Straße", "STRASSE"),
        ("a\u3000b\n\nc", "a b c"),
    ],
)
def test_variants_of_a_text_have_one_form(one, other):
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("在(1,11)取", "在(11,1)取"),
        ("38元", "83元"),
        ("乾杯", "干杯"),
        ("ab c", "a bc"),
        ("1.5", "15"),
        ("かき", "がき"),
    ],
)
def test_different_texts_have_different_forms(one, other):
    assert normal_form(one) != normal_form(other)


@pytest.mark.parametrize("text", ["", "——", "¿?", "😀", "\u200b"])
def test_marks_alone_have_no_form(text):
    assert normal_form(text) == ""


def test_the_form_of_a_form_is_the_same():
    form = normal_form("Ｗｉ－Ｆｉ：１２，３４５ (x86_64)、ﾃｽﾄ…𠀀 ﬁne ½")
    assert normal_form(form) == form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "versions 2.6 and 3.10 of this kernel do all have both of these drivers since they were written long before any other",
            0,
        ),
        ("order 83693 has 2 of dish 7", 83693),
        ("订单83693宫保鸡丁38元2份", 83693),
    ],
)
def test_numbers_count_where_they_are_what_a_text_is_about(text, expected):
    form = normal_form(text)
    changed = without_numbers(form, Words.of(form).count)
    assert ("0" in changed.split()) == (expected == 0)
    assert (changed == form) == (expected != 0)
