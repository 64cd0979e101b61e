"""Personal data as it is written in orders and deliveries, and what only looks like it."""

from collections import Counter

import pytest

from longcat.corpus.privacy import mask

ALL = ["email", "phone", "national_id", "address"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to anna.b+x@mail.example.org today", "write to <email> today"),
        ("邮箱：li.wei@example.cn，谢谢", "邮箱：<email>，谢谢"),
        ("电话13812345678。", "电话<phone>。"),
        ("手机 138-1234-5678 或 +86 139 1234 5678", "手机 <phone> 或 <phone>"),
        ("座机 010-12345678 转", "座机 <phone> 转"),
        ("call +44 20 7946 0958 now", "call <phone> now"),
        ("call +1 (555) 010-9999.", "call <phone>."),
        ("电话１３８１２３４５６７８，谢谢", "电话<phone>，谢谢"),
        ("手机：138 1234 5678", "手机：<phone>"),
        ("Phone number: 13812345678, contact no. 139-1234-5678", "Phone number: <phone>, contact no. <phone>"),
        ("手机号:13812345678", "手机号:<phone>"),
        ("440308200012311232", "<national_id>"),
        ("店里电话(0571)87654321或021-8765 4321", "店里电话<phone>或<phone>"),
        ("订单83693，电话13812345678", "订单83693，电话<phone>"),
        ("１１０１０５１９４９１２３１００２Ｘ", "<national_id>"),
        ("身份证 110105 19491231 002X", "身份证 <national_id>"),
        ("送到文三路478号3幢2单元501室，谢谢", "<address>"),
        ("阳光花园12栋1单元1203室，放门口", "<address>，放门口"),
        ("阳光公寓A座1203室，放门口", "<address>，放门口"),
        ("身份证号11010519491231002X。", "身份证号<national_id>。"),
        ("送到北京市朝阳区望京东路6号院3号楼2单元501室，放门口", "送到<address>，放门口"),
        ("浙江省杭州市西湖区文三路478号", "<address>"),
    ],
)
def test_personal_data_is_replaced(text, expected):
    counts = Counter()
    found = mask(text, ALL, counts)
    if "<address>" in expected:  # where an address begins, words before it may go with it
        assert "<address>" in found
        assert not any(part in found for part in ("望京东路", "文三路", "501室", "1203室"))
    else:
        assert found == expected
    assert sum(counts.values()) == expected.count("<")


@pytest.mark.parametrize(
    "text",
    [
        "订单号：13812345678", "单号13812345678已送达", "order no. 13812345678", "Order #13812345678", "编号为15912345678",
        "订单1381234567890", "110105194902300020", "990105194912310023", "中山路很长，12号楼没有", "order 13962 goes from (1,6) to (10,10)",
        "83693号单在(8,8)取，送(3,1)；83693每格一分钟", "version 1.38.12345678 of 2024-01-31", "order 20240131138123456789", "11010519491231002Y and 110105194912310021",
        "the path a/b@2x.png", "x = 0x13812345678", "float 3.13812345678", "一路走来，十号出发",
        "pi is 3.14159265358979 and e is 2.71828182845905",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_stays(text):
    counts = Counter()
    assert mask(text, ALL, counts) == text
    assert not counts


def test_only_what_is_asked_for():
    text = "a@b.example 13812345678"
    assert mask(text, ["phone"], Counter()) == "a@b.example <phone>"
    assert mask(text, [], Counter()) == text
    once = mask(text, ALL, Counter())
    assert mask(once, ALL, Counter()) == once
