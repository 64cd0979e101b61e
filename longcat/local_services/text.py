"""Words of local-life services in Chinese and English: names, and the choice among several wordings."""

from __future__ import annotations

import random
from collections.abc import Sequence

LANGUAGES = ("zh", "en")
CUE = {"zh": "答案：", "en": "Answer:"}
"""What precedes an answer."""
DELIMITER = {"zh": "", "en": " "}
"""What stands between the cue and an answer."""
REASON = {"zh": "解析：", "en": "Reasoning:"}
OPTIONS = {"zh": ("选项：", "；"), "en": ("Options: ", "; ")}
LIST = {"zh": "；", "en": "; "}

_SURNAMES = [
    *("Zhang", "Wang", "Li", "Zhao", "Chen", "Liu", "Zhou", "Wu", "Zheng", "Sun", "Ma", "Zhu"),
    *("Hu", "Guo", "Jiang", "Gao", "Lin", "Luo", "Liang", "Song", "Tang", "Xu", "Han", "Feng"),
]
COURIERS = [
    {"zh": f"{chinese}师傅", "en": f"courier {english}"}
    for chinese, english in zip(
        "张王李赵陈刘周吴郑孙马朱胡郭江高林罗梁宋唐许韩冯",
        _SURNAMES,
        strict=True,
    )
]

SHOPS = [
    {"zh": chinese, "en": english}
    for chinese, english in (
        ("老街面馆", "Old Street Noodles"),
        ("江畔小厨", "Riverside Kitchen"),
        ("四季粥铺", "Four Seasons Congee"),
        ("山城火锅", "Hill City Hotpot"),
        ("南门烧烤", "South Gate Grill"),
        ("云朵茶饮", "Cloud Tea Bar"),
        ("阿婆饺子", "Grandma Dumplings"),
        ("巷口炸鸡", "Corner Fried Chicken"),
        ("北城烤鸭", "North Town Duck"),
        ("海港鱼档", "Harbour Fish Stall"),
        ("竹园素食", "Bamboo Garden"),
        ("麦田面包", "Wheatfield Bakery"),
        ("西湖酒家", "West Lake House"),
        ("丝路拉面", "Silk Road Ramen"),
        ("橙子便当", "Orange Lunchbox"),
        ("花园披萨", "Garden Pizza"),
        ("码头米粉", "Pier Rice Noodles"),
        ("古镇豆腐", "Old Town Tofu"),
        ("星光汉堡", "Starlight Burgers"),
        ("田野沙拉", "Meadow Salads"),
    )
]

DISHES = [
    {"zh": chinese, "en": english}
    for chinese, english in (
        ("牛肉面", "beef noodles"),
        ("猪肉饺子", "pork dumplings"),
        ("宫保鸡丁", "kung pao chicken"),
        ("麻婆豆腐", "mapo tofu"),
        ("扬州炒饭", "fried rice"),
        ("酸辣汤", "sour soup"),
        ("红烧茄子", "braised aubergine"),
        ("小笼包", "steamed buns"),
        ("凉拌黄瓜", "cucumber salad"),
        ("清蒸鲈鱼", "steamed perch"),
        ("番茄鸡蛋", "tomato and eggs"),
        ("葱油饼", "scallion pancake"),
        ("酸菜鱼", "fish with pickles"),
        ("回锅肉", "double-cooked pork"),
        ("绿豆汤", "mung bean soup"),
        ("珍珠奶茶", "bubble tea"),
        ("皮蛋瘦肉粥", "pork congee"),
        ("烤冷面", "grilled cold noodles"),
        ("鱼香肉丝", "shredded pork"),
        ("豆浆油条", "soy milk and dough sticks"),
    )
]


def say(rng: random.Random, wordings: Sequence[str], **slots: object) -> str:
    """Fill one of several wordings, chosen at random."""
    return rng.choice(wordings).format(**slots)


def ticket(rng: random.Random) -> int:
    """Draw the number of an order, five digits."""
    return rng.randrange(10_000, 100_000)
