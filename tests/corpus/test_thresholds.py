import pytest

from longcat.corpus.thresholds import of_words
from longcat.corpus.words import Words


@pytest.mark.parametrize(
    ("text", "alphabetic"),
    [
        ("The harbour was quiet.", 0.80),
        ("The menu has 宫保鸡丁 and more.", 0.80),
        ("清晨的码头很安静 OK", 0.735),
        ("カウンターの席を予約する", 0.759),
        ("东京的コンビニ很多，到处都能看见它们的招牌，晚上也一样", 0.735),
        ("항구는 조용했다", 0.791),
        ("ท่าเรือเงียบสงบ", 0.900),
        ("", 0.80),
    ],
)
def test_thresholds_are_those_of_the_script(text, alphabetic):
    assert of_words(Words.of(text)).alphabetic == alphabetic
