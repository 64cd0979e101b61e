"""Encodings: what is detected is right, and what is not certain is not decoded."""

import codecs

import pytest

from longcat.corpus.readers import Reading, Unreadable, read_file
from longcat.corpus.readers.encoding import DETECT, decode, detect
from longcat.errors import DataError

CHINESE = "您的外卖订单已经送达，请及时取餐。骑手正在赶往下一家商户，预计二十分钟后到达，感谢您的耐心等待！"
TAIWANESE = "您的外送訂單已經送達，請儘快取餐。外送員正前往下一間商家，預計二十分鐘後抵達，感謝您的耐心等候！"
JAPANESE = "ご注文の商品が届きました。インターフェースを確認してください。配達員は次の店に向かっています。ありがとうございます。"
KOREAN = "주문하신 음식이 도착했습니다. 배달원이 다음 가게로 가고 있습니다. 기다려 주셔서 감사합니다."
RUSSIAN = "Ваш заказ доставлен, спасибо. Курьер едет в следующий ресторан и будет там через двадцать минут."
FRENCH = (
    "Le café était déjà fermé à l'arrivée du coursier; la commande a été livrée à côté, près de l'école, après la fête."
)
GREEK = "Η παραγγελία σας έφτασε. Ο διανομέας πηγαίνει στο επόμενο κατάστημα."

OLDER = [
    (CHINESE, "gb18030"), (CHINESE, "gbk"), (TAIWANESE, "big5"), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"), (KOREAN, "euc_kr"),
    (JAPANESE, "iso2022_jp"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (FRENCH, "latin-1"), (GREEK, "cp1253"),
]  # fmt: skip
UNICODE = [
    (text, name)
    for text in (CHINESE, JAPANESE, KOREAN, RUSSIAN, FRENCH)
    for name in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
]


def read(path, field="text", encodings=(DETECT,), limit=1 << 24):
    return list(read_file(path, Reading(field, encodings, limit)))


@pytest.mark.parametrize(("text", "name"), [*OLDER, *UNICODE])
def test_a_file_in_any_encoding_is_one_text(tmp_path, text, name):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(name))
    assert read(path) == [text]


@pytest.mark.parametrize(("text", "name"), [*OLDER, *UNICODE])
def test_lines_in_any_encoding_are_decoded_alike(tmp_path, text, name):
    path = tmp_path / "a.jsonl"
    lines = [f'{{"text": "{text}", "n": {number}}}' for number in range(5)] + [
        '{"text": "ascii"}',
        f'{{"text": "{text[:9]}"}}',
    ]
    content = "\n".join(lines).encode(name)
    path.write_bytes(content)
    expected = [*[text] * 5, "ascii", text[:9]]
    assert read(path) == expected
    sliced = [
        record
        for begin in range(0, len(content), 300)
        for record in read_file(path, Reading("text", [DETECT], 1 << 20), begin, begin + 300)
    ]
    assert sliced == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("零专家", "gb18030"),
        ("café", "latin-1"),
        ("Zażółć gęślą jaźń, Łódź " * 9, "iso8859-2"),
        ("Zażółć gęślą jaźń " * 9, "cp1250"),
    ],
)
def test_what_is_not_certain_is_unreadable_and_a_name_settles_it(tmp_path, text, name):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(name))
    [record] = read(path)
    assert isinstance(record, Unreadable)
    assert "invalid UTF-8 at byte" in record.reason
    assert "name it in corpus.encodings" in record.reason
    assert read(path, encodings=["utf-8", name]) == [text]


def test_bytes_that_are_no_text_are_not_detected():
    for content in (bytes(range(256)) * 8, b"\x89PNG\r\n\x1a\n" + bytes(64), b"\xff" * 100):
        assert detect(content) is None
        assert isinstance(decode(content, "", [DETECT]), Unreadable)
    assert detect(b"") == detect(b"plain") == detect(b"a stray \0 in it") == "utf-8"
    assert detect("零".encode()[:2], cut=True) == "utf-8"
    assert detect("零".encode()[:2]) is None


def test_a_named_encoding_wins(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(CHINESE.encode("gb18030"))
    assert read(path, encodings=["latin-1"]) == [CHINESE.encode("gb18030").decode("latin-1")]
    assert read(path, encodings=["utf-8", DETECT]) == [CHINESE]
    lines = tmp_path / "a.jsonl"
    lines.write_bytes('{"text": "é"}\n{"text": "b"}'.encode("utf-16-le"))
    assert read(lines, encodings=["utf-8", "utf-16-le"]) == ["é", "b"]
    assert all(isinstance(record, Unreadable) for record in read(lines, encodings=["utf-8"]))


@pytest.mark.parametrize("name", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("encodings", [["utf-8"], ["utf-8", "latin-1"], ["latin-1"]])
@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_wins_over_named_encodings(tmp_path, name, encodings, form):
    """Latin-1 takes any bytes, so that UTF-16 would be trained on as letters with zeros between them."""
    content = {"txt": RUSSIAN, "jsonl": f'{{"text": "{RUSSIAN}"}}\n', "csv": f'text\n"{RUSSIAN}"\n'}[form]
    path = tmp_path / f"a.{form}"
    path.write_bytes(content.encode(name))
    assert read(path, encodings=encodings) == [RUSSIAN]


def test_a_mark_before_what_is_no_such_text_means_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(codecs.BOM_UTF16_LE + b"odd")
    assert read(path, encodings=["latin-1"]) == ["ÿþodd"]


def test_a_line_that_differs_from_its_file(tmp_path):
    path = tmp_path / "a.jsonl"
    line = f'{{"text": "{CHINESE}"}}'
    path.write_bytes(b"\n".join([line.encode("gb18030")] * 9 + [line.encode(), b'{"text": "\xff\xff"}']))
    *right, bad = read(path)
    assert right == [CHINESE] * 10
    assert isinstance(bad, Unreadable)
    assert bad.place == f"{path}, line 11"


def test_utf16_that_is_cut_within_a_character_is_damaged(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(codecs.BOM_UTF16_LE + '{"text": "one"}\n'.encode("utf-16-le") + b"a")
    with pytest.raises(DataError, match=f"{path} is not an intact file in UTF-16"):
        read(path)


def test_pages_without_a_declared_encoding(tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(f"<html><body><p>{CHINESE}</p></body></html>".encode("gb18030"))
    assert read(path) == [CHINESE]
