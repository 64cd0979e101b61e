import pytest

from longcat.corpus.language import language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The harbour was quiet when the first boats came back with their nets.", "en"),
        ("清晨的码头很安静，第一批渔船已经带着渔网回来了。", "zh"),
        ("你好，世界，今天的天气很好", "zh"),
        ("Le port était calme quand les premiers bateaux sont revenus.", "fr"),
        ("港は静かで、最初の船が網を持って戻ってきました。", "ja"),
    ],
)
def test_languages(text, expected):
    assert language(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Order delivered", "en"),
        ("Hello", "en"),
        ("Refund sent", "en"),
        ("Kung pao chicken", "en"),
        ("Courier arrived", "en"),
        ("宫保鸡丁1份", "zh"),
        ("Commande livrée", "fr"),
        ("Bestellung geliefert", "de"),
        ("Pedido entregado", "es"),
        ("こんにちは", "ja"),
        ("Заказ доставлен", "ru"),
        ("Le port était calme quand les premiers bateaux sont revenus.", "fr"),
    ],
)
def test_a_few_words_are_in_an_expected_language_and_a_sentence_is_in_its_own(text, expected):
    assert language(text, ["en", "zh"]) == expected
