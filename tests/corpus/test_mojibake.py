import pytest

from longcat.corpus.mojibake import is_mojibake

CHINESE = "您的外卖订单已经送达，请及时取餐。骑手正在赶往下一家商户，预计二十分钟后到达！"
JAPANESE = "ご注文の商品が届きました。インターフェースを確認してください。"
KOREAN = "주문하신 음식이 도착했습니다. 배달원이 다음 가게로 가고 있습니다."
FRENCH = "Le café était déjà fermé; l’été, où êtes-vous? « Noël », œuvre, 20 €…"
RUSSIAN = "Ваш заказ доставлен, спасибо. Курьер едет в следующий ресторан."
GERMAN = "Übergröße: süß, „Straße“ – ÄÖÜß, 5 µm ± 1 °C, §§ 3–4 ©"
OTHERS = [
    "emoji 👩🏽‍🚀🧑‍🧑‍🧒‍🧒 🇨🇳",
    "مرحبا بالعالم",
    "Ελλάδα",
    "ไทยไม่มี",
    "§ 5 ÷ 2 ≠ ½ → ×",
    "联通",
    "ÀÉÎ ÃÕ",
    "Ãão",
    "plain",
]


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, KOREAN, FRENCH, RUSSIAN, GERMAN, *OTHERS])
def test_right_text_is_right(text):
    assert not is_mojibake(text)
    assert not is_mojibake(text * 20)


WIDE = ("gb18030", "cp932", "cp949", "big5hkscs")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        *(
            (text, wrong)
            for text in (CHINESE, JAPANESE, KOREAN, FRENCH, RUSSIAN, GERMAN)
            for wrong in ("latin-1", "cp1252")
        ),
        # accents alone become single characters of anything
        *((text, wrong) for text in (CHINESE, JAPANESE, KOREAN, RUSSIAN) for wrong in WIDE),
    ],
)
def test_utf8_read_as_something_else(text, wrong):
    content = text.encode()
    if wrong == "cp1252":
        damaged = "".join(
            bytes([byte]).decode("cp1252" if byte not in b"\x81\x8d\x8f\x90\x9d" else "latin-1") for byte in content
        )
    else:
        damaged = content.decode(wrong, errors="replace")
    assert damaged != text
    assert is_mojibake(damaged)


def test_replacement_characters_count_by_their_share():
    assert is_mojibake("caf\ufffd d\ufffdj\ufffd vu")
    assert is_mojibake("锟斤拷锟斤拷 烫")
    assert is_mojibake("a ï¿½ b")
    assert not is_mojibake("x" * 1000 + "\ufffd" + "x" * 1000)
    assert is_mojibake("It doesnâ€™t matter, the customerâ€™s order isnâ€™t here. " + "x" * 900)
    assert not is_mojibake("A page about mojibake quotes â€™ once. " + "x" * 2000)
