"""Precision and recall on a planted set whose similarities are known exactly."""

import random
import re

import numpy as np
import pytest

from longcat.config import NearDuplicateConfig
from longcat.corpus.filters import Document
from longcat.corpus.near_duplicates import near_duplicates, shingles, signatures

CONFIG = NearDuplicateConfig()


def found(texts, config=CONFIG):
    forms = [Document(text).normal_form for text in texts]
    return near_duplicates(signatures([shingles(form, config) for form in forms], config), config).tolist()


def jaccard(a, b, words=5):
    first, second = ({*zip(*(text.split()[n:] for n in range(words)), strict=False)} for text in (a, b))
    return len(first & second) / len(first | second)


def planted(count, seed=0):
    """Documents, and for each a copy with some words changed, from nearly the same to nearly another."""
    chooser = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(3000)]
    for _ in range(count):
        original = [chooser.choice(vocabulary) for _ in range(200)]
        changed = list(original)
        for place in chooser.sample(range(200), chooser.randrange(0, 30)):
            changed[place] = chooser.choice(vocabulary)
        yield " ".join(original), " ".join(changed)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_on_a_planted_set(seed):
    pairs = list(planted(400, seed))
    flags = found([original for original, _ in pairs] + [copy for _, copy in pairs])
    assert not any(flags[:400])
    similarity = np.array([jaccard(original, copy) for original, copy in pairs])
    taken, near = np.array(flags[400:]), similarity >= CONFIG.threshold
    assert near.sum() > 60
    assert taken[similarity >= CONFIG.threshold + 0.1].all()  # nothing that is clearly alike was let pass
    assert not taken[similarity < CONFIG.threshold - 0.1].any()  # nothing that is clearly different was taken away
    assert near[taken].mean() > 0.85  # precision; all errors lie within 0.1 of the threshold
    assert taken[near].mean() > 0.85  # recall


def test_the_first_of_several_stays():
    one, two = (" ".join(f"{word}{n}" for n in range(50)) for word in ("a", "b"))
    assert found([one, two, one + " c", two, one]) == [False, False, True, True, True]


def test_chains_keep_their_first():
    """Each is like the one before, the last is not like the first."""
    words = [f"w{n}" for n in range(140)]
    config = NearDuplicateConfig(bands=64, rows=2, threshold=0.6)
    assert found([" ".join(words[n : n + 100]) for n in (0, 12, 24, 36)], config) == [False, True, True, True]


def test_chinese_and_short_texts():
    text = "清晨的码头很安静，第一批渔船已经带着渔网回来了。没有人注意到天气正在变化。"
    assert found([text, text + "了"]) == [False, True]
    assert found(["two words", "Two words", "two others"]) == [False, True, False]


ENGLISH_PAGE = (
    "The courier service opened in 1998 with 12 bicycles and a room above a bakery. Its founder, who had carried letters for the "
    "post office, kept a paper map on the wall and moved a pin whenever a rider called. Nobody was paid by the hour: a rider got a "
    "share of each fee, and on wet days the share was larger. When the first mobile phones came, the map stayed where it was, since "
    "the pins were quicker than any screen of that time. By 2006 there were 340 riders in three towns, and the bakery had moved out."
)
CHINESE_PAGE = (
    "这家小店开在老城区的巷子里，门口只有三张桌子，老板娘每天早上五点就起来和面。街坊们说，她做的葱油饼外酥里嫩，比大饭店的还好吃。"
    "后来附近盖了写字楼，中午来排队的人越来越多，她就在网上也开了店，让骑手来取。下雨天订单最多，她会在袋子外面再套一层塑料袋，"
    "免得汤洒出来。1998年刚开张的时候，一张饼只卖5毛钱；到了2016年，她的儿子也从外地回来帮忙，店面才扩大了一倍。"
)


def digits_changed(text):
    return text.translate(str.maketrans("0123456789", "3861472905"))


def full_width(text):
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


VARIANTS = {
    "digits": digits_changed,
    "marks": lambda text: re.sub(r"[，。、；：.,:;]", " ", text),
    "full width": full_width,
    "case": str.upper,
    "half-width marks": lambda text: text.translate(str.maketrans("，。；：", ",.;:")),
    "header and footer": lambda text: f"Home > News\n{text}\n© 2024 All rights reserved",
    "cut": lambda text: text[: -len(text) // 10],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("page", [ENGLISH_PAGE, CHINESE_PAGE], ids=["en", "zh"])
def test_copies_in_another_form_are_found(page, variant):
    assert found([page, VARIANTS[variant](page) + " "]) == [False, True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "订单83693：宫保鸡丁1份、米饭2份，送到A座12楼，18:30前送达。",
            "订单83694：鱼香肉丝1份、米饭2份，送到A座12楼，18:30前送达。",
        ),
        (
            "订单83693：宫保鸡丁1份、米饭2份，送到A座12楼，18:30前送达。",
            "订单19275：宫保鸡丁3份、米饭4份，送到B座7楼，12:05前送达。",
        ),
        (
            "川香小馆：宫保鸡丁38元，鱼香肉丝32元，麻婆豆腐26元，酸辣汤18元。",
            "川香小馆：宫保鸡丁42元，鱼香肉丝36元，麻婆豆腐29元，酸辣汤21元。",
        ),
        (
            "满30减7，满45减9；券满15减2、满80减8，配送8元，最少付121元。",
            "满40减6，满60减8；券满25减3、满90减9，配送5元，最少付103元。",
        ),
        (
            "order 13962 goes from (1,6) to (10,10), two soups at 22 yuan",
            "order 84535 goes from (4,2) to (11,5), two soups at 31 yuan",
        ),
        ("sum of 17 and 25 is 42", "sum of 18 and 31 is 49"),
        ("-----", "====="),
    ],
)
def test_orders_menus_and_sums_that_differ_stay(one, other):
    assert found([one, other]) == [False, False]


def test_nothing_to_compare():
    assert found([]) == []
    assert found(["one"]) == [False]


@pytest.mark.parametrize(("text", "count"), [("A b c", 2), ("one", 1), ("零一二三四", 2), ("a b", 1)])
def test_shingles(text, count):
    assert len(shingles(text, NearDuplicateConfig(shingle_words=2))) == count
